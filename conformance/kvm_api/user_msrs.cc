// MSRs that user space answers for, and filters. Source: kernel document "The Definitive KVM API Documentation",
// KVM_CAP_X86_USER_SPACE_MSR, KVM_EXIT_X86_RDMSR and KVM_X86_SET_MSR_FILTER.
#include <array>
#include <cerrno>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "../harness/long_mode.h"

namespace nestbench::conformance {
namespace {

class UserMsrs : public LongModeTest {
 protected:
  static constexpr std::uint32_t kUnknown = 0x2000'0000;  // outside every range that a processor has
  static constexpr std::uint32_t kSysenterCs = 0x174;     // one that KVM has
  static constexpr std::uint64_t kInstruction = 7;        // behind the two moves
  static constexpr std::initializer_list<int> kRdmsr = {0xB9, 0x00, 0x00, 0x00, 0x20,     0x90,
                                                        0x90, 0x0F, 0x32, 0xE6, kDonePort};
  static constexpr std::initializer_list<int> kWrmsr = {0xB9, 0x00, 0x00, 0x00, 0x20,     0xB0,
                                                        0x5A, 0x0F, 0x30, 0xE6, kDonePort};
  static constexpr std::initializer_list<int> kReadSysenterCs = {0xB9, 0x74, 0x01, 0x00, 0x00,     0x90,
                                                                 0x90, 0x0F, 0x32, 0xE6, kDonePort};

