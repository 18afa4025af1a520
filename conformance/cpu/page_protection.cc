// What control registers add to the page tables' rights: SMEP, SMAP, process-context identifiers, protection keys.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "../harness/long_mode.h"

NESTBENCH_GUEST_CODE(SupervisorReads, "mov (%rdi), %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(SupervisorReadsWithAc,
                     "pushf\n orq $0x40000, (%rsp)\n popf\n mov (%rdi), %rax\n out %al, $0x10\n"
                     "pushf\n andq $-0x40001, (%rsp)\n popf\n mov (%rdi), %rax")
NESTBENCH_GUEST_CODE(StacAndClac, "stac\n mov (%rdi), %rax\n clac\n out %al, $0x10\n mov (%rdi), %rax")
NESTBENCH_GUEST_CODE(SupervisorJumps, "jmp *%rdi")
NESTBENCH_GUEST_CODE(SaysItIsHere, "out %al, $0x10")
NESTBENCH_GUEST_CODE(SetsPcide, "mov %cr4, %rax\n bts $17, %rax\n mov %rax, %cr4\n out %al, $0x10")
// CR3's identifiers 1 and 2 with the same tables: what each has cached of (RDI), which [RSI] then maps elsewhere.
NESTBENCH_GUEST_CODE(SwitchesAndFlushes,
                     "mov %cr4, %rax\n bts $17, %rax\n mov %rax, %cr4\n mov %cr3, %r8\n lea 1(%r8), %rax\n"
                     "mov %rax, %cr3\n mov (%rdi), %ecx\n lea 2(%r8), %rax\n mov %rax, %cr3\n mov (%rdi), %ecx\n"
                     "mov %rbx, (%rsi)\n lea 1(%r8), %rax\n mov %rax, %cr3\n mov (%rdi), %edx\n out %al, $0x10")
NESTBENCH_GUEST_CODE(
    KeepsAndInvalidates,
    "mov %cr4, %rax\n bts $17, %rax\n mov %rax, %cr4\n mov %cr3, %r8\n lea 1(%r8), %rax\n bts $63, %rax\n"
    "mov %rax, %cr3\n mov (%rdi), %ecx\n mov %rbx, (%rsi)\n mov %cr3, %r9\n mov $2, %eax\n"
    "invpcid 0x100(%rdi), %rax\n mov (%rdi), %edx\n out %al, $0x10")
NESTBENCH_GUEST_CODE(ReadWithPkru,
                     "xor %ecx, %ecx\n xor %edx, %edx\n mov %ebx, %eax\n wrpkru\n mov (%rdi), %rax\n"
                     "mov %rax, (%rdi)\n out %al, $0x10")

