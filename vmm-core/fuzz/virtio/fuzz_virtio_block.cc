// The disk device under a hostile driver, on a RAM disk that is slow, out of order and fails when the program says so.
// First byte: 1 the disk is read-only, 2 requests are answered at once, 4 two queues.

#include <linux/virtio_blk.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "devices/virtio/block/block.h"
#include "devices/virtio/block/faulting_disk.h"
#include "devices/virtio/block/ram_disk.h"
#include "nestbench/fuzz/virtio/block_requests.h"
#include "nestbench/fuzz/virtio/hostile_driver.h"

namespace nestbench::vmm::virtio {
namespace {

using fuzz::Require;

constexpr std::uint64_t kDiskBytes = 64 * 1024;

// Holds requests back until it is told to let one go: data move then, as with a real disk.
class SlowDisk final : public Disk {
 public:
  SlowDisk(std::unique_ptr<Disk> disk, bool slow) : disk_(std::move(disk)), slow_(slow) {}

  [[nodiscard]] DiskLimits limits() const override { return disk_->limits(); }
  void Submit(DiskRequest& request) override {
    Check(request);
    waiting_.push_back(&request);
    if (!slow_) Release(0);
  }
  void Collect(std::vector<DiskRequest*>& done) override { disk_->Collect(done); }
  void Drain(std::vector<DiskRequest*>& done) override {
    while (!waiting_.empty()) Release(0);
    disk_->Drain(done);
  }
  // There is news: the worker is woken as by a completion.
  [[nodiscard]] int completion_fd() const override { return event_.get(); }

  void Release(std::size_t index) {
    if (waiting_.empty()) return;
    index %= waiting_.size();
    disk_->Submit(*waiting_[index]);
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(index));
    RingEventFd(event_.get());
  }
  [[nodiscard]] bool idle() const { return waiting_.empty(); }

 private:
  // What a disk may count on.
  void Check(const DiskRequest& request) const {
    const DiskLimits limits = disk_->limits();
    const bool writes = request.operation != DiskOperation::kRead && request.operation != DiskOperation::kFlush;
    Require(!writes || !limits.read_only, "a read-only disk is never told to change");
    if (request.operation == DiskOperation::kFlush) return;
    Require(request.size_bytes != 0 && request.offset_bytes <= limits.size_bytes &&
                request.size_bytes <= limits.size_bytes - request.offset_bytes,
            "a request lies on the disk");
    Require((request.offset_bytes | request.size_bytes) % limits.block_bytes == 0, "a request is whole blocks");
    std::uint64_t bytes = 0;
    for (const iovec& buffer : request.buffers) bytes += buffer.iov_len;
    const bool transfers = request.operation == DiskOperation::kRead || request.operation == DiskOperation::kWrite;
    Require(bytes == (transfers ? request.size_bytes : 0), "buffers are as long as the request");
  }

  std::unique_ptr<Disk> disk_;
  bool slow_;
  UniqueFd event_ = CreateEventFd().value();
  std::vector<DiskRequest*> waiting_;
};

}  // namespace
}  // namespace nestbench::vmm::virtio

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench::vmm::virtio;
  using nestbench::fuzz::Require;
  static GuestArena arena;
  nestbench::fuzz::Input input(data, size);
  arena.Clear();
  const auto kind = input.Take<std::uint8_t>();
  const bool read_only = (kind & 1) != 0;
  auto ram = RamDisk::Create(kDiskBytes, read_only);
  Require(ram.has_value(), "a disk can be had");
  const auto disk_bytes = (*ram)->bytes();
  auto faulting = std::make_unique<FaultingDisk>(std::move(*ram));
  FaultingDisk& faults = *faulting;
  auto slow = std::make_unique<SlowDisk>(std::move(faulting), (kind & 2) == 0);
  SlowDisk& disk = *slow;
  const std::uint16_t queues = (kind & 4) != 0 ? 2 : 1;
  Block block(std::move(slow), {.queue_count = queues, .queue_size = 16, .polling = {}, .serial = "fuzzed"});
  HostileDriver driver(arena, block);
  for (std::size_t i = 0; i < HostileDriver::kMaxSteps && !input.empty(); ++i) {
    const auto own = driver.Step(input);
    if (own == HostileDriver::kOwnSteps) {
      constexpr std::array kErrors = {0, EIO, ENOSPC};
      const auto choice = input.Take<std::uint8_t>();
      faults.FailReads(kErrors[choice % 3]);
      faults.FailWrites(kErrors[choice / 3 % 3]);
      faults.FailFlushes(kErrors[choice / 9 % 3]);
    } else if (own == HostileDriver::kOwnSteps + 1) {
      disk.Release(input.Take<std::uint8_t>());
    } else if (own) {
      OfferBlockRequest(driver, queues, input);
    }
    driver.Check();
    Require(driver.transport().active() || disk.idle(), "nothing is under way after a reset");
  }
  faults.FailReads(0);
  faults.FailWrites(0);
  faults.FailFlushes(0);
  driver.StartProperly(~std::uint64_t{0});
  CheckBlock(driver, read_only, [&disk] {
    while (!disk.idle()) disk.Release(0);
  });
  if (read_only) {
    Require(GuestArena::IsAll(disk_bytes, std::byte{0}), "a read-only disk stays as it is");
  }
  driver.Check();
  arena.Check();
  return 0;
}
