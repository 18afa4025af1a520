// The network device under hostile drivers: two guests on one switch, or one on a wire with three pairs of queues that
// sends every frame back on another pair. First byte: 1 the wire.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "devices/virtio/core/worker.h"
#include "devices/virtio/net/net.h"
#include "devices/virtio/net/switch.h"
#include "nestbench/fuzz/virtio/hostile_driver.h"

namespace nestbench::vmm::virtio {
namespace {

using fuzz::Require;

constexpr std::uint64_t kFrame = HostileDriver::kDataBase;
constexpr std::uint64_t kReceiveAt = HostileDriver::kDataBase + 0x4000;
constexpr std::uint16_t kWirePairs = 3;

class LoopWire final : public NetPort {
 public:
  [[nodiscard]] std::uint64_t offloads() const override { return Feature(VIRTIO_NET_F_CSUM); }
  [[nodiscard]] std::uint16_t pairs() const override { return kWirePairs; }
  Result<void> Configure(std::uint64_t /*features*/) override {
    for (auto& waiting : waiting_) waiting.clear();
    return {};
  }
  [[nodiscard]] int receive_fd(std::uint16_t pair) const override { return events_[pair].get(); }
  [[nodiscard]] bool Send(std::uint16_t pair, std::span<const iovec> frame) override {
    const std::size_t to = (pair + 1U) % kWirePairs;
    if (waiting_[to].size() >= kMaxFrames) return false;
    std::vector<std::byte> bytes(kFrameMaxBytes);
    bytes.resize(CopyOut(frame, 0, bytes));
    Require(bytes.size() >= kFrameHeaderBytes, "a frame has its header");
    waiting_[to].push_back(std::move(bytes));
    RingEventFd(events_[to].get());
    return true;
  }
  [[nodiscard]] std::size_t Receive(std::uint16_t pair, std::span<std::byte> frame) override {
    if (waiting_[pair].empty()) return 0;
    const std::vector<std::byte> first = std::move(waiting_[pair].front());
    waiting_[pair].pop_front();
    Require(frame.size() >= first.size(), "there is room for any frame");
    std::ranges::copy(first, frame.begin());
    return first.size();
  }

 private:
  static constexpr std::size_t kMaxFrames = 8;
  std::array<UniqueFd, kWirePairs> events_ = {CreateEventFd().value(), CreateEventFd().value(),
                                              CreateEventFd().value()};
  std::array<std::deque<std::vector<std::byte>>, kWirePairs> waiting_;
};

struct Guest {
  Guest(GuestArena& arena, std::unique_ptr<NetPort> port)
      : net(std::move(Net::Create(std::move(port), {.queue_size = 16}).value())), driver(arena, *net, 8) {}

  void Step(fuzz::Input& input) {
    const auto own = driver.Step(input);
    if (own == HostileDriver::kOwnSteps) net->SetLink((input.Take<std::uint8_t>() & 7) != 0);
    if (own == HostileDriver::kOwnSteps + 1) OfferBuffers(input);
    if (own == HostileDriver::kOwnSteps + 2) Command(input);
    if (own == HostileDriver::kOwnSteps + 3) Send(input);
    driver.Check();
  }

