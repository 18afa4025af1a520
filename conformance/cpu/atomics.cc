// Locked instructions: what they compute, and that two vCPUs see each other's.
#include <cstdint>

#include "../harness/box_test.h"
#include "../harness/long_mode.h"

NESTBENCH_GUEST_CODE(LockedIncrements, "1: lock incq 0xC000\n dec %rcx\n jnz 1b\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(
    LockedResults,
    "mov $5, %eax\n lock xadd %eax, (%rdi)\n mov %eax, 0x100(%rdi)\n"  // 100 -> 105, was 100
    "mov $105, %eax\n mov $7, %ecx\n lock cmpxchg %ecx, (%rdi)\n setz 0x104(%rdi)\n"
    "mov $8, %eax\n mov $9, %ecx\n lock cmpxchg %ecx, (%rdi)\n setz 0x105(%rdi)\n mov %eax, 0x108(%rdi)\n"
    "lock btsq $3, (%rdi)\n setc 0x106(%rdi)\n lock btsq $3, (%rdi)\n setc 0x107(%rdi)\n"
    "mov $0x55, %ecx\n xchg %ecx, 8(%rdi)\n mov %ecx, 0x10C(%rdi)\n"
    "lock negl 8(%rdi)\n lock notb 12(%rdi)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(CompareAndExchange16,
                     "mov $1, %eax\n mov $2, %edx\n mov $3, %ebx\n mov $4, %ecx\n lock cmpxchg16b (%rdi)\n"
                     "setz 0x100(%rdi)\n mov $7, %ebx\n lock cmpxchg16b (%rdi)\n setz 0x101(%rdi)\n out %al, $0x10")

namespace nestbench::conformance {
namespace {

class LockedInstructions : public LongModeTest {
 protected:
  void ExpectResults(bool at_user) {
    at_user ? User(LockedResults()) : Kernel(LockedResults());
    Word(kData) = 100;
    Word(kData + 8) = 0xF0'0000'0066;
    if (!Done()) return;
    EXPECT_EQ(Word(kData), 7U | 8U) << "XADD, CMPXCHG, BTS";
    EXPECT_EQ(Word(kData + 8), 0x0F'FFFF'FFABU) << "XCHG, NEG, NOT";
    EXPECT_EQ(Word(kData + 0x100), 100U | 1ULL << 32 | 1ULL << 56) << "old value; equal, not equal, clear, set";
    EXPECT_EQ(Word(kData + 0x108), 7U | 0x66ULL << 32) << "what CMPXCHG and XCHG found";
  }
};

NESTBENCH_CONDITION(cpu, LockedInstructions, HaveTheirResultsAtCpl3,
                    "Intel SDM volume 2, LOCK, XADD, CMPXCHG, BTS, XCHG") {
  ExpectResults(true);
}
NESTBENCH_CONDITION(cpu, LockedInstructions, HaveTheirResultsAtCpl0,
                    "Intel SDM volume 2, LOCK, XADD, CMPXCHG, BTS, XCHG") {
  ExpectResults(false);
}
NESTBENCH_CONDITION(cpu, LockedInstructions, Cmpxchg16bComparesAndExchanges,
                    "Intel SDM volume 2, CMPXCHG8B/CMPXCHG16B") {
  if (Lacks(CpuidBit{"CPUID 1:ECX.CMPXCHG16B", 1, &kvm_cpuid_entry2::ecx, 13})) return;
  User(CompareAndExchange16());
  Word(kData) = 1;
  Word(kData + 8) = 2;
  if (!Done()) return;
  EXPECT_EQ(Word(kData), 3U);
  EXPECT_EQ(Word(kData + 8), 4U);
  EXPECT_EQ(Word(kData + 0x100), 1U) << "equal, then not";
  EXPECT_EQ(Rax(), 3U);
}

class Processors : public CodeTest {
 protected:
  // Two vCPUs that count in one word, this many times each.
  void ExpectEveryIncrement(BoxMode mode, std::uint64_t times) {
    auto box = Start(mode, LockedIncrements());
    if (!box) return;
    auto regs = box->vcpu().GetRegs();
    regs->rcx = times;
    ASSERT_TRUE(box->vcpu().SetRegs(*regs));
    if (!SaysBeside(*box, [](kvm_regs&) {})) return;
    EXPECT_EQ(box->Get<std::uint64_t>(Box::kData), 2 * times);
  }
};

NESTBENCH_CONDITION(cpu, Processors, LockedIncrementsOfTwoAtCpl3AllCount,
                    "Intel SDM volume 3, Locked Atomic Operations") {
  ExpectEveryIncrement(BoxMode::kUser64, 200'000);
}
NESTBENCH_CONDITION(cpu, Processors, LockedIncrementsOfTwoAtCpl0AllCount,
                    "Intel SDM volume 3, Locked Atomic Operations") {
  ExpectEveryIncrement(BoxMode::kSupervisor64, 20'000);
}

}  // namespace
}  // namespace nestbench::conformance
