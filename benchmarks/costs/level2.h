// A guest of the guest, for operations that enter one.
#pragma once

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/machine/flat_machine.h"
#include "operations.h"

namespace nestbench::costs {

// Makes a hypervisor with SVM of a machine with CPUID that has not run yet: EFER.SVME, a VMCB at kVmcb whose L2 does
// one thing, over and over. kUnsupported where this KVM offers its guests no SVM.
vmm::Result<void> PrepareLevel2(const vmm::KvmDevice& device, vmm::FlatMachine& machine, Level2 level2);

// After it has run: whether L2 was entered and left by what it does; else kSystem with the exit code, since what was
// measured was something else.
vmm::Result<void> CheckLevel2(vmm::FlatMachine& machine, Level2 level2);

}  // namespace nestbench::costs
