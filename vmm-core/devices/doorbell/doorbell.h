// The doorbell: how a payload says that it has finished a command. One register, the same behind a port and behind an
// MMIO page; one object may stand on both buses. Source: nestbench/abi/layout.h and nestbench/abi/mailbox.h.
//
// Not emulated: reading (there is nothing to read), the value that was written (ignored).
//
// Any number of threads may access it at once, without a lock: it is the hottest device there is.
#pragma once

#include <atomic>
#include <cstdint>

#include "devices/doorbell/registers.h"
#include "nestbench/vmm/bus/device.h"

namespace nestbench::vmm {

// Told of each ring, on the vCPU thread that rang, inside that exit: it must not allocate, block or throw.
class RingListener {
 public:
  virtual ~RingListener() = default;
  virtual void OnRing() = 0;
};

class Doorbell final : public Device {
 public:
  static constexpr std::uint64_t kSizeBytes = doorbell::kSizeBytes;

  // Borrows `listener`; with none, rings are only counted.
  explicit Doorbell(RingListener* listener = nullptr) : listener_(listener) {}

  // Rings so far. A run loop that has one vCPU compares it before and after the exit.
  [[nodiscard]] std::uint64_t rings() const { return rings_.load(std::memory_order_acquire); }

  [[nodiscard]] AccessStatus Read(std::uint64_t offset, std::span<std::byte> data) override;
  [[nodiscard]] AccessStatus Write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  RingListener* listener_;
  std::atomic<std::uint64_t> rings_{0};
};

}  // namespace nestbench::vmm
