// What stands at CPL0 of a UserMachine: descriptor tables and exception stubs. Private to this layer.
#pragma once

#include <array>
#include <cstdint>

#include "nestbench/abi/layout.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::vmm::internal {

// Guest-physical = guest-virtual addresses inside the supervisor area. Page 0 stays unmapped.
inline constexpr std::uint64_t kGdtBase = 0x1000;
inline constexpr std::uint64_t kIdtBase = 0x2000;
inline constexpr std::uint64_t kStubsBase = 0x3000;
inline constexpr std::uint64_t kTssBase = 0x4000;  // with the I/O bitmap three pages
inline constexpr std::uint64_t kTssPagesBytes = 0x3000;
inline constexpr std::uint64_t kStackBase = 0x8000;
inline constexpr std::uint64_t kStackBytes = 0x8000;
inline constexpr std::uint64_t kFaultStackBase = 0x10000;  // for #DF, through the interrupt stack table
inline constexpr std::uint64_t kFaultStackBytes = 0x2000;
inline constexpr std::uint64_t kPageTablesBase = 0x2'0000;

// Page tables that an arena of so many bytes needs at most: the root, four gigabytes of directories, and a table for
// each 2 MiB of the fixed ranges and, in small pages, of the arena. No more memory than that stands behind the
// supervisor area: KVM keeps a record of every page of a slot, touched or not.
constexpr std::uint64_t PageTablesBytes(std::uint64_t arena_bytes) {
  constexpr std::uint64_t kUpperLevels = 2 + 4;
  constexpr std::uint64_t kFixedRanges =
      3 + abi::kImageMaxBytes / abi::kLargePageBytes;  // supervisor, stack, MMIO, image
  return (kUpperLevels + kFixedRanges + arena_bytes / abi::kLargePageBytes + 1) * abi::kPageBytes;
}
static_assert(kPageTablesBase + PageTablesBytes(abi::kArenaMaxBytes) <= abi::kSupervisorBytes);

// Selectors of the GDT. AMD APM, section "Segment Selectors"; the low two bits are the privilege level.
inline constexpr std::uint16_t kKernelCodeSelector = 0x08;
inline constexpr std::uint16_t kKernelDataSelector = 0x10;
inline constexpr std::uint16_t kUserDataSelector = 0x18 | 3;
inline constexpr std::uint16_t kUserCodeSelector = 0x20 | 3;
inline constexpr std::uint16_t kTssSelector = 0x28;

// What a stub leaves on the stack before it writes to the panic port, lowest address first.
struct ExceptionFrame {
  std::uint64_t vector;
  std::uint64_t error_code;
  std::uint64_t rip;
  std::uint64_t cs;
  std::uint64_t rflags;
  std::uint64_t rsp;
  std::uint64_t ss;
};

// Writes GDT, IDT, TSS with I/O bitmap, and the stubs.
Result<void> WriteSupervisor(const GuestMemory& memory);

// Writes the gates of the exceptions to a second interrupt table.
Result<void> WriteExceptionGates(const GuestMemory& memory, std::uint64_t idt_base);

// `sregs`, which are those after reset, become those of CPL3 in the address space at `page_table_root`.
void SetUserMode(kvm_sregs& sregs, abi::GuestPhysAddr page_table_root, bool has_xsave);

// The payload's stack pointer at its entry, as if a call had pushed a return address: the alignment that compilers
// expect.
inline constexpr std::uint64_t kUserStackPointer = abi::kStackTop - 8;

// Points the vCPU at `entry`, CPL3, RDI = the mailbox, on the payload's stack, in the address space at
// `page_table_root`.
Result<void> EnterUserMode(Vcpu& vcpu, abi::GuestPhysAddr page_table_root, abi::GuestVirtAddr entry, bool has_xsave);

}  // namespace nestbench::vmm::internal
