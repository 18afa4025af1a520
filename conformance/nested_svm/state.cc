// The state of a vCPU that stands in L2: read, refused, moved to another VM. Source: kernel document "The Definitive
// KVM API Documentation", sections "KVM_GET_NESTED_STATE" and "KVM_SET_NESTED_STATE", and where it is silent the file
// arch/x86/kvm/svm/nested.c, function svm_set_nested_state.
#include <cerrno>
#include <cstdint>

#include "../harness/nested_state.h"
#include "svm_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::svm;

class SvmState : public NestedStateTest<SvmTest> {
 protected:
  void SetUp() override {
    NestedStateTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    vmcb().intercepts_1 = 1U << kIntercept1Hlt;
  }
  bool ReachMark() override { return ReachPort(kMarkPort); }
  void PrepareOther(vmm::Vcpu& other) override { ASSERT_TRUE(other.WriteMsr(kMsrHostSavePa, kHostSave)); }
  void ExpectTheOthersExit() {
    vmcb().exit_code = 0xDEAD;
    RunOther();
    EXPECT_EQ(vmcb().exit_code, kExitHlt);
    EXPECT_EQ(vmcb().rax, kMark);
    EXPECT_EQ(vmcb().rip, kL2Code + kHltOffset);
  }
};

NESTBENCH_CONDITION(nested_svm, SvmState, InL2HoldsTheVmcbsAddress,
                    "KVM API, KVM_GET_NESTED_STATE: flags, hdr.svm.vmcb_pa, and the VMCB in data") {
  StandInL2();
  if (HasFailure()) return;
  EXPECT_EQ(state().format, KVM_STATE_NESTED_FORMAT_SVM);
  EXPECT_EQ(state().hdr.svm.vmcb_pa, kVmcb);
  EXPECT_GE(state().size, sizeof(kvm_nested_state) + KVM_STATE_NESTED_SVM_VMCB_SIZE);
}
NESTBENCH_CONDITION(nested_svm, SvmState, ReadInL2DisturbsNothing, "KVM API, KVM_GET_NESTED_STATE") {
  StandInL2();
  if (HasFailure()) return;
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().rax, kMark);
}
NESTBENCH_CONDITION(nested_svm, SvmState, ComesBackToTheSameVcpu, "KVM API, KVM_SET_NESTED_STATE") {
  StandInL2();
  if (HasFailure()) return;
  ASSERT_EQ(Set(), 0);
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().rax, kMark);
}
NESTBENCH_CONDITION(nested_svm, SvmState, MovesToAnotherVm,
                    "KVM API, KVM_SET_NESTED_STATE: restores what KVM_GET_NESTED_STATE read") {
  StandInL2();
  if (HasFailure()) return;
  Move();
  if (HasFailure()) return;
  ExpectTheOthersExit();
}
NESTBENCH_CONDITION(nested_svm, SvmState, MovesToAnotherVmWithNestedPaging,
                    "KVM API, KVM_SET_NESTED_STATE: restores what KVM_GET_NESTED_STATE read") {
  UseNestedPaging();
  StandInL2();
  if (HasFailure()) return;
  Move();
  if (HasFailure()) return;
  ExpectTheOthersExit();
}
NESTBENCH_CONDITION(nested_svm, SvmState, AVcpuThatIsClosedInL2HarmsNoOther,
                    "KVM API, close of a vCPU's descriptor: releases it, wherever its guest stands") {
  StandInL2();
  if (HasFailure()) return;
  Move();
  if (HasFailure()) return;
  CloseOther();  // stands in L2 and has never run
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().rax, kMark);
}
NESTBENCH_CONDITION(nested_svm, SvmState, AnUnknownFormatIsRefused, "KVM API, KVM_SET_NESTED_STATE: EINVAL") {
  StandInL2();
  if (HasFailure()) return;
  state().format = KVM_STATE_NESTED_FORMAT_VMX;
  EXPECT_TRUE(FailsWith(Set(), {EINVAL}));
}
NESTBENCH_CONDITION(nested_svm, SvmState, AnUnknownFlagIsRefused, "KVM API, KVM_SET_NESTED_STATE: EINVAL") {
  StandInL2();
  if (HasFailure()) return;
  state().flags |= 1U << 15;
  EXPECT_TRUE(FailsWith(Set(), {EINVAL}));
}
NESTBENCH_CONDITION(nested_svm, SvmState, ARunThatIsPendingOutsideL2IsRefused,
                    "arch/x86/kvm/x86.c, KVM_SET_NESTED_STATE: KVM_STATE_NESTED_RUN_PENDING needs guest mode") {
  StandInL2();
  if (HasFailure()) return;
  state().flags = KVM_STATE_NESTED_RUN_PENDING | KVM_STATE_NESTED_GIF_SET;
  EXPECT_TRUE(FailsWith(Set(), {EINVAL}));
}
NESTBENCH_CONDITION(nested_svm, SvmState, ASizeWithoutTheVmcbIsRefused,
                    "arch/x86/kvm/svm/nested.c, svm_set_nested_state: size") {
  StandInL2();
  if (HasFailure()) return;
  state().size = sizeof(kvm_nested_state);
  EXPECT_TRUE(FailsWith(Set(), {EINVAL}));
}
NESTBENCH_CONDITION(nested_svm, SvmState, ASizeWithoutTheHeaderIsRefused,
                    "arch/x86/kvm/x86.c, KVM_SET_NESTED_STATE: size") {
  StandInL2();
  if (HasFailure()) return;
  state().size = sizeof(kvm_nested_state) - 1;
  EXPECT_TRUE(FailsWith(Set(), {EINVAL}));
}
NESTBENCH_CONDITION(nested_svm, SvmState, AVmcbThatIsNotAPageIsRefused,
                    "arch/x86/kvm/svm/nested.c, svm_set_nested_state: vmcb_pa") {
  StandInL2();
  if (HasFailure()) return;
  state().hdr.svm.vmcb_pa = kVmcb + 8;
  EXPECT_TRUE(FailsWith(Set(), {EINVAL}));
}
NESTBENCH_CONDITION(nested_svm, SvmState, AVmcbWithoutTheInterceptOfVmrunIsRefused,
                    "arch/x86/kvm/svm/nested.c, svm_set_nested_state: the controls pass the checks of VMRUN") {
  StandInL2();
  if (HasFailure()) return;
  auto& controls = *reinterpret_cast<Vmcb*>(&state() + 1);
  controls.intercepts_2 &= ~(1U << kIntercept2Vmrun);
  EXPECT_TRUE(FailsWith(Set(), {EINVAL}));
}
NESTBENCH_CONDITION(nested_svm, SvmState, ARefusedStateLeavesL2AsItWas,
                    "KVM API, KVM_SET_NESTED_STATE: one that fails sets nothing") {
  StandInL2();
  if (HasFailure()) return;
  state().hdr.svm.vmcb_pa = kVmcb + 8;
  EXPECT_TRUE(FailsWith(Set(), {EINVAL}));
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().rax, kMark);
}

}  // namespace
}  // namespace nestbench::conformance
