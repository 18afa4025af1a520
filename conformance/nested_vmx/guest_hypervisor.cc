// The guest hypervisor of workloads/hypervisors/vmx.cc. Source: Intel SDM volume 3, chapters on VMX.
#include "../harness/guest_hypervisor.h"
#include "nestbench/abi/hypervisor.h"
#include "nestbench/abi/vmx.h"

namespace nestbench::conformance {
namespace {

class VmxGuestHypervisor : public GuestHypervisorTest {
 protected:
  VmxGuestHypervisor()
      : GuestHypervisorTest({.virtualization = vmm::Virtualization::kVmx,
                             .hypercall = {0x0F, 0x01, 0xC1},
                             .nested_page_fault_exit = "0x30",
                             .port_exit = "0x1e"}) {}
  std::uint64_t Level2Root(vmm::UserMachine& machine) override {
    for (std::uint64_t at = abi::kHypervisorControl; at < abi::kHypervisorVmxonRegion; at += sizeof(abi::VmcsField)) {
      const auto field = Read<abi::VmcsField>(machine, at);
      if (field.encoding == abi::vmx::kGuestCr3) return field.value;
      if (field.encoding == abi::kVmcsFieldsEnd) break;
    }
    ADD_FAILURE() << "no CR3 of L2 in what L1 was given";
    return 0;
  }
};

NESTBENCH_CONDITION(nested_vmx, VmxGuestHypervisor, PassesAPortWriteOn,
                    "Intel SDM volume 3, Exit Qualification for I/O Instructions") {
  ExpectPortWritesPassedOn();
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestHypervisor, CarriesOutAStoreToAnMmioPage,
                    "Intel SDM volume 3, EPT Violations; Exceptions That Cause VM Exits: #PF") {
  ExpectStoresToMmioCarriedOut();
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestHypervisor, AnswersAHypercall,
                    "Intel SDM volume 3, Instructions That Cause VM Exits Unconditionally: VMCALL") {
  ExpectHypercallAnswered();
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestHypervisor, LeavesL2ItsOwnGeneralProtectionFault,
                    "Intel SDM volume 3, Relative Priority of Faults and VM Exits: the permission bitmap comes before "
                    "the I/O bitmaps") {
  ExpectGeneralProtectionFaultLeftToL2();
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestHypervisor, LeavesL2ItsOwnPageFault,
                    "Intel SDM volume 3, VM-Entry Controls for Event Injection: exception with an error code") {
  ExpectPageFaultLeftToL2();
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestHypervisor, IsOutOfReachOfL2,
                    "Intel SDM volume 3, EPT Overview: guest-physical addresses") {
  ExpectL1OutOfReach();
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestHypervisor, EndsTheMachineForAnExitThatItDoesNotKnow,
                    "Intel SDM volume 3, Exit Qualification for I/O Instructions: string instruction") {
  ExpectEndForAnUnknownExit();
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestHypervisor, TakesAnInterruptThatComesWhileL2Runs,
                    "Intel SDM volume 3, Pin-Based VM-Execution Controls: external-interrupt exiting") {
  ExpectInterruptTaken();
}

}  // namespace
}  // namespace nestbench::conformance
