// The state of a vCPU that stands in L2: read, refused, moved to another VM. Source: kernel document "The Definitive
// KVM API Documentation", sections "KVM_GET_NESTED_STATE" and "KVM_SET_NESTED_STATE", and where it is silent the file
// arch/x86/kvm/svm/nested.c, function svm_set_nested_state.
#include <cerrno>
#include <cstdint>
#include <optional>

#include "svm_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::svm;

class SvmState : public SvmTest {
 protected:
  static constexpr std::uint16_t kMarkPort = 0x50;  // nobody intercepts it

  void SetUp() override {
    SvmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    LoadL2({0xB9, 0x78, 0x56, 0x34, 0x12,  // mov ecx, 0x12345678
            0xE6, kMarkPort,               // out
            0x89, 0xC8, 0xF4});            // mov eax, ecx; hlt
    vmcb().intercepts_1 = 1U << kIntercept1Hlt;
  }
  // L2 has left by its port, and the write is complete: that takes a KVM_RUN more, which must not run L2.
  void StandInL2() {
    ASSERT_TRUE(ReachPort(kMarkPort));
    vcpu().run()->immediate_exit = 1;
    EXPECT_EQ(ErrorOf(vcpu().fd(), KVM_RUN), EINTR);
    vcpu().run()->immediate_exit = 0;
    ASSERT_EQ(Get(), 0);
    ASSERT_NE(state().flags & KVM_STATE_NESTED_GUEST_MODE, 0U);
  }
  int Get() {
    state().size = sizeof(room_);
    return ErrorOf(vcpu().fd(), KVM_GET_NESTED_STATE, &state());
  }
  int Set() { return ErrorOf(vcpu().fd(), KVM_SET_NESTED_STATE, &state()); }
  kvm_nested_state& state() { return *reinterpret_cast<kvm_nested_state*>(room_); }

  // A second VM on the same memory whose vCPU takes over where this one stands.
  void Move() {
    auto vm = vmm::Vm::Create(device());
    ASSERT_TRUE(vm) << vm.error().ToString();
    other_vm_.emplace(std::move(*vm));
    const kvm_userspace_memory_region region = {.slot = 0,
                                                .flags = 0,
                                                .guest_phys_addr = 0,
                                                .memory_size = kMemoryBytes,
                                                .userspace_addr = reinterpret_cast<std::uint64_t>(&Word(0))};
    ASSERT_EQ(ErrorOf(other_vm_->fd(), KVM_SET_USER_MEMORY_REGION, &region), 0);
    auto other = vmm::Vcpu::Create(*other_vm_, abi::VcpuId(0));
    ASSERT_TRUE(other) << other.error().ToString();
    other_.emplace(std::move(*other));
    const auto cpuid = vcpu().GetCpuid();
    const auto sregs = vcpu().GetSregs();
    const auto regs = vcpu().GetRegs();
    const auto events = vcpu().GetEvents();
    ASSERT_TRUE(cpuid && sregs && regs && events);
    ASSERT_TRUE(other_->SetCpuid(*cpuid));
    ASSERT_TRUE(other_->SetSregs(*sregs));
    ASSERT_TRUE(other_->WriteMsr(kMsrHostSavePa, kHostSave));
    ASSERT_TRUE(other_->SetRegs(*regs));
    ASSERT_EQ(ErrorOf(other_->fd(), KVM_SET_NESTED_STATE, &state()), 0);
    ASSERT_TRUE(other_->SetEvents(*events));
  }
  void ExpectTheOthersExit() {
    vmcb().exit_code = 0xDEAD;
    auto deadline = vmm::RunDeadline::Start(*other_, std::chrono::seconds(2));
    ASSERT_TRUE(deadline) << deadline.error().ToString();
    auto exit = other_->Run();
    ASSERT_TRUE(exit) << exit.error().ToString();
    const auto* io = std::get_if<vmm::IoExit>(&*exit);
    ASSERT_NE(io, nullptr) << vmm::ToString(*exit);
    EXPECT_EQ(io->port, kDonePort) << "L1 tells of the exit";
    EXPECT_EQ(vmcb().exit_code, kExitHlt);
    EXPECT_EQ(vmcb().rax, 0x1234'5678U);
    EXPECT_EQ(vmcb().rip, kL2Code + 9);
  }

  std::optional<vmm::Vm> other_vm_;
  std::optional<vmm::Vcpu> other_;

 private:
  alignas(kvm_nested_state) std::byte room_[0x2000] = {};
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
  EXPECT_EQ(vmcb().rax, 0x1234'5678U);
}
NESTBENCH_CONDITION(nested_svm, SvmState, ComesBackToTheSameVcpu, "KVM API, KVM_SET_NESTED_STATE") {
  StandInL2();
  if (HasFailure()) return;
  ASSERT_EQ(Set(), 0);
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().rax, 0x1234'5678U);
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
  other_.reset();  // stands in L2 and has never run
  other_vm_.reset();
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().rax, 0x1234'5678U);
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
  EXPECT_EQ(vmcb().rax, 0x1234'5678U);
}

}  // namespace
}  // namespace nestbench::conformance
