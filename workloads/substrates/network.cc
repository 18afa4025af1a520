// A guest with a network and its peer, and the twin of that: sockets at both ends of a veth pair.
#include "nestbench/substrates/network.h"

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "devices/virtio/net/net.h"
#include "devices/virtio/net/switch.h"
#include "host_twin.h"
#include "nestbench/payload/net_work.h"
#include "nestbench/substrates/substrate.h"
#include "nestbench/vmm/machine/user_machine.h"
#include "net_peer.h"
#include "net_wire.h"
#include "socket_engine.h"

namespace nestbench::substrates {
namespace {

using payload::NetWork;
using payload::Station;
namespace virtio = vmm::virtio;

class NetTwin final : public HostTwin {
 public:
  static Result<std::unique_ptr<Substrate>> Create(const SubstrateOptions& options) {
    auto wire = MakeVethWire();
    if (!wire) return Fail(std::move(wire.error()));
    auto memory = MakeMemory(options.arena_bytes);
    if (!memory) return Fail(std::move(memory.error()));
    return std::unique_ptr<Substrate>(new NetTwin(std::move(*memory), std::move(wire->measured),
                                                  MakeSocketPeer(std::move(wire->peer), options.network.peer_cpu)));
  }

 private:
  NetTwin(Memory memory, vmm::UniqueFd socket, std::unique_ptr<NetPeerRunner> peer)
      : HostTwin(std::move(memory)), socket_(std::move(socket)), engine_(socket_.get(), -1), peer_(std::move(peer)) {}

  void SetUp(const payload::Args& args, payload::Result& result) override {
    NetWork<SocketEngine>::Check(args, result);
    if (!result.ok()) return;
    NetWork<SocketEngine>(args, engine_, 0).Prepare();
    abi::MailboxRequest request = {};
    request.operation = args.operation;
    request.seed = args.seed;
    std::ranges::copy(args.parameters, request.parameters);
    if (!peer_->Start(request, {})) result.Fail(payload::Status::kNotRun, "io_net: the peer cannot start");
  }
  void Run(const payload::Args& args, payload::Result& result) override {
    NetWork<SocketEngine>(args, engine_, ++batch_).Run(args.iterations, result);
    if (!peer_->problem().empty()) {
      payload::Result wrong;
      wrong.Fail(payload::Status::kWrongResult, "io_net: the peer got a frame that was changed, or lost its socket");
      result = wrong;
    }
  }

  vmm::UniqueFd socket_;
  SocketEngine engine_;
  std::unique_ptr<NetPeerRunner> peer_;
  std::uint32_t batch_ = 0;
};

// The guest that is measured together with its peer. What the peer finds wrong is this one's failure.
class NetVm final : public Substrate {
 public:
  using MakePeer = std::function<Result<std::unique_ptr<NetPeerRunner>>()>;

  // `make_peer`: another peer for each further set-up; null: there is but one set-up.
  NetVm(std::unique_ptr<Substrate> guest, std::unique_ptr<NetPeerRunner> peer, MakePeer make_peer,
        std::chrono::nanoseconds peer_limit)
      : guest_(std::move(guest)),
        peer_(std::move(peer)),
        make_peer_(std::move(make_peer)),
        peer_limit_(peer_limit),
        mailbox_(abi::kMailboxBytes) {}
  // Nobody talks to a station that is gone.
  ~NetVm() override { peer_.reset(); }

  Result<CallOutcome> Call(const abi::MailboxRequest& request, std::chrono::nanoseconds limit) override {
    const auto end = std::chrono::steady_clock::now() + limit;
    auto outcome = guest_->Call(request, limit);
    if (!outcome || outcome->end != CallEnd::kRang) return outcome;
    std::ranges::copy(guest_->mailbox(), mailbox_.begin());
    abi::MailboxReply reply;
    std::memcpy(&reply, mailbox_.data() + offsetof(abi::Mailbox, reply), sizeof(reply));
    if (request.command == abi::Command::kSetUp && reply.status == abi::PayloadStatus::kOk) {
      if (std::exchange(is_started_, true) && make_peer_ != nullptr) {
        peer_.reset();
        auto peer = make_peer_();
        if (!peer) return Fail(std::move(peer.error()));
        peer_ = std::move(*peer);
      }
      const std::chrono::nanoseconds left = end - std::chrono::steady_clock::now();
      if (auto started = peer_->Start(request, peer_limit_.count() != 0 ? peer_limit_ : left); !started) {
        return Fail(std::move(started.error()));
      }
    }
    if (const std::string problem = peer_->problem(); !problem.empty()) {
      reply.status = abi::PayloadStatus::kWrongResult;
      std::memset(reply.message, 0, sizeof(reply.message));
      std::memcpy(reply.message, problem.data(), std::min(problem.size(), sizeof(reply.message) - 1));
      std::memcpy(mailbox_.data() + offsetof(abi::Mailbox, reply), &reply, sizeof(reply));
    }
    return outcome;
  }

