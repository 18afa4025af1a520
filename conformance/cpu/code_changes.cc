// Code and translations that change under a guest.
#include <cstdint>
#include <cstring>

#include "../harness/long_mode.h"

NESTBENCH_GUEST_CODE(ChangesItself, "movb $0x22, 1f+1(%rip)\n jmp 1f\n 1: mov $0x11, %al\n out %al, $0x10")
NESTBENCH_GUEST_CODE(ChangesItselfElsewhere,
                     "3: movb $0x22, 0x100(%rdi)\n cpuid\n .skip 0x100-(.-3b), 0x90\n 1: mov $0x11, %al\n"
                     "out %al, $0x10")
NESTBENCH_GUEST_CODE(ChangesTheNextPage, "movb $0x22, 0x1001(%rsi)\n jmp *%rbx")
NESTBENCH_GUEST_CODE(MovesAcrossThePage, "mov $0x11335577, %eax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(TellsAConstantForEver, "1: mov $0x11, %al\n out %al, $0x10\n jmp 1b")
NESTBENCH_GUEST_CODE(RemapsAndInvalidates,
                     "mov (%rdi), %eax\n mov %rbx, (%rsi)\n invlpg (%rdi)\n mov (%rdi), %edx\n out %al, $0x10")
NESTBENCH_GUEST_CODE(RemapsAndLoadsCr3,
                     "mov (%rdi), %eax\n mov %rbx, (%rsi)\n mov %cr3, %rcx\n mov %rcx, %cr3\n mov (%rdi), %edx\n"
                     "out %al, $0x10")

namespace nestbench::conformance {
namespace {

using namespace abi::x86;

using CodeChanges = LongModeTest;

NESTBENCH_CONDITION(cpu, CodeChanges, AfterAJumpChangedCodeRuns,
                    "Intel SDM volume 3, Handling Self- and Cross-Modifying Code: option 1") {
  User(ChangesItself());
  if (!Done()) return;
  EXPECT_EQ(Rax() & 0xFF, 0x22U);
}
NESTBENCH_CONDITION(cpu, CodeChanges, CodeChangedThroughAnotherAddressRunsAfterASerialization,
                    "Intel SDM volume 3, Handling Self- and Cross-Modifying Code") {
  User(ChangesItselfElsewhere());
  Pte(kData) = kCode | kPtePresent | kPteWritable | kPteUser | kPteNoExecute;
  SetRegister(&kvm_regs::rdi, kData + 1);
  if (!Done()) return;
  EXPECT_EQ(Rax() & 0xFF, 0x22U);
}
NESTBENCH_CONDITION(cpu, CodeChanges, AnInstructionAcrossTwoPagesIsMadeOfBoth,
                    "Intel SDM volume 3, Self-Modifying Code") {
  User(ChangesTheNextPage());
  const auto code = MovesAcrossThePage();
  std::memcpy(reinterpret_cast<std::byte*>(&Word(kCode + 0x800)) + 0x7FD, code.data(), code.size());
  Pte(kCode + 0x1000) &= ~kPteNoExecute;
  SetRegister(&kvm_regs::rbx, kCode + 0xFFD);
  SetRegister(&kvm_regs::rsi, kCode);
  if (!Done()) return;
  EXPECT_EQ(Rax(), 0x2233'5577U) << "the highest byte lies on the second page";
}
NESTBENCH_CONDITION(cpu, CodeChanges, CodeThatTheHostChangesBetweenExitsRuns,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: changes of the backing memory are visible at once") {
  for (const bool at_user : {true, false}) {
    at_user ? User(TellsAConstantForEver()) : Kernel(TellsAConstantForEver());
    for (std::uint8_t value = 1; value < 20; ++value) {
      reinterpret_cast<std::uint8_t*>(&Word(kCode))[1] = value;
      if (!Done()) return;
      ASSERT_EQ(Rax() & 0xFF, value);
    }
  }
}

// Translations that change.

class Invalidation : public LongModeTest {
 protected:
  void ExpectTheNewPage(std::span<const std::byte> code) {
    Kernel(code);
    Word(kData) = 0x11;
    Word(kData + 0x1000) = 0x22;
    SetRegister(&kvm_regs::rsi, kPt + (kData >> 12) * 8);
    SetRegister(&kvm_regs::rbx, (kData + 0x1000) | kPtePresent | kPteWritable);
    if (!Done()) return;
    EXPECT_EQ(Rax(), 0x11U);
    EXPECT_EQ(vcpu().GetRegs()->rdx, 0x22U);
  }
};

NESTBENCH_CONDITION(cpu, Invalidation, InvlpgForgetsTheOldPage, "Intel SDM volume 3, Operations that Invalidate TLBs") {
  ExpectTheNewPage(RemapsAndInvalidates());
}
NESTBENCH_CONDITION(cpu, Invalidation, ALoadOfCr3ForgetsTheOldPage,
                    "Intel SDM volume 3, Operations that Invalidate TLBs") {
  ExpectTheNewPage(RemapsAndLoadsCr3());
}

}  // namespace
}  // namespace nestbench::conformance
