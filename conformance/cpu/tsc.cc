// The time-stamp counter: it never goes back, over exits and vCPUs, and is where and as fast as user space set it.
#include <chrono>
#include <cstdint>
#include <thread>

#include "../harness/box_test.h"
#include "../harness/long_mode.h"

NESTBENCH_GUEST_CODE(TellTheTime, "1: rdtsc\n shl $32, %rdx\n or %rdx, %rax\n out %al, $0x10\n jmp 1b")
NESTBENCH_GUEST_CODE(TellTheTimeOfTheMsr,
                     "1: mov $0x10, %ecx\n rdtsc\n shl $32, %rdx\n or %rdx, %rax\n mov %rax, %rbx\n rdmsr\n"
                     "shl $32, %rdx\n or %rdx, %rax\n mov %rax, %rsi\n rdtsc\n shl $32, %rdx\n or %rdx, %rax\n"
                     "out %al, $0x10\n jmp 1b")
// Two vCPUs take turns: each waits for the word to be its own number, reads the time, compares and hands over. RBX: its
// number; RCX: how often.
NESTBENCH_GUEST_CODE(TakeTurns,
                     "1: mov 0xC000, %rax\n cmp %rax, %rbx\n je 2f\n pause\n jmp 1b\n"
                     "2: lfence\n rdtsc\n lfence\n shl $32, %rdx\n or %rdx, %rax\n cmp 0xC008, %rax\n jae 3f\n"
                     "incq 0xC010\n 3: mov %rax, 0xC008\n mov %rbx, %rdx\n xor $3, %rdx\n mov %rdx, 0xC000\n"
                     "dec %rcx\n jnz 1b\n out %al, $0x10\n hlt")

namespace nestbench::conformance {
namespace {

using namespace std::chrono_literals;

constexpr std::uint32_t kMsrTsc = 0x10;
constexpr std::uint64_t kFuture = 1ULL << 60;

class TimeStampCounter : public LongModeTest {
 protected:
  // What the guest says next; 0 when it said nothing.
  std::uint64_t Next() { return Done() ? Rax() : 0; }

  void ExpectMonotonic(bool at_user) {
    at_user ? User(TellTheTime()) : Kernel(TellTheTime());
    std::uint64_t last = 0;
    for (int i = 0; i < 200; ++i) {
      const std::uint64_t now = Next();
      if (IsSkipped() || HasFailure()) return;
      ASSERT_GT(now, last) << "after " << i << " exits";
      last = now;
    }
  }