  [[nodiscard]] std::span<const std::byte> mailbox() const override { return mailbox_; }
  [[nodiscard]] const vmm::MemoryRegion* arena() const override { return guest_->arena(); }
  [[nodiscard]] abi::Doorbell doorbell() const override { return guest_->doorbell(); }
  // Of both guests where there are two.
  [[nodiscard]] std::optional<std::uint64_t> exits() const override {
    const auto own = guest_->exits();
    return own ? std::optional(*own + peer_->exits().value_or(0)) : std::nullopt;
  }

 private:
  std::unique_ptr<Substrate> guest_;
  std::unique_ptr<NetPeerRunner> peer_;
  MakePeer make_peer_;
  std::chrono::nanoseconds peer_limit_;
  bool is_started_ = false;
  std::vector<std::byte> mailbox_;
};

// `options` with a network device at `port`.
SubstrateOptions WithDevice(const SubstrateOptions& options, std::shared_ptr<std::unique_ptr<virtio::NetPort>> port,
                            Station station) {
  SubstrateOptions with_device = options;
  const NetSetup setup = options.network;
  with_device.make_devices = [port = std::move(port), station,
                              setup](const vmm::GuestMemory&) -> Result<std::vector<vmm::UserDevice>> {
    auto device = MakeNetDevice(std::move(*port), station, setup);
    if (!device) return Fail(std::move(device.error()));
    if (station == Station::kMeasured && setup.faults != nullptr) {
      setup.faults->set_link = [net = device->get()](bool up) { net->SetLink(up); };
    }
    std::vector<vmm::UserDevice> devices;
    devices.push_back({std::move(*device), !setup.doorbell_exits});
    return devices;
  };
  return with_device;
}

SubstrateOptions WithDevice(const SubstrateOptions& options, std::unique_ptr<virtio::NetPort> port, Station station) {
  // A std::function is copyable, a port is not.
  return WithDevice(options, std::make_shared<std::unique_ptr<virtio::NetPort>>(std::move(port)), station);
}

}  // namespace

Result<std::unique_ptr<virtio::Net>> MakeNetDevice(std::unique_ptr<virtio::NetPort> port, Station station,
                                                   const NetSetup& setup) {
  virtio::NetOptions options;
  for (unsigned i = 0; i < options.mac.size(); ++i) options.mac[i] = payload::MacByte(station, i);
  options.cpu = setup.io_cpu;
  if (setup.polling) options.polling.poll_for = virtio::PollPolicy::kAlways;
  if (station == Station::kMeasured) options.from_guest.bytes_per_s = setup.bytes_per_s;
  return virtio::Net::Create(std::move(port), options);
}

Result<std::unique_ptr<Substrate>> CreateNetTwin(const SubstrateOptions& options) { return NetTwin::Create(options); }

Result<std::unique_ptr<Substrate>> CreateNetVm(const SubstrateOptions& options) {
  std::unique_ptr<virtio::NetPort> port;
  std::unique_ptr<NetPeerRunner> peer;
  NetVm::MakePeer make_peer;
  if (options.network.peer == NetPeer::kHost) {
    auto wire = MakeTapWire();
    if (!wire) return Fail(std::move(wire.error()));
    port = std::move(wire->measured);
    peer = MakeSocketPeer(std::move(wire->peer), options.network.peer_cpu);
  } else {
    auto between = std::make_shared<virtio::Switch>();
    auto own_port = between->AddPort();
    if (!own_port) return Fail(std::move(own_port.error()));
    port = std::move(*own_port);
    make_peer = [between, options]() -> Result<std::unique_ptr<NetPeerRunner>> {
      auto peer_port = between->AddPort();
      if (!peer_port) return Fail(std::move(peer_port.error()));
      return MakeGuestPeer(WithDevice(options, std::move(*peer_port), Station::kPeer), options.network.peer_cpu);
    };
    auto guest = make_peer();
    if (!guest) return Fail(std::move(guest.error()));
    peer = std::move(*guest);
  }
  auto guest = CreateVm(WithDevice(options, std::move(port), Station::kMeasured));
  if (!guest) return Fail(std::move(guest.error()));
  return std::make_unique<NetVm>(std::move(*guest), std::move(peer), std::move(make_peer), options.network.peer_limit);
}

}  // namespace nestbench::substrates