  // Skips the test where there is no such capability; call it as `if (LacksUserMsrs(...)) return;`.
  [[nodiscard]] bool LacksUserMsrs(std::uint64_t reasons) {
    if (Lacks(KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR")) return true;
    const auto enabled = vm().EnableCapability(KVM_CAP_X86_USER_SPACE_MSR, {{reasons}});
    EXPECT_TRUE(enabled) << enabled.error().ToString();
    return !enabled;
  }
  // Everything is allowed but reads of IA32_SYSENTER_CS.
  int DenySysenterCs(std::uint32_t flags = KVM_MSR_FILTER_READ) {
    std::array<std::uint8_t, 1> bitmap = {0};
    kvm_msr_filter filter = {};
    filter.flags = KVM_MSR_FILTER_DEFAULT_ALLOW;
    filter.ranges[0] = {.flags = flags, .nmsrs = 1, .base = kSysenterCs, .bitmap = bitmap.data()};
    return ErrorOf(vm().fd(), KVM_X86_SET_MSR_FILTER, &filter);
  }
};

NESTBENCH_CONDITION(kvm_api, UserMsrs, AnUnknownOneIsGpWithoutTheCapability,
                    "KVM API, KVM_CAP_X86_USER_SPACE_MSR: off by default") {
  Kernel(kRdmsr);
  Expect(abi::x86::kVectorGeneralProtection, 0, kInstruction);
}
NESTBENCH_CONDITION(kvm_api, UserMsrs, AReadLeavesAndTakesTheValue,
                    "KVM API, KVM_EXIT_X86_RDMSR: index, reason; data goes to the guest") {
  if (LacksUserMsrs(KVM_MSR_EXIT_REASON_UNKNOWN)) return;
  Kernel(kRdmsr);
  const auto exit = RunTo<vmm::RdmsrExit>();
  if (!exit) return;
  EXPECT_EQ(exit->index, kUnknown);
  EXPECT_EQ(exit->reason, static_cast<std::uint32_t>(KVM_MSR_EXIT_REASON_UNKNOWN));
  *exit->data = 0x1234'5678'9ABC'DEF0;
  *exit->error = 0;
  ASSERT_TRUE(Done());
  const auto regs = vcpu().GetRegs();
  ASSERT_TRUE(regs);
  EXPECT_EQ(regs->rax, 0x9ABC'DEF0U);
  EXPECT_EQ(regs->rdx, 0x1234'5678U);
}
NESTBENCH_CONDITION(kvm_api, UserMsrs, AReadThatUserSpaceRefusesIsGp,
                    "KVM API, KVM_EXIT_X86_RDMSR: error not 0 injects #GP") {
  if (LacksUserMsrs(KVM_MSR_EXIT_REASON_UNKNOWN)) return;
  Kernel(kRdmsr);
  const auto exit = RunTo<vmm::RdmsrExit>();
  if (!exit) return;
  *exit->error = 1;
  Expect(abi::x86::kVectorGeneralProtection, 0, kInstruction);
}
NESTBENCH_CONDITION(kvm_api, UserMsrs, AWriteLeavesWithItsValue, "KVM API, KVM_EXIT_X86_WRMSR: index, data") {
  if (LacksUserMsrs(KVM_MSR_EXIT_REASON_UNKNOWN)) return;
  Kernel(kWrmsr);
  const auto exit = RunTo<vmm::WrmsrExit>();
  if (!exit) return;
  EXPECT_EQ(exit->index, kUnknown);
  EXPECT_EQ(exit->data & 0xFF, 0x5AU);
  *exit->error = 0;
  EXPECT_TRUE(Done());
}
NESTBENCH_CONDITION(kvm_api, UserMsrs, AWriteThatUserSpaceRefusesIsGp,
                    "KVM API, KVM_EXIT_X86_WRMSR: error not 0 injects #GP") {
  if (LacksUserMsrs(KVM_MSR_EXIT_REASON_UNKNOWN)) return;
  Kernel(kWrmsr);
  const auto exit = RunTo<vmm::WrmsrExit>();
  if (!exit) return;
  *exit->error = 1;
  Expect(abi::x86::kVectorGeneralProtection, 0, kInstruction);
}
NESTBENCH_CONDITION(kvm_api, UserMsrs, AKnownOneDoesNotLeave,
                    "KVM API, KVM_CAP_X86_USER_SPACE_MSR: KVM_MSR_EXIT_REASON_UNKNOWN is for others") {
  if (LacksUserMsrs(KVM_MSR_EXIT_REASON_UNKNOWN)) return;
  Kernel(kReadSysenterCs);
  EXPECT_TRUE(Done());
}
NESTBENCH_CONDITION(kvm_api, UserMsrs, UnknownReasonsAreRefused, "KVM API, KVM_CAP_X86_USER_SPACE_MSR: EINVAL") {
  if (Lacks(KVM_CAP_X86_USER_SPACE_MSR, "KVM_CAP_X86_USER_SPACE_MSR")) return;
  EXPECT_FALSE(vm().EnableCapability(KVM_CAP_X86_USER_SPACE_MSR, {{1ULL << 20}}));
}
NESTBENCH_CONDITION(kvm_api, UserMsrs, AFilteredOneIsGp, "KVM API, KVM_X86_SET_MSR_FILTER: denied accesses are #GP") {
  if (Lacks(KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER")) return;
  ASSERT_EQ(DenySysenterCs(), 0);
  Kernel(kReadSysenterCs);
  Expect(abi::x86::kVectorGeneralProtection, 0, kInstruction);
}
NESTBENCH_CONDITION(kvm_api, UserMsrs, AFilteredOneLeavesWhereThatIsAskedFor,
                    "KVM API, KVM_X86_SET_MSR_FILTER: KVM_MSR_EXIT_REASON_FILTER") {
  if (Lacks(KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER")) return;
  if (LacksUserMsrs(KVM_MSR_EXIT_REASON_FILTER)) return;
  ASSERT_EQ(DenySysenterCs(), 0);
  Kernel(kReadSysenterCs);
  const auto exit = RunTo<vmm::RdmsrExit>();
  if (!exit) return;
  EXPECT_EQ(exit->index, kSysenterCs);
  EXPECT_EQ(exit->reason, static_cast<std::uint32_t>(KVM_MSR_EXIT_REASON_FILTER));
}
NESTBENCH_CONDITION(kvm_api, UserMsrs, AFilterOfReadsLeavesWritesAlone,
                    "KVM API, KVM_X86_SET_MSR_FILTER: KVM_MSR_FILTER_READ and KVM_MSR_FILTER_WRITE") {
  if (Lacks(KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER")) return;
  ASSERT_EQ(DenySysenterCs(KVM_MSR_FILTER_WRITE), 0);
  Kernel(kReadSysenterCs);
  EXPECT_TRUE(Done());
}
NESTBENCH_CONDITION(kvm_api, UserMsrs, AFilterOfUnknownFlagsIsRefused, "KVM API, KVM_X86_SET_MSR_FILTER: EINVAL") {
  if (Lacks(KVM_CAP_X86_MSR_FILTER, "KVM_CAP_X86_MSR_FILTER")) return;
  EXPECT_TRUE(FailsWith(DenySysenterCs(1U << 9), {EINVAL}));
}

}  // namespace
}  // namespace nestbench::conformance
