// Events that L1 injects into L2, and what it learns of those whose delivery is interrupted by an exit. Source: Intel
// SDM volume 3, chapter "VM Entries", section "Event Injection", and chapter "VM Exits", section "Information for VM
// Exits During Event Delivery".
#include <cstdint>
#include <cstring>
#include <initializer_list>

#include "vmx_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::vmx;

class VmxEvents : public VmxTest {
 protected:
  static constexpr std::uint8_t kInterruptVector = 24;  // one of the stubs that has no error code

  // L2 takes the event through its interrupt table; the frame that its stub left.
  void ExpectDelivered(std::uint32_t event, std::uint64_t vector, std::uint64_t error, std::uint64_t rip) {
    SetField(kEntryEvent, event | kEventValid);
    LoadL2({0x90, 0xF4});
    if (!EnterVmx()) return;
    Start({Op::kVmlaunch});
    const auto exception = NextException();
    if (!exception) return;
    EXPECT_EQ(exception->vector, vector);
    EXPECT_EQ(exception->error, error);
    EXPECT_EQ(exception->rip, rip);
    ASSERT_TRUE(Done());  // the stub returns, and L2 goes on to its HLT
    EXPECT_EQ(Read(kExitReason), kReasonHlt);
    EXPECT_EQ(Read(kEntryEvent) & kEventValid, 0U) << "an exit clears the event";
  }
};

