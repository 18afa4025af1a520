// Exceptions of 64-bit mode: vector, error code and saved instruction pointer.
#include <algorithm>
#include <variant>

#include "../harness/long_mode.h"

namespace nestbench::conformance {
namespace {

using CpuExceptions = LongModeTest;

NESTBENCH_CONDITION(cpu, CpuExceptions, DivisionByZeroIsDeAtUser, "AMD APM volume 2, #DE-Divide-by-Zero-Error") {
  User({0x31, 0xC9, 0xF7, 0xF1});  // xor ecx, ecx; div ecx
  Expect(0, 0, 2);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, DivisionByZeroIsDeAtKernel, "AMD APM volume 2, #DE-Divide-by-Zero-Error") {
  Kernel({0x31, 0xC9, 0xF7, 0xF1});  // xor ecx, ecx; div ecx
  Expect(0, 0, 2);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, Int3IsATrap, "AMD APM volume 2, #BP-Breakpoint Exception") {
  User({0x90, 0xCC});  // nop; int3
  Expect(3, 0, 2);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, Ud2IsUdAtUser, "AMD APM volume 2, #UD-Invalid-Opcode Exception") {
  User({0x0F, 0x0B});  // ud2
  Expect(6, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, Ud2IsUdAtKernel, "AMD APM volume 2, #UD-Invalid-Opcode Exception") {
  Kernel({0x0F, 0x0B});  // ud2
  Expect(6, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, IntoIsUdIn64BitMode, "AMD APM volume 3, INTO: invalid in 64-bit mode") {
  User({0xCE});  // into
  Expect(6, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, LockOnARegisterIsUd, "AMD APM volume 3, Lock Prefix") {
  User({0xF0, 0x01, 0xC0});  // lock add eax, eax
  Expect(6, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, HltAtUserIsGp, "AMD APM volume 3, HLT: exceptions") {
  User({0xF4});  // hlt
  Expect(13, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, CliAtUserIsGp, "AMD APM volume 3, CLI: exceptions") {
  User({0xFA});  // cli
  Expect(13, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, AClosedPortAtUserIsGp, "AMD APM volume 2, I/O-Permission Bitmap") {
  User({0xE6, 0x80});  // out 0x80, al
  Expect(13, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, AnOpenPortAtUserLeavesTheGuest, "AMD APM volume 2, I/O-Permission Bitmap") {
  User({0xE6, 0x10});  // out 0x10, al
  EXPECT_TRUE(Done() || IsSkipped());
}
NESTBENCH_CONDITION(cpu, CpuExceptions, RdmsrAtUserIsGp, "AMD APM volume 3, RDMSR: exceptions") {
  User({0x0F, 0x32});  // rdmsr
  Expect(13, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, MovFromCr0AtUserIsGp, "AMD APM volume 3, MOV CRn: exceptions") {
  User({0x0F, 0x20, 0xC0});  // mov rax, cr0
  Expect(13, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, LgdtAtUserIsGp, "AMD APM volume 3, LGDT: exceptions") {
  User({0x0F, 0x01, 0x17});  // lgdt [rdi]
  Expect(13, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, ANonCanonicalAddressIsGp, "AMD APM volume 2, Canonical Address Form") {
  // mov rax, 0x0000800000000000; mov al, [rax]
  User({0x48, 0xB8, 0, 0, 0, 0, 0, 0x80, 0, 0, 0x8A, 0x00});
  Expect(13, 0, 10);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, ANonCanonicalStackAddressIsSs, "AMD APM volume 2, #SS-Stack Exception") {
  // mov rsp, 0x0000800000000000; pop rax
  User({0x48, 0xBC, 0, 0, 0, 0, 0, 0x80, 0, 0, 0x58});
  Expect(12, 0, 10);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, ASelectorBeyondTheTableIsGpWithIt,
                    "AMD APM volume 2, #GP-General-Protection Exception: selector error code") {
  User({0xB8, 0x83, 0, 0, 0, 0x8E, 0xD8});  // mov eax, 0x83; mov ds, eax
  Expect(13, 0x80, 5);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, ANotPresentSegmentIsNpWithItsSelector,
                    "AMD APM volume 2, #NP-Segment-Not-Present Exception") {
  User({0xB8, 0x1B, 0, 0, 0, 0x8E, 0xD8});  // mov eax, 0x1b; mov ds, eax
  Word(0x1018) &= ~(1ULL << 47);
  Expect(11, 0x18, 5);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, AnUnknownMsrIsGp, "AMD APM volume 3, RDMSR: exceptions") {
  Kernel({0xB9, 0x78, 0x56, 0x34, 0x12, 0x0F, 0x32});  // mov ecx, 0x12345678; rdmsr
  Expect(13, 0, 5);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, AReservedBitOfCr4IsGp, "AMD APM volume 2, CR4 Register") {
  Kernel({0x0F, 0x20, 0xE0, 0x0F, 0xBA, 0xE8, 31, 0x0F, 0x22, 0xE0});  // mov rax, cr4; bts eax, 31; mov cr4, rax
  Expect(13, 0, 7);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, PagingWithoutProtectionIsGp, "AMD APM volume 2, CR0 Register: PG and PE") {
  Kernel({0x0F, 0x20, 0xC0, 0x83, 0xE0, 0xFE, 0x0F, 0x22, 0xC0});  // mov rax, cr0; and eax, ~1; mov cr0, rax
  Expect(13, 0, 6);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, X87WithTaskSwitchedIsNm,
                    "AMD APM volume 2, #NM-Device-Not-Available Exception") {
  User({0xD9, 0xE8, 0xE6, 0x10});  // fld1; out 0x10, al
  ChangeSregs([](kvm_sregs& sregs) { sregs.cr0 |= 8; });
  Expect(7, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, AnUnmaskedX87ErrorIsMfAtTheNextWait,
                    "AMD APM volume 2, #MF-x87 Floating-Point Exception-Pending") {
  // mov word [rdi], 0x37b; fninit; fldcw [rdi]; fld1; fldz; fdivp; fwait
  User({0x66, 0xC7, 0x07, 0x7B, 0x03, 0xDB, 0xE3, 0xD9, 0x2F, 0xD9, 0xE8, 0xD9, 0xEE, 0xDE, 0xF9, 0x9B});
  Expect(16, 0, 15);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, AnUnmaskedSseErrorIsXm, "AMD APM volume 2, #XF-SIMD Floating-Point Exception") {
  // mov dword [rdi], 0x1f00; ldmxcsr [rdi]; xorps xmm0, xmm0; divss xmm0, xmm0 (invalid: 0 / 0, unmasked in bit 7)
  User({0xC7, 0x07, 0x00, 0x1F, 0, 0, 0x0F, 0xAE, 0x17, 0x0F, 0x57, 0xC0, 0xF3, 0x0F, 0x5E, 0xC0});
  Expect(19, 0, 12);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, AMisalignedAccessIsAcWhenAsked,
                    "AMD APM volume 2, #AC-Alignment-Check Exception") {
  User({0x8B, 0x47, 0x01});  // mov eax, [rdi + 1]
  ChangeSregs([](kvm_sregs& sregs) { sregs.cr0 |= 1ULL << 18; });
  auto regs = vcpu().GetRegs();
  regs->rflags |= 1ULL << 18;
  ASSERT_TRUE(vcpu().SetRegs(*regs));
  Expect(17, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, AMisalignedMovapsIsGp, "AMD APM volume 1, Aligned Data Transfer") {
  User({0x0F, 0x28, 0x47, 0x01});  // movaps xmm0, [rdi + 1]
  Expect(13, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, TheTrapFlagIsDbAfterTheInstruction, "AMD APM volume 2, #DB-Debug Exception") {
  User({0x90, 0x90});  // nop; nop
  auto regs = vcpu().GetRegs();
  regs->rflags |= 0x100;
  ASSERT_TRUE(vcpu().SetRegs(*regs));
  Expect(1, 0, 1);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, RdtscAtUserWithTsdIsGp, "AMD APM volume 3, RDTSC: CR4.TSD") {
  User({0x0F, 0x31, 0xE6, 0x10});  // rdtsc; out 0x10, al
  SetCr4(4);
  Expect(13, 0, 0);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, AnExceptionWithoutAGateIsADoubleFault,
                    "AMD APM volume 2, #DF-Double-Fault Exception: error code 0") {
  User({0x31, 0xC9, 0xF7, 0xF1});  // xor ecx, ecx; div ecx
  Word(0x2000) = 0;
  Word(0x2000 + 13 * 16) = 0;
  Word(0x2000 + 11 * 16) = 0;
  Expect(8, 0, 2);
}
NESTBENCH_CONDITION(cpu, CpuExceptions, WithoutADoubleFaultGateItIsAShutdown, "AMD APM volume 2, Shutdown") {
  User({0x0F, 0x0B});  // ud2
  std::fill_n(&Word(0x2000), 64, 0);
  const vmm::Exit exit = Run();
  EXPECT_TRUE(std::holds_alternative<vmm::ShutdownExit>(exit)) << vmm::ToString(exit);
}

}  // namespace
}  // namespace nestbench::conformance
