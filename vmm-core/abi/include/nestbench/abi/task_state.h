// The type of the task-state segment that a guest starts with.
#pragma once

#include <cstdint>

#include "nestbench/abi/x86.h"

namespace nestbench::abi::x86 {

// What goes into kvm_segment::type of TR. A processor holds a busy TSS there, and VMX demands it (Intel SDM, section
// "Checks on Guest Segment Registers"). QEMU's software emulator keeps an available one after LTR, and lets CPL3 at the
// I/O permission bitmap of no other (target/i386/tcg/seg_helper.c, check_io): a host that it emulates needs that.
// Costs a CPUID instruction, which is an exit where the caller runs in a guest. Any thread.
[[nodiscard]] inline std::uint8_t TaskStateType() {
  constexpr std::uint32_t kHypervisorLeaf = 0x4000'0000;
  std::uint32_t eax = 1;
  std::uint32_t ebx = 0;
  std::uint32_t ecx = 0;
  std::uint32_t edx = 0;
  asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  if ((ecx & kCpuid1EcxHypervisor) == 0) return kSegmentTypeTssBusy;
  eax = kHypervisorLeaf;
  ecx = 0;
  asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  constexpr std::uint32_t kTcg1 = 0x5447'4354;  // "TCGT"
  constexpr std::uint32_t kTcg2 = 0x4354'4743;  // "CGTC"
  return ebx == kTcg1 && ecx == kTcg2 ? kSegmentTypeTssAvailable : kSegmentTypeTssBusy;
}

}  // namespace nestbench::abi::x86
