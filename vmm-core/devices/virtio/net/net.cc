#include "devices/virtio/net/net.h"

#include <linux/virtio_ids.h>
#include <sys/timerfd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "devices/virtio/core/serve.h"
#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::uint16_t kControlQueueSize = 64;
constexpr double kBurstSeconds = 0.1;
constexpr std::size_t kFramesPerRound = 256;  // of one direction, then the other has its turn

void Count(std::atomic<std::uint64_t>& counter, std::uint64_t by = 1) {
  counter.fetch_add(by, std::memory_order_relaxed);
}

}  // namespace

std::chrono::nanoseconds Net::Bucket::Wait(Clock::time_point now) {
  const double passed_s =
      filled_at_ == Clock::time_point() ? kBurstSeconds : std::chrono::duration<double>(now - filled_at_).count();
  filled_at_ = now;
  double wait_s = 0;
  const auto fill = [&](double& tokens, std::uint64_t rate) {
    if (rate == 0) return;
    const auto per_s = static_cast<double>(rate);
    tokens = std::min(tokens + passed_s * per_s, kBurstSeconds * per_s);
    if (tokens < 0) wait_s = std::max(wait_s, -tokens / per_s);
  };
  fill(bytes_, limit_.bytes_per_s);
  fill(frames_, limit_.frames_per_s);
  return std::chrono::nanoseconds(static_cast<std::int64_t>(wait_s * 1e9));
}

void Net::Bucket::Take(std::uint64_t bytes) {
  bytes_ -= static_cast<double>(bytes);
  frames_ -= 1;
}

Result<std::unique_ptr<Net>> Net::Create(std::unique_ptr<NetPort> port, const NetOptions& options) {
  UniqueFd timer(::timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK));
  if (!timer.valid()) return Fail(Error::System("timerfd_create", errno));
  return std::unique_ptr<Net>(new Net(std::move(port), options, std::move(timer)));
}

Net::Net(std::unique_ptr<NetPort> port, const NetOptions& options, UniqueFd timer)
    : port_(std::move(port)),
      options_(options),
      timer_(std::move(timer)),
      queue_sizes_(2UL * port_->pairs(), options.queue_size),
      to_guest_(options.to_guest),
      from_guest_(options.from_guest) {
  queue_sizes_.push_back(kControlQueueSize);
}

std::uint32_t Net::device_id() const { return VIRTIO_ID_NET; }

std::uint64_t Net::features() const {
  std::uint64_t features = port_->offloads() | Feature(VIRTIO_NET_F_MAC) | Feature(VIRTIO_NET_F_STATUS) |
                           Feature(VIRTIO_NET_F_MTU) | Feature(VIRTIO_NET_F_MRG_RXBUF) | Feature(VIRTIO_NET_F_CTRL_VQ);
  if (port_->pairs() > 1) features |= Feature(VIRTIO_NET_F_MQ);
  return features;
}

bool Net::Accepts(std::uint64_t features) const {
  // Section "Feature bit requirements": each of the first needs one of the second.
  constexpr std::array<std::pair<std::uint64_t, std::uint64_t>, 7> kNeeds = {{
      {Feature(VIRTIO_NET_F_GUEST_TSO4), Feature(VIRTIO_NET_F_GUEST_CSUM)},
      {Feature(VIRTIO_NET_F_GUEST_TSO6), Feature(VIRTIO_NET_F_GUEST_CSUM)},
      {Feature(VIRTIO_NET_F_GUEST_ECN), Feature(VIRTIO_NET_F_GUEST_TSO4) | Feature(VIRTIO_NET_F_GUEST_TSO6)},
      {Feature(VIRTIO_NET_F_HOST_TSO4), Feature(VIRTIO_NET_F_CSUM)},
      {Feature(VIRTIO_NET_F_HOST_TSO6), Feature(VIRTIO_NET_F_CSUM)},
      {Feature(VIRTIO_NET_F_HOST_ECN), Feature(VIRTIO_NET_F_HOST_TSO4) | Feature(VIRTIO_NET_F_HOST_TSO6)},
      {Feature(VIRTIO_NET_F_MQ), Feature(VIRTIO_NET_F_CTRL_VQ)},
  }};
  return std::ranges::all_of(
      kNeeds, [features](const auto& rule) { return (features & rule.first) == 0 || (features & rule.second) != 0; });
}

