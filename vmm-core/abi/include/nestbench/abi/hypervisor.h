// What the host and a guest hypervisor (L1, workloads/hypervisors/) share at kHypervisorDataBase.
//
// Freestanding: included by guest code and host code alike.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestbench/abi/layout.h"

namespace nestbench::abi {

// The registers of L2 that the VMCB does not hold, in the order of their numbers in an instruction; RAX and RSP are the
// VMCB's and stay zero here. The host writes those that L2 starts with.
struct HypervisorData {
  std::uint64_t registers[16];
  std::uint64_t interrupts;  // external ones that L1 has taken
};
static_assert(sizeof(HypervisorData) < kHypervisorStackTop - kHypervisorDataBase);
inline constexpr unsigned kRegisterRax = 0;
inline constexpr unsigned kRegisterRcx = 1;
inline constexpr unsigned kRegisterRdx = 2;
inline constexpr unsigned kRegisterRbx = 3;
inline constexpr unsigned kRegisterRsp = 4;
inline constexpr unsigned kRegisterRdi = 7;

}  // namespace nestbench::abi
