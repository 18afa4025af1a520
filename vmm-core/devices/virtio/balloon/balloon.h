// virtio-balloon: the host takes memory back from a guest that runs. Source: Virtual I/O Device (VIRTIO) Version 1.2,
// section "Traditional Memory Balloon Device"; constants from <linux/virtio_balloon.h>.
//
// Emulated: inflate and deflate, statistics, deflate on out-of-memory, free page reporting.
// Not emulated: free page hinting, page poisoning.
//
// What the guest gives goes back to the host at once (madvise); what it then touches again is zero. It may give any
// page of its own memory, and nothing else: an address outside is a fault of the queue.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "devices/virtio/core/function.h"
#include "devices/virtio/core/worker.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::vmm::virtio {

class Balloon final : public Function {
 public:
  static constexpr std::uint64_t kPageBytes = 4096;  // VIRTIO_BALLOON_PFN_SHIFT, whatever pages the guest uses

  // Of one request to inflate or deflate; Linux gives 256. More is a fault of the queue: each costs a system call.
  static constexpr std::uint64_t kRequestMaxPages = 4096;

  static Result<std::unique_ptr<Balloon>> Create();
  ~Balloon() override { Reset(); }

  // Asks the guest to hold this many pages back; it may take its time, or never do it. From any thread.
  void SetTarget(std::uint32_t pages);
  // How many it says it holds.
  [[nodiscard]] std::uint32_t actual_pages() const { return actual_pages_.load(std::memory_order_relaxed); }

  // Asks for statistics; they come later. The last that came, by VIRTIO_BALLOON_S_* tag: the guest's word.
  void RequestStatistics();
  [[nodiscard]] std::map<std::uint16_t, std::uint64_t> statistics() const;

  struct Counters {
    std::uint64_t inflated_pages = 0;
    std::uint64_t deflated_pages = 0;
    std::uint64_t reported_bytes = 0;  // free page reporting
    std::uint64_t kept_bytes = 0;      // given, but not in whole pages of what backs them: nothing was freed
    std::uint64_t statistics_received = 0;
  };
  [[nodiscard]] Counters counters() const;

  [[nodiscard]] std::uint32_t device_id() const override;
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override { return kQueueSizes; }
  [[nodiscard]] AccessStatus ReadConfig(std::uint64_t offset, std::span<std::byte> data) override;
  [[nodiscard]] AccessStatus WriteConfig(std::uint64_t offset, std::span<const std::byte> data) override;
  Result<void> Activate(Activation activation) override;
  void Reset() override;

 private:
  static constexpr std::uint16_t kQueueSizes[] = {128, 128, 8, 128};

  explicit Balloon(UniqueFd poke) : poke_(std::move(poke)) {}
  bool Serve(bool may_sleep);
  bool ServeStatistics(bool may_sleep);
  [[nodiscard]] bool GiveBack(std::uint64_t address, std::uint64_t size_bytes);
  [[nodiscard]] bool TakePages(const Chain& chain, bool inflate);

  UniqueFd poke_;
  std::atomic<std::uint32_t> target_pages_{0};
  std::atomic<std::uint32_t> actual_pages_{0};
  std::atomic<bool> statistics_wanted_{false};

  mutable std::mutex mutex_;
  DriverSignals* signals_ = nullptr;
  std::map<std::uint16_t, std::uint64_t> statistics_;
  Counters counters_;

  Activation active_;
  std::size_t statistics_queue_ = 0;  // 0: not negotiated
  std::size_t reporting_queue_ = 0;
  Chain chain_;
  bool statistics_held_ = false;
  std::uint16_t statistics_head_ = 0;
  std::unique_ptr<Worker> worker_;
};

}  // namespace nestbench::vmm::virtio
