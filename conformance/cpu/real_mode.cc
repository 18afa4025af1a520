// Real mode: addresses, segments' ends, the interrupt vector table, and the way out of it.
#include <string>

#include "../harness/box_test.h"

NESTBENCH_GUEST_CODE(StoreThroughDs, ".code16\n mov $0x0C05, %ax\n mov %ax, %ds\n movb $0x5A, 0x10\n out %al, $0x10")
NESTBENCH_GUEST_CODE(ReadAtTheEnd, ".code16\n mov 0xFFFF, %al\n mov 0xFFFF, %ax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(ReadAtTheStacksEnd,
                     ".code16\n mov $0xFFFF, %bx\n mov %ss:(%bx), %al\n mov %ss:(%bx), %ax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(ReadFarBehindTheEnd, ".code16\n mov $0x10000, %ebx\n mov (%ebx), %al\n out %al, $0x10")
NESTBENCH_GUEST_CODE(WrapInsideTheSegment,
                     ".code16\n mov $0x0C00, %ax\n mov %ax, %ds\n mov $0xFFFF, %bx\n mov 2(%bx), %al\n out %al, $0x10")
NESTBENCH_GUEST_CODE(ReadAboveOneMebibyte, ".code16\n mov $0xFFFF, %ax\n mov %ax, %ds\n mov 0x10, %al\n out %al, $0x10")
NESTBENCH_GUEST_CODE(CallInterrupt40, ".code16\n sti\n int $0x40\n pushf\n pop %cx\n out %al, $0x10")
NESTBENCH_GUEST_CODE(TellFlagsAndReturn, ".code16\n pushf\n pop %bx\n mov $0x33, %al\n iret")
NESTBENCH_GUEST_CODE(DivideByZero16, ".code16\n xor %cx, %cx\n div %cx\n out %al, $0x10")
NESTBENCH_GUEST_CODE(OverflowInRealMode, ".code16\n mov $0x7F, %al\n into\n add $1, %al\n into\n out %al, $0x10")
NESTBENCH_GUEST_CODE(StoreLdtr, ".code16\n sldt %ax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(WideOperand, ".code16\n mov $0x12345678, %eax\n out %eax, $0x10")
NESTBENCH_GUEST_CODE(FarCallAndReturn, ".code16\n lcall $0x0C00, $0x20\n out %al, $0x10")
// From the mode after reset to 64-bit mode, by itself: GDT at 0x1000, page tables at 0x10000.
NESTBENCH_GUEST_CODE(IntoLongMode,
                     ".code16\n 0: cli\n lgdtl 0xC000\n mov %cr0, %eax\n or $1, %eax\n mov %eax, %cr0\n"
                     "ljmpl $0x08, $(0x8000 + 1f - 0b)\n"
                     ".code32\n 1: mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %ss\n mov $0x32, %al\n out %al, $0x10\n"
                     "mov %cr4, %eax\n or $0x20, %eax\n mov %eax, %cr4\n mov $0x10000, %eax\n mov %eax, %cr3\n"
                     "mov $0xC0000080, %ecx\n rdmsr\n or $0x100, %eax\n wrmsr\n mov %cr0, %eax\n or $0x80000000, %eax\n"
                     "mov %eax, %cr0\n ljmp $0x18, $(0x8000 + 2f - 0b)\n"
                     ".code64\n 2: mov $0x123456789ABCDEF0, %rax\n shr $32, %rax\n out %eax, $0x11\n"
                     "mov $0xC0000080, %ecx\n rdmsr\n out %eax, $0x12\n hlt")
NESTBENCH_GUEST_CODE(IntoProtectedModeAndBack,
                     ".code16\n 0: lgdtl 0xC000\n mov %cr0, %eax\n or $1, %al\n mov %eax, %cr0\n"
                     "mov $0x20, %bx\n mov %bx, %ds\n movb $0x77, 0x10\n and $0xFE, %al\n mov %eax, %cr0\n"
                     "ljmp $0, $(0x8000 + 1f - 0b)\n 1: xor %ax, %ax\n mov %ax, %ds\n movb $0x66, 0xC020\n"
                     "out %al, $0x10")

namespace nestbench::conformance {
namespace {

using namespace abi::x86;

class RealMode : public CodeTest {
 protected:
  std::optional<Box> Real(std::span<const std::byte> code) { return Start(BoxMode::kReal16, code); }

  // What LGDT at kData reads: flat code of 32 bits, data, code of 64 bits, and data at kData + 0x100.
  static void GiveTables(Box& box) {
    const std::uint64_t gdt[] = {0, kDescriptorCode32, kDescriptorData, kDescriptorCode64, 0x0000'9300'C100'FFFF};
    box.Put(Box::kGdt, gdt);
    box.Put(Box::kData, std::uint16_t{sizeof(gdt) - 1});
    box.Put(Box::kData + 2, static_cast<std::uint32_t>(Box::kGdt));
    constexpr std::uint64_t kFlags = kPtePresent | kPteWritable;
    box.Put(Box::kTables, (Box::kTables + 0x1000) | kFlags);
    box.Put(Box::kTables + 0x1000, (Box::kTables + 0x2000) | kFlags);
    box.Put(Box::kTables + 0x2000, kPteLarge | kFlags);
  }
};

NESTBENCH_CONDITION(cpu, RealMode, ASegmentBeginsAtSixteenTimesItsSelector,
                    "Intel SDM volume 3, Address Translation in Real-Address Mode") {
  auto box = Real(StoreThroughDs());
  if (!box || !Says(*box)) return;
  EXPECT_EQ(box->Get<std::uint8_t>(0xC060), 0x5A);
  EXPECT_EQ(box->vcpu().GetSregs()->ds.base, 0xC050U);
}

NESTBENCH_CONDITION(cpu, RealMode, AWordAcrossTheSegmentsEndIsGp,
                    "Intel SDM volume 2, MOV: Real-Address Mode Exceptions, #GP outside the segment limit") {
  auto box = Real(ReadAtTheEnd());
  if (box) Raises(*box, kVectorGeneralProtection, 0, 3);
}

NESTBENCH_CONDITION(cpu, RealMode, AWordAcrossTheStackSegmentsEndIsSs,
                    "Intel SDM volume 2, MOV: Real-Address Mode Exceptions, #SS outside the SS segment limit") {
  auto box = Real(ReadAtTheStacksEnd());
  if (box) Raises(*box, 12, 0, 6);
}

NESTBENCH_CONDITION(cpu, RealMode, A32BitAddressBehindTheSegmentsEndIsGp,
                    "Intel SDM volume 3, Address Translation in Real-Address Mode: 32-bit offsets above FFFFH") {
  auto box = Real(ReadFarBehindTheEnd());
  if (box) Raises(*box, kVectorGeneralProtection, 0, 6);
}

NESTBENCH_CONDITION(cpu, RealMode, A16BitOffsetWrapsInsideItsSegment,
                    "Intel SDM volume 3, Address Translation in Real-Address Mode: 16-bit effective address") {
  auto box = Real(WrapInsideTheSegment());
  if (!box) return;
  box->Put(0xC001, std::uint8_t{0x5B});
  ExpectSays(*box, 0x5B);
}

NESTBENCH_CONDITION(cpu, RealMode, TheLastSegmentReachesAboveOneMebibyte,
                    "Intel SDM volume 3, Address Translation in Real-Address Mode: 10FFEFH") {
  auto box = Real(ReadAboveOneMebibyte());
  if (!box) return;
  const auto exit = box->Run();
  ASSERT_TRUE(exit) << exit.error().ToString();
  const auto* mmio = std::get_if<vmm::MmioExit>(&*exit);
  ASSERT_NE(mmio, nullptr) << vmm::ToString(*exit);
  EXPECT_EQ(mmio->address.value(), 0x10'0000U);
}

NESTBENCH_CONDITION(cpu, RealMode, IntGoesThroughTheVectorTableAndIretComesBack,
                    "Intel SDM volume 3, Interrupt and Exception Handling (8086 emulation); volume 2, INT n, IRET") {
  auto box = Real(CallInterrupt40());
  if (!box) return;
  box->Load(TellFlagsAndReturn(), Box::kData);
  box->Put(0x40 * 4, std::uint32_t{0x0C00} << 16);
  const auto value = Says(*box);
  if (!value) return;
  EXPECT_EQ(*value, 0x33U);
  const auto regs = box->vcpu().GetRegs();
  EXPECT_EQ(regs->rbx & 0x200, 0U) << "IF in the handler";
  EXPECT_EQ(regs->rcx & 0x200, 0x200U) << "IF after IRET";
  EXPECT_EQ(regs->rsp, Box::kStackTop);
}

NESTBENCH_CONDITION(cpu, RealMode, DivisionByZeroIsDe, "Intel SDM volume 2, DIV: Real-Address Mode Exceptions") {
  auto box = Real(DivideByZero16());
  if (box) Raises(*box, kVectorDivide, 0, 2);
}

NESTBENCH_CONDITION(cpu, RealMode, IntoIsOfWhenTheFlagIsSet,
                    "Intel SDM volume 3, Interrupt 4-Overflow Exception (#OF): a trap") {
  auto box = Real(OverflowInRealMode());
  if (box) Raises(*box, 4, 0, 6);
}

NESTBENCH_CONDITION(cpu, RealMode, SldtIsUd, "Intel SDM volume 2, SLDT: Real-Address Mode Exceptions") {
  auto box = Real(StoreLdtr());
  if (box) Raises(*box, kVectorInvalidOpcode, 0, 0);
}

NESTBENCH_CONDITION(cpu, RealMode, APrefixMakesAnOperand32BitsWide,
                    "Intel SDM volume 3, Registers Supported in Real-Address Mode: operand-size override prefix") {
  auto box = Real(WideOperand());
  if (!box) return;
  ExpectSays(*box, 0x1234'5678);
}

NESTBENCH_CONDITION(cpu, RealMode, AFarCallLoadsTheSegmentAndComesBack,
                    "Intel SDM volume 2, CALL: far calls in real-address mode") {
  auto box = Real(FarCallAndReturn());
  if (!box) return;
  constexpr std::uint8_t kCallee[] = {0xB0, 0x44, 0xCB};  // mov al, 0x44; lret
  box->Put(0xC020, kCallee);
  const auto value = Says(*box);
  if (!value) return;
  EXPECT_EQ(*value, 0x44U);
  EXPECT_EQ(box->vcpu().GetSregs()->cs.base, 0U);
}

NESTBENCH_CONDITION(cpu, RealMode, TheGuestSwitchesToProtectedAndTo64BitMode,
                    "Intel SDM volume 3, Switching to Protected Mode; Initializing IA-32e Mode") {
  auto box = Real(IntoLongMode());
  if (!box) return;
  GiveTables(*box);
  const auto in_protected_mode = Says(*box, 0x10);
  if (!in_protected_mode) return;
  EXPECT_EQ(*in_protected_mode & 0xFF, 0x32U);
  const auto in_long_mode = Says(*box, 0x11);
  if (!in_long_mode) return;
  EXPECT_EQ(*in_long_mode, 0x1234'5678U) << "the upper half of a 64-bit register";
  const auto efer = Says(*box, 0x12);
  constexpr std::uint64_t kLongMode = kEferLongModeEnable | kEferLongModeActive;
  if (efer) {
    EXPECT_EQ(*efer & kLongMode, kLongMode);
  }
}

NESTBENCH_CONDITION(cpu, RealMode, TheGuestGoesToProtectedModeAndComesBack,
                    "Intel SDM volume 3, Switching to Protected Mode; Switching Back to Real-Address Mode") {
  auto box = Real(IntoProtectedModeAndBack());
  if (!box) return;
  GiveTables(*box);
  if (!Says(*box)) return;
  EXPECT_EQ(box->Get<std::uint8_t>(0xC110), 0x77) << "through a descriptor";
  EXPECT_EQ(box->Get<std::uint8_t>(0xC020), 0x66) << "through segment 0 again";
}

}  // namespace
}  // namespace nestbench::conformance
