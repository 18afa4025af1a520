// What the I/O permission bitmap of the task-state segment opens at CPL3, and nothing else.
#include <cstdint>
#include <cstring>
#include <string>

#include "../harness/box_test.h"

NESTBENCH_GUEST_CODE(SendString,
                     "mov $0x20, %edx\n mov $0xC000, %esi\n mov $4, %ecx\n cld\n rep outsb\n out %al, $0x10")
NESTBENCH_GUEST_CODE(ReceiveString,
                     "mov $0x20, %edx\n mov $0xC000, %edi\n mov $4, %ecx\n cld\n rep insb\n"
                     "out %al, $0x10")
NESTBENCH_GUEST_CODE(SendDwordToTheLastOpenPort, "mov $0x1C, %edx\n out %eax, %dx\n mov $0x1D, %edx\n out %eax, %dx")
NESTBENCH_GUEST_CODE(SendTwice, "out %al, $0x10\n out %al, $0x10\n out %al, $0x11")
NESTBENCH_GUEST_CODE(SendToTheLastPort, "mov $0xFFFF, %edx\n out %al, %dx\n out %ax, %dx")
NESTBENCH_GUEST_CODE(SendToAClosedPort, "out %al, $0x20\n out %al, $0x10")
NESTBENCH_GUEST_CODE(SendToAClosedPortForEver, "1: out %al, $0x20\n jmp 1b")
NESTBENCH_GUEST_CODE(ClearInterrupts, "cli\n out %al, $0x10")

namespace nestbench::conformance {
namespace {

using namespace abi::x86;

class Ports : public CodeTest {
 protected:
  static constexpr std::uint64_t kBitmap = Box::kTss + kTssBytes;

  std::optional<Box> AtCpl3(std::span<const std::byte> code) { return Start(BoxMode::kUser64, code); }

  static void SetTssLimit(Box& box, std::uint32_t limit) {
    auto sregs = box.vcpu().GetSregs();
    ASSERT_TRUE(sregs);
    sregs->tr.type = TaskStateType();  // KVM says of an available one that it is busy
    sregs->tr.limit = limit;
    ASSERT_TRUE(box.vcpu().SetSregs(*sregs));
  }
  static void SetIopl3(Box& box) {
    auto regs = box.vcpu().GetRegs();
    ASSERT_TRUE(regs);
    regs->rflags |= 3U << 12;
    ASSERT_TRUE(box.vcpu().SetRegs(*regs));
  }
};

NESTBENCH_CONDITION(isolation, Ports, AStringToAClosedPortIsGpAndCarriesNothing,
                    "Intel SDM volume 1, I/O Permission Bit Map: IN, INS, OUT and OUTS") {
  auto box = AtCpl3(SendString());
  if (!box) return;
  Raises(*box, kVectorGeneralProtection, 0, 16);
  EXPECT_EQ(box->vcpu().GetRegs()->rcx, 4U);
}
NESTBENCH_CONDITION(isolation, Ports, AStringFromAClosedPortIsGpAndBringsNothing,
                    "Intel SDM volume 1, I/O Permission Bit Map: IN, INS, OUT and OUTS") {
  auto box = AtCpl3(ReceiveString());
  if (!box) return;
  box->Put(Box::kData, std::uint32_t{0x1234'5678});
  Raises(*box, kVectorGeneralProtection, 0, 16);
  EXPECT_EQ(box->Get<std::uint32_t>(Box::kData), 0x1234'5678U);
}
NESTBENCH_CONDITION(isolation, Ports, EveryByteOfAnAccessMustBeOpen,
                    "Intel SDM volume 1, I/O Permission Bit Map: doubleword access tests the four bits") {
  auto box = AtCpl3(SendDwordToTheLastOpenPort());  // 1CH to 1FH are open, 20H is not
  if (!box || !Says(*box, 0x1C)) return;
  Raises(*box, kVectorGeneralProtection, 0, 11);
}
NESTBENCH_CONDITION(isolation, Ports, TheBitmapIsReadAtEachAccess, "Intel SDM volume 1, I/O Permission Bit Map") {
  auto box = AtCpl3(SendTwice());
  if (!box || !Says(*box)) return;
  box->Put(kBitmap + 2, std::uint8_t{0x01});  // closes 10H
  Raises(*box, kVectorGeneralProtection, 0, 2);
}
NESTBENCH_CONDITION(isolation, Ports, WhatLiesBehindTheTssLimitIsClosed,
                    "Intel SDM volume 1, I/O Permission Bit Map: I/O ports beyond the TSS limit") {
  auto box = AtCpl3(SendTwice());
  if (!box) return;
  SetTssLimit(*box, kTssBytes + 1);  // the bits of 0 to 0FH
  Raises(*box, kVectorGeneralProtection, 0, 0);
}
NESTBENCH_CONDITION(isolation, Ports, ABitmapBehindTheTssLimitOpensNothing,
                    "Intel SDM volume 1, I/O Permission Bit Map: base address at or beyond the TSS segment limit") {
  auto box = AtCpl3(SendTwice());
  if (!box) return;
  box->Put(Box::kTss + kTssIoMapBaseOffset, std::uint16_t{0xFFFF});
  Raises(*box, kVectorGeneralProtection, 0, 0);
}
NESTBENCH_CONDITION(isolation, Ports, AWordAtTheLastPortNeedsTheByteBehindTheBitmap,
                    "Intel SDM volume 1, I/O Permission Bit Map: the byte after the last must be all ones") {
  auto box = AtCpl3(SendToTheLastPort());
  if (!box) return;
  box->Put(kBitmap + kIoPermissionBitmapBytes - 1, std::uint8_t{0x7F});
  if (!Says(*box, 0xFFFF)) return;
  Raises(*box, kVectorGeneralProtection, 0, 6);
}
NESTBENCH_CONDITION(isolation, Ports, TheBitmapOfOneVmDoesNotOpenAnothers,
                    "Intel SDM volume 1, I/O Permission Bit Map: of the current task's TSS") {
  auto open = AtCpl3(SendToAClosedPortForEver());
  if (!open) return;
  open->Put(kBitmap + 4, std::uint8_t{0});
  for (int round = 0; round < 5; ++round) {
    // A guest that has come to its stub is at CPL0: another one is needed each time.
    auto closed = AtCpl3(SendToAClosedPortForEver());
    if (!closed || !Says(*open, 0x20)) return;
    Raises(*closed, kVectorGeneralProtection, 0, 0);
  }
}
NESTBENCH_CONDITION(isolation, Ports, AnIoplOfThreeOpensEveryPort, "Intel SDM volume 1, I/O Privilege Level") {
  auto box = AtCpl3(SendToAClosedPort());
  if (!box) return;
  SetIopl3(*box);
  Says(*box, 0x20);
}
NESTBENCH_CONDITION(isolation, Ports, AnIoplOfThreeAllowsCliWhichIopl0DoesNot,
                    "Intel SDM volume 2, CLI: IOPL and CPL") {
  auto box = AtCpl3(ClearInterrupts());
  if (!box) return;
  Raises(*box, kVectorGeneralProtection, 0, 0);
  auto other = AtCpl3(ClearInterrupts());
  if (!other) return;
  SetIopl3(*other);
  Says(*other);
}

}  // namespace
}  // namespace nestbench::conformance
