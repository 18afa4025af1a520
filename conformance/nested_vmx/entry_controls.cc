// Controls and host state that VMLAUNCH refuses. Source: Intel SDM volume 3, chapter "VM Entries", sections "Checks on
// VMX Controls" and "Checks on Host Control Registers, MSRs, and SSP" to "Checks Related to Address-Space Size".
#include "vmx_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::vmx;

class VmxControlsCheck : public VmxTest {
 protected:
  // A bit that must be one is zero, and one that must be zero is one. Where there is no such bit, nothing to refuse.
  void ExpectFixedBitsHold(std::uint32_t field, std::uint64_t allowed) {
    const auto must = static_cast<std::uint32_t>(allowed);
    const auto never = ~static_cast<std::uint32_t>(allowed >> 32);
    const std::uint64_t legal = Field(field);
    if (must != 0) {
      SetField(field, legal & ~std::uint64_t{must & -must});
      ExpectControlsRefused();
      if (IsOver()) return;
    }
    if (never != 0) {
      SetField(field, legal | (never & -never));
      ExpectControlsRefused();
    }
    Evidence("must be one", must);
    Evidence("must be zero", never);
    EXPECT_TRUE(must != 0 || never != 0) << "every control is free: nothing was checked";
  }
  void ExpectAddressChecked(std::uint32_t field) {
    for (const std::uint64_t address : {kScratch + 1, kNowhere}) {
      SetField(field, address);
      ExpectControlsRefused();
      if (IsOver()) return;
    }
  }
  void ExpectEventRefused(std::uint64_t event) {
    SetField(kEntryEvent, event | kEventValid);
    ExpectControlsRefused();
  }
};

NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, OfALegalVmcsRunsL2, "Intel SDM volume 3, VMLAUNCH/VMRESUME") {
  ExpectExitAt(kReasonHlt, 0, {0xF4});
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, WithEptRunsL2, "Intel SDM volume 3, EPT Overview") {
  if (LacksEpt()) return;
  ExpectExitAt(kReasonHlt, 0, {0xF4});
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesReservedPinBasedControls,
                    "Intel SDM volume 3, VM-Execution Control Fields: reserved bits of the pin-based controls") {
  ExpectFixedBitsHold(kPinControls, capabilities().controls.pin);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesReservedProcessorBasedControls,
                    "Intel SDM volume 3, VM-Execution Control Fields: reserved bits of the primary controls") {
  ExpectFixedBitsHold(kProcessorControls, capabilities().controls.processor);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesReservedSecondaryControls,
                    "Intel SDM volume 3, VM-Execution Control Fields: reserved bits of the secondary controls") {
  if (LacksControls(kProcessorControls, kProcessorSecondary, "secondary controls")) return;
  ExpectFixedBitsHold(kSecondaryControls, capabilities().controls.secondary);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesReservedExitControls,
                    "Intel SDM volume 3, VM-Exit Control Fields: reserved bits") {
  ExpectFixedBitsHold(kExitControls, capabilities().controls.exit);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesReservedEntryControls,
                    "Intel SDM volume 3, VM-Entry Control Fields: reserved bits") {
  ExpectFixedBitsHold(kEntryControls, capabilities().controls.entry);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesMoreThanFourCr3Targets,
                    "Intel SDM volume 3, VM-Execution Control Fields: CR3-target count greater than 4") {
  SetField(kCr3TargetCount, 5);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAPortBitmapThatIsNoPage,
                    "Intel SDM volume 3, VM-Execution Control Fields: addresses of I/O bitmaps") {
  SetField(kPortBitmapA, kPortBitmaps);
  SetField(kPortBitmapB, kPortBitmaps + 0x1000);
  if (LacksControls(kProcessorControls, kProcessorPortBitmaps, "I/O bitmaps")) return;
  ExpectAddressChecked(kPortBitmapA);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAnMsrBitmapThatIsNoPage,
                    "Intel SDM volume 3, VM-Execution Control Fields: address of the MSR bitmap") {
  if (LacksControls(kProcessorControls, kProcessorMsrBitmaps, "MSR bitmaps")) return;
  ExpectAddressChecked(kMsrBitmap);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAVirtualApicThatIsNoPage,
                    "Intel SDM volume 3, VM-Execution Control Fields: virtual-APIC address") {
  if (LacksControls(kProcessorControls, kProcessorTprShadow, "a TPR shadow")) return;
  SetField(kTprThreshold, 0);
  ExpectAddressChecked(kVirtualApicAddress);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesATprThresholdAboveTheTpr,
                    "Intel SDM volume 3, VM-Execution Control Fields: TPR threshold and bits 7:4 of VTPR") {
  if (LacksControls(kProcessorControls, kProcessorTprShadow, "a TPR shadow")) return;
  SetField(kVirtualApicAddress, kScratch);
  SetField(kTprThreshold, 3);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesReservedBitsOfTheTprThreshold,
                    "Intel SDM volume 3, VM-Execution Control Fields: bits 31:4 of the TPR threshold") {
  if (LacksControls(kProcessorControls, kProcessorTprShadow, "a TPR shadow")) return;
  SetField(kVirtualApicAddress, kScratch);
  SetField(kTprThreshold, 0x10);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesVirtualNmisWithoutNmiExiting,
                    "Intel SDM volume 3, VM-Execution Control Fields: NMI exiting 0 and virtual NMIs 1") {
  if (LacksControls(kPinControls, kPinVirtualNmis, "virtual NMIs")) return;
  SetField(kPinControls, Field(kPinControls) & ~std::uint64_t{kPinNmi});
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesNmiWindowExitingWithoutVirtualNmis,
                    "Intel SDM volume 3, VM-Execution Control Fields: virtual NMIs 0 and NMI-window exiting 1") {
  if (LacksControls(kProcessorControls, kProcessorNmiWindow, "NMI-window exiting")) return;
  SetField(kPinControls, Field(kPinControls) & ~std::uint64_t{kPinVirtualNmis});
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesVpidZero,
                    "Intel SDM volume 3, VM-Execution Control Fields: enable VPID 1 and VPID 0000H") {
  if (LacksControls(kSecondaryControls, kSecondaryVpid, "VPIDs")) return;
  SetField(kVpid, 0);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAnEptPointerOfAReservedMemoryType,
                    "Intel SDM volume 3, VM-Execution Control Fields: EPT memory type, bits 2:0 of the EPT pointer") {
  if (LacksEpt()) return;
  SetField(kEptPointer, kEptTables | kEptPointerFourLevels | 1);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAnEptPointerOfAnUnknownLength,
                    "Intel SDM volume 3, VM-Execution Control Fields: EPT page-walk length, bits 5:3") {
  if (LacksEpt()) return;
  SetField(kEptPointer, kEptTables | 1U << 3 | kEptPointerWriteBack);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesReservedBitsOfTheEptPointer,
                    "Intel SDM volume 3, VM-Execution Control Fields: reserved bits 11:7 of the EPT pointer") {
  if (LacksEpt()) return;
  AddBits(kEptPointer, 1U << 8);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAnEptPointerBeyondThePhysicalAddresses,
                    "Intel SDM volume 3, VM-Execution Control Fields: EPT pointer, bits above the physical width") {
  if (LacksEpt()) return;
  AddBits(kEptPointer, kNowhere);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAnUnrestrictedGuestWithoutEpt,
                    "Intel SDM volume 3, VM-Execution Control Fields: unrestricted guest 1 and enable EPT 0") {
  if (LacksControls(kSecondaryControls, kSecondaryUnrestricted, "unrestricted guests")) return;
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesToSaveAPreemptionTimerThatIsNotActive,
                    "Intel SDM volume 3, VM-Exit Control Fields: save VMX-preemption timer value") {
  if (LacksControls(kExitControls, kExitSavePreemptionTimer, "saving the preemption timer")) return;
  SetField(kPinControls, Field(kPinControls) & ~std::uint64_t{kPinPreemptionTimer});
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAListOfMsrsToStoreThatIsNotAligned,
                    "Intel SDM volume 3, VM-Exit Control Fields: VM-exit MSR-store address, bits 3:0") {
  SetField(kExitMsrStoreCount, 1);
  SetField(kExitMsrStoreAddress, kScratch + 8);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAListOfMsrsToLoadAtExitThatIsNotAligned,
                    "Intel SDM volume 3, VM-Exit Control Fields: VM-exit MSR-load address, bits 3:0") {
  SetField(kExitMsrLoadCount, 1);
  SetField(kExitMsrLoadAddress, kScratch + 8);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAListOfMsrsToLoadAtEntryThatIsNotAligned,
                    "Intel SDM volume 3, VM-Entry Control Fields: VM-entry MSR-load address, bits 3:0") {
  SetField(kEntryMsrLoadCount, 1);
  SetField(kEntryMsrLoadAddress, kScratch + 8);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAListOfMsrsBeyondThePhysicalAddresses,
                    "Intel SDM volume 3, VM-Entry Control Fields: VM-entry MSR-load address, last byte") {
  SetField(kEntryMsrLoadCount, 1);
  SetField(kEntryMsrLoadAddress, kNowhere);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAnEntryToSystemManagementMode,
                    "Intel SDM volume 3, VM-Entry Control Fields: entry to SMM outside SMM") {
  AddBits(kEntryControls, kEntryToSmm);
  ExpectControlsRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAnEventOfReservedType,
                    "Intel SDM volume 3, VM-Entry Control Fields: interruption type 1") {
  ExpectEventRefused(0x20 | 1U << 8);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAnNmiOfAnotherVector,
                    "Intel SDM volume 3, VM-Entry Control Fields: an NMI has vector 2") {
  ExpectEventRefused(3 | kEventNmi);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAHardwareExceptionAbove31,
                    "Intel SDM volume 3, VM-Entry Control Fields: a hardware exception has a vector of at most 31") {
  ExpectEventRefused(0x20 | kEventException);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAnErrorCodeForAVectorWithout,
                    "Intel SDM volume 3, VM-Entry Control Fields: deliver-error-code and the vector") {
  ExpectEventRefused(abi::x86::kVectorInvalidOpcode | kEventException | kEventHasErrorCode);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesAPageFaultWithoutErrorCode,
                    "Intel SDM volume 3, VM-Entry Control Fields: deliver-error-code and the vector") {
  ExpectEventRefused(abi::x86::kVectorPageFault | kEventException);
}
NESTBENCH_CONDITION(
    nested_vmx, VmxControlsCheck, RefusesReservedBitsOfTheEvent,
    "Intel SDM volume 3, VM-Entry Control Fields: reserved bits 30:12 of the interruption information") {
  ExpectEventRefused(abi::x86::kVectorInvalidOpcode | kEventException | 1U << 12);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesTheUpperHalfOfAnErrorCode,
                    "Intel SDM volume 3, VM-Entry Control Fields: bits 31:16 of the exception error code") {
  SetField(kEntryEventError, 1ULL << 31);
  ExpectEventRefused(abi::x86::kVectorPageFault | kEventException | kEventHasErrorCode);
}
NESTBENCH_CONDITION(nested_vmx, VmxControlsCheck, RefusesASoftwareInterruptOfMoreThanFifteenBytes,
                    "Intel SDM volume 3, VM-Entry Control Fields: VM-entry instruction length") {
  SetField(kEntryInstructionBytes, 16);
  ExpectEventRefused(0x20 | kEventSoftwareInterrupt);
}

