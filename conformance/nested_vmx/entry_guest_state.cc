// Guest state that makes a VM entry fail. Source: Intel SDM volume 3, chapter "VM Entries", section "Checks on the
// Guest State Area" and the exits that it describes in "VM-Entry Failures During or After Loading Guest State".
#include "vmx_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::vmx;

class VmxGuestStateCheck : public VmxTest {
 protected:
  void ExpectRefused(std::uint32_t field, std::uint64_t value) {
    SetField(field, value);
    ExpectGuestStateRefused();
  }
};

NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesPagingWithoutProtection,
                    "Intel SDM volume 3, Checks on Guest Control Registers: CR0.PG and CR0.PE") {
  ExpectRefused(kGuestCr0, Field(kGuestCr0) & ~abi::x86::kCr0ProtectedMode);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesCr0WithoutNumericError,
                    "Intel SDM volume 3, Checks on Guest Control Registers: bits of CR0 fixed to 1") {
  ExpectRefused(kGuestCr0, Field(kGuestCr0) & ~abi::x86::kCr0NumericError);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesCr4WithoutVmxe,
                    "Intel SDM volume 3, Checks on Guest Control Registers: bits of CR4 fixed to 1") {
  ExpectRefused(kGuestCr4, Field(kGuestCr4) & ~kCr4Vmxe);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesReservedBitsOfCr4,
                    "Intel SDM volume 3, Checks on Guest Control Registers: bits of CR4 fixed to 0") {
  ExpectRefused(kGuestCr4, Field(kGuestCr4) | 1ULL << 31);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesA64BitGuestWithoutPae,
                    "Intel SDM volume 3, Checks on Guest Control Registers: IA-32e mode guest and CR4.PAE") {
  ExpectRefused(kGuestCr4, Field(kGuestCr4) & ~abi::x86::kCr4Pae);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesCr3BeyondThePhysicalAddresses,
                    "Intel SDM volume 3, Checks on Guest Control Registers: CR3, bits above the physical width") {
  ExpectRefused(kGuestCr3, Field(kGuestCr3) | kNowhere);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesTheUpperHalfOfDr7,
                    "Intel SDM volume 3, Checks on Guest Control Registers: DR7[63:32]") {
  if (LacksControls(kEntryControls, kEntryLoadDebug, "loading debug controls")) return;
  ExpectRefused(kGuestDr7, 0x400 | 1ULL << 32);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesReservedBitsOfDebugCtl,
                    "Intel SDM volume 3, Checks on Guest Control Registers: reserved bits of IA32_DEBUGCTL") {
  if (LacksControls(kEntryControls, kEntryLoadDebug, "loading debug controls")) return;
  ExpectRefused(kGuestDebugControl, 1ULL << 20);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesASysenterEntryThatIsNotCanonical,
                    "Intel SDM volume 3, Checks on Guest Control Registers: IA32_SYSENTER_EIP") {
  ExpectRefused(kGuestSysenterEip, kNowhere);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesAReservedMemoryTypeInPat,
                    "Intel SDM volume 3, Checks on Guest Control Registers: the bytes of IA32_PAT") {
  if (LacksControls(kEntryControls, kEntryLoadPat, "loading the PAT at entries")) return;
  ExpectRefused(kGuestPat, 2);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesReservedBitsOfEfer,
                    "Intel SDM volume 3, Checks on Guest Control Registers: reserved bits of IA32_EFER") {
  ExpectRefused(kGuestEfer, Field(kGuestEfer) | 1ULL << 63);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesEferOfAnotherMode,
                    "Intel SDM volume 3, Checks on Guest Control Registers: EFER.LMA and IA-32e mode guest") {
  ExpectRefused(kGuestEfer, Field(kGuestEfer) & ~abi::x86::kEferLongModeActive);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesATaskThatIsNotBusy,
                    "Intel SDM volume 3, Checks on Guest Segment Registers: type of TR") {
  ExpectRefused(kGuestTrAccess, 0x89);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesAnUnusableTaskRegister,
                    "Intel SDM volume 3, Checks on Guest Segment Registers: TR is usable") {
  ExpectRefused(kGuestTrAccess, Field(kGuestTrAccess) | kAccessUnusable);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesATaskOfALocalTable,
                    "Intel SDM volume 3, Checks on Guest Segment Registers: TI flag of TR") {
  ExpectRefused(kGuestTrSelector, Field(kGuestTrSelector) | 4);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesACodeSegmentOfTwoSizes,
                    "Intel SDM volume 3, Checks on Guest Segment Registers: CS, L and D/B") {
  ExpectRefused(kGuestCsAccess, Field(kGuestCsAccess) | 1U << 14);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesACodeSegmentThatIsNotPresent,
                    "Intel SDM volume 3, Checks on Guest Segment Registers: CS, P") {
  ExpectRefused(kGuestCsAccess, Field(kGuestCsAccess) & ~(1ULL << 7));
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesACodeSegmentOfASystemType,
                    "Intel SDM volume 3, Checks on Guest Segment Registers: CS, S") {
  ExpectRefused(kGuestCsAccess, Field(kGuestCsAccess) & ~(1ULL << 4));
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesReservedAccessRights,
                    "Intel SDM volume 3, Checks on Guest Segment Registers: reserved bits 11:8 of the access rights") {
  // Some processors do not take such bits from VMWRITE, and KVM is as they are: arch/x86/kvm/vmx/nested.c,
  // handle_vmwrite.
  AddBits(kGuestCsAccess, 1U << 8);
  if (!EnterVmx()) return;
  const bool is_kept = (Read(kGuestCsAccess) & 1U << 8) != 0;
  Evidence("kept by VMWRITE", is_kept ? "yes" : "no");
  Expect(Ending::kExited, {Op::kVmlaunch});
  if (IsOver()) return;
  EXPECT_EQ(Read(kExitReason), is_kept ? kReasonInvalidGuestState | kReasonEntryFailed : kReasonHlt);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesALimitThatItsGranularityCannotHave,
                    "Intel SDM volume 3, Checks on Guest Segment Registers: G and bits 31:20 and 11:0 of the limit") {
  ExpectRefused(kGuestCsLimit, 0xFFF0'0000);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesAStackOfAnotherPrivilege,
                    "Intel SDM volume 3, Checks on Guest Segment Registers: RPL of SS and of CS") {
  ExpectRefused(kGuestSsSelector, Field(kGuestSsSelector) | 3);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesAStackOfCode,
                    "Intel SDM volume 3, Checks on Guest Segment Registers: type of SS") {
  ExpectRefused(kGuestSsAccess, (Field(kGuestSsAccess) & ~0xFULL) | 0xB);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesATaskBaseThatIsNotCanonical,
                    "Intel SDM volume 3, Checks on Guest Segment Registers: base of TR is canonical") {
  ExpectRefused(kGuestTrBase, kNowhere);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesAGlobalTableThatIsNotCanonical,
                    "Intel SDM volume 3, Checks on Guest Descriptor-Table Registers: base of GDTR") {
  ExpectRefused(kGuestGdtrBase, kNowhere);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesAnInterruptTableThatIsNotCanonical,
                    "Intel SDM volume 3, Checks on Guest Descriptor-Table Registers: base of IDTR") {
  ExpectRefused(kGuestIdtrBase, kNowhere);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesATableLimitAbove16Bits,
                    "Intel SDM volume 3, Checks on Guest Descriptor-Table Registers: bits 31:16 of the limits") {
  ExpectRefused(kGuestIdtrLimit, 0x1'0000);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesAnInstructionPointerThatIsNotCanonical,
                    "Intel SDM volume 3, Checks on Guest RIP, RFLAGS, and SSP: RIP") {
  ExpectRefused(kGuestRip, kNowhere);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesFlagsWithoutTheBitThatIsOne,
                    "Intel SDM volume 3, Checks on Guest RIP, RFLAGS, and SSP: bit 1 of RFLAGS") {
  ExpectRefused(kGuestRflags, 0);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesReservedFlags,
                    "Intel SDM volume 3, Checks on Guest RIP, RFLAGS, and SSP: bits 63:22 of RFLAGS") {
  ExpectRefused(kGuestRflags, 2 | 1U << 22);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesVirtual8086Of64Bits,
                    "Intel SDM volume 3, Checks on Guest RIP, RFLAGS, and SSP: VM flag and IA-32e mode guest") {
  ExpectRefused(kGuestRflags, 2 | 1U << 17);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesAnInterruptWhileTheFlagIsClear,
                    "Intel SDM volume 3, Checks on Guest RIP, RFLAGS, and SSP: IF and an external interrupt") {
  ExpectRefused(kEntryEvent, 0x40 | kEventInterrupt | kEventValid);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesAnUnknownActivity,
                    "Intel SDM volume 3, Checks on Guest Non-Register State: activity state") {
  ExpectRefused(kGuestActivity, 4);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesHaltBehindStiOrMovSs,
                    "Intel SDM volume 3, Checks on Guest Non-Register State: active state while blocked by STI") {
  SetField(kGuestRflags, abi::x86::kRflagsReserved1 | abi::x86::kRflagsInterrupts);
  SetField(kGuestInterruptibility, 1);
  ExpectRefused(kGuestActivity, 1);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesReservedInterruptibility,
                    "Intel SDM volume 3, Checks on Guest Non-Register State: reserved bits 31:5") {
  ExpectRefused(kGuestInterruptibility, 1U << 10);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesBlockingByStiAndByMovSs,
                    "Intel SDM volume 3, Checks on Guest Non-Register State: blocking by STI and by MOV SS") {
  SetField(kGuestRflags, abi::x86::kRflagsReserved1 | abi::x86::kRflagsInterrupts);
  ExpectRefused(kGuestInterruptibility, 3);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesBlockingByStiWithoutInterrupts,
                    "Intel SDM volume 3, Checks on Guest Non-Register State: blocking by STI and the IF flag") {
  ExpectRefused(kGuestInterruptibility, 1);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesReservedPendingDebugExceptions,
                    "Intel SDM volume 3, Checks on Guest Non-Register State: reserved bits 11:4") {
  ExpectRefused(kGuestPendingDebug, 1U << 5);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesALinkPointerThatIsNoPage,
                    "Intel SDM volume 3, Checks on Guest Non-Register State: VMCS link pointer, bits 11:0") {
  ExpectRefused(kVmcsLinkPointer, kScratch + 1);
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, RefusesToLoadAnMsrOfAddresses,
                    "Intel SDM volume 3, Loading MSRs: IA32_FS_BASE is not loaded from the list") {
  SetField(kEntryMsrLoadCount, 1);
  SetField(kEntryMsrLoadAddress, kScratch);
  Word(kScratch) = 0xC000'0100;
  Word(kScratch + 8) = 0;
  if (!EnterVmx()) return;
  Expect(Ending::kExited, {Op::kVmlaunch});
  if (IsOver()) return;
  EXPECT_EQ(Read(kExitReason), kReasonMsrLoading | kReasonEntryFailed);
  EXPECT_EQ(Read(kExitQualification), 1U) << "the entry of the list";
}
NESTBENCH_CONDITION(nested_vmx, VmxGuestStateCheck, LoadsTheMsrsOfTheList,
                    "Intel SDM volume 3, Loading MSRs: in their order") {
  constexpr std::uint32_t kKernelGsBase = 0xC000'0102;
  SetField(kEntryMsrLoadCount, 1);
  SetField(kEntryMsrLoadAddress, kScratch);
  Word(kScratch) = kKernelGsBase;
  Word(kScratch + 8) = 0x1234'5000;
  SetField(kExitMsrStoreCount, 1);
  SetField(kExitMsrStoreAddress, kScratch + 0x100);
  Word(kScratch + 0x100) = kKernelGsBase;
  Word(kScratch + 0x108) = 1;
  ExpectExitAt(kReasonHlt, 0, {0xF4});
  EXPECT_EQ(Word(kScratch + 0x108), 0x1234'5000U) << "stored at the exit";
}

}  // namespace
}  // namespace nestbench::conformance