AccessStatus Net::ReadConfig(std::uint64_t offset, std::span<std::byte> data) {
  virtio_net_config config{};
  std::ranges::copy(options_.mac, config.mac);
  config.status = link_up_.load(std::memory_order_relaxed) ? VIRTIO_NET_S_LINK_UP : 0;
  config.max_virtqueue_pairs = port_->pairs();
  config.mtu = options_.mtu_bytes;
  return ReadConfigStructure(config, offset, data);
}

void Net::SetLink(bool up) {
  if (link_up_.exchange(up) == up) return;
  const std::scoped_lock lock(signals_mutex_);
  if (signals_ != nullptr) signals_->ConfigChanged();
}

Result<void> Net::Activate(Activation activation) {
  active_ = std::move(activation);
  if (auto done = port_->Configure(active_.features); !done) return done;
  mergeable_ = (active_.features & Feature(VIRTIO_NET_F_MRG_RXBUF)) != 0;
  const bool many = (active_.features & Feature(VIRTIO_NET_F_MQ)) != 0;
  // Section "Virtqueues" of the device: the control queue stands behind the pairs that were agreed on.
  control_queue_ = many ? 2UL * port_->pairs() : 2;
  if ((active_.features & Feature(VIRTIO_NET_F_CTRL_VQ)) == 0) control_queue_ = 0;
  pairs_in_use_ = 1;
  held_.assign(port_->pairs(), {});
  frames_.assign(port_->pairs(), std::vector<std::byte>(kFrameMaxBytes));
  frame_bytes_.assign(port_->pairs(), 0);
  WorkerOptions options{.name = "virtio-net",
                        .polling = options_.polling,
                        .cpu = options_.cpu,
                        .eventfds = active_.doorbells,
                        .descriptors = {}};
  options.eventfds.push_back(timer_.get());
  for (std::uint16_t pair = 0; pair < port_->pairs(); ++pair) options.descriptors.push_back(port_->receive_fd(pair));
  {
    const std::scoped_lock lock(signals_mutex_);
    signals_ = active_.signals;
  }
  auto worker = Worker::Start(std::move(options), [this](bool may_sleep) { return Serve(may_sleep); });
  if (!worker) {
    Reset();
    return tl::unexpected<Error>(std::move(worker.error()));
  }
  worker_ = std::move(*worker);
  return {};
}

void Net::Reset() {
  worker_.reset();
  {
    const std::scoped_lock lock(signals_mutex_);
    signals_ = nullptr;
  }
  active_ = Activation();
}

bool Net::Serve(bool may_sleep) {
  bool worked = false;
  next_wake_ = kNever;
  for (std::uint16_t pair = 0; pair < pairs_in_use_; ++pair) {
    worked |= SendFrames(pair, may_sleep);
    worked |= ReceiveFrames(pair, may_sleep);
  }
  if (control_queue_ != 0) worked |= ServeControl(may_sleep);
  if (next_wake_ != kNever) {
    const auto ns = std::max<std::int64_t>(next_wake_.count(), 1000);
    const itimerspec when{{0, 0}, {ns / 1'000'000'000, ns % 1'000'000'000}};
    ::timerfd_settime(timer_.get(), 0, &when, nullptr);
  }
  return worked;
}

// One timer for all that waits: the first to be ready sets it, and the others are asked again then.
void Net::WakeAfter(std::chrono::nanoseconds wait) {
  Count(counters_.throttles);
  next_wake_ = std::min(next_wake_, wait);
}

