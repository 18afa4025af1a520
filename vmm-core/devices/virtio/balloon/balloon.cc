#include "devices/virtio/balloon/balloon.h"

#include <linux/virtio_balloon.h>
#include <linux/virtio_ids.h>

#include <cstring>
#include <utility>

#include "devices/virtio/core/serve.h"
#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::size_t kInflateQueue = 0;
constexpr std::size_t kDeflateQueue = 1;
constexpr std::size_t kStatisticsMax = 64;  // of one report: the section knows ten

}  // namespace

Result<std::unique_ptr<Balloon>> Balloon::Create() {
  auto poke = CreateEventFd();
  if (!poke) return Fail(std::move(poke.error()));
  return std::unique_ptr<Balloon>(new Balloon(std::move(*poke)));
}

std::uint32_t Balloon::device_id() const { return VIRTIO_ID_BALLOON; }

std::uint64_t Balloon::features() const {
  return Feature(VIRTIO_BALLOON_F_STATS_VQ) | Feature(VIRTIO_BALLOON_F_DEFLATE_ON_OOM) |
         Feature(VIRTIO_BALLOON_F_REPORTING);
}

AccessStatus Balloon::ReadConfig(std::uint64_t offset, std::span<std::byte> data) {
  virtio_balloon_config config{};
  config.num_pages = target_pages_.load(std::memory_order_relaxed);
  config.actual = actual_pages_.load(std::memory_order_relaxed);
  return ReadConfigStructure(config, offset, data);
}

AccessStatus Balloon::WriteConfig(std::uint64_t offset, std::span<const std::byte> data) {
  std::uint32_t pages = 0;
  if (offset != offsetof(virtio_balloon_config, actual) || data.size() != sizeof(pages)) {
    return AccessStatus::kReadOnly;
  }
  std::memcpy(&pages, data.data(), sizeof(pages));
  actual_pages_.store(pages, std::memory_order_relaxed);
  return AccessStatus::kOk;
}

void Balloon::SetTarget(std::uint32_t pages) {
  target_pages_.store(pages, std::memory_order_relaxed);
  const std::scoped_lock lock(mutex_);
  if (signals_ != nullptr) signals_->ConfigChanged();
}

void Balloon::RequestStatistics() {
  statistics_wanted_.store(true, std::memory_order_release);
  RingEventFd(poke_.get());
}

std::map<std::uint16_t, std::uint64_t> Balloon::statistics() const {
  const std::scoped_lock lock(mutex_);
  return statistics_;
}

Balloon::Counters Balloon::counters() const {
  const std::scoped_lock lock(mutex_);
  return counters_;
}

Result<void> Balloon::Activate(Activation activation) {
  active_ = std::move(activation);
  // Section "Virtqueues" of the device: a queue whose feature was not agreed on does not exist, and those behind it
  // move up.
  std::size_t next = kDeflateQueue + 1;
  statistics_queue_ = (active_.features & Feature(VIRTIO_BALLOON_F_STATS_VQ)) != 0 ? next++ : 0;
  reporting_queue_ = (active_.features & Feature(VIRTIO_BALLOON_F_REPORTING)) != 0 ? next++ : 0;
  statistics_held_ = false;
  WorkerOptions options{.name = "virtio-balloon", .polling = {}, .eventfds = active_.doorbells, .descriptors = {}};
  options.eventfds.push_back(poke_.get());
  {
    const std::scoped_lock lock(mutex_);
    signals_ = active_.signals;
  }
  auto worker = Worker::Start(std::move(options), [this](bool may_sleep) { return Serve(may_sleep); });
  if (!worker) {
    const std::scoped_lock lock(mutex_);
    signals_ = nullptr;
    return tl::unexpected<Error>(std::move(worker.error()));
  }
  worker_ = std::move(*worker);
  return {};
}

void Balloon::Reset() {
  worker_.reset();
  active_ = Activation();
  actual_pages_.store(0, std::memory_order_relaxed);
  const std::scoped_lock lock(mutex_);
  signals_ = nullptr;
}

bool Balloon::GiveBack(std::uint64_t address, std::uint64_t size_bytes) {
  const MemoryRegion* region = active_.memory->Find(abi::GuestPhysAddr(address), size_bytes);
  if (region == nullptr && !Mutated("virtio-balloon-foreign-page")) return false;
  if (region == nullptr) region = &active_.memory->regions().front();
  // Giving a page back makes zeroes of it: where the guest may not write, it may not do that either.
  if (region->read_only_for_guest() && !Mutated("virtio-balloon-read-only-page")) return false;
  const auto freed = region->DiscardPart(address - region->range().start.value(), size_bytes);
  const std::scoped_lock lock(mutex_);
  // Part of a huge page cannot be given back alone: the guest lost nothing, and the host gained nothing.
  if (!freed) counters_.kept_bytes += size_bytes;
  return true;
}

