// What the host and a guest hypervisor (L1, workloads/hypervisors/) share at kHypervisorDataBase.
//
// Freestanding: included by guest code and host code alike.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestbench/abi/layout.h"

namespace nestbench::abi {

// The registers of L2 that the processor does not keep in its control structure, in the order of their numbers in an
// instruction. RSP is always there and RAX with SVM; they stay zero here. The host writes those that L2 starts with.
struct HypervisorData {
  std::uint64_t registers[16];
  std::uint64_t interrupts;  // external ones that L1 has taken
};
static_assert(sizeof(HypervisorData) < kHypervisorStackTop - kHypervisorDataBase);

// With VMX: what L1 writes to its VMCS, at kHypervisorControl, ended by kVmcsFieldsEnd. Only the processor knows a
// VMCS's format.
struct VmcsField {
  std::uint64_t encoding;  // nestbench/abi/vmx.h
  std::uint64_t value;
};
inline constexpr std::uint64_t kVmcsFieldsEnd = ~0ULL;
inline constexpr std::uint64_t kHypervisorVmxonRegion = kHypervisorControl + 0x1000;
inline constexpr std::uint64_t kHypervisorVmcs = kHypervisorControl + 0x2000;
inline constexpr std::uint64_t kHypervisorPortBitmaps = kHypervisorControl + 0x3000;  // two pages
static_assert(kHypervisorPortBitmaps + 0x2000 <= kHypervisorEnd);

inline constexpr unsigned kRegisterRax = 0;
inline constexpr unsigned kRegisterRcx = 1;
inline constexpr unsigned kRegisterRdx = 2;
inline constexpr unsigned kRegisterRbx = 3;
inline constexpr unsigned kRegisterRsp = 4;
inline constexpr unsigned kRegisterRdi = 7;

}  // namespace nestbench::abi