bool Net::SendFrames(std::uint16_t pair, bool may_sleep) {
  Queue& queue = active_.queues[2UL * pair + 1];
  if (!queue.ready() || queue.fault() != QueueFault::kNone) return false;
  bool worked = false;
  bool throttled = false;
  std::size_t count = 0;
  queue.DisableDoorbells();
  do {
    while (count < kFramesPerRound) {
      if (queue.Waiting() == 0) break;
      if (const auto wait = from_guest_.Wait(Clock::now()); wait.count() != 0) {
        WakeAfter(wait);
        throttled = true;
        break;
      }
      const Queue::Popped popped = queue.Pop(chain_);
      if (popped == Queue::Popped::kEmpty) break;
      if (popped == Queue::Popped::kChain &&
          (chain_.buffers.size() != chain_.readable_count || chain_.readable_bytes < kFrameHeaderBytes)) {
        queue.Break(QueueFault::kBadRequest);
      }
      if (queue.fault() != QueueFault::kNone) {
        active_.signals->Fail(queue.fault());
        return worked;
      }
      const std::uint64_t bytes = chain_.readable_bytes - kFrameHeaderBytes;
      const bool fits = chain_.readable_bytes <= kFrameMaxBytes && link_up_.load(std::memory_order_relaxed);
      if (fits && port_->Send(pair, chain_.readable())) {
        Count(counters_.sent_frames);
        Count(counters_.sent_bytes, bytes);
      } else {
        Count(counters_.dropped_frames);
      }
      from_guest_.Take(bytes);
      queue.Push(chain_.head, 0);
      worked = true;
      ++count;
    }
  } while (may_sleep && !throttled && count < kFramesPerRound && queue.EnableDoorbells());
  if (worked && queue.NotifyNeeded()) active_.signals->QueueUsed();
  return worked;
}

bool Net::ReceiveFrames(std::uint16_t pair, bool may_sleep) {
  Queue& queue = active_.queues[2UL * pair];
  if (!queue.ready() || queue.fault() != QueueFault::kNone) return false;
  bool starving = false;
  std::size_t left = kFramesPerRound;
  queue.DisableDoorbells();
  do {
    starving = false;
    // A wire spreads frames over all of its pairs, however few the driver uses: those of the others arrive here too.
    for (std::size_t wire = pair; wire < port_->pairs(); wire += pairs_in_use_) {
      if (Mutated("virtio-net-unused-pairs-lost") && wire != pair) break;
      const Given given = ReceiveFrom(static_cast<std::uint16_t>(wire), pair, left);
      if (given == Given::kBroken) {
        active_.signals->Fail(queue.fault());
        return left != kFramesPerRound;
      }
      starving |= given == Given::kNoBuffers;
    }
    // New buffers are worth a doorbell only while a frame waits for them.
  } while (may_sleep && starving && left != 0 && queue.EnableDoorbells());
  const bool worked = left != kFramesPerRound;
  if (worked && queue.NotifyNeeded()) active_.signals->QueueUsed();
  return worked;
}

// Hands frames of a wire to a pair of queues, `left` at most. kYes: no more waits, or may pass now.
Net::Given Net::ReceiveFrom(std::uint16_t wire, std::uint16_t pair, std::size_t& left) {
  std::size_t& size = frame_bytes_[wire];
  while (left != 0) {
    if (const auto wait = to_guest_.Wait(Clock::now()); wait.count() != 0) {
      WakeAfter(wait);
      break;
    }
    if (size == 0) size = port_->Receive(wire, frames_[wire]);
    if (size == 0) break;
    if (link_up_.load(std::memory_order_relaxed)) {
      const Given given = GiveFrame(pair, std::span(frames_[wire]).first(size));
      if (given != Given::kYes) return given;  // the frame waits
      to_guest_.Take(size - std::min(size, kFrameHeaderBytes));
    } else {
      Count(counters_.dropped_frames);
    }
    size = 0;
    --left;
  }
  return Given::kYes;
}

