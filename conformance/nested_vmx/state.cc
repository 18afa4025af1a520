// The state of a vCPU in VMX operation: read, refused, moved to another VM. Source: kernel document "The Definitive KVM
// API Documentation", sections "KVM_GET_NESTED_STATE" and "KVM_SET_NESTED_STATE", and where it is silent the file
// arch/x86/kvm/vmx/nested.c, function vmx_set_nested_state.
#include <cerrno>
#include <cstdint>
#include <cstring>

#include "../harness/nested_state.h"
#include "vmx_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::vmx;

constexpr std::uint64_t kNoAddress = ~0ULL;

class VmxState : public NestedStateTest<VmxTest> {
 protected:
  bool ReachMark() override {
    if (!EnterVmx()) return false;
    Start({Op::kVmlaunch});
    const auto exit = RunTo<vmm::IoExit>();
    if (!exit) return false;
    EXPECT_EQ(exit->port, kMarkPort);
    return exit->port == kMarkPort;
  }
  void PrepareOther(vmm::Vcpu& other) override {
    ASSERT_TRUE(other.WriteMsr(kMsrFeatureControl, kFeatureControlLock | kFeatureControlVmxOutsideSmx));
  }
  void ExpectExitHere() {
    ASSERT_TRUE(Done());
    EXPECT_EQ(Read(kExitReason), kReasonHlt);
    EXPECT_EQ(L2Register(0), kMark);
    EXPECT_EQ(Read(kGuestRip), kL2Code + kHltOffset);
  }
  void ExpectRefused() { EXPECT_TRUE(FailsWith(Set(), {EINVAL})); }
};