  // Room to receive.
  void OfferBuffers(fuzz::Input& input) {
    const auto how = input.Take<std::uint8_t>();
    for (unsigned i = 0; i <= how % 4U; ++i) {
      driver.Append(kReceiveAt + 0x800ULL * input.Take<std::uint8_t>() % 0x1'0000, HostileDriver::PickLength(input),
                    true);
      driver.OfferAppended(Receive(how), (how & 0x80) == 0);
    }
  }
  // To the queue that controls the pairs.
  void Command(fuzz::Input& input) {
    const auto how = input.Take<std::uint8_t>();
    const std::array<std::uint8_t, 4> command = {how >= 0xF0 ? input.Take<std::uint8_t>() : std::uint8_t{4}, 0,
                                                 static_cast<std::uint8_t>(how % 5), 0};
    driver.Put(kFrame, command);
    driver.Append(kFrame, sizeof(command), false);
    driver.Append(kReceiveAt, 1, true);
    driver.OfferAppended((how & 0x40) != 0 ? 2 : driver.transport().queue_count() - 1, true);
  }
  // A TCP segment that is nearly right, to somebody who may be there.
  void Send(fuzz::Input& input) {
    const auto how = input.Take<std::uint8_t>();
    FrameHeader header{};
    std::array<std::uint8_t, 54> frame{};
    frame[5] = how % 4;
    frame[11] = how / 4 % 4;
    if ((how & 0x40) != 0) frame[0] = 1;
    const bool is_ipv6 = (how & 0x20) != 0;
    const std::array<std::uint8_t, 3> type = {std::uint8_t{is_ipv6 ? std::uint8_t{0x86} : std::uint8_t{8}},
                                              is_ipv6 ? std::uint8_t{0xDD} : std::uint8_t{0},
                                              is_ipv6 ? std::uint8_t{0x60} : std::uint8_t{0x45}};
    std::ranges::copy(type, frame.begin() + 12);
    frame[is_ipv6 ? 20 : 23] = 6;
    if (!is_ipv6) frame[46] = 0x50;
    header.hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    header.hdr.gso_type = input.Take<std::uint8_t>() % 8;
    header.hdr.gso_size = input.Take<std::uint16_t>();
    header.hdr.csum_start = is_ipv6 ? 54 : 34;
    header.hdr.csum_offset = (how & 0x80) != 0 ? input.Take<std::uint16_t>() : std::uint16_t{16};
    driver.Put(kFrame, header);
    driver.Put(kFrame + sizeof(header), frame);
    driver.PutBytes(kFrame + sizeof(header) + input.Take<std::uint8_t>(), input.TakeBytes(8));
    driver.Append(kFrame, static_cast<std::uint32_t>(sizeof(header) + frame.size()), false);
    driver.Append(kFrame + 0x1000, HostileDriver::PickLength(input), false);
    driver.OfferAppended(Receive(how) + 1, true);
  }
  // A plain frame to all, as a good driver sends it.
  void SendProperly() {
    std::array<std::uint8_t, kFrameHeaderBytes + 64> frame{};
    std::fill_n(frame.begin() + kFrameHeaderBytes, 6, std::uint8_t{0xFF});
    driver.Put(kFrame, frame);
    driver.Offer(1, {{kFrame, sizeof(frame), false}});
    driver.Await(1);
  }
  void ReceiveProperly(std::size_t queue) {
    driver.Offer(queue, {{kReceiveAt, 2048, true}});
    Require(driver.Await(queue) == kFrameHeaderBytes + 64, "a frame arrives");
  }

  std::unique_ptr<Net> net;
  HostileDriver driver;

 private:
  [[nodiscard]] std::size_t Receive(std::uint8_t how) const {
    const std::size_t pairs = driver_pairs();
    return how / 4 % pairs * 2;
  }
  [[nodiscard]] std::size_t driver_pairs() const { return net->port().pairs(); }
};

}  // namespace
}  // namespace nestbench::vmm::virtio

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench::vmm::virtio;
  static GuestArena arena;
  static GuestArena other_arena;
  nestbench::fuzz::Input input(data, size);
  arena.Clear();
  if ((input.Take<std::uint8_t>() & 1) != 0) {
    Guest guest(arena, std::make_unique<LoopWire>());
    for (std::size_t i = 0; i < HostileDriver::kMaxSteps && !input.empty(); ++i) guest.Step(input);
    guest.net->SetLink(true);
    guest.driver.StartProperly(Feature(VIRTIO_NET_F_MRG_RXBUF));
    guest.SendProperly();
    guest.ReceiveProperly(0);  // the wire answers on a pair that is not in use
    guest.driver.Check();
  } else {
    other_arena.Clear();
    Switch wires;
    Guest first(arena, std::move(wires.AddPort().value()));
    Guest second(other_arena, std::move(wires.AddPort().value()));
    for (std::size_t i = 0; i < HostileDriver::kMaxSteps && !input.empty(); ++i) {
      ((input.Take<std::uint8_t>() & 1) != 0 ? second : first).Step(input);
    }
    for (Guest* guest : {&first, &second}) {
      guest->net->SetLink(true);
      guest->driver.StartProperly(Feature(VIRTIO_NET_F_MRG_RXBUF));
    }
    second.SendProperly();
    first.ReceiveProperly(0);
    first.SendProperly();
    second.ReceiveProperly(0);
    for (Guest* guest : {&first, &second}) guest->driver.Check();
    other_arena.Check();
  }
  arena.Check();
  return 0;
}
