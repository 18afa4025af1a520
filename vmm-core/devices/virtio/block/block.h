// virtio-blk: a disk. Source: Virtual I/O Device (VIRTIO) Version 1.2, section "Block Device"; constants from
// <linux/virtio_blk.h>.
//
// Emulated: read, write, flush, discard, write-zeroes, the device's name; several queues; write-back and write-through
// (the driver may choose); read-only disks.
// Not emulated: lifetime, secure erase, zoned storage; more than one range in a discard.
//
// One thread serves all queues.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "devices/virtio/block/disk.h"
#include "devices/virtio/core/function.h"
#include "devices/virtio/core/worker.h"

namespace nestbench::vmm::virtio {

struct BlockOptions {
  std::uint16_t queue_count = 1;
  std::uint16_t queue_size = 256;  // a power of two, at most 1024
  PollPolicy polling = {};
  int cpu = -1;                      // of its thread; -1: those of the thread that the driver's DRIVER_OK comes on
  std::string serial = "nestbench";  // what GET_ID answers: at most 20 bytes of it
};

class Block final : public Function {
 public:
  Block(std::unique_ptr<Disk> disk, const BlockOptions& options);
  ~Block() override;

  struct Counters {
    std::uint64_t requests = 0;
    std::uint64_t errors = 0;   // answered with VIRTIO_BLK_S_IOERR or _UNSUPP
    std::uint64_t batches = 0;  // rounds that found requests: requests / batches came at once
    std::uint64_t flushes = 0;
  };
  [[nodiscard]] Counters counters() const;

  [[nodiscard]] std::uint32_t device_id() const override;
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override { return queue_sizes_; }
  [[nodiscard]] AccessStatus ReadConfig(std::uint64_t offset, std::span<std::byte> data) override;
  [[nodiscard]] AccessStatus WriteConfig(std::uint64_t offset, std::span<const std::byte> data) override;
  Result<void> Activate(Activation activation) override;
  void Reset() override;

 private:
  struct Request {
    std::size_t queue = 0;
    Chain chain;
    DiskRequest disk;
    std::uint32_t written_bytes = 0;  // of data, when it succeeds
  };

  bool Serve(bool may_sleep);
  bool TakeRequests(bool may_sleep);
  bool TakeFromQueue(std::size_t index, bool may_sleep);
  bool FinishRequests();
  [[nodiscard]] QueueFault Begin(Request& request);
  [[nodiscard]] std::uint8_t Prepare(Request& request, std::uint32_t type, std::uint64_t sector);
  [[nodiscard]] std::uint8_t PrepareTransfer(Request& request, bool is_write, std::uint64_t sector);
  [[nodiscard]] bool WritesThrough() const;
  [[nodiscard]] std::uint8_t PrepareRange(Request& request, bool discard);
  void Answer(Request& request, std::uint8_t status, std::uint32_t written_bytes);
  void BreakQueue(std::size_t queue, QueueFault fault);

  std::unique_ptr<Disk> disk_;
  BlockOptions options_;
  DiskLimits limits_;
  std::vector<std::uint16_t> queue_sizes_;
  std::atomic<bool> write_back_{true};

  Activation active_;
  bool durable_writes_ = false;  // the driver knows no flush: nothing may stay in a cache
  std::vector<Request> requests_;
  std::vector<Request*> free_requests_;
  std::vector<DiskRequest*> done_;
  bool broken_ = false;
  std::unique_ptr<Worker> worker_;

  std::atomic<std::uint64_t> request_count_{0};
  std::atomic<std::uint64_t> error_count_{0};
  std::atomic<std::uint64_t> batch_count_{0};
  std::atomic<std::uint64_t> flush_count_{0};
};

}  // namespace nestbench::vmm::virtio