NESTBENCH_CONDITION(nested_vmx, VmxState, OutsideOfVmxHoldsNoAddress,
                    "KVM API, KVM_GET_NESTED_STATE: hdr.vmx.vmxon_pa is -1") {
  ASSERT_EQ(Get(), 0);
  EXPECT_EQ(state().format, KVM_STATE_NESTED_FORMAT_VMX);
  EXPECT_EQ(state().hdr.vmx.vmxon_pa, kNoAddress);
  EXPECT_EQ(state().hdr.vmx.vmcs12_pa, kNoAddress);
}
NESTBENCH_CONDITION(nested_vmx, VmxState, InL1HoldsItsAddresses, "KVM API, KVM_GET_NESTED_STATE: hdr.vmx") {
  ASSERT_TRUE(EnterVmx());
  ASSERT_EQ(Get(), 0);
  EXPECT_EQ(state().hdr.vmx.vmxon_pa, kVmxonRegion);
  EXPECT_EQ(state().hdr.vmx.vmcs12_pa, kVmcs);
  EXPECT_EQ(state().flags & KVM_STATE_NESTED_GUEST_MODE, 0U);
}
NESTBENCH_CONDITION(nested_vmx, VmxState, InL2HoldsTheVmcs, "KVM API, KVM_GET_NESTED_STATE: flags, hdr.vmx, and data") {
  StandInL2();
  if (HasFailure()) return;
  EXPECT_EQ(state().hdr.vmx.vmxon_pa, kVmxonRegion);
  EXPECT_EQ(state().hdr.vmx.vmcs12_pa, kVmcs);
  EXPECT_GE(state().size, sizeof(kvm_nested_state) + KVM_STATE_NESTED_VMX_VMCS_SIZE);
}
NESTBENCH_CONDITION(nested_vmx, VmxState, ReadInL2DisturbsNothing, "KVM API, KVM_GET_NESTED_STATE") {
  StandInL2();
  if (HasFailure()) return;
  ExpectExitHere();
}
NESTBENCH_CONDITION(nested_vmx, VmxState, ComesBackToTheSameVcpu, "KVM API, KVM_SET_NESTED_STATE") {
  StandInL2();
  if (HasFailure()) return;
  ASSERT_EQ(Set(), 0);
  ExpectExitHere();
}
NESTBENCH_CONDITION(nested_vmx, VmxState, MovesToAnotherVm,
                    "KVM API, KVM_SET_NESTED_STATE: restores what KVM_GET_NESTED_STATE read") {
  StandInL2();
  if (HasFailure()) return;
  Move();
  if (HasFailure()) return;
  RunOther();
  EXPECT_EQ(L2Register(0), kMark);
}
NESTBENCH_CONDITION(nested_vmx, VmxState, MovesToAnotherVmWithEpt,
                    "KVM API, KVM_SET_NESTED_STATE: restores what KVM_GET_NESTED_STATE read") {
  if (LacksEpt()) return;
  StandInL2();
  if (HasFailure()) return;
  Move();
  if (HasFailure()) return;
  RunOther();
  EXPECT_EQ(L2Register(0), kMark);
}
NESTBENCH_CONDITION(nested_vmx, VmxState, AVcpuThatIsClosedInL2HarmsNoOther,
                    "KVM API, close of a vCPU's descriptor: releases it, wherever its guest stands") {
  StandInL2();
  if (HasFailure()) return;
  Move();
  if (HasFailure()) return;
  CloseOther();  // stands in L2 and has never run
  ExpectExitHere();
}
NESTBENCH_CONDITION(nested_vmx, VmxState, AVcpuThatIsClosedWithItsTimerArmedHarmsNoOther,
                    "CVE-2019-7221: the timer that emulates the preemption timer outlived its vCPU") {
  if (LacksControls(kPinControls, kPinPreemptionTimer, "the preemption timer")) return;
  SetField(kGuestPreemptionTimer, 0xFFFF'FFFF);
  StandInL2();
  if (HasFailure()) return;
  Move();
  if (HasFailure()) return;
  CloseOther();
  ExpectExitHere();
}
NESTBENCH_CONDITION(nested_vmx, VmxState, LeavesVmxWhenItIsSetToNone,
                    "arch/x86/kvm/vmx/nested.c, vmx_set_nested_state: vmxon_pa is -1") {
  StandInL2();
  if (HasFailure()) return;
  state().flags = 0;
  state().hdr.vmx.vmxon_pa = kNoAddress;
  state().hdr.vmx.vmcs12_pa = kNoAddress;
  ASSERT_EQ(Set(), 0);
  ASSERT_EQ(Get(), 0);
  EXPECT_EQ(state().flags & KVM_STATE_NESTED_GUEST_MODE, 0U);
  EXPECT_EQ(state().hdr.vmx.vmxon_pa, kNoAddress);
}
NESTBENCH_CONDITION(nested_vmx, VmxState, ASizeThatIsTooSmallIsRefused, "KVM API, KVM_GET_NESTED_STATE: E2BIG") {
  StandInL2();
  if (HasFailure()) return;
  state().size = sizeof(kvm_nested_state);
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_GET_NESTED_STATE, &state()), {E2BIG}));
}

// What vmx_set_nested_state refuses, each in a state that is otherwise the one that was read.
#define NESTBENCH_STATE_REFUSED(name, what, change)                               \
  NESTBENCH_CONDITION(nested_vmx, VmxState, name##IsRefused,                      \
                      "arch/x86/kvm/vmx/nested.c, vmx_set_nested_state: " what) { \
    StandInL2();                                                                  \
    if (HasFailure()) return;                                                     \
    change;                                                                       \
    ExpectRefused();                                                              \
  }
NESTBENCH_STATE_REFUSED(AnUnknownFormat, "format", state().format = KVM_STATE_NESTED_FORMAT_SVM)
NESTBENCH_STATE_REFUSED(AnUnknownFlag, "flags", state().flags |= 1U << 15)
NESTBENCH_STATE_REFUSED(ARunThatIsPendingOutsideL2, "KVM_STATE_NESTED_RUN_PENDING needs guest mode",
                        state().flags = KVM_STATE_NESTED_RUN_PENDING)
