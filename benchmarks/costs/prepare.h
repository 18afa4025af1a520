// What the operations of the guest itself need beyond a FlatMachine's first state.
#pragma once

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/machine/flat_machine.h"
#include "operations.h"

namespace nestbench::costs {

// kUnsupported, with what is missing, where this KVM lacks something.
vmm::Result<vmm::FlatMachineOptions> MachineOptions(const vmm::KvmDevice& device, const Operation& operation);

// For a machine with these options that has not run yet.
vmm::Result<void> Prepare(vmm::FlatMachine& machine, const Operation& operation);

// Enables a vCPU's local APIC, in this mode.
vmm::Result<void> EnableApic(vmm::Vcpu& vcpu, Apic mode);

}  // namespace nestbench::costs
