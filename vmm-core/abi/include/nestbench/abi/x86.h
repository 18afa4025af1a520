// x86 architecture constants, each with its source. AMD APM = "AMD64 Architecture Programmer's Manual, Volume 2:
// System Programming"; Intel SDM = "Intel 64 and IA-32 Architectures Software Developer's Manual". Freestanding.
#pragma once

#include <cstdint>

namespace nestbench::abi::x86 {

// CR0. AMD APM, section "CR0 Register".
inline constexpr std::uint64_t kCr0ProtectedMode = 1ULL << 0;
inline constexpr std::uint64_t kCr0MonitorCoprocessor = 1ULL << 1;
inline constexpr std::uint64_t kCr0ExtensionType = 1ULL << 4;
inline constexpr std::uint64_t kCr0NumericError = 1ULL << 5;
inline constexpr std::uint64_t kCr0WriteProtect = 1ULL << 16;
inline constexpr std::uint64_t kCr0Paging = 1ULL << 31;

// CR4. AMD APM, section "CR4 Register".
inline constexpr std::uint64_t kCr4Pae = 1ULL << 5;
inline constexpr std::uint64_t kCr4Osfxsr = 1ULL << 9;
inline constexpr std::uint64_t kCr4Osxmmexcpt = 1ULL << 10;
inline constexpr std::uint64_t kCr4Osxsave = 1ULL << 18;

// EFER. AMD APM, section "Extended Feature Enable Register (EFER)".
inline constexpr std::uint32_t kMsrEfer = 0xC000'0080;
inline constexpr std::uint64_t kEferSyscall = 1ULL << 0;
inline constexpr std::uint64_t kEferLongModeEnable = 1ULL << 8;
inline constexpr std::uint64_t kEferLongModeActive = 1ULL << 10;
inline constexpr std::uint64_t kEferNoExecute = 1ULL << 11;

// SYSCALL targets. AMD APM, section "SYSCALL and SYSRET Instructions".
inline constexpr std::uint32_t kMsrStar = 0xC000'0081;
inline constexpr std::uint32_t kMsrLstar = 0xC000'0082;

// Local APIC: where its registers are, and what enables it. AMD APM, sections "Local APIC Enable", "APIC Registers",
// "Spurious Interrupt Register" and "x2APIC Enable".
inline constexpr std::uint32_t kMsrApicBase = 0x1B;
inline constexpr std::uint64_t kApicBaseX2apic = 1ULL << 10;
inline constexpr std::uint32_t kApicMmioBase = 0xFEE0'0000;
inline constexpr std::uint32_t kApicVersion = 0x30;
inline constexpr std::uint32_t kApicEndOfInterrupt = 0xB0;
inline constexpr std::uint32_t kApicSpuriousInterrupt = 0xF0;
inline constexpr std::uint32_t kApicSoftwareEnable = 1U << 8;
inline constexpr std::uint32_t kApicSpuriousVector = 0xFF;

// Interrupts between processors. AMD APM, section "Interrupt Command Register (ICR)".
inline constexpr std::uint32_t kApicInterruptCommand = 0x300;
inline constexpr std::uint32_t kIcrAssert = 1U << 14;
inline constexpr std::uint32_t kIcrToSelf = 1U << 18;

// The local APIC's timer. AMD APM, section "APIC Timer Interrupt"; the mode with a deadline: Intel SDM, volume 3,
// sections "APIC Timer" and "TSC-Deadline Mode".
inline constexpr std::uint32_t kApicLvtTimer = 0x320;
inline constexpr std::uint32_t kLvtTimerPeriodic = 1U << 17;
inline constexpr std::uint32_t kLvtTimerTscDeadline = 2U << 17;
inline constexpr std::uint32_t kApicTimerInitialCount = 0x380;
inline constexpr std::uint32_t kApicTimerDivide = 0x3E0;
inline constexpr std::uint32_t kApicTimerDivideBy1 = 0xB;
inline constexpr std::uint32_t kMsrTscDeadline = 0x6E0;

// A register of the local APIC as an MSR, and two that exist only so or differ. AMD APM, section "x2APIC Registers".
constexpr std::uint32_t X2apicMsr(std::uint32_t apic_register) { return 0x800 + apic_register / 16; }
inline constexpr std::uint32_t kMsrX2apicSelfIpi = 0x83F;

// I/O APIC. Intel 82093AA I/O Advanced Programmable Interrupt Controller (IOAPIC), section "Memory Mapped Registers".
inline constexpr std::uint32_t kIoApicWindow = 0xFEC0'0010;

// Interrupt controllers of the PC. Intel 8259A, section "Operation Command Words": OCW1, the mask.
inline constexpr std::uint8_t kPicMaskPort = 0x21;

// RFLAGS: bit 1 reads as one. AMD APM, section "RFLAGS Register".
inline constexpr std::uint64_t kRflagsReserved1 = 1ULL << 1;
inline constexpr std::uint64_t kRflagsInterrupts = 1ULL << 9;

// Debug registers. AMD APM volume 2, section "Processor Initialization State".
inline constexpr std::uint64_t kDr6AfterReset = 0xFFFF'0FF0;
inline constexpr std::uint64_t kDr7AfterReset = 0x400;

// Page-table entries. AMD APM, section "Page-Translation-Table Entry Fields".
inline constexpr std::uint64_t kPtePresent = 1ULL << 0;
inline constexpr std::uint64_t kPteWritable = 1ULL << 1;
inline constexpr std::uint64_t kPteUser = 1ULL << 2;
inline constexpr std::uint64_t kPteCacheDisable = 1ULL << 4;
inline constexpr std::uint64_t kPteAccessed = 1ULL << 5;
inline constexpr std::uint64_t kPteDirty = 1ULL << 6;
inline constexpr std::uint64_t kPteLarge = 1ULL << 7;  // in a PDE: 2 MiB page
inline constexpr std::uint64_t kPteNoExecute = 1ULL << 63;
inline constexpr std::uint64_t kPteAddressMask = 0x000F'FFFF'FFFF'F000;
inline constexpr unsigned kPageTableEntries = 512;

// CPUID leaf 1, ECX. AMD APM, section "CPUID Fn0000_0001_ECX Feature Identifiers"; the TSC deadline: Intel SDM, volume
// 2, section "CPUID-CPU Identification".
inline constexpr std::uint32_t kCpuid1EcxX2apic = 1U << 21;
inline constexpr std::uint32_t kCpuid1EcxTscDeadline = 1U << 24;
inline constexpr std::uint32_t kCpuid1EcxHypervisor = 1U << 31;

// Segment descriptor attributes of 64-bit mode. AMD APM, section "Long-Mode Segment Descriptors".
inline constexpr std::uint8_t kSegmentTypeCodeReadAccessed = 0xB;
inline constexpr std::uint8_t kSegmentTypeDataWriteAccessed = 0x3;
inline constexpr std::uint8_t kSegmentTypeTssAvailable = 0x9;
inline constexpr std::uint8_t kSegmentTypeTssBusy = 0xB;
inline constexpr std::uint8_t kGateTypeInterrupt = 0xE;

// An interrupt gate below 4 GiB: all of it in the older modes; in 64-bit mode its lower half, whose upper half is zero.
// `stack_index` is one of the interrupt stack table, in 64-bit mode only. AMD APM, sections "Legacy Gate Descriptors"
// and "Interrupt-Gate and Trap-Gate Descriptors".
constexpr std::uint64_t InterruptGate(std::uint16_t code_selector, std::uint64_t handler, std::uint64_t stack_index = 0,
                                      std::uint64_t privilege = 0) {
  return (handler & 0xFFFF) | std::uint64_t{code_selector} << 16 | stack_index << 32 |
         (0x80ULL | privilege << 5 | kGateTypeInterrupt) << 40 | (handler & 0xFFFF'0000) << 32;
}

// A TSS's descriptor for a GDT, present, below 4 GiB: all of it, or its lower half, as with gates. AMD APM, section
// "System Descriptors".
constexpr std::uint64_t TaskStateDescriptor(std::uint8_t type, std::uint64_t base, std::uint64_t limit_bytes) {
  return (limit_bytes & 0xFFFF) | (base & 0xFF'FFFF) << 16 | (0x80ULL | type) << 40 | (limit_bytes >> 16 & 0xF) << 48 |
         (base >> 24 & 0xFF) << 56;
}

// Flat descriptors of 4 GiB, accessed, for a GDT. AMD APM, sections "Legacy Segment Descriptors" and "Long-Mode Segment
// Descriptors".
inline constexpr std::uint64_t kDescriptorCode64 = 0x00AF'9B00'0000'FFFF;
inline constexpr std::uint64_t kDescriptorCode32 = 0x00CF'9B00'0000'FFFF;
inline constexpr std::uint64_t kDescriptorData = 0x00CF'9300'0000'FFFF;
inline constexpr std::uint64_t kDescriptorUserCode64 = 0x00AF'FB00'0000'FFFF;
inline constexpr std::uint64_t kDescriptorUserData = 0x00CF'F300'0000'FFFF;

// 64-bit TSS. AMD APM, section "64-Bit Task State Segment".
inline constexpr std::uint32_t kTssBytes = 0x68;
inline constexpr std::uint32_t kTssRsp0Offset = 0x04;
inline constexpr std::uint32_t kTssIst1Offset = 0x24;
inline constexpr std::uint32_t kTssIoMapBaseOffset = 0x66;
inline constexpr std::uint32_t kIoPermissionBitmapBytes = 65536 / 8;

// Exception vectors. AMD APM, section "Vectors".
inline constexpr unsigned kVectorDivide = 0;
inline constexpr unsigned kVectorDebug = 1;
inline constexpr unsigned kVectorBreakpoint = 3;
inline constexpr unsigned kVectorInvalidOpcode = 6;
inline constexpr unsigned kVectorDoubleFault = 8;
inline constexpr unsigned kVectorGeneralProtection = 13;
inline constexpr unsigned kVectorPageFault = 14;
inline constexpr unsigned kExceptionVectors = 32;

// The exceptions that push an error code, a bit for each vector. AMD APM, section "Error Code": #DF, #TS, #NP, #SS,
// #GP, #PF, #AC, #CP, #VC, #SX.
inline constexpr std::uint32_t kErrorCodeVectors = 1U << 8 | 0x1FU << 10 | 1U << 17 | 1U << 21 | 1U << 29 | 1U << 30;
constexpr bool HasErrorCode(unsigned vector) {
  return vector < kExceptionVectors && (kErrorCodeVectors >> vector & 1U) != 0;
}

// XCR0 state components. Intel SDM, volume 1, section "Enabling the XSAVE Feature Set and XSAVE-Enabled Features".
inline constexpr std::uint64_t kXcr0X87 = 1ULL << 0;
inline constexpr std::uint64_t kXcr0Sse = 1ULL << 1;
inline constexpr std::uint64_t kXcr0Avx = 1ULL << 2;
inline constexpr std::uint64_t kXcr0Avx512 = 7ULL << 5;  // opmask, ZMM_Hi256, Hi16_ZMM

}  // namespace nestbench::abi::x86
