// virtio over MMIO: the registers through which a driver finds, sets up and rings one virtio device.
// Source: Virtual I/O Device (VIRTIO) Version 1.2, sections "Virtio Over MMIO", "Device Initialization" and "Device
// Status Field"; constants from <linux/virtio_mmio.h> and <linux/virtio_config.h>.
//
// Not emulated: the legacy interface (version 1), shared memory regions, reset of a single queue.
//
// A doorbell reaches the function through an eventfd, whoever writes it: the kernel, where the VM attaches doorbell()
// as an ioeventfd, or this class when the write came as an exit. Any number of threads may access it at once.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "devices/virtio/core/function.h"
#include "nestbench/vmm/base/unique_fd.h"
#include "nestbench/vmm/bus/device.h"
#include "nestbench/vmm/bus/irq_line.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::vmm::virtio {

class MmioTransport final : public Device, private DriverSignals {
 public:
  static constexpr std::uint64_t kSizeBytes = 0x200;       // registers, then 256 bytes of configuration space
  static constexpr std::uint64_t kNotifyOffset = 0x50;     // VIRTIO_MMIO_QUEUE_NOTIFY: what an ioeventfd listens to
  static constexpr std::uint32_t kVendorId = 0x4E45'5354;  // "TSEN" in memory; drivers ignore it

  // Borrows all three, which outlive it.
  static Result<std::unique_ptr<MmioTransport>> Create(Function& function, const GuestMemory& memory, IrqLine& irq);
  ~MmioTransport() override;

  // Registers: 4 bytes at their own offset. Configuration space: as the function takes it. What a driver must not do
  // (write while the queue is ready, set features late) is refused and changes nothing.
  [[nodiscard]] AccessStatus Read(std::uint64_t offset, std::span<std::byte> data) override;
  [[nodiscard]] AccessStatus Write(std::uint64_t offset, std::span<const std::byte> data) override;

  // The eventfd that stands for queue `index`: writing it is writing `index` to QueueNotify.
  [[nodiscard]] int doorbell(std::size_t index) const { return doorbells_[index].get(); }
  [[nodiscard]] std::size_t queue_count() const { return queues_.size(); }

  struct Counters {
    std::uint64_t doorbell_exits = 0;  // writes to QueueNotify that came here, and not to an ioeventfd
    std::uint64_t interrupts = 0;      // times that the line rose
    std::uint64_t resets = 0;
    std::array<std::uint64_t, kQueueFaults> faults{};  // by QueueFault
  };
  [[nodiscard]] Counters counters() const;

  // Whether the device waits for a reset, and the VMM's own error where that was the reason.
  [[nodiscard]] bool needs_reset() const;
  [[nodiscard]] std::optional<Error> failure() const;

  // The driver has said DRIVER_OK and the function runs.
  [[nodiscard]] bool active() const { return active_.load(std::memory_order_acquire); }

 private:
  struct QueueState {
    QueueLayout layout;
    bool ready = false;
  };

  MmioTransport(Function& function, const GuestMemory& memory, IrqLine& irq, std::vector<UniqueFd> doorbells);

  [[nodiscard]] std::optional<std::uint32_t> ReadRegister(std::uint64_t offset);
  [[nodiscard]] AccessStatus WriteRegister(std::uint64_t offset, std::uint32_t value);
  [[nodiscard]] AccessStatus WriteStatus(std::uint32_t value);
  [[nodiscard]] AccessStatus WriteQueue(std::uint64_t offset, std::uint32_t value);
  [[nodiscard]] std::uint32_t DeviceStatus() const;
  void Activate();
  void ResetDevice();
  void Acknowledge(std::uint32_t bits);
  void RaiseLocked(std::uint32_t bits);

  void QueueUsed() override;
  void ConfigChanged() override;
  void Fail(QueueFault fault) override;

  Function& function_;
  const GuestMemory& memory_;
  IrqLine& irq_;
  std::vector<UniqueFd> doorbells_;

  // Two locks: the function's thread raises interrupts and reports faults while the vCPU that resets the device holds
  // the first and waits for that thread to end.
  std::mutex mutex_;
  std::uint32_t status_ = 0;  // as the driver wrote it; NEEDS_RESET is kept apart
  std::uint32_t device_features_select_ = 0;
  std::uint32_t driver_features_select_ = 0;
  std::uint64_t driver_features_ = 0;
  bool unknown_features_ = false;  // the driver set some that are not among the 64
  std::uint32_t queue_select_ = 0;
  std::vector<QueueState> queues_;
  std::atomic<bool> active_{false};
  std::atomic<std::uint64_t> doorbell_exits_{0};

  mutable std::mutex interrupt_mutex_;
  std::uint32_t interrupt_status_ = 0;
  bool needs_reset_ = false;
  std::uint32_t config_generation_ = 0;
  std::optional<Error> failure_;
  Counters counters_;
};

}  // namespace nestbench::vmm::virtio
