// What VMRUN refuses, and what it enters L2 with. Source: AMD64 Architecture Programmer's Manual volume 2, chapter
// "Secure Virtual Machine", sections "Canonicalization and Consistency Checks", "Event Injection", "Nested Paging".
#include <cerrno>
#include <cstring>
#include <variant>

#include "svm_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::svm;

class SvmEntry : public SvmTest {
 protected:
  void SetUp() override {
    SvmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    LoadL2({0xF4});
    vmcb().intercepts_1 = 1U << kIntercept1Hlt;
  }
};

NESTBENCH_CONDITION(nested_svm, SvmEntry, OfALegalVmcbRunsL2, "AMD APM volume 2, VMRUN Instruction") {
  ExpectExit(kExitHlt);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, WithNestedPagingRunsL2, "AMD APM volume 2, Nested Paging: NP_ENABLE") {
  UseNestedPaging();
  ExpectExit(kExitHlt);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedWithoutTheInterceptOfVmrun,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: VMRUN intercept clear") {
  vmcb().intercepts_2 = 0;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForAsidZero,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: ASID 0") {
  vmcb().guest_asid = 0;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedWithoutSvme,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: EFER.SVME is 0") {
  vmcb().efer &= ~kEferSvme;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForNotWriteThroughWithCache,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: CR0.CD 0 and CR0.NW 1") {
  vmcb().cr0 = (vmcb().cr0 | 1ULL << 29) & ~(1ULL << 30);
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForTheUpperHalfOfCr0,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: CR0[63:32] not 0") {
  vmcb().cr0 |= 1ULL << 32;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForReservedBitsOfCr3,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: CR3 MBZ bits") {
  vmcb().cr3 |= 1ULL << 62;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForReservedBitsOfCr4,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: CR4 reserved bits") {
  vmcb().cr4 |= 1ULL << 31;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForTheUpperHalfOfDr6,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: DR6[63:32] not 0") {
  vmcb().dr6 |= 1ULL << 32;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForTheUpperHalfOfDr7,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: DR7[63:32] not 0") {
  vmcb().dr7 |= 1ULL << 32;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForReservedBitsOfEfer,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: EFER reserved bits") {
  vmcb().efer |= 1ULL << 63;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForLongModeWithoutPae,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: EFER.LME, CR0.PG, CR4.PAE 0") {
  vmcb().cr4 &= ~abi::x86::kCr4Pae;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForLongModeWithoutProtection,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: EFER.LME, CR0.PG, CR0.PE 0") {
  vmcb().cr0 &= ~abi::x86::kCr0ProtectedMode;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForACodeSegmentOfTwoSizes,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: CS.L and CS.D") {
  vmcb().cs.attributes |= 0x400;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, IsRefusedForNestedTablesBeyondThePhysicalAddresses,
                    "AMD APM volume 2, Nested Paging: nCR3 must be zero in reserved bits") {
  UseNestedPaging();
  vmcb().nested_cr3 |= 1ULL << 58;
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, AnEventWhoseDeliveryFaultsIsInExitIntInfo,
                    "AMD APM volume 2, Event Injection, and EXITINTINFO") {
  vmcb().exception_intercepts = 1U << 13;
  vmcb().idtr.limit = 0;  // the delivery itself faults, and that is intercepted
  vmcb().event_injection = 6 | 3U << 8 | 1U << 31;
  ExpectExit(kExitException0 + 13);
  EXPECT_EQ(vmcb().exit_int_info & 0x8000'07FF, 6U | 3U << 8 | 1U << 31) << "the event that was being delivered";
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, KeepsTheExitsRegisters,
                    "AMD APM volume 2, #VMEXIT: RIP, RSP, RAX of L2 are saved") {
  LoadL2({0x48, 0xB8, 1, 2, 3, 4, 5, 6, 7, 8, 0xF4});  // mov rax, 0x0807060504030201; hlt
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().rax, 0x0807'0605'0403'0201U);
  EXPECT_EQ(vmcb().rip, kL2Code + 10);
  EXPECT_EQ(vmcb().rsp, kL2StackTop);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, AddsTheTscOffset, "AMD APM volume 2, TSC_OFFSET") {
  vmcb().tsc_offset = 1ULL << 60;
  LoadL2({0x0F, 0x31, 0xF4});  // rdtsc; hlt
  ExpectExit(kExitHlt);
  const auto regs = vcpu().GetRegs();
  ASSERT_TRUE(regs);
  EXPECT_EQ(regs->rdx >> 28, 1U) << "bit 60 of L2's time stamp counter";
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, ANestedPageFaultTellsAddressAndCause,
                    "AMD APM volume 2, Nested versus Guest Page Faults: EXITINFO1 and EXITINFO2") {
  UseNestedPaging();
  Word(kNestedTables + 0x2000 + 3 * 8) = 0;            // the last 2 MiB
  LoadL2({0x89, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00});  // mov [0x600000], eax
  ExpectExit(kExitNestedPageFault);
  EXPECT_EQ(vmcb().exit_info_2, 0x60'0000U);
  EXPECT_EQ(vmcb().exit_info_1 & 0x7, 0x6U) << "not present, a write, as a user: nested walks are";
  EXPECT_EQ(vmcb().exit_info_1 >> 32 & 3, 1U) << "of the final address, not of a page table";
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, ANestedWriteToAReadOnlyPageFaults,
                    "AMD APM volume 2, Nested versus Guest Page Faults: EXITINFO1, P and R/W") {
  UseNestedPaging();
  Word(kNestedTables + 0x2000 + 3 * 8) &= ~abi::x86::kPteWritable;
  LoadL2({0x8B, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00,    // mov eax, [0x600000]
          0x89, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00});  // mov [0x600000], eax
  ExpectExit(kExitNestedPageFault);
  EXPECT_EQ(vmcb().exit_info_1 & 0x7, 0x7U);
  EXPECT_EQ(vmcb().rip, kL2Code + 7);
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, NestedStateOfL1ComesBackAsItWasRead,
                    "KVM API, KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE") {
  ExpectExit(kExitHlt);
  alignas(kvm_nested_state) std::byte room[0x2000] = {};
  auto* const state = reinterpret_cast<kvm_nested_state*>(room);
  state->size = sizeof(room);
  ASSERT_EQ(ErrorOf(vcpu().fd(), KVM_GET_NESTED_STATE, state), 0);
  EXPECT_EQ(state->format, KVM_STATE_NESTED_FORMAT_SVM);
  EXPECT_EQ(ErrorOf(vcpu().fd(), KVM_SET_NESTED_STATE, state), 0);
  state->format = 7;
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_SET_NESTED_STATE, state), {EINVAL})) << "an unknown format";
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, AStateThatIsTooSmallIsRefused, "KVM API, KVM_GET_NESTED_STATE: E2BIG") {
  ExpectExit(kExitHlt);
  kvm_nested_state state = {};
  state.size = sizeof(state.hdr);
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_GET_NESTED_STATE, &state), {E2BIG}));
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, AVmsaveThatL1DoesNotInterceptStaysInL1sMemory,
                    "CVE-2021-3656: L2's VMSAVE wrote to the host's physical memory when L1 did not intercept it") {
  std::memset(&Word(0x60'0000), 0x5A, 0x1000);
  LoadL2({0xB8, 0x00, 0x00, 0x60, 0x00, 0x0F, 0x01, 0xDB, 0xF4});  // mov eax, 0x600000; vmsave; hlt
  ExpectExit(kExitHlt);
  EXPECT_NE(Word(0x60'0000 + offsetof(Vmcb, fs)), 0x5A5A'5A5A'5A5A'5A5AU) << "it is not where L1 has this address";
}
NESTBENCH_CONDITION(nested_svm, SvmEntry, AVmsaveOutsideL1sMemoryReachesNothing,
                    "CVE-2021-3656: an address of L2's VMSAVE is L1's, never the host's") {
  LoadL2({0xB8, 0x00, 0x00, 0x00, 0x40, 0x0F, 0x01, 0xDB, 0xF4});  // mov eax, 1 << 30; vmsave; hlt
  vmcb().exception_intercepts = 1U << 13;
  const auto exit = Run();
  const auto* io = std::get_if<vmm::IoExit>(&exit);
  EXPECT_FALSE(std::holds_alternative<vmm::InterruptedExit>(exit)) << "the vCPU hangs";
  if (io == nullptr) return;  // an error that user space sees is an answer, too
  EXPECT_EQ(vmcb().exit_code, kExitException0 + 13) << "#GP is what a bad physical address raises";
}

}  // namespace
}  // namespace nestbench::conformance
