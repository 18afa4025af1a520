// How a Linux kernel finds memory, processors and itself: everything that is in guest memory before its first
// instruction.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "acpi.h"
#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/loader/linux.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::vmm::internal {

inline constexpr std::uint64_t kLowMemoryEnd = 0xC000'0000;  // memory goes on at 4 GiB: devices lie between
inline constexpr std::uint64_t kHighMemoryBase = 1ULL << 32;

struct LinuxBoot {
  const LinuxImage* image = nullptr;
  std::span<const std::byte> initramfs;
  std::string_view command_line;
  std::uint64_t low_bytes = 0;
  std::uint64_t high_bytes = 0;
  AcpiMachine acpi;
};

// Kernel, initramfs, command line, memory map, tables.
Result<void> WriteLinux(const GuestMemory& memory, const LinuxBoot& boot);

// The first vCPU, at the kernel's entry.
Result<void> EnterLinux(Vcpu& vcpu, const LinuxImage& image);

}  // namespace nestbench::vmm::internal