namespace nestbench::conformance {
namespace {

using namespace abi::x86;

constexpr std::uint64_t kCr4Pcide = 1ULL << 17;
constexpr std::uint64_t kCr4Smep = 1ULL << 20;
constexpr std::uint64_t kCr4Smap = 1ULL << 21;
constexpr std::uint64_t kCr4Pke = 1ULL << 22;
constexpr CpuidBit kSmep = {"CPUID 7:EBX.SMEP", 7, &kvm_cpuid_entry2::ebx, 7};
constexpr CpuidBit kSmap = {"CPUID 7:EBX.SMAP", 7, &kvm_cpuid_entry2::ebx, 20};
constexpr CpuidBit kPcid = {"CPUID 1:ECX.PCID", 1, &kvm_cpuid_entry2::ecx, 17};
constexpr CpuidBit kInvpcid = {"CPUID 7:EBX.INVPCID", 7, &kvm_cpuid_entry2::ebx, 10};
constexpr CpuidBit kProtectionKeys = {"CPUID 7:ECX.PKU", 7, &kvm_cpuid_entry2::ecx, 3};

class PageProtection : public LongModeTest {
 protected:
  void WithKeyOne(std::uint32_t pkru) {
    User(ReadWithPkru());
    SetCr4(kCr4Pke);
    Pte(kData) |= 1ULL << 59;
    SetRegister(&kvm_regs::rbx, pkru);
  }
  // The stack is the supervisor's: delivering an exception to a user page would be a fault itself.
  void WithSmap(std::span<const std::byte> code) {
    Kernel(code);
    Pte(kStackTop - 0x1000) &= ~kPteUser;
    SetCr4(kCr4Smap);
  }
  // RSI and RBX for code that maps (RDI) to the next page.
  void PrepareRemap() {
    Word(kData) = 0x11;
    Word(kData + 0x1000) = 0x22;
    SetRegister(&kvm_regs::rsi, kPt + (kData >> 12) * 8);
    SetRegister(&kvm_regs::rbx, (kData + 0x1000) | kPtePresent | kPteWritable);
  }
};

NESTBENCH_CONDITION(cpu, PageProtection, TheSupervisorReadsUserPagesWithoutSmap, "Intel SDM volume 3, Access Rights") {
  Kernel(SupervisorReads());
  Word(kData) = 0x55;
  if (!Done()) return;
  EXPECT_EQ(Rax(), 0x55U);
}
NESTBENCH_CONDITION(cpu, PageProtection, TheSupervisorDoesNotReadUserPagesWithSmap,
                    "Intel SDM volume 3, Access Rights: CR4.SMAP") {
  if (Lacks(kSmap)) return;
  WithSmap(SupervisorReads());
  ExpectPageFault(1, kData);
}
NESTBENCH_CONDITION(cpu, PageProtection, TheAcFlagSuspendsSmap, "Intel SDM volume 3, Access Rights: EFLAGS.AC") {
  if (Lacks(kSmap)) return;
  WithSmap(SupervisorReadsWithAc());
  if (!Done()) return;
  ExpectPageFault(1, kData);
}
NESTBENCH_CONDITION(cpu, PageProtection, StacAndClacSetAndClearIt, "Intel SDM volume 2, STAC; CLAC") {
  if (Lacks(kSmap)) return;
  WithSmap(StacAndClac());
  if (!Done()) return;
  ExpectPageFault(1, kData);
}
NESTBENCH_CONDITION(cpu, PageProtection, TheSupervisorRunsUserPagesWithoutSmep, "Intel SDM volume 3, Access Rights") {
  Kernel(SupervisorJumps());
  std::ranges::copy(SaysItIsHere(), reinterpret_cast<std::byte*>(&Word(kData)));
  Pte(kData) &= ~kPteNoExecute;
  EXPECT_TRUE(Done() || IsSkipped());
}
NESTBENCH_CONDITION(cpu, PageProtection, TheSupervisorDoesNotRunUserPagesWithSmep,
                    "Intel SDM volume 3, Access Rights: CR4.SMEP") {
  if (Lacks(kSmep)) return;
  Kernel(SupervisorJumps());
  std::ranges::copy(SaysItIsHere(), reinterpret_cast<std::byte*>(&Word(kData)));
  Pte(kData) &= ~kPteNoExecute;
  SetCr4(kCr4Smep);
  ExpectPageFault(0x11, kData);
}

NESTBENCH_CONDITION(cpu, PageProtection, PcidsCanBeEnabled, "Intel SDM volume 3, Process-Context Identifiers (PCIDs)") {
  if (Lacks(kPcid)) return;
  Kernel(SetsPcide());
  if (!Done()) return;
  EXPECT_EQ(vcpu().GetSregs()->cr4 & kCr4Pcide, kCr4Pcide);
}
NESTBENCH_CONDITION(cpu, PageProtection, PcidsAreEnabledWithAnIdentifierOfZeroOnly,
                    "Intel SDM volume 3, Process-Context Identifiers (PCIDs): #GP if CR3[11:0] is not 000H") {
  if (Lacks(kPcid)) return;
  Kernel(SetsPcide());
  ChangeSregs([](kvm_sregs& sregs) {
    sregs.cr3 |= 0x18;  // PCD and PWT
  });
  Expect(kVectorGeneralProtection, 0, 8);
}
NESTBENCH_CONDITION(cpu, PageProtection, ALoadOfCr3ForgetsWhatItsIdentifierHad,
                    "Intel SDM volume 3, Operations that Invalidate TLBs: MOV to CR3 with bit 63 clear") {
  if (Lacks(kPcid)) return;
  Kernel(SwitchesAndFlushes());
  PrepareRemap();
  if (!Done()) return;
  EXPECT_EQ(vcpu().GetRegs()->rcx, 0x11U);
  EXPECT_EQ(vcpu().GetRegs()->rdx, 0x22U);
}
NESTBENCH_CONDITION(cpu, PageProtection, InvpcidForgetsEveryIdentifier,
                    "Intel SDM volume 2, INVPCID-Invalidate Process-Context Identifier: type 2") {
  if (Lacks(kPcid) || Lacks(kInvpcid)) return;
  Kernel(KeepsAndInvalidates());
  PrepareRemap();
  if (!Done()) return;
  EXPECT_EQ(vcpu().GetRegs()->rcx, 0x11U);
  EXPECT_EQ(vcpu().GetRegs()->rdx, 0x22U);
  EXPECT_EQ(vcpu().GetRegs()->r9, kPml4 | 1U) << "bit 63 is not stored in CR3";
}

NESTBENCH_CONDITION(cpu, PageProtection, AnOpenKeyAllowsAll, "Intel SDM volume 3, Protection Keys") {
  if (Lacks(kProtectionKeys)) return;
  WithKeyOne(0);
  EXPECT_TRUE(Done() || IsSkipped());
}
NESTBENCH_CONDITION(cpu, PageProtection, AKeyWithoutAccessIsNotRead, "Intel SDM volume 3, Protection Keys: PKRU.AD") {
  if (Lacks(kProtectionKeys)) return;
  WithKeyOne(1U << 2);
  ExpectPageFault(0x25, kData);
}
NESTBENCH_CONDITION(cpu, PageProtection, AKeyWithoutWriteIsNotWritten, "Intel SDM volume 3, Protection Keys: PKRU.WD") {
  if (Lacks(kProtectionKeys)) return;
  WithKeyOne(1U << 3);
  ExpectPageFault(0x27, kData);
}

}  // namespace
}  // namespace nestbench::conformance
