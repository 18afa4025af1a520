// 32-bit protected mode: what a descriptor allows, transfers between privilege levels, tasks.
#include <string>

#include "../harness/box_test.h"

NESTBENCH_GUEST_CODE(LoadDs, ".code32\n mov %ebx, %ds\n out %al, $0x10")
NESTBENCH_GUEST_CODE(LoadSs, ".code32\n mov %ebx, %ss\n out %al, $0x10")
NESTBENCH_GUEST_CODE(
    WriteByteTwice,
    ".code32\n mov $0x30, %eax\n mov %eax, %ds\n movb $0x5A, (%ebx)\n movb $0x5A, (%ecx)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(
    WriteDwordTwice,
    ".code32\n mov $0x30, %eax\n mov %eax, %ds\n movl $0x5A, (%ebx)\n movl $0x5A, (%ecx)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(
    ReadStackTwice,
    ".code32\n mov $0x30, %eax\n mov %eax, %ss\n mov %ss:(%ebx), %al\n mov %ss:(%ecx), %al\n out %al, $0x10")
NESTBENCH_GUEST_CODE(ReadThenWrite,
                     ".code32\n mov $0x30, %eax\n mov %eax, %ds\n mov (%ebx), %al\n mov %al, (%ebx)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(WriteCode, ".code32\n mov %cs:0xC000, %al\n mov %al, %cs:0xC000\n out %al, $0x10")
NESTBENCH_GUEST_CODE(UseNullSelector, ".code32\n xor %eax, %eax\n mov %eax, %ds\n mov 0xC000, %al\n out %al, $0x10")
NESTBENCH_GUEST_CODE(FarJump, ".code32\n ljmp $0x30, $0")
NESTBENCH_GUEST_CODE(FarCall, ".code32\n lcall $0x30, $0")
NESTBENCH_GUEST_CODE(SaysAt11, "out %al, $0x11\n hlt")
NESTBENCH_GUEST_CODE(IntoCpl3,
                     ".code32\n lock addl $0, 0x7FF0\n mov 0x3004, %eax\n mov 0x2000, %eax\n push $0x1B\n push "
                     "$0xB000\n push $2\n push $0x33\n push $0xC000\n iret")
NESTBENCH_GUEST_CODE(JustHlt, "hlt")
NESTBENCH_GUEST_CODE(Int14, "int $0x14\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Int80, "int $0x80\n out %al, $0x10")
NESTBENCH_GUEST_CODE(IretAsATask, ".code32\n pushf\n orl $0x4000, (%esp)\n popf\n iret\n out %al, $0x10")
NESTBENCH_GUEST_CODE(TellStackAndReturn,
                     ".code32\n mov %esp, %ebp\n mov (%ebp), %esi\n mov 4(%ebp), %edi\n"
                     "mov 8(%ebp), %ecx\n mov 12(%ebp), %edx\n out %al, $0x12\n lret")
NESTBENCH_GUEST_CODE(CallGateFromCpl3, ".code32\n lcall $0x3B, $0\n out %al, $0x10")
NESTBENCH_GUEST_CODE(InCompatibilityMode, "push $0x30\n push $0xC000\n lretq")
NESTBENCH_GUEST_CODE(IncIsNoPrefix, ".code32\n mov $1, %eax\n .byte 0x40\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(
    CheckBound, ".code32\n mov $-1, %eax\n bound %eax, 0xC000\n mov $6, %eax\n bound %eax, 0xC000\n out %al, $0x10")
NESTBENCH_GUEST_CODE(OverflowIn32Bits, ".code32\n mov $0x7F, %al\n into\n add $1, %al\n into\n out %al, $0x10")

namespace nestbench::conformance {
namespace {

using namespace abi::x86;

constexpr unsigned kInvalidTss = 10;
constexpr unsigned kNotPresent = 11;
constexpr unsigned kStackFault = 12;

// Access bytes of descriptors. Intel SDM volume 3, Segment Descriptors; Code- and Data-Segment Descriptor Types.
constexpr std::uint64_t kPresent = 0x80;
constexpr std::uint64_t kDataWritable = 0x93;
constexpr std::uint64_t kDataReadOnly = 0x91;
constexpr std::uint64_t kDataExpandDown = 0x97;
constexpr std::uint64_t kCodeExecuteOnly = 0x99;
constexpr std::uint64_t kCode = 0x9B;
constexpr std::uint64_t kTss32 = 0x89;
constexpr std::uint64_t kCallGate32AtCpl3 = 0xEC;

// A descriptor of 32 bits with a limit in bytes.
constexpr std::uint64_t Descriptor(std::uint64_t base, std::uint64_t limit, std::uint64_t access) {
  return (limit & 0xFFFF) | (base & 0xFF'FFFF) << 16 | access << 40 | (limit >> 16 & 0xF) << 48 | 1ULL << 54 |
         (base >> 24 & 0xFF) << 56;
}

// The descriptor under test is at selector 0x30; another one at 0x38.
class ProtectedMode : public CodeTest {
 protected:
  std::optional<Box> Protected(std::span<const std::byte> code, std::uint64_t descriptor = 0, std::uint64_t rbx = 0,
                               std::uint64_t rcx = 0, std::uint64_t other = 0) {
    auto box = Start(BoxMode::kProtected32, code);
    if (!box) return box;
    box->Put(Box::kGdt + 0x30, descriptor);
    box->Put(Box::kGdt + 0x38, other);
    auto sregs = box->vcpu().GetSregs();
    EXPECT_TRUE(sregs);
    sregs->gdt.limit = 0x3F;
    sregs->tr.type = TaskStateType();  // QEMU's emulator aborts for another one
    EXPECT_TRUE(box->vcpu().SetSregs(*sregs));
    auto regs = box->vcpu().GetRegs();
    EXPECT_TRUE(regs);
    regs->rbx = rbx;
    regs->rcx = rcx;
    EXPECT_TRUE(box->vcpu().SetRegs(*regs));
    return box;
  }

  // The guest goes to CPL3 by itself and runs `code` there; CPL0's stack is in the TSS. What the processor will read
  // and write to deliver an exception is touched before: if KVM has to map it meanwhile, it injects INT n again, on
  // processors without next-RIP saving with EIP already behind it (arch/x86/kvm/svm/svm.c,
  // svm_update_soft_interrupt_rip).
  std::optional<Box> AtCpl3(std::span<const std::byte> code, std::uint64_t other = 0) {
    auto box = Protected(IntoCpl3(), kDescriptorCode32 | 3ULL << 45, 0, 0, other);
    if (!box) return box;
    box->Load(code, Box::kData);
    box->Put(Box::kTss + 4, static_cast<std::uint32_t>(Box::kKernelStackTop));
    box->Put(Box::kTss + 8, std::uint32_t{0x10});
    box->Put(Box::kTss + kTssIoMapBaseOffset, std::uint16_t{0xFFFF});  // behind the limit: every port is closed
    return box;
  }

  void ExpectAtCpl3(Box& box, unsigned vector, std::uint64_t error_code) {
    const auto value = Says(box, Box::kPanicPort);
    if (!value) return;
    const BoxException seen = box.Exception(*value);
    EXPECT_EQ(*value, vector);
    EXPECT_EQ(seen.error_code, error_code);
    EXPECT_EQ(seen.rip, Box::kData);
    EXPECT_EQ(seen.cs, 0x33U);
    EXPECT_EQ(box.vcpu().GetSregs()->cs.dpl, 0U);
  }
};

// Limits and types.

NESTBENCH_CONDITION(cpu, ProtectedMode, AByteBehindTheLimitIsGp, "Intel SDM volume 3, Limit Checking") {
  auto box = Protected(WriteByteTwice(), Descriptor(Box::kData, 0xFFF, kDataWritable), 0xFFF, 0x1000);
  if (!box) return;
  Raises(*box, kVectorGeneralProtection, 0, 10);
  EXPECT_TRUE(IsSkipped() || box->Get<std::uint8_t>(Box::kData + 0xFFF) == 0x5A) << "the last byte is inside";
  EXPECT_EQ(box->Get<std::uint8_t>(Box::kData + 0x1000), 0U);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, ADwordAcrossTheLimitIsGp, "Intel SDM volume 3, Limit Checking") {
  auto box = Protected(WriteDwordTwice(), Descriptor(Box::kData, 0xFFF, kDataWritable), 0xFFC, 0xFFD);
  if (box) Raises(*box, kVectorGeneralProtection, 0, 13);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AByteBehindTheStacksLimitIsSs,
                    "Intel SDM volume 3, Interrupt 12-Stack Fault Exception (#SS): limit violation") {
  auto box = Protected(ReadStackTwice(), Descriptor(0, 0xFFFF, kDataWritable), 0xFFFF, 0x1'0000);
  if (box) Raises(*box, kStackFault, 0, 10);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AnExpandDownSegmentBeginsBehindItsLimit,
                    "Intel SDM volume 3, Limit Checking: expand-down data segments") {
  auto box = Protected(WriteByteTwice(), Descriptor(Box::kData, 0x7FF, kDataExpandDown), 0x800, 0x7FF);
  if (!box) return;
  Raises(*box, kVectorGeneralProtection, 0, 10);
  EXPECT_TRUE(IsSkipped() || box->Get<std::uint8_t>(Box::kData + 0x800) == 0x5A) << "what is behind is inside";
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AReadOnlySegmentIsNotWritten, "Intel SDM volume 3, Type Checking") {
  auto box = Protected(ReadThenWrite(), Descriptor(Box::kData, 0xFFF, kDataReadOnly), 0);
  if (box) Raises(*box, kVectorGeneralProtection, 0, 9);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, ACodeSegmentIsNotWritten, "Intel SDM volume 3, Type Checking") {
  auto box = Protected(WriteCode());
  if (box) Raises(*box, kVectorGeneralProtection, 0, 6);
}

// Loads of segment registers.

NESTBENCH_CONDITION(cpu, ProtectedMode, ANullSelectorIsLoadedAndNotUsed,
                    "Intel SDM volume 3, Null Segment Selector Checking") {
  auto box = Protected(UseNullSelector());
  if (box) Raises(*box, kVectorGeneralProtection, 0, 4);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, TheStackTakesNoNullSelector,
                    "Intel SDM volume 3, Null Segment Selector Checking") {
  auto box = Protected(LoadSs());
  if (box) Raises(*box, kVectorGeneralProtection, 0, 0);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AnAbsentSegmentIsNp,
                    "Intel SDM volume 3, Interrupt 11-Segment Not Present (#NP): error code with the selector") {
  auto box = Protected(LoadDs(), Descriptor(0, 0xFFFF, kDataWritable & ~kPresent), 0x30);
  if (box) Raises(*box, kNotPresent, 0x30, 0);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AnAbsentStackSegmentIsSs,
                    "Intel SDM volume 3, Interrupt 12-Stack Fault Exception (#SS): a not-present stack segment") {
  auto box = Protected(LoadSs(), Descriptor(0, 0xFFFF, kDataWritable & ~kPresent), 0x30);
  if (box) Raises(*box, kStackFault, 0x30, 0);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, ExecuteOnlyCodeIsNoData, "Intel SDM volume 3, Type Checking") {
  auto box = Protected(LoadDs(), Descriptor(0, 0xFFFF, kCodeExecuteOnly), 0x30);
  if (box) Raises(*box, kVectorGeneralProtection, 0x30, 0);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AReadOnlySegmentIsNoStack, "Intel SDM volume 3, Type Checking") {
  auto box = Protected(LoadSs(), Descriptor(0, 0xFFFF, kDataReadOnly), 0x30);
  if (box) Raises(*box, kVectorGeneralProtection, 0x30, 0);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AStackOfAnotherPrivilegeIsGp,
                    "Intel SDM volume 3, Privilege Level Checking When Loading the SS Register") {
  auto box = Protected(LoadSs(), Descriptor(0, 0xFFFF, kDataWritable | 3ULL << 5), 0x33);
  if (box) Raises(*box, kVectorGeneralProtection, 0x30, 0);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, ALoadSetsTheDescriptorsAccessedBit,
                    "Intel SDM volume 3, Code- and Data-Segment Descriptor Types: accessed bit") {
  auto box = Protected(LoadDs(), Descriptor(0, 0xFFFF, kDataWritable & ~1ULL), 0x30);
  if (!box || !Says(*box)) return;
  EXPECT_EQ(box->Get<std::uint8_t>(Box::kGdt + 0x35), kDataWritable);
}

// Transfers.

NESTBENCH_CONDITION(cpu, ProtectedMode, AFarJumpGoesToTheSegmentsBase, "Intel SDM volume 2, JMP: far jumps") {
  auto box = Protected(FarJump(), Descriptor(Box::kData, 0xFFF, kCode));
  if (!box) return;
  box->Load(SaysAt11(), Box::kData);
  if (!Says(*box, 0x11)) return;
  EXPECT_EQ(box->vcpu().GetSregs()->cs.base, Box::kData);
  EXPECT_EQ(box->vcpu().GetSregs()->cs.selector, 0x30U);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AFarJumpToDataIsGp, "Intel SDM volume 2, JMP: far jumps, #GP(selector)") {
  auto box = Protected(FarJump(), Descriptor(Box::kData, 0xFFF, kDataWritable));
  if (box) Raises(*box, kVectorGeneralProtection, 0x30, 0);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AFarCallPushesTheWayBack, "Intel SDM volume 2, CALL: far calls") {
  auto box = Protected(FarCall(), Descriptor(Box::kData, 0xFFF, kCode));
  if (!box) return;
  box->Load(SaysAt11(), Box::kData);
  if (!Says(*box, 0x11)) return;
  EXPECT_EQ(box->vcpu().GetRegs()->rsp, Box::kStackTop - 8);
  EXPECT_EQ(box->Get<std::uint32_t>(Box::kStackTop - 8), Box::kCode + 7);
  EXPECT_EQ(box->Get<std::uint16_t>(Box::kStackTop - 4), 0x08U);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AFaultAtCpl3ComesToCpl0OnItsStack,
                    "Intel SDM volume 3, Exception- or Interrupt-Handler Procedures: stack switch") {
  auto box = AtCpl3(JustHlt());
  if (!box) return;
  ExpectAtCpl3(*box, kVectorGeneralProtection, 0);
  if (IsSkipped() || HasFailure()) return;
  EXPECT_EQ(box->vcpu().GetRegs()->rsp, Box::kKernelStackTop - 24) << "SS, ESP, EFLAGS, CS, EIP, error code";
  EXPECT_EQ(box->Get<std::uint32_t>(Box::kKernelStackTop - 8), 0xB000U);
  EXPECT_EQ(box->Get<std::uint16_t>(Box::kKernelStackTop - 4), 0x1BU);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AGateOfCpl0IsNotForIntAtCpl3,
                    "Intel SDM volume 3, Protection of Exception- and Interrupt-Handler Procedures; Error Code") {
  auto box = AtCpl3(Int14());
  if (box) ExpectAtCpl3(*box, kVectorGeneralProtection, 0x14 * 8 + 2);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AVectorBeyondTheTableIsGp, "Intel SDM volume 3, Error Code: the IDT flag") {
  auto box = Protected(Int80());
  if (box) Raises(*box, kVectorGeneralProtection, 0x80 * 8 + 2, 0);
}
NESTBENCH_CONDITION(
    cpu, ProtectedMode, ACallGateRaisesPrivilegeAndReturnLowersIt,
    "Intel SDM volume 3, Accessing a Code Segment Through a Call Gate; Returning from a Called Procedure") {
  constexpr std::uint64_t kGate = Box::kFree | 0x08ULL << 16 | kCallGate32AtCpl3 << 40;
  static_assert(Box::kFree == 0x2'0000);  // 64 KiB and more: the upper half of the offset is in the last word
  auto box = AtCpl3(CallGateFromCpl3(), (kGate & ~0x2'0000ULL) | 2ULL << 48 | 0x08ULL << 16);
  if (!box) return;
  box->Load(TellStackAndReturn(), Box::kFree);
  if (!Says(*box, 0x12)) return;
  const auto regs = box->vcpu().GetRegs();
  const auto sregs = box->vcpu().GetSregs();
  EXPECT_EQ(sregs->cs.selector, 0x08U);
  EXPECT_EQ(regs->rsi, Box::kData + 7) << "EIP";
  EXPECT_EQ(regs->rdi & 0xFFFF, 0x33U) << "CS";
  EXPECT_EQ(regs->rcx, 0xB000U) << "ESP";
  EXPECT_EQ(regs->rdx & 0xFFFF, 0x1BU) << "SS";
  // The port is closed for CPL3, so that the fault shows who has returned.
  const auto value = Says(*box, Box::kPanicPort);
  if (!value) return;
  EXPECT_EQ(box->Exception(*value).cs, 0x33U);
}

// Tasks.

NESTBENCH_CONDITION(cpu, ProtectedMode, IretToWhatIsNoTaskIsTs,
                    "Intel SDM volume 3, Interrupt 10-Invalid TSS Exception (#TS); volume 2, IRET: TASK-RETURN") {
  auto box = Protected(IretAsATask());
  if (!box) return;
  box->Put(Box::kTss, std::uint16_t{0x10});  // the previous task link: a data segment
  Raises(*box, kInvalidTss, 0x10, 9);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, AJumpToATaskSavesOneAndLoadsTheOther, "Intel SDM volume 3, Task Switching") {
  constexpr std::uint64_t kTask = Box::kFree;
  auto box = Protected(FarJump(), Descriptor(kTask, 0x67, kTss32), 0x1234);
  if (!box) return;
  box->Load(SaysAt11(), Box::kData);
  box->Put(kTask + 0x20, static_cast<std::uint32_t>(Box::kData));  // EIP
  box->Put(kTask + 0x24, std::uint32_t{2});                        // EFLAGS
  box->Put(kTask + 0x34, std::uint32_t{0x4321});                   // EBX
  box->Put(kTask + 0x38, std::uint32_t{0xB000});                   // ESP
  for (const std::uint64_t data : {0x48, 0x50, 0x54}) box->Put(kTask + data, std::uint32_t{0x10});
  box->Put(kTask + 0x4C, std::uint32_t{0x08});  // CS
  if (!Says(*box, 0x11)) return;
  const auto regs = box->vcpu().GetRegs();
  EXPECT_EQ(regs->rbx, 0x4321U);
  EXPECT_EQ(regs->rsp, 0xB000U);
  EXPECT_EQ(box->Get<std::uint32_t>(Box::kTss + 0x20), Box::kCode + 7) << "EIP of the old task";
  EXPECT_EQ(box->Get<std::uint32_t>(Box::kTss + 0x34), 0x1234U) << "EBX of the old task";
  EXPECT_EQ(box->vcpu().GetSregs()->tr.selector, 0x30U);
  EXPECT_EQ(box->vcpu().GetSregs()->cr0 & 8, 8U) << "CR0.TS";
}

// Instructions that 64-bit mode does not have.

NESTBENCH_CONDITION(cpu, ProtectedMode, AnIndexOutsideItsBoundsIsBr,
                    "Intel SDM volume 3, Interrupt 5-BOUND Range Exceeded Exception (#BR)") {
  auto box = Protected(CheckBound());
  if (!box) return;
  constexpr std::int32_t kBounds[] = {-1, 5};
  box->Put(Box::kData, kBounds);
  Raises(*box, 5, 0, 16);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, IntoIsOfWhenTheFlagIsSet,
                    "Intel SDM volume 3, Interrupt 4-Overflow Exception (#OF): a trap") {
  auto box = Protected(OverflowIn32Bits());
  if (box) Raises(*box, 4, 0, 6);
}
NESTBENCH_CONDITION(cpu, ProtectedMode, CompatibilityModeHas32BitInstructions,
                    "Intel SDM volume 1, IA-32e Mode: compatibility mode; volume 2, REX Prefixes") {
  auto box = Start(BoxMode::kSupervisor64, InCompatibilityMode());
  if (!box) return;
  box->Put(Box::kGdt + 0x30, kDescriptorCode32);
  box->Load(IncIsNoPrefix(), Box::kData);
  const auto value = Says(*box);
  if (value.has_value()) {
    EXPECT_EQ(*value & 0xFF, 2U) << "INC EAX, which is a REX prefix in 64-bit mode";
  }
}

}  // namespace
}  // namespace nestbench::conformance
