// What a bus calls: an emulated device behind a run of ports or MMIO bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "nestbench/vmm/bus/access.h"

namespace nestbench::vmm {

// Offset and data come from the guest: every width and every offset may arrive and must end in a status, never in an
// abort, an exception or an allocation. Called from vCPU threads, several at once: a device makes itself safe for
// that and says how in its header.
class Device {
 public:
  virtual ~Device() = default;

  // `offset`: bytes from the device's start on the bus. Little-endian. On any status but kOk, `data` is all ones
  // (FailRead).
  [[nodiscard]] virtual AccessStatus Read(std::uint64_t offset, std::span<std::byte> data) = 0;

  // On any status but kOk nothing has changed.
  [[nodiscard]] virtual AccessStatus Write(std::uint64_t offset, std::span<const std::byte> data) = 0;
};

}  // namespace nestbench::vmm
