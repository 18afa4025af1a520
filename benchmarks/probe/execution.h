// Do guests run natively or in KVM's instruction emulator? Measured with a loop in a VM of 256 KiB, at CPL0 and CPL3.
//
// The guest runs `lea; dec; jnz` in 64-bit mode and writes a port at its end. The difference between a long and a short
// loop, divided by the instructions between them, leaves entry and exit out. The same loop in this process is what it
// is held against; KVM's own count of emulated instructions is the second witness.
#pragma once

#include <chrono>
#include <cstdint>

#include "nestbench/probe/probe.h"
#include "nestbench/vmm/kvm/kvm_device.h"

namespace nestbench::probe {

enum class PrivilegeLevel : std::uint8_t { kSupervisor = 0, kUser = 3 };  // CPL

// Never takes longer than `deadline` in the guest: what does not end by then is "unknown", with the reason.
Execution MeasureExecution(const vmm::KvmDevice& device, PrivilegeLevel level, std::chrono::nanoseconds deadline,
                           double host_ns_per_instruction);

// The verdict on what was measured, apart so that it can be tested: sets `mode` and, where unknown, `reason`.
void JudgeExecution(Execution& execution);

}  // namespace nestbench::probe