  void ExpectRate() {
    const auto khz = vcpu().TscKhz();
    if (!khz) GTEST_SKIP() << khz.error().ToString();
    const auto begin = std::chrono::steady_clock::now();
    const std::uint64_t first = Next();
    std::this_thread::sleep_for(200ms);
    const std::uint64_t last = Next();
    const auto took = std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - begin).count();
    if (IsSkipped() || HasFailure()) return;
    const double observed = static_cast<double>(last - first) / took;
    Evidence("khz", static_cast<long long>(*khz));
    Evidence("observed_khz", static_cast<long long>(observed));
    EXPECT_NEAR(observed / static_cast<double>(*khz), 1.0, 0.05);
  }
};

NESTBENCH_CONDITION(cpu, TimeStampCounter, GrowsOverExitsAtCpl3,
                    "Intel SDM volume 3, Time-Stamp Counter: monotonically") {
  ExpectMonotonic(true);
}
NESTBENCH_CONDITION(cpu, TimeStampCounter, GrowsOverExitsAtCpl0,
                    "Intel SDM volume 3, Time-Stamp Counter: monotonically") {
  ExpectMonotonic(false);
}
NESTBENCH_CONDITION(cpu, TimeStampCounter, IsWhatItsMsrHolds,
                    "Intel SDM volume 3, Time-Stamp Counter: IA32_TIME_STAMP_COUNTER") {
  Kernel(TellTheTimeOfTheMsr());
  for (int i = 0; i < 20; ++i) {
    if (!Done()) return;
    const auto regs = vcpu().GetRegs();
    ASSERT_LE(regs->rbx, regs->rsi) << "RDTSC before RDMSR";
    ASSERT_LE(regs->rsi, regs->rax) << "RDTSC after RDMSR";
  }
}
NESTBENCH_CONDITION(cpu, TimeStampCounter, GoesOnAtCpl3WhereUserSpaceSetIt, "KVM API, KVM_SET_MSRS: IA32_TSC") {
  User(TellTheTime());
  ASSERT_TRUE(vcpu().WriteMsr(kMsrTsc, kFuture));
  const std::uint64_t now = Next();
  if (IsSkipped() || HasFailure()) return;
  EXPECT_GE(now, kFuture);
  EXPECT_LT(now, kFuture + (1ULL << 40));
}
NESTBENCH_CONDITION(cpu, TimeStampCounter, GoesOnAtCpl0WhereUserSpaceSetIt, "KVM API, KVM_SET_MSRS: IA32_TSC") {
  Kernel(TellTheTime());
  ASSERT_TRUE(vcpu().WriteMsr(kMsrTsc, kFuture));
  const std::uint64_t now = Next();
  if (IsSkipped() || HasFailure()) return;
  EXPECT_GE(now, kFuture);
  EXPECT_LT(now, kFuture + (1ULL << 40));
}
NESTBENCH_CONDITION(cpu, TimeStampCounter, MovesByTheOffsetOfTheDeviceAttribute,
                    "kernel document \"Generic vcpu interface\", KVM_VCPU_TSC_CTRL: KVM_VCPU_TSC_OFFSET") {
  std::uint64_t offset = 0;
  kvm_device_attr attribute = {};
  attribute.group = KVM_VCPU_TSC_CTRL;
  attribute.attr = KVM_VCPU_TSC_OFFSET;
  attribute.addr = reinterpret_cast<std::uint64_t>(&offset);
  const int error = ErrorOf(vcpu().fd(), KVM_HAS_DEVICE_ATTR, &attribute);
  if (error != 0) GTEST_SKIP() << "KVM_HAS_DEVICE_ATTR of KVM_VCPU_TSC_OFFSET: " << ErrorName(error);
  User(TellTheTime());
  const std::uint64_t before = Next();
  if (IsSkipped() || HasFailure()) return;
  ASSERT_EQ(ErrorOf(vcpu().fd(), KVM_GET_DEVICE_ATTR, &attribute), 0);
  offset += kFuture;
  ASSERT_EQ(ErrorOf(vcpu().fd(), KVM_SET_DEVICE_ATTR, &attribute), 0);
  const std::uint64_t after = Next();
  EXPECT_GE(after - before, kFuture);
  EXPECT_LT(after - before, kFuture + (1ULL << 40));
}
NESTBENCH_CONDITION(cpu, TimeStampCounter, RunsAsFastAsKvmSays, "KVM API, KVM_GET_TSC_KHZ") {
  User(TellTheTime());
  ExpectRate();
}
NESTBENCH_CONDITION(cpu, TimeStampCounter, RunsAsFastAsItWasSet, "KVM API, KVM_SET_TSC_KHZ: KVM_CAP_TSC_CONTROL") {
  if (Lacks(KVM_CAP_TSC_CONTROL, "KVM_CAP_TSC_CONTROL")) return;
  const auto khz = vcpu().TscKhz();
  ASSERT_TRUE(khz);
  ASSERT_EQ(ErrorOf(vcpu().fd(), KVM_SET_TSC_KHZ, static_cast<unsigned long>(*khz / 2)), 0);
  EXPECT_EQ(vcpu().TscKhz().value_or(0), *khz / 2);
  User(TellTheTime());
  ExpectRate();
}
NESTBENCH_CONDITION(cpu, TimeStampCounter, TellsItsRateInCpuidWhereItHasTheLeaf,
                    "Intel SDM volume 2, CPUID: Time Stamp Counter and Nominal Core Crystal Clock Information Leaf") {
  const auto policy = vcpu().GetCpuid();
  const auto khz = vcpu().TscKhz();
  ASSERT_TRUE(policy && khz);
  const kvm_cpuid_entry2* leaf = policy->Find(0x15);
  if (leaf == nullptr || leaf->eax == 0 || leaf->ebx == 0 || leaf->ecx == 0) {
    GTEST_SKIP() << "CPUID 15H does not tell a rate";
  }
  const double hz = static_cast<double>(leaf->ecx) * leaf->ebx / leaf->eax;
  EXPECT_NEAR(hz / (static_cast<double>(*khz) * 1000), 1.0, 0.01);
}

class TwoTimeStampCounters : public CodeTest {
 protected:
  void ExpectMonotonic(BoxMode mode, std::uint64_t turns) {
    auto box = Start(mode, TakeTurns());
    if (!box) return;
    auto regs = box->vcpu().GetRegs();
    ASSERT_TRUE(regs);
    regs->rbx = 1;
    regs->rcx = turns;
    ASSERT_TRUE(box->vcpu().SetRegs(*regs));
    box->Put(Box::kData, std::uint64_t{1});
    if (!SaysBeside(*box, [](kvm_regs& sibling) { sibling.rbx = 2; })) return;
    EXPECT_EQ(box->Get<std::uint64_t>(Box::kData + 0x10), 0U) << "times that lie before an earlier one";
    EXPECT_GT(box->Get<std::uint64_t>(Box::kData + 8), 0U);
  }
};

NESTBENCH_CONDITION(cpu, TwoTimeStampCounters, NeverGoBackBetweenVcpusAtCpl3,
                    "Intel SDM volume 3, Time-Stamp Counter; arch/x86/kvm/x86.c, kvm_synchronize_tsc") {
  ExpectMonotonic(BoxMode::kUser64, 300);
}
NESTBENCH_CONDITION(cpu, TwoTimeStampCounters, NeverGoBackBetweenVcpusAtCpl0,
                    "Intel SDM volume 3, Time-Stamp Counter; arch/x86/kvm/x86.c, kvm_synchronize_tsc") {
  ExpectMonotonic(BoxMode::kSupervisor64, 200);
}

}  // namespace
}  // namespace nestbench::conformance
