// Where everything lies in a payload's address space: one map for every substrate.
//
// A payload image is linked at a fixed address. `bare` maps these ranges at these virtual addresses in a host
// process; `vm` backs the same ranges as guest-physical memory and maps guest-virtual = guest-physical. All
// ranges are start + size and lie below the 32-bit PCI/APIC hole of a PC (I/O APIC at 0xFEC00000, local APIC at
// 0xFEE00000), so that one map serves a user process, our VMM and any other VMM.
//
// Freestanding: included by guest code and host code alike.
#pragma once

#include <cstdint>

namespace nestbench::abi {

inline constexpr std::uint64_t kPageBytes = 4096;
inline constexpr std::uint64_t kLargePageBytes = 2ULL << 20;

// Supervisor area of a `vm`: descriptor tables, exception stubs, their stack, then page tables. User pages
// never map it. `bare` has nothing here.
inline constexpr std::uint64_t kSupervisorBase = 0x0000'0000;
inline constexpr std::uint64_t kSupervisorBytes = 16ULL << 20;

// Where the guest is `nested`: the hypervisor inside it (L1), in a part of the supervisor area that its own guest (L2,
// which the payload is) never maps. Code and constants with the entry at their start; data, then a stack; interrupt
// table; the pages of its processor's control structure (SVM: the VMCB first; VMX: the fields to write first).
inline constexpr std::uint64_t kHypervisorBase = 0x0001'2000;
inline constexpr std::uint64_t kHypervisorMaxBytes = 0x2000;
inline constexpr std::uint64_t kHypervisorDataBase = 0x0001'4000;
inline constexpr std::uint64_t kHypervisorStackTop = 0x0001'5000;
inline constexpr std::uint64_t kHypervisorIdtBase = 0x0001'5000;
inline constexpr std::uint64_t kHypervisorControl = 0x0001'6000;
inline constexpr std::uint64_t kHypervisorEnd = 0x0001'D000;

// Mailbox page, then the payload's stack (grows down from kStackTop), in one 2 MiB range.
inline constexpr std::uint64_t kMailboxBase = 0x0F00'0000;
inline constexpr std::uint64_t kMailboxBytes = kPageBytes;
inline constexpr std::uint64_t kStackBase = 0x0F10'0000;
inline constexpr std::uint64_t kStackBytes = 1ULL << 20;
inline constexpr std::uint64_t kStackTop = kStackBase + kStackBytes;

// The image: text, constants, data, bss. The link script places it at kImageBase.
inline constexpr std::uint64_t kImageBase = 0x1000'0000;
inline constexpr std::uint64_t kImageMaxBytes = 16ULL << 20;

// The arena: the working set of a payload, zero before first use, up to kArenaMaxBytes.
inline constexpr std::uint64_t kArenaBase = 0x2000'0000;
inline constexpr std::uint64_t kArenaMaxBytes = 2ULL << 30;

// One page that is never mapped: the page-fault payload loads from it to raise #PF.
inline constexpr std::uint64_t kFaultPage = 0xC000'0000;

// MMIO pages: no memory behind them, so that an access leaves the guest.
inline constexpr std::uint64_t kDoorbellPage = 0xD000'0000;  // handled in user space
inline constexpr std::uint64_t kEventPage = 0xD000'1000;     // an ioeventfd: handled in the kernel
inline constexpr std::uint64_t kMmioPagesEnd = 0xD000'2000;

// Where the guest has devices: the registers of each virtio device (virtio over MMIO), and a page for a driver that has
// nothing to do. A 4-byte store there is what HLT is at CPL0: the vCPU sleeps until a device raises its interrupt line,
// and does not sleep when one has since the last such store. The value, unless 0, is how many ms it sleeps at most.
inline constexpr std::uint64_t kVirtioBase = 0xD000'2000;
inline constexpr std::uint64_t kVirtioStride = kPageBytes;
inline constexpr std::uint64_t kVirtioMaxDevices = 2;
inline constexpr std::uint64_t kWaitPage = kVirtioBase + kVirtioMaxDevices * kVirtioStride;
inline constexpr std::uint64_t kDevicePagesEnd = kWaitPage + kPageBytes;

// Ports. Only these (and the serial port) are open to CPL3 in the TSS I/O permission bitmap.
inline constexpr std::uint16_t kDoorbellPort = 0x0B20;       // 4-byte write; the value is ignored
inline constexpr std::uint16_t kEventPort = 0x0B24;          // an ioeventfd, 4-byte write
inline constexpr std::uint16_t kPanicPort = 0x0B28;          // 4-byte write by the exception stubs: the vector
inline constexpr std::uint32_t kHypervisorPanic = 1U << 31;  // in what L1 writes there: the exit that it cannot handle
inline constexpr std::uint16_t kSerialPort = 0x03F8;         // 16550, eight registers

}  // namespace nestbench::abi
