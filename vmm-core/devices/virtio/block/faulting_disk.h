// A disk that fails when it is told to: what a guest does when its storage breaks. Wraps another disk.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "devices/virtio/block/disk.h"

namespace nestbench::vmm::virtio {

class FaultingDisk final : public Disk {
 public:
  explicit FaultingDisk(std::unique_ptr<Disk> disk) : disk_(std::move(disk)) {}

  // From now on these operations end with an errno (EIO, ENOSPC); 0 ends that. From any thread.
  void FailReads(int error_number) { read_error_.store(error_number, std::memory_order_relaxed); }
  void FailWrites(int error_number) { write_error_.store(error_number, std::memory_order_relaxed); }
  void FailFlushes(int error_number) { flush_error_.store(error_number, std::memory_order_relaxed); }
  [[nodiscard]] std::uint64_t failed_requests() const { return failed_.load(std::memory_order_relaxed); }

  [[nodiscard]] DiskLimits limits() const override { return disk_->limits(); }
  void Submit(DiskRequest& request) override {
    request.error_number = Wanted(request.operation);
    if (request.error_number == 0) return disk_->Submit(request);
    failed_.fetch_add(1, std::memory_order_relaxed);
    done_.push_back(&request);
  }
  void Start() override { disk_->Start(); }
  void Collect(std::vector<DiskRequest*>& done) override {
    done.insert(done.end(), done_.begin(), done_.end());
    done_.clear();
    disk_->Collect(done);
  }
  void Drain(std::vector<DiskRequest*>& done) override {
    disk_->Drain(done);
    Collect(done);
  }
  [[nodiscard]] int completion_fd() const override { return disk_->completion_fd(); }

 private:
  [[nodiscard]] int Wanted(DiskOperation operation) const {
    switch (operation) {
      case DiskOperation::kRead:
        return read_error_.load(std::memory_order_relaxed);
      case DiskOperation::kFlush:
        return flush_error_.load(std::memory_order_relaxed);
      default:
        return write_error_.load(std::memory_order_relaxed);
    }
  }

  std::unique_ptr<Disk> disk_;
  std::vector<DiskRequest*> done_;
  std::atomic<int> read_error_{0};
  std::atomic<int> write_error_{0};
  std::atomic<int> flush_error_{0};
  std::atomic<std::uint64_t> failed_{0};
};

}  // namespace nestbench::vmm::virtio
