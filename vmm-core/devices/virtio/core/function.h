// What a virtio device does, apart from how its driver reaches it: the transport (mmio.h) holds one Function and gives
// it the queues. Source: Virtual I/O Device (VIRTIO) Version 1.2, sections "Device Initialization" and "Device Types".
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <vector>

#include "devices/virtio/core/queue.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/bus/access.h"

namespace nestbench::vmm::virtio {

// What a function tells its driver, through the transport. From any thread; none of them blocks.
class DriverSignals {
 public:
  virtual ~DriverSignals() = default;
  virtual void QueueUsed() = 0;             // used buffers wait: Queue::NotifyNeeded() said so
  virtual void ConfigChanged() = 0;         // the driver should read the configuration space again
  virtual void Fail(QueueFault fault) = 0;  // a queue is broken: the driver has to reset the device
};

// What the driver has set up when it says DRIVER_OK.
struct Activation {
  std::uint64_t features = 0;  // negotiated: a part of those offered
  std::vector<Queue> queues;   // as many as queue_sizes(); those that the driver does not use are not ready()
  std::vector<int> doorbells;  // an eventfd for each queue, non-blocking; the transport's, until Reset() returns
  const GuestMemory* memory = nullptr;
  DriverSignals* signals = nullptr;
};

// The transport serialises Activate(), Reset() and the configuration space with a lock of its own; a function's own
// threads may call DriverSignals at the same time, and never take that lock.
class Function {
 public:
  virtual ~Function() = default;

  [[nodiscard]] virtual std::uint32_t device_id() const = 0;  // VIRTIO_ID_*
  [[nodiscard]] virtual std::uint64_t features() const = 0;   // of the device type; see kRingFeatures
  // Whether a driver may choose these of them: some make no sense without others ("Feature bit requirements").
  [[nodiscard]] virtual bool Accepts(std::uint64_t /*features*/) const { return true; }
  [[nodiscard]] virtual std::span<const std::uint16_t> queue_sizes() const = 0;  // the most that each queue can have

  // The configuration space. Any offset and width may come.
  [[nodiscard]] virtual AccessStatus ReadConfig(std::uint64_t offset, std::span<std::byte> data) = 0;
  [[nodiscard]] virtual AccessStatus WriteConfig(std::uint64_t /*offset*/, std::span<const std::byte> /*data*/) {
    return AccessStatus::kReadOnly;
  }

  // Starts to serve the queues. On an error nothing runs.
  virtual Result<void> Activate(Activation activation) = 0;

  // Stops. When it returns no thread touches queues or guest memory, no I/O is in flight and nothing is signalled. Also
  // called when the function is not active.
  virtual void Reset() = 0;
};

// A read of `data.size()` bytes at `offset` of a little-endian structure of the configuration space.
template <typename Config>
  requires std::is_trivially_copyable_v<Config>
[[nodiscard]] AccessStatus ReadConfigStructure(const Config& config, std::uint64_t offset, std::span<std::byte> data) {
  if (offset >= sizeof(config) || data.size() > sizeof(config) - offset) {
    return FailRead(data, AccessStatus::kBadOffset);
  }
  std::memcpy(data.data(), reinterpret_cast<const std::byte*>(&config) + offset, data.size());
  return AccessStatus::kOk;
}

// A feature bit of the kernel's headers (VIRTIO_*_F_*) as a mask.
[[nodiscard]] constexpr std::uint64_t Feature(unsigned bit) { return 1ULL << bit; }

}  // namespace nestbench::vmm::virtio
