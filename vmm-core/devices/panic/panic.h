// The panic port: the exception stubs of a guest write the vector here, and the VMM learns that and why the guest is
// lost. Source: nestbench/abi/layout.h.
//
// Not emulated: reading; anything but the vector (registers and error code are read from the vCPU).
//
// The port may be open to the payload itself, so a report is a guest's claim: any 32-bit value may arrive, any number
// of times. Any number of threads may access it at once, without a lock.
#pragma once

#include <atomic>
#include <cstdint>
#include <optional>

#include "devices/panic/registers.h"
#include "nestbench/vmm/bus/device.h"

namespace nestbench::vmm {

class PanicPort final : public Device {
 public:
  static constexpr std::uint64_t kSizeBytes = panic::kSizeBytes;

  // The first vector reported: what follows it is mostly its consequence. None until a report comes.
  [[nodiscard]] std::optional<std::uint32_t> vector() const;

  // Reports so far.
  [[nodiscard]] std::uint64_t count() const { return count_.load(std::memory_order_acquire); }

  [[nodiscard]] AccessStatus Read(std::uint64_t offset, std::span<std::byte> data) override;
  [[nodiscard]] AccessStatus Write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  static constexpr std::uint64_t kRecorded = 1ULL << 32;

  std::atomic<std::uint64_t> first_{0};  // kRecorded | vector, or 0
  std::atomic<std::uint64_t> count_{0};
};

}  // namespace nestbench::vmm
