// Why KVM_RUN returned: one alternative for every KVM_EXIT_* of the kernel's headers that x86 can meet.
//
// Source: kernel document "The Definitive KVM API Documentation", section "The kvm_run structure". Data spans point
// into the vCPU's kvm_run page: they are valid until its next Run(), and what the guest put there is hostile.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/kvm/linux_kvm.h"

namespace nestbench::vmm {

// The vCPU at the moment it stopped for good, for reports. What could not be read is empty.
struct VcpuSnapshot {
  std::optional<kvm_regs> regs;
  std::optional<kvm_sregs> sregs;
  std::optional<kvm_vcpu_events> events;
  std::optional<std::uint64_t> rip_physical;  // where RIP translates to
  std::vector<std::byte> code;                // up to 16 bytes at RIP
};

struct IoExit {
  bool is_write = false;
  std::uint8_t width_bytes = 0;  // 1, 2 or 4
  std::uint16_t port = 0;
  std::uint32_t count = 0;    // string instructions move several at once
  std::span<std::byte> data;  // width_bytes * count; the device fills it when !is_write
};
struct MmioExit {
  bool is_write = false;
  abi::GuestPhysAddr address;
  std::span<std::byte> data;  // 1 to 8 bytes; the device fills it when !is_write
};
struct HaltExit {};
struct InterruptedExit {};  // a signal or Kick() ended the run; not an error
struct HypercallExit {
  std::uint64_t number = 0;
  std::array<std::uint64_t, 6> arguments{};
};
struct DebugExit {
  std::uint32_t exception = 0;
  std::uint64_t program_counter = 0;
  std::uint64_t dr6 = 0;
  std::uint64_t dr7 = 0;
};
struct IrqWindowExit {};
struct SetTprExit {};
struct TprAccessExit {
  std::uint64_t rip = 0;
  bool is_write = false;
};
struct NmiExit {};
struct ExceptionExit {
  std::uint32_t vector = 0;
  std::uint32_t error_code = 0;
};
struct RdmsrExit {
  std::uint32_t index = 0;
  std::uint32_t reason = 0;       // KVM_MSR_EXIT_REASON_*
  __u64* data = nullptr;          // the handler writes the value
  std::uint8_t* error = nullptr;  // the handler writes 1 to raise #GP
};
struct WrmsrExit {
  std::uint32_t index = 0;
  std::uint32_t reason = 0;
  std::uint64_t data = 0;
  std::uint8_t* error = nullptr;
};
struct IoapicEoiExit {
  std::uint8_t vector = 0;
};
struct HypervExit {
  std::uint32_t type = 0;
};
struct XenExit {
  std::uint32_t type = 0;
};
struct SystemEventExit {
  std::uint32_t type = 0;  // KVM_SYSTEM_EVENT_*
  std::vector<std::uint64_t> data;
};
struct DirtyRingFullExit {};
struct ApResetHoldExit {};
struct BusLockExit {};
struct NotifyExit {
  std::uint32_t flags = 0;
};
struct WatchdogExit {};
struct EprExit {};
struct MemoryFaultExit {
  std::uint64_t flags = 0;
  abi::GuestPhysRange range;
};
struct ShutdownExit {  // triple fault
  std::unique_ptr<VcpuSnapshot> snapshot;
};
struct FailEntryExit {
  std::uint64_t hardware_reason = 0;
  std::uint32_t cpu = 0;
  std::unique_ptr<VcpuSnapshot> snapshot;
};
struct InternalErrorExit {
  std::uint32_t suberror = 0;          // KVM_INTERNAL_ERROR_*
  std::vector<std::uint64_t> data;     // KVM's own words; for a failed emulation, flags and instruction bytes
  std::vector<std::byte> instruction;  // what KVM could not emulate, where it says so
  std::unique_ptr<VcpuSnapshot> snapshot;
};
struct UnknownExit {  // KVM_EXIT_UNKNOWN: the hardware's reason is not one KVM knows
  std::uint64_t hardware_reason = 0;
};
struct ForeignExit {  // a reason of another architecture, or one newer than this library
  std::uint32_t reason = 0;
};

using Exit =
    std::variant<IoExit, MmioExit, HaltExit, InterruptedExit, HypercallExit, DebugExit, IrqWindowExit, SetTprExit,
                 TprAccessExit, NmiExit, ExceptionExit, RdmsrExit, WrmsrExit, IoapicEoiExit, HypervExit, XenExit,
                 SystemEventExit, DirtyRingFullExit, ApResetHoldExit, BusLockExit, NotifyExit, WatchdogExit, EprExit,
                 MemoryFaultExit, ShutdownExit, FailEntryExit, InternalErrorExit, UnknownExit, ForeignExit>;

// "KVM_EXIT_IO" for a number of the kernel's headers, or "KVM_EXIT_<number>".
std::string ExitReasonName(std::uint32_t reason);

// One line for ordinary exits; several lines with registers and code for those that end a guest.
std::string ToString(const Exit& exit);
std::string ToString(const VcpuSnapshot& snapshot);

}  // namespace nestbench::vmm
