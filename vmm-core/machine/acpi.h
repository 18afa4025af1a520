// The ACPI tables of a machine that a stock Linux kernel finds its way around in: processors, interrupt controller,
// power management, and the virtio devices, which have no bus that could be searched.
// Source: "Advanced Configuration and Power Interface Specification", Version 6.5, sections "ACPI Software Programming
// Model" and "ACPI Machine Language (AML) Specification".
#pragma once

#include <cstdint>
#include <span>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::vmm::internal {

struct AcpiVirtioDevice {
  abi::GuestPhysRange registers;
  std::uint32_t gsi = 0;  // edge-triggered, active high
};

struct AcpiMachine {
  std::uint32_t vcpus = 1;
  std::uint16_t power_port = 0;  // devices/power
  std::uint32_t sci_gsi = 9;
  std::span<const AcpiVirtioDevice> virtio;
};

// Writes them from `start` on, at most `room_bytes`; returns where the root pointer (RSDP) is. kInvalidArgument when
// they do not fit.
Result<abi::GuestPhysAddr> WriteAcpiTables(const GuestMemory& memory, abi::GuestPhysAddr start,
                                           std::uint64_t room_bytes, const AcpiMachine& machine);

}  // namespace nestbench::vmm::internal