NESTBENCH_STATE_REFUSED(AVmxonRegionThatIsNoPage, "vmxon_pa is a page", state().hdr.vmx.vmxon_pa = kVmxonRegion + 8)
NESTBENCH_STATE_REFUSED(AVmcsThatIsNoPage, "vmcs12_pa is a page", state().hdr.vmx.vmcs12_pa = kVmcs + 8)
NESTBENCH_STATE_REFUSED(AVmcsInTheVmxonRegion, "vmcs12_pa differs from vmxon_pa",
                        state().hdr.vmx.vmcs12_pa = kVmxonRegion)
NESTBENCH_STATE_REFUSED(AVmcsWithoutVmx, "vmcs12_pa without vmxon_pa", state().hdr.vmx.vmxon_pa = kNoAddress)
NESTBENCH_STATE_REFUSED(ASystemManagementModeInL2, "hdr.vmx.smm.flags in guest mode",
                        state().hdr.vmx.smm.flags = KVM_STATE_NESTED_SMM_GUEST_MODE)
NESTBENCH_STATE_REFUSED(AnUnknownFlagOfSmm, "hdr.vmx.smm.flags", state().hdr.vmx.smm.flags = 1U << 7)
NESTBENCH_STATE_REFUSED(AnUnknownFlagOfVmx, "hdr.vmx.flags", state().hdr.vmx.flags = 1U << 7)
NESTBENCH_STATE_REFUSED(ASizeWithoutTheVmcs, "size in guest mode", state().size = sizeof(kvm_nested_state))
NESTBENCH_STATE_REFUSED(AVmcsOfAnotherRevision, "the revision of the VMCS in data",
                        *reinterpret_cast<std::uint32_t*>(&state() + 1) ^= 1U)

NESTBENCH_CONDITION(nested_vmx, VmxState, ARefusedStateLeavesL2AsItWas,
                    "KVM API, KVM_SET_NESTED_STATE: one that fails sets nothing") {
  StandInL2();
  if (HasFailure()) return;
  state().format = KVM_STATE_NESTED_FORMAT_SVM;
  ExpectRefused();
  ExpectExitHere();
}

class VmxPrivilege : public VmxTest {};

NESTBENCH_CONDITION(nested_vmx, VmxPrivilege, VmxonIsNotForUserCode,
                    "Intel SDM volume 3, VMXON: #GP at a CPL above 0; CVE-2018-12904") {
  User({0xF3, 0x0F, 0xC7, 0x37});  // vmxon [rdi]
  SetCr4(kCr4Vmxe);
  Expect(abi::x86::kVectorGeneralProtection, 0, 0);
}
// L1 in VMX operation, with its page of code open to user code, and there at CPL3.
#define NESTBENCH_NOT_FOR_USER_CODE(name, ...)                                                 \
  NESTBENCH_CONDITION(nested_vmx, VmxPrivilege, name##IsNotForUserCode,                        \
                      "Intel SDM volume 3, " #name ": #GP at a CPL above 0; CVE-2018-12904") { \
    ASSERT_TRUE(EnterVmx());                                                                   \
    User({__VA_ARGS__});                                                                       \
    SetCr4(kCr4Vmxe);                                                                          \
    Expect(abi::x86::kVectorGeneralProtection, 0, 0);                                          \
  }
NESTBENCH_NOT_FOR_USER_CODE(VMREAD, 0x0F, 0x78, 0xC0)
NESTBENCH_NOT_FOR_USER_CODE(VMWRITE, 0x0F, 0x79, 0xC0)
NESTBENCH_NOT_FOR_USER_CODE(VMCLEAR, 0x66, 0x0F, 0xC7, 0x37)
NESTBENCH_NOT_FOR_USER_CODE(VMPTRLD, 0x0F, 0xC7, 0x37)
NESTBENCH_NOT_FOR_USER_CODE(VMLAUNCH, 0x0F, 0x01, 0xC2)
NESTBENCH_NOT_FOR_USER_CODE(VMXOFF, 0x0F, 0x01, 0xC4)

}  // namespace
}  // namespace nestbench::conformance
