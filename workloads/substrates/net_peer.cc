#include "net_peer.h"

#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <future>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "devices/virtio/core/worker.h"
#include "nestbench/payload/net_work.h"
#include "nestbench/substrates/mailbox_reader.h"
#include "socket_engine.h"

namespace nestbench::substrates {
namespace {

using payload::NetOperation;
using payload::NetWork;

void PinThread(int cpu) {
  if (cpu < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(cpu), &set);
  ::sched_setaffinity(0, sizeof(set), &set);  // refused: it runs where its creator may, a matter of speed only
}

class SocketPeer final : public NetPeerRunner {
 public:
  SocketPeer(vmm::UniqueFd socket, int cpu) : socket_(std::move(socket)), cpu_(cpu) {}
  ~SocketPeer() override {
    if (!thread_.joinable()) return;
    vmm::virtio::RingEventFd(stop_.get());
    thread_.join();
  }

  Result<void> Start(const abi::MailboxRequest& setup, std::chrono::nanoseconds /*limit*/) override {
    auto stop = vmm::virtio::CreateEventFd();
    if (!stop) return Fail(std::move(stop.error()));
    stop_ = std::move(*stop);
    // The socket is bound: what comes before the thread looks waits there.
    thread_ = std::thread([this, request = PeerRequest(setup)] { Work(request); });
    return {};
  }

  [[nodiscard]] std::string problem() const override {
    const std::scoped_lock lock(mutex_);
    return problem_;
  }

 private:
  void Work(const abi::MailboxRequest& request) {
    PinThread(cpu_);
    SocketEngine engine(socket_.get(), stop_.get());
    std::vector<std::byte> arena(payload::kNetEngineOffset);
    payload::Args args;
    args.operation = request.operation;
    args.iterations = 1;
    args.seed = request.seed;
    std::ranges::copy(request.parameters, args.parameters);
    args.arena = arena.data();
    args.arena_bytes = arena.size();
    payload::Result result;
    NetWork<SocketEngine> work(args, engine, 0);
    work.Prepare();
    work.Run(args.iterations, result);
    if (result.ok()) return;
    const std::scoped_lock lock(mutex_);
    problem_ = result.text();
  }

  vmm::UniqueFd socket_;
  int cpu_;
  vmm::UniqueFd stop_;
  mutable std::mutex mutex_;
  std::string problem_;
  std::thread thread_;
};

class GuestPeer final : public NetPeerRunner {
 public:
  static Result<std::unique_ptr<NetPeerRunner>> Create(const SubstrateOptions& options, int cpu) {
    std::unique_ptr<GuestPeer> peer(new GuestPeer);
    std::promise<Result<void>> made;
    auto result = made.get_future();
    // The thread keeps the promise: it may be at its end still when the result is here already.
    peer->thread_ = std::thread(
        [self = peer.get(), &options, cpu, made = std::move(made)]() mutable { self->Live(options, cpu, made); });
    if (auto created = result.get(); !created) return Fail(std::move(created.error()));
    return peer;
  }

  ~GuestPeer() override {
    {
      const std::scoped_lock lock(mutex_);
      ending_ = true;
      if (guest_ != nullptr) guest_->Interrupt();
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  Result<void> Start(const abi::MailboxRequest& setup, std::chrono::nanoseconds limit) override {
    std::unique_lock lock(mutex_);
    request_ = PeerRequest(setup);
    end_ = std::chrono::steady_clock::now() + limit;
    state_ = State::kAsked;
    changed_.notify_all();
    // Its own set-up has this limit: the wait is longer by as much as its thread may be late.
    constexpr std::chrono::seconds kGrace{10};
    if (!changed_.wait_for(lock, limit + kGrace, [this] { return state_ == State::kReady || !problem_.empty(); })) {
      return Fail(Error::TimedOut("start the peer", "its thread does not answer"));
    }
    if (!problem_.empty()) return Fail(Error::Malformed("start the peer", problem_));
    return {};
  }

  [[nodiscard]] std::string problem() const override {
    const std::scoped_lock lock(mutex_);
    return problem_;
  }
  [[nodiscard]] std::optional<std::uint64_t> exits() const override {
    const std::scoped_lock lock(mutex_);
    return guest_ != nullptr ? guest_->exits() : std::nullopt;
  }

 private:
  enum class State : std::uint8_t { kMade, kAsked, kReady };

  GuestPeer() = default;

  // `options` lives until `made` has its value.
  void Live(const SubstrateOptions& options, int cpu, std::promise<Result<void>>& made) {
    PinThread(cpu);
    auto guest = CreateVm(options);
    if (!guest) return made.set_value(Fail(std::move(guest.error())));
    {
      const std::scoped_lock lock(mutex_);
      guest_ = guest->get();
    }
    made.set_value({});
    std::string problem = Work(**guest);
    const std::scoped_lock lock(mutex_);
    guest_ = nullptr;
    if (!ending_) problem_ = std::move(problem);
    changed_.notify_all();
  }

  // Until it is told to end, or something is wrong, which it returns.
  std::string Work(Substrate& guest) {
    abi::MailboxRequest request;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return ending_ || state_ == State::kAsked; });
      if (ending_) return {};
      request = request_;
    }
    request.doorbell = guest.doorbell();
    request.sequence = 1;
    if (std::string problem = Command(guest, request); !problem.empty()) return problem;
    {
      const std::scoped_lock lock(mutex_);
      state_ = State::kReady;
    }
    changed_.notify_all();
    ++request.sequence;
    request.command = abi::Command::kRun;
    std::string problem = Command(guest, request);
    return problem.empty() ? "the peer has ended" : problem;
  }

  std::string Command(Substrate& guest, const abi::MailboxRequest& request) {
    auto outcome = guest.Call(request, end_ - std::chrono::steady_clock::now());
    if (!outcome) return outcome.error().ToString();
    if (outcome->end != CallEnd::kRang) return fmt::format("the peer: {}", outcome->text);
    const auto reply = ReadReply(guest.mailbox(), request);
    if (!reply) return reply.error().ToString();
    return reply->status == abi::PayloadStatus::kOk ? std::string() : reply->message;
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  State state_ = State::kMade;
  bool ending_ = false;
  abi::MailboxRequest request_ = {};
  std::chrono::steady_clock::time_point end_;
  std::string problem_;
  Substrate* guest_ = nullptr;
  std::thread thread_;
};

}  // namespace

abi::MailboxRequest PeerRequest(const abi::MailboxRequest& setup) {
  constexpr std::size_t kSpin = 2;
  constexpr std::size_t kPeerSpin = 6;
  abi::MailboxRequest request = setup;
  request.operation = static_cast<std::uint64_t>(payload::PeerOf(static_cast<NetOperation>(setup.operation)));
  request.iterations = 1;
  request.parameters[kSpin] = setup.parameters[kPeerSpin];
  return request;
}

std::unique_ptr<NetPeerRunner> MakeSocketPeer(vmm::UniqueFd socket, int cpu) {
  return std::make_unique<SocketPeer>(std::move(socket), cpu);
}

Result<std::unique_ptr<NetPeerRunner>> MakeGuestPeer(const SubstrateOptions& options, int cpu) {
  return GuestPeer::Create(options, cpu);
}

}  // namespace nestbench::substrates