NESTBENCH_CONDITION(nested_vmx, VmxEvents, AnExceptionIsDelivered, "Intel SDM volume 3, Event Injection") {
  ExpectDelivered(abi::x86::kVectorInvalidOpcode | kEventException, abi::x86::kVectorInvalidOpcode, 0, kL2Code);
}
NESTBENCH_CONDITION(nested_vmx, VmxEvents, AnExceptionIsDeliveredWithItsErrorCode,
                    "Intel SDM volume 3, Event Injection: deliver error code") {
  SetField(kEntryEventError, 0x18);
  ExpectDelivered(abi::x86::kVectorGeneralProtection | kEventException | kEventHasErrorCode,
                  abi::x86::kVectorGeneralProtection, 0x18, kL2Code);
}
NESTBENCH_CONDITION(nested_vmx, VmxEvents, APageFaultIsDeliveredWithTheCr2ThatL1Loaded,
                    "Intel SDM volume 3, Event Injection: CR2 is not changed") {
  SetField(kEntryEventError, 2);
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->cr2 = 0x1234'5000;
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  SetField(kEntryEvent, abi::x86::kVectorPageFault | kEventException | kEventHasErrorCode | kEventValid);
  if (!EnterVmx()) return;
  Start({Op::kVmlaunch});
  const auto exception = NextException();
  if (!exception) return;
  EXPECT_EQ(exception->vector, abi::x86::kVectorPageFault);
  EXPECT_EQ(exception->error, 2U);
  EXPECT_EQ(exception->cr2, 0x1234'5000U);
}
NESTBENCH_CONDITION(nested_vmx, VmxEvents, AnInterruptIsDelivered, "Intel SDM volume 3, Event Injection") {
  SetField(kGuestRflags, abi::x86::kRflagsReserved1 | abi::x86::kRflagsInterrupts);
  ExpectDelivered(kInterruptVector | kEventInterrupt, kInterruptVector, 0, kL2Code);
}
NESTBENCH_CONDITION(nested_vmx, VmxEvents, AnNmiIsDelivered, "Intel SDM volume 3, Event Injection: NMI") {
  ExpectDelivered(2 | kEventNmi, 2, 0, kL2Code);
}
NESTBENCH_CONDITION(nested_vmx, VmxEvents, ASoftwareInterruptReturnsBehindItsInstruction,
                    "Intel SDM volume 3, Event Injection: VM-entry instruction length") {
  SetField(kEntryInstructionBytes, 1);
  ExpectDelivered(abi::x86::kVectorBreakpoint | kEventSoftwareException, abi::x86::kVectorBreakpoint, 0, kL2Code + 1);
}
NESTBENCH_CONDITION(nested_vmx, VmxEvents, AnInjectedExceptionIsNotIntercepted,
                    "Intel SDM volume 3, Event Injection: the exception bitmap does not apply") {
  SetField(kExceptionBitmap, 1U << abi::x86::kVectorInvalidOpcode);
  ExpectDelivered(abi::x86::kVectorInvalidOpcode | kEventException, abi::x86::kVectorInvalidOpcode, 0, kL2Code);
}
NESTBENCH_CONDITION(nested_vmx, VmxEvents, AnEventWhoseDeliveryFaultsIsTold,
                    "Intel SDM volume 3, Information for VM Exits During Event Delivery: IDT-vectoring information") {
  SetField(kExceptionBitmap, 1U << abi::x86::kVectorGeneralProtection);
  SetField(kGuestIdtrLimit, 0);
  const std::uint32_t event = abi::x86::kVectorInvalidOpcode | kEventException | kEventValid;
  SetField(kEntryEvent, event);
  ExpectExit(kReasonException);
  if (IsOver()) return;
  EXPECT_EQ(Read(kExitEvent) & kEventVectorMask, abi::x86::kVectorGeneralProtection);
  EXPECT_EQ(Read(kDeliveredEvent), event);
}
NESTBENCH_CONDITION(nested_vmx, VmxEvents, AnEventWhoseDeliveryViolatesEptIsTold,
                    "Intel SDM volume 3, Information for VM Exits During Event Delivery: EPT violation") {
  if (LacksEpt()) return;
  Ept(3) = 0;
  SetField(kGuestIdtrBase, 0x60'0000);
  const std::uint32_t event = abi::x86::kVectorInvalidOpcode | kEventException | kEventValid;
  SetField(kEntryEvent, event);
  ExpectExit(kReasonEptViolation);
  if (IsOver()) return;
  EXPECT_EQ(Read(kDeliveredEvent), event);
}
NESTBENCH_CONDITION(nested_vmx, VmxEvents, AnExitWithoutAnEventTellsNone,
                    "Intel SDM volume 3, Information for VM Exits During Event Delivery: valid bit") {
  ExpectExit(kReasonHlt);
  if (IsOver()) return;
  EXPECT_EQ(Read(kDeliveredEvent) & kEventValid, 0U);
}
NESTBENCH_CONDITION(nested_vmx, VmxEvents, AnEventWakesAHaltedGuest,
                    "Intel SDM volume 3, Activity State: an injected event makes it active") {
  SetField(kGuestActivity, 1);
  SetField(kGuestRflags, abi::x86::kRflagsReserved1 | abi::x86::kRflagsInterrupts);
  ExpectDelivered(kInterruptVector | kEventInterrupt, kInterruptVector, 0, kL2Code);
}
NESTBENCH_CONDITION(nested_vmx, VmxEvents, AnNmiBlocksNmisUntilIret,
                    "Intel SDM volume 3, Guest Non-Register State: blocking by NMI") {
  if (LacksControls(kPinControls, kPinNmi | kPinVirtualNmis, "virtual NMIs")) return;
  SetField(kEntryEvent, 2 | kEventNmi | kEventValid);
  SetField(kExceptionBitmap, 1U << abi::x86::kVectorInvalidOpcode);
  // The stub of NMIs is a UD2 instead, so that L2 leaves before its IRET.
  const auto stub = static_cast<std::uint64_t>(0x6000 + 2 * 16);
  const std::uint8_t ud2[] = {0x0F, 0x0B};
  std::memcpy(&Word(stub), ud2, sizeof(ud2));
  ExpectExit(kReasonException);
  if (IsOver()) return;
  EXPECT_EQ(Read(kGuestInterruptibility) & 1U << 3, 1U << 3);
}

}  // namespace
}  // namespace nestbench::conformance
