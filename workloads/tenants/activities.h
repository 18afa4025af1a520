// What a tenant can do to its host besides serving requests. Private to the tenant's program.
#pragma once

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/kvm_device.h"

namespace nestbench::tenants {

// One VM with a little memory and a vCPU, made and destroyed.
vmm::Result<> ChurnVm(const vmm::KvmDevice& device);

// Starts processes until the host or a limit says no, each of which makes a VM where it can, then lets them end.
// Running into a limit is what this is for and no error.
vmm::Result<> ChurnProcesses(const vmm::KvmDevice* device);

}  // namespace nestbench::tenants
