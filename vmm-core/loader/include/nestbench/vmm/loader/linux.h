// Linux kernels: what a file says about how it wants to be started. Sources: kernel document "The Linux/x86 Boot
// Protocol" (bzImage, 64-bit entry); Xen's "x86/HVM direct boot ABI" for the PVH entry of an uncompressed kernel.
//
// The file is the user's, not the guest's, but is checked as if it were hostile.
#pragma once

#include <asm/bootparam.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/loader/elf.h"

namespace nestbench::vmm {

// How the first instruction of the kernel is entered.
enum class LinuxEntry : std::uint8_t {
  kBoot64,  // 64-bit mode with paging, boot_params in RSI
  kPvh,     // 32-bit protected mode without paging, hvm_start_info in EBX
};

// Borrows: the spans point into the file.
struct LinuxImage {
  LinuxEntry entry_kind = LinuxEntry::kBoot64;
  abi::GuestPhysAddr entry;
  struct Piece {
    abi::GuestPhysAddr address;
    std::span<const std::byte> bytes;
  };
  std::vector<Piece> pieces;
  abi::GuestPhysRange range;                    // that the kernel needs until it looks after itself
  setup_header header{};                        // of a bzImage: goes into boot_params
  std::uint64_t initrd_max = 0x37FF'FFFF;       // the highest address of the initramfs
  std::uint32_t command_line_max_bytes = 2047;  // without the end
};

// Where a bzImage or a vmlinux with a PVH note wants to be. kMalformed says what is wrong with the file; kUnsupported
// when it is a kernel that has neither entry.
[[nodiscard]] Result<LinuxImage> ParseLinux(std::span<const std::byte> file);

}  // namespace nestbench::vmm