bool Balloon::TakePages(const Chain& chain, bool inflate) {
  // An array of 32-bit page numbers that the device reads.
  if (chain.buffers.size() != chain.readable_count || chain.readable_bytes % sizeof(std::uint32_t) != 0 ||
      chain.readable_bytes > kRequestMaxPages * sizeof(std::uint32_t)) {
    return false;
  }
  for (std::uint64_t offset = 0; offset < chain.readable_bytes; offset += sizeof(std::uint32_t)) {
    std::uint32_t page = 0;
    CopyOut(chain.readable(), offset, std::as_writable_bytes(std::span(&page, 1)));
    if (inflate && !GiveBack(std::uint64_t{page} << VIRTIO_BALLOON_PFN_SHIFT, kPageBytes)) return false;
  }
  const std::scoped_lock lock(mutex_);
  (inflate ? counters_.inflated_pages : counters_.deflated_pages) += chain.readable_bytes / sizeof(std::uint32_t);
  return true;
}

bool Balloon::Serve(bool may_sleep) {
  bool worked = false;
  for (const bool inflate : {true, false}) {
    worked |= ServeQueue(active_.queues[inflate ? kInflateQueue : kDeflateQueue], chain_, *active_.signals, may_sleep,
                         [&](const Chain& chain) -> Handled {
                           if (!TakePages(chain, inflate)) return tl::unexpected(QueueFault::kBadRequest);
                           return 0U;
                         });
  }
  if (reporting_queue_ != 0) {
    worked |= ServeQueue(active_.queues[reporting_queue_], chain_, *active_.signals, may_sleep,
                         [this](const Chain& chain) -> Handled {
                           // Section "Free Page Reporting": the buffers themselves are the free memory.
                           if (chain.readable_count != 0) return tl::unexpected(QueueFault::kBadRequest);
                           for (const iovec& part : chain.writable()) {
                             const auto address = active_.memory->AddressOf(static_cast<std::byte*>(part.iov_base));
                             if (!address || !GiveBack(address->value(), part.iov_len)) {
                               return tl::unexpected(QueueFault::kBadRequest);
                             }
                           }
                           const std::scoped_lock lock(mutex_);
                           counters_.reported_bytes += chain.writable_bytes;
                           return 0U;
                         });
  }
  if (statistics_queue_ != 0) worked |= ServeStatistics(may_sleep);
  return worked;
}

// The driver gives one buffer with statistics, which the device keeps until it wants new ones (section "Memory
// Statistics").
bool Balloon::ServeStatistics(bool may_sleep) {
  Queue& queue = active_.queues[statistics_queue_];
  if (!queue.ready() || queue.fault() != QueueFault::kNone) return false;
  if (statistics_held_ && statistics_wanted_.exchange(false, std::memory_order_acq_rel)) {
    queue.Push(statistics_head_, 0);
    statistics_held_ = false;
    if (queue.NotifyNeeded()) active_.signals->QueueUsed();
  }
  bool worked = false;
  queue.DisableDoorbells();
  do {
    for (;;) {
      const Queue::Popped popped = queue.Pop(chain_);
      if (popped == Queue::Popped::kEmpty) break;
      const bool bad = statistics_held_ || chain_.buffers.size() != chain_.readable_count;
      if (popped == Queue::Popped::kChain && bad) queue.Break(QueueFault::kBadRequest);
      if (queue.fault() != QueueFault::kNone) {
        active_.signals->Fail(queue.fault());
        return worked;
      }
      worked = true;
      statistics_held_ = true;
      statistics_head_ = chain_.head;
      const std::scoped_lock lock(mutex_);
      ++counters_.statistics_received;
      statistics_.clear();
      virtio_balloon_stat stat;
      for (std::size_t i = 0; i < kStatisticsMax; ++i) {
        const auto bytes = std::as_writable_bytes(std::span(&stat, 1));
        if (CopyOut(chain_.readable(), i * sizeof(stat), bytes) != sizeof(stat)) break;
        statistics_[stat.tag] = stat.val;
      }
    }
  } while (may_sleep && queue.EnableDoorbells());
  return worked;
}

}  // namespace nestbench::vmm::virtio
