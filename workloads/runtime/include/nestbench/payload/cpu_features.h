// Which vector instructions may be used here: the CPU has them and the system saves their registers. Executes CPUID and
// XGETBV, which may leave a guest: for SetUp only, never between time stamps. Freestanding.
//
// Source: Intel SDM, volume 1, sections "Detection of AVX2" and "Detection of AVX-512 Foundation Instructions".
#pragma once

#include <cstdint>

#include "nestbench/abi/x86.h"
#include "nestbench/payload/payload.h"

namespace nestbench::payload {

struct CpuidRegisters {
  std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

inline CpuidRegisters Cpuid(std::uint32_t leaf, std::uint32_t subleaf) {
  CpuidRegisters out;
  asm volatile("cpuid" : "=a"(out.eax), "=b"(out.ebx), "=c"(out.ecx), "=d"(out.edx) : "a"(leaf), "c"(subleaf));
  return out;
}

inline std::uint64_t Xcr0() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return static_cast<std::uint64_t>(high) << 32 | low;
}

// AVX2 and FMA.
inline bool HasAvx2Fma() {
  constexpr std::uint32_t kFma = 1U << 12;
  constexpr std::uint32_t kOsxsave = 1U << 27;
  constexpr std::uint32_t kAvx = 1U << 28;
  constexpr std::uint32_t kAvx2 = 1U << 5;
  constexpr std::uint64_t kState = abi::x86::kXcr0Sse | abi::x86::kXcr0Avx;
  if (Cpuid(0, 0).eax < 7) return false;
  constexpr std::uint32_t kLeaf1 = kFma | kOsxsave | kAvx;
  if ((Cpuid(1, 0).ecx & kLeaf1) != kLeaf1) return false;
  return (Xcr0() & kState) == kState && (Cpuid(7, 0).ebx & kAvx2) != 0;
}

// AVX-512 Foundation, beside AVX2 and FMA.
inline bool HasAvx512() {
  constexpr std::uint32_t kAvx512f = 1U << 16;
  return HasAvx2Fma() && (Xcr0() & abi::x86::kXcr0Avx512) == abi::x86::kXcr0Avx512 && (Cpuid(7, 0).ebx & kAvx512f) != 0;
}

}  // namespace nestbench::payload
