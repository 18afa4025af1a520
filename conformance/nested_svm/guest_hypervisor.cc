// The guest hypervisor of workloads/hypervisors/svm.cc. Source: AMD64 Architecture Programmer's Manual volume 2,
// chapter "Secure Virtual Machine".
#include "../harness/guest_hypervisor.h"
#include "nestbench/abi/layout.h"
#include "nestbench/abi/svm.h"

namespace nestbench::conformance {
namespace {

class GuestHypervisor : public GuestHypervisorTest {
 protected:
  GuestHypervisor()
      : GuestHypervisorTest({.virtualization = vmm::Virtualization::kSvm,
                             .hypercall = {0x0F, 0x01, 0xD9},
                             .nested_page_fault_exit = "0x400",
                             .port_exit = "0x7b"}) {}
  std::uint64_t Level2Root(vmm::UserMachine& machine) override {
    return Read<abi::svm::Vmcb>(machine, abi::kHypervisorControl).cr3;
  }
};

NESTBENCH_CONDITION(nested_svm, GuestHypervisor, PassesAPortWriteOn, "AMD APM volume 2, I/O Intercepts") {
  ExpectPortWritesPassedOn();
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, CarriesOutAStoreToAnMmioPage,
                    "AMD APM volume 2, Nested Paging: nested page faults; Exception Intercepts: #PF") {
  ExpectStoresToMmioCarriedOut();
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, AnswersAHypercall, "AMD APM volume 2, VMMCALL Instruction") {
  ExpectHypercallAnswered();
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, LeavesL2ItsOwnGeneralProtectionFault,
                    "AMD APM volume 2, I/O Intercepts: the intercept comes after the check of the permission bitmap") {
  ExpectGeneralProtectionFaultLeftToL2();
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, LeavesL2ItsOwnPageFault,
                    "AMD APM volume 2, Event Injection: exception with an error code") {
  ExpectPageFaultLeftToL2();
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, IsOutOfReachOfL2, "AMD APM volume 2, Nested Paging: guest-physical") {
  ExpectL1OutOfReach();
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, EndsTheMachineForAnExitThatItDoesNotKnow,
                    "AMD APM volume 2, I/O Intercepts: EXITINFO1.STR") {
  ExpectEndForAnUnknownExit();
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, TakesAnInterruptThatComesWhileL2Runs,
                    "AMD APM volume 2, Interrupt Intercepts: INTR; V_INTR_MASKING") {
  ExpectInterruptTaken();
}

}  // namespace
}  // namespace nestbench::conformance
