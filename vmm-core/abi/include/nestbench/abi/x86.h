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

// RFLAGS bit 1 reads as one. AMD APM, section "RFLAGS Register".
inline constexpr std::uint64_t kRflagsReserved1 = 1ULL << 1;

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

// Segment descriptor attributes of 64-bit mode. AMD APM, section "Long-Mode Segment Descriptors".
inline constexpr std::uint8_t kSegmentTypeCodeReadAccessed = 0xB;
inline constexpr std::uint8_t kSegmentTypeDataWriteAccessed = 0x3;
inline constexpr std::uint8_t kSegmentTypeTssBusy = 0xB;
inline constexpr std::uint8_t kGateTypeInterrupt = 0xE;

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

// XCR0 state components. Intel SDM, volume 1, section "Enabling the XSAVE Feature Set and XSAVE-Enabled Features".
inline constexpr std::uint64_t kXcr0X87 = 1ULL << 0;
inline constexpr std::uint64_t kXcr0Sse = 1ULL << 1;
inline constexpr std::uint64_t kXcr0Avx = 1ULL << 2;
inline constexpr std::uint64_t kXcr0Avx512 = 7ULL << 5;  // opmask, ZMM_Hi256, Hi16_ZMM

}  // namespace nestbench::abi::x86
