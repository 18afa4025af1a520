// What lets a guest be a hypervisor (L1) with Intel's VMX: what its processor allows, and the fields of a VMCS whose
// guest (L2) starts in a state that is given. Any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/kvm/linux_kvm.h"
#include "nestbench/vmm/kvm/vcpu.h"

namespace nestbench::vmm {

// kUnsupported, with what to do, where this KVM gives its guests no VMX.
Result<void> CheckVmx(const KvmDevice& device);

// The same for EPT with four levels and write-back memory, where there is VMX.
Result<void> CheckVmxNestedPaging(const KvmDevice& device);

// What controls a guest hypervisor may set: bits 31:0 must be one where they are one, bits 63:32 allow a one.
struct VmxControls {
  std::uint64_t pin = 0;
  std::uint64_t processor = 0;
  std::uint64_t secondary = 0;
  std::uint64_t exit = 0;
  std::uint64_t entry = 0;
};

// Intel SDM volume 3, appendix "VMX Capability Reporting Facility".
struct VmxCapabilities {
  std::uint32_t revision = 0;  // to be written to the begin of each VMCS and of the VMXON region
  VmxControls controls;        // by the TRUE MSRs, where they are
  std::uint64_t cr0_fixed_ones = 0;
  std::uint64_t cr4_fixed_ones = 0;
};
Result<VmxCapabilities> ReadVmxCapabilities(const KvmDevice& device);

// Sets CR4.VMXE and IA32_FEATURE_CONTROL, in a vCPU whose CPUID offers VMX.
Result<void> AllowVmx(Vcpu& vcpu);

struct VmcsValue {
  std::uint32_t field;
  std::uint64_t value;
};

// Controls that L2 is to run with, beside those that must be set and those that 64-bit mode needs.
struct VmxWanted {
  std::uint32_t pin = 0;
  std::uint32_t processor = 0;  // the secondary ones are activated where there are any
  std::uint32_t secondary = 0;
  std::uint32_t exception_bitmap = 0;
};

// Every field that an entry needs, but for HOST_RSP and HOST_RIP, which are L1's to write. L1 goes on after an exit in
// the state of `host`; L2 begins in that of `guest`, in 64-bit mode, with RFLAGS and DR7 as after reset, and with
// RDTSCP where it can be. RIP and RSP of L2 are zero: write such fields again. kUnsupported, naming the control, where
// one is not allowed.
Result<std::vector<VmcsValue>> FillVmcs(const VmxCapabilities& capabilities, const kvm_sregs& host,
                                        const kvm_sregs& guest, const VmxWanted& wanted);

}  // namespace nestbench::vmm