class VmxHostStateCheck : public VmxTest {};

NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesCr0WithoutProtection,
                    "Intel SDM volume 3, Checks on Host Control Registers: bits of CR0 fixed to 1") {
  SetField(kHostCr0, Field(kHostCr0) & ~abi::x86::kCr0ProtectedMode);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesCr4WithoutVmxe,
                    "Intel SDM volume 3, Checks on Host Control Registers: bits of CR4 fixed to 1") {
  SetField(kHostCr4, Field(kHostCr4) & ~kCr4Vmxe);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesCr4WithoutPae,
                    "Intel SDM volume 3, Checks Related to Address-Space Size: CR4.PAE") {
  SetField(kHostCr4, Field(kHostCr4) & ~abi::x86::kCr4Pae);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesCr3BeyondThePhysicalAddresses,
                    "Intel SDM volume 3, Checks on Host Control Registers: CR3, bits above the physical width") {
  AddBits(kHostCr3, kNowhere);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesASysenterEntryThatIsNotCanonical,
                    "Intel SDM volume 3, Checks on Host Control Registers: IA32_SYSENTER_EIP") {
  SetField(kHostSysenterEip, kNowhere);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesASysenterStackThatIsNotCanonical,
                    "Intel SDM volume 3, Checks on Host Control Registers: IA32_SYSENTER_ESP") {
  SetField(kHostSysenterEsp, kNowhere);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesReservedBitsOfEfer,
                    "Intel SDM volume 3, Checks on Host Control Registers: reserved bits of IA32_EFER") {
  AddBits(kHostEfer, 1ULL << 63);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesEferOfAnotherAddressSpaceSize,
                    "Intel SDM volume 3, Checks on Host Control Registers: LMA and LME as host address-space size") {
  SetField(kHostEfer, Field(kHostEfer) & ~(abi::x86::kEferLongModeEnable | abi::x86::kEferLongModeActive));
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesAReservedMemoryTypeInPat,
                    "Intel SDM volume 3, Checks on Host Control Registers: the bytes of IA32_PAT") {
  if (LacksControls(kExitControls, kExitLoadPat, "loading the PAT at exits")) return;
  SetField(kHostPat, 2);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(
    nested_vmx, VmxHostStateCheck, RefusesAnExitTo32BitsFromA64BitHost,
    "Intel SDM volume 3, Checks Related to Address-Space Size: host address-space size 0 in IA-32e mode") {
  SetField(kExitControls, Field(kExitControls) & ~std::uint64_t{kExitHost64});
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesAnInstructionPointerThatIsNotCanonical,
                    "Intel SDM volume 3, Checks Related to Address-Space Size: RIP is canonical") {
  SetField(kHostRip, kNowhere);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesASelectorWithAPrivilegeLevel,
                    "Intel SDM volume 3, Checks on Host Segment and Descriptor-Table Registers: RPL of selectors") {
  AddBits(kHostDsSelector, 3);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesASelectorOfALocalTable,
                    "Intel SDM volume 3, Checks on Host Segment and Descriptor-Table Registers: TI flag of selectors") {
  AddBits(kHostEsSelector, 4);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesANullCodeSegment,
                    "Intel SDM volume 3, Checks on Host Segment and Descriptor-Table Registers: selector of CS") {
  SetField(kHostCsSelector, 0);
  ExpectHostStateRefused();
}
NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesANullTaskRegister,
                    "Intel SDM volume 3, Checks on Host Segment and Descriptor-Table Registers: selector of TR") {
  SetField(kHostTrSelector, 0);
  ExpectHostStateRefused();
}
#define NESTBENCH_CANONICAL_BASE(name, field)                                                                        \
  NESTBENCH_CONDITION(nested_vmx, VmxHostStateCheck, RefusesABaseOf##name##ThatIsNotCanonical,                       \
                      "Intel SDM volume 3, Checks on Host Segment and Descriptor-Table Registers: base addresses") { \
    SetField(field, kNowhere);                                                                                       \
    ExpectHostStateRefused();                                                                                        \
  }
NESTBENCH_CANONICAL_BASE(Fs, kHostFsBase)
NESTBENCH_CANONICAL_BASE(Gs, kHostGsBase)
NESTBENCH_CANONICAL_BASE(Tr, kHostTrBase)
NESTBENCH_CANONICAL_BASE(Gdtr, kHostGdtrBase)
NESTBENCH_CANONICAL_BASE(Idtr, kHostIdtrBase)

}  // namespace
}  // namespace nestbench::conformance