Net::Given Net::GiveFrame(std::uint16_t pair, std::span<std::byte> frame) {
  if (frame.size() < kFrameHeaderBytes) return Given::kYes;
  Queue& queue = active_.queues[2UL * pair];
  // Buffers that were taken for a frame and did not suffice are held until more come.
  std::vector<Chain>& held = held_[pair];
  std::uint64_t room = 0;
  std::size_t descriptors = 0;
  for (const Chain& chain : held) {
    room += chain.writable_bytes;
    descriptors += chain.buffers.size();
  }
  while (room < frame.size()) {
    if (!mergeable_ && !held.empty()) {
      // Without mergeable buffers one must hold all of the frame, and this one does not.
      queue.Push(held[0].head, 0);
      held.clear();
      Count(counters_.dropped_frames);
      return Given::kYes;
    }
    if (descriptors >= queue.size()) {
      // The driver has no more to give: it would wait for these, and this frame for more, until the end of time.
      Count(counters_.dropped_frames);
      return Given::kYes;
    }
    Chain chain;
    const Queue::Popped popped = queue.Pop(chain);
    if (popped == Queue::Popped::kEmpty) return Given::kNoBuffers;
    if (popped == Queue::Popped::kChain && (chain.readable_count != 0 || chain.writable_bytes < kFrameHeaderBytes)) {
      queue.Break(QueueFault::kBadRequest);
    }
    if (queue.fault() != QueueFault::kNone) return Given::kBroken;
    room += chain.writable_bytes;
    descriptors += chain.buffers.size();
    held.push_back(std::move(chain));
  }
  // Buffers held for a frame that was then dropped may be more than this one needs.
  std::size_t used = 0;
  for (std::uint64_t covered = 0; covered < frame.size(); ++used) covered += held[used].writable_bytes;
  const auto buffers = static_cast<__virtio16>(Mutated("virtio-net-one-buffer") ? 1 : used);
  std::memcpy(frame.data() + offsetof(FrameHeader, num_buffers), &buffers, sizeof(buffers));
  std::size_t offset = 0;
  for (std::size_t i = 0; i < used; ++i) {
    const std::size_t part = CopyIn(held[i].writable(), 0, frame.subspan(offset));
    queue.Push(held[i].head, static_cast<std::uint32_t>(part));
    offset += part;
  }
  held.erase(held.begin(), held.begin() + static_cast<std::ptrdiff_t>(used));
  Count(counters_.received_frames);
  Count(counters_.received_bytes, frame.size() - kFrameHeaderBytes);
  return Given::kYes;
}

bool Net::ServeControl(bool may_sleep) {
  if (control_queue_ >= active_.queues.size()) return false;
  return ServeQueue(
      active_.queues[control_queue_], chain_, *active_.signals, may_sleep, [this](const Chain& chain) -> Handled {
        virtio_net_ctrl_hdr header{};
        if (CopyOut(chain.readable(), 0, std::as_writable_bytes(std::span(&header, 1))) != sizeof(header) ||
            chain.writable_bytes == 0) {
          return tl::unexpected(QueueFault::kBadRequest);
        }
        virtio_net_ctrl_ack answer = VIRTIO_NET_ERR;
        const bool many = (active_.features & Feature(VIRTIO_NET_F_MQ)) != 0 || Mutated("virtio-net-pairs-unasked");
        if (many && header.class_ == VIRTIO_NET_CTRL_MQ && header.cmd == VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET) {
          virtio_net_ctrl_mq wanted{};
          const auto bytes = std::as_writable_bytes(std::span(&wanted, 1));
          const bool read = CopyOut(chain.readable(), sizeof(header), bytes) == sizeof(wanted);
          if (read && wanted.virtqueue_pairs >= 1 && wanted.virtqueue_pairs <= port_->pairs()) {
            pairs_in_use_ = wanted.virtqueue_pairs;
            answer = VIRTIO_NET_OK;
          }
        }
        CopyIn(chain.writable(), 0, std::as_bytes(std::span(&answer, 1)));
        return static_cast<std::uint32_t>(sizeof(answer));
      });
}

Net::Counters Net::counters() const {
  const auto get = [](const std::atomic<std::uint64_t>& counter) { return counter.load(std::memory_order_relaxed); };
  return {get(counters_.sent_frames),    get(counters_.sent_bytes),     get(counters_.received_frames),
          get(counters_.received_bytes), get(counters_.dropped_frames), get(counters_.throttles)};
}

}  // namespace nestbench::vmm::virtio
