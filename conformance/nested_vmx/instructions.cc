// The instructions of VMX in L1, and how they fail. Source: Intel SDM volume 3, chapter "VMX Instruction Reference",
// with its sections "Conventions" and "VM Instruction Error Numbers".
#include <cstring>

#include "vmx_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::vmx;

class VmxInstructions : public VmxTest {
 protected:
  static constexpr std::uint64_t kErrorVmclearAddress = 2;
  static constexpr std::uint64_t kErrorVmclearVmxon = 3;
  static constexpr std::uint64_t kErrorVmlaunchNotClear = 4;
  static constexpr std::uint64_t kErrorVmresumeNotLaunched = 5;
  static constexpr std::uint64_t kErrorVmptrldAddress = 9;
  static constexpr std::uint64_t kErrorVmptrldVmxon = 10;
  static constexpr std::uint64_t kErrorVmptrldRevision = 11;
  static constexpr std::uint64_t kErrorUnknownField = 12;
  static constexpr std::uint64_t kErrorReadOnlyField = 13;
  static constexpr std::uint64_t kErrorVmxonInRoot = 15;
  static constexpr std::uint64_t kErrorInvalidation = 28;

  void ExpectException(unsigned vector, Command command) {
    Start(command);
    const auto exception = NextException();
    if (!exception) return;
    EXPECT_EQ(exception->vector, vector);
  }
  void SetRevision(std::uint64_t region, std::uint32_t revision) {
    std::memcpy(&Word(region), &revision, sizeof(revision));
  }
};

NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmxonNeedsVmxe, "Intel SDM volume 3, VMXON: #UD if CR4.VMXE is 0") {
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->cr4 &= ~kCr4Vmxe;
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  ExpectException(abi::x86::kVectorInvalidOpcode, {Op::kVmxon, kVmxonRegion});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmxonNeedsTheFirmwaresLeave,
                    "Intel SDM volume 3, VMXON: #GP unless IA32_FEATURE_CONTROL is locked and allows it") {
  ASSERT_TRUE(vcpu().WriteMsr(kMsrFeatureControl, 0));
  ExpectException(abi::x86::kVectorGeneralProtection, {Op::kVmxon, kVmxonRegion});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmxonRefusesARegionThatIsNoPage,
                    "Intel SDM volume 3, VMXON: VMfailInvalid for an address that is not aligned to 4 KiB") {
  Expect(Ending::kFailedInvalid, {Op::kVmxon, kVmxonRegion + 8});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmxonRefusesARegionBeyondThePhysicalAddresses,
                    "Intel SDM volume 3, VMXON: VMfailInvalid for bits beyond the physical-address width") {
  Expect(Ending::kFailedInvalid, {Op::kVmxon, kNowhere});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmxonRefusesAnotherRevision,
                    "Intel SDM volume 3, VMXON: VMfailInvalid for another VMCS revision identifier") {
  SetRevision(kVmxonRegion, capabilities().revision ^ 1);
  Expect(Ending::kFailedInvalid, {Op::kVmxon, kVmxonRegion});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmxonTwiceIsAnError,
                    "Intel SDM volume 3, VMXON: in VMX root operation, error 15") {
  if (EnterVmx()) ExpectError(kErrorVmxonInRoot, {Op::kVmxon, kVmxonRegion});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmxoffEndsIt,
                    "Intel SDM volume 3, VMXOFF; VMREAD: #UD outside of VMX") {
  if (!EnterVmx()) return;
  Expect(Ending::kSucceeded, {Op::kVmxoff});
  ExpectException(abi::x86::kVectorInvalidOpcode, {Op::kVmread, kGuestRip});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmreadNeedsVmx, "Intel SDM volume 3, VMREAD: #UD outside of VMX") {
  ExpectException(abi::x86::kVectorInvalidOpcode, {Op::kVmread, kGuestRip});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmreadNeedsACurrentVmcs,
                    "Intel SDM volume 3, VMREAD: VMfailInvalid without a current VMCS") {
  Expect(Ending::kSucceeded, {Op::kVmxon, kVmxonRegion});
  Expect(Ending::kFailedInvalid, {Op::kVmread, kGuestRip});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmlaunchNeedsACurrentVmcs,
                    "Intel SDM volume 3, VMLAUNCH: VMfailInvalid without a current VMCS") {
  Expect(Ending::kSucceeded, {Op::kVmxon, kVmxonRegion});
  Expect(Ending::kFailedInvalid, {Op::kVmlaunch});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmreadReadsWhatVmwriteWrote, "Intel SDM volume 3, VMREAD; VMWRITE") {
  if (!EnterVmx()) return;
  Expect(Ending::kSucceeded, {Op::kVmwrite, kGuestSysenterEip, 0x1234'5678'9ABC});
  EXPECT_EQ(Read(kGuestSysenterEip), 0x1234'5678'9ABCU);
  Expect(Ending::kSucceeded, {Op::kVmwrite, kGuestTrSelector, 0x28});
  EXPECT_EQ(Read(kGuestTrSelector), 0x28U);
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, AFieldKeepsItsWidth,
                    "Intel SDM volume 3, VMWRITE: bits beyond the field's length are ignored") {
  if (!EnterVmx()) return;
  Expect(Ending::kSucceeded, {Op::kVmwrite, kGuestEsSelector, 0xABCD'1234});
  EXPECT_EQ(Read(kGuestEsSelector), 0x1234U);
  Expect(Ending::kSucceeded, {Op::kVmwrite, kExceptionBitmap, 0x5'0000'0001});
  EXPECT_EQ(Read(kExceptionBitmap), 1U);
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, TheHighHalfOfAFieldIsAFieldToo,
                    "Intel SDM volume 3, Appendix B: access type high of 64-bit fields") {
  if (!EnterVmx()) return;
  Expect(Ending::kSucceeded, {Op::kVmwrite, kTscOffset, 0x1111'2222'3333'4444});
  EXPECT_EQ(Read(kTscOffset + 1), 0x1111'2222U);
  Expect(Ending::kSucceeded, {Op::kVmwrite, kTscOffset + 1, 0x5555'6666});
  EXPECT_EQ(Read(kTscOffset), 0x5555'6666'3333'4444U);
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmreadOfAnUnknownFieldIsAnError,
                    "Intel SDM volume 3, VMREAD: unsupported VMCS component, error 12") {
  if (EnterVmx()) ExpectError(kErrorUnknownField, {Op::kVmread, 0x7FFE});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmwriteOfAnUnknownFieldIsAnError,
                    "Intel SDM volume 3, VMWRITE: unsupported VMCS component, error 12") {
  if (EnterVmx()) ExpectError(kErrorUnknownField, {Op::kVmwrite, 0x7FFE, 1});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmwriteOfAFieldBeyond32BitsIsAnError,
                    "Intel SDM volume 3, VMWRITE: bits 63:32 of the encoding, error 12") {
  if (EnterVmx()) ExpectError(kErrorUnknownField, {Op::kVmwrite, kGuestRip | 1ULL << 32, 1});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmwriteOfExitInformationIsAsTheMiscMsrSays,
                    "Intel SDM volume 3, VMWRITE: read-only component, error 13 unless IA32_VMX_MISC[29] is 1") {
  const auto misc = device().ReadFeatureMsr(kMsrMisc);
  ASSERT_TRUE(misc) << misc.error().ToString();
  Evidence("IA32_VMX_MISC[29]", static_cast<long long>(*misc >> 29 & 1));
  if (!EnterVmx()) return;
  if ((*misc >> 29 & 1) == 0) return ExpectError(kErrorReadOnlyField, {Op::kVmwrite, kExitReason, 5});
  Expect(Ending::kSucceeded, {Op::kVmwrite, kExitReason, 5});
  EXPECT_EQ(Read(kExitReason), 5U);
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmptrstTellsTheCurrentVmcs, "Intel SDM volume 3, VMPTRST") {
  if (!EnterVmx()) return;
  EXPECT_EQ(Expect(Ending::kSucceeded, {Op::kVmptrst}).b, kVmcs);
  Expect(Ending::kSucceeded, {Op::kVmclear, kVmcs});
  EXPECT_EQ(Expect(Ending::kSucceeded, {Op::kVmptrst}).b, ~0ULL) << "VMCLEAR of the current one leaves none";
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmclearKeepsTheFieldsInMemory,
                    "Intel SDM volume 3, VMCLEAR: data of the VMCS are in its region") {
  if (!EnterVmx()) return;
  Expect(Ending::kSucceeded, {Op::kVmwrite, kGuestSysenterEip, 0x1234'5000});
  Expect(Ending::kSucceeded, {Op::kVmclear, kVmcs});
  Expect(Ending::kSucceeded, {Op::kVmptrld, kVmcs});
  EXPECT_EQ(Read(kGuestSysenterEip), 0x1234'5000U);
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmclearOfNoPageIsAnError,
                    "Intel SDM volume 3, VMCLEAR: invalid physical address, error 2") {
  if (EnterVmx()) ExpectError(kErrorVmclearAddress, {Op::kVmclear, kVmcs + 8});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmclearOfTheVmxonRegionIsAnError,
                    "Intel SDM volume 3, VMCLEAR: VMXON pointer, error 3") {
  if (EnterVmx()) ExpectError(kErrorVmclearVmxon, {Op::kVmclear, kVmxonRegion});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmptrldOfNoPageIsAnError,
                    "Intel SDM volume 3, VMPTRLD: invalid physical address, error 9") {
  if (EnterVmx()) ExpectError(kErrorVmptrldAddress, {Op::kVmptrld, kVmcs + 8});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmptrldBeyondThePhysicalAddressesIsAnError,
                    "Intel SDM volume 3, VMPTRLD: invalid physical address, error 9") {
  if (EnterVmx()) ExpectError(kErrorVmptrldAddress, {Op::kVmptrld, kNowhere});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmptrldOfTheVmxonRegionIsAnError,
                    "Intel SDM volume 3, VMPTRLD: VMXON pointer, error 10") {
  if (EnterVmx()) ExpectError(kErrorVmptrldVmxon, {Op::kVmptrld, kVmxonRegion});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmptrldOfAnotherRevisionIsAnError,
                    "Intel SDM volume 3, VMPTRLD: incorrect VMCS revision identifier, error 11") {
  if (!EnterVmx()) return;
  SetRevision(kScratch, capabilities().revision ^ 1);
  ExpectError(kErrorVmptrldRevision, {Op::kVmptrld, kScratch});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmlaunchTwiceIsAnError,
                    "Intel SDM volume 3, VMLAUNCH: non-clear VMCS, error 4") {
  ExpectExit(kReasonHlt);
  if (!IsOver()) ExpectError(kErrorVmlaunchNotClear, {Op::kVmlaunch});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmresumeBeforeVmlaunchIsAnError,
                    "Intel SDM volume 3, VMRESUME: non-launched VMCS, error 5") {
  if (EnterVmx()) ExpectError(kErrorVmresumeNotLaunched, {Op::kVmresume});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, VmclearMakesAVmcsToBeLaunchedAgain,
                    "Intel SDM volume 3, VMCLEAR: launch state clear") {
  ExpectExit(kReasonHlt);
  if (IsOver()) return;
  Expect(Ending::kSucceeded, {Op::kVmclear, kVmcs});
  Expect(Ending::kSucceeded, {Op::kVmptrld, kVmcs});
  ExpectError(kErrorVmresumeNotLaunched, {Op::kVmresume});
  Expect(Ending::kExited, {Op::kVmlaunch});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, InveptOfAnUnknownTypeIsAnError,
                    "Intel SDM volume 3, INVEPT: invalid operand, error 28") {
  if (LacksEpt()) return;
  if (EnterVmx()) ExpectError(kErrorInvalidation, {Op::kInvept, 7});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, InveptOfOneContextAndOfAllSucceed,
                    "Intel SDM volume 3, INVEPT: single-context and all-context") {
  if (LacksEpt()) return;
  if (!EnterVmx()) return;
  Word(kScratch) = Field(kEptPointer);
  Word(kScratch + 8) = 0;
  Expect(Ending::kSucceeded, {Op::kInvept, 1});
  Expect(Ending::kSucceeded, {Op::kInvept, 2});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, InvvpidOfAnUnknownTypeIsAnError,
                    "Intel SDM volume 3, INVVPID: invalid operand, error 28") {
  if (LacksControls(kSecondaryControls, kSecondaryVpid, "VPIDs")) return;
  SetField(kVpid, 1);
  if (EnterVmx()) ExpectError(kErrorInvalidation, {Op::kInvvpid, 7});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, InvvpidOfContextZeroIsAnError,
                    "Intel SDM volume 3, INVVPID: single-context with VPID 0, error 28") {
  if (LacksControls(kSecondaryControls, kSecondaryVpid, "VPIDs")) return;
  SetField(kVpid, 1);
  Word(kScratch) = 0;
  Word(kScratch + 8) = 0;
  if (EnterVmx()) ExpectError(kErrorInvalidation, {Op::kInvvpid, 1});
}
NESTBENCH_CONDITION(nested_vmx, VmxInstructions, InvvpidOfAllContextsSucceeds,
                    "Intel SDM volume 3, INVVPID: all-context") {
  if (LacksControls(kSecondaryControls, kSecondaryVpid, "VPIDs")) return;
  SetField(kVpid, 1);
  Word(kScratch) = 0;
  Word(kScratch + 8) = 0;
  if (EnterVmx()) Expect(Ending::kSucceeded, {Op::kInvvpid, 2});
}

class VmxCapabilityMsrs : public VmxTest {
 protected:
  std::uint64_t Msr(std::uint32_t index) {
    const auto value = vcpu().ReadMsr(index);
    EXPECT_TRUE(value) << value.error().ToString();
    return value.value_or(0);
  }
  void ExpectPair(std::uint32_t index) {
    const std::uint64_t value = Msr(index);
    EXPECT_EQ(value & 0xFFFF'FFFF & ~(value >> 32), 0U) << "MSR 0x" << std::hex << index << " is 0x" << value;
  }
};

NESTBENCH_CONDITION(nested_vmx, VmxCapabilityMsrs, BasicInformationIsLegal,
                    "Intel SDM volume 3, Basic VMX Information: bit 31, region of at most 4096 bytes, memory type") {
  const std::uint64_t basic = Msr(kMsrBasic);
  EXPECT_EQ(basic >> 31 & 1, 0U);
  const std::uint64_t bytes = basic >> kBasicRegionBytesShift & 0x1FFF;
  EXPECT_GT(bytes, 0U);
  EXPECT_LE(bytes, 4096U);
  const std::uint64_t memory_type = basic >> 50 & 0xF;
  EXPECT_TRUE(memory_type == 0 || memory_type == 6) << memory_type;
  Evidence("revision", static_cast<long long>(basic & kBasicRevisionMask));
}
NESTBENCH_CONDITION(nested_vmx, VmxCapabilityMsrs, WhatMustBeOneMayBeOne,
                    "Intel SDM volume 3, Appendix A: allowed 0-settings and allowed 1-settings") {
  for (const std::uint32_t index : {kMsrPinControls, kMsrProcessorControls, kMsrExitControls, kMsrEntryControls}) {
    ExpectPair(index);
  }
  if ((Msr(kMsrBasic) & kBasicTrueControls) == 0) return;
  for (const std::uint32_t index :
       {kMsrTruePinControls, kMsrTrueProcessorControls, kMsrTrueExitControls, kMsrTrueEntryControls}) {
    ExpectPair(index);
  }
}
NESTBENCH_CONDITION(nested_vmx, VmxCapabilityMsrs, TheDefault1ClassIsFixedInTheFirstMsrs,
                    "Intel SDM volume 3, Reserved Controls and Default Settings: default1 controls") {
  EXPECT_EQ(Msr(kMsrPinControls) & 0x16, 0x16U);
  EXPECT_EQ(Msr(kMsrProcessorControls) & 0x0401'E172, 0x0401'E172U);
  EXPECT_EQ(Msr(kMsrExitControls) & 0x0003'6DFF, 0x0003'6DFFU);
  EXPECT_EQ(Msr(kMsrEntryControls) & 0x11FF, 0x11FFU);
}
NESTBENCH_CONDITION(nested_vmx, VmxCapabilityMsrs, FixedBitsOfControlRegistersAgree,
                    "Intel SDM volume 3, VMX-Fixed Bits in CR0 and in CR4") {
  EXPECT_EQ(Msr(kMsrCr0Fixed0) & ~Msr(kMsrCr0Fixed1), 0U);
  EXPECT_EQ(Msr(kMsrCr4Fixed0) & ~Msr(kMsrCr4Fixed1), 0U);
  EXPECT_NE(Msr(kMsrCr4Fixed0) & kCr4Vmxe, 0U);
}
NESTBENCH_CONDITION(nested_vmx, VmxCapabilityMsrs, TheEnumerationHoldsEveryFieldThatCanBeRead,
                    "Intel SDM volume 3, VMCS Enumeration: the highest index of any field") {
  const std::uint64_t highest = Msr(kMsrVmcsEnumeration) >> 1 & 0x1FF;
  Evidence("highest index", static_cast<long long>(highest));
  if (!EnterVmx()) return;
  for (std::uint32_t width = 0; width < 4; ++width) {
    for (std::uint32_t type = 0; type < 4; ++type) {
      const std::uint64_t field = width << 13 | type << 10 | (highest + 1) << 1;
      const Command command = Expect(Ending::kFailedValid, {Op::kVmread, field});
      if (IsOver()) {
        ADD_FAILURE() << "field 0x" << std::hex << field << " beyond the highest index reads " << command.b;
        return;
      }
    }
  }
}
NESTBENCH_CONDITION(
    nested_vmx, VmxCapabilityMsrs, CanBeMadeLessButNotMore,
    "KVM API, KVM_SET_MSRS; Documentation/virt/kvm/x86/nested-vmx.rst: user space chooses L1's features") {
  const std::uint64_t secondary = Msr(kMsrSecondaryControls);
  const std::uint64_t allowed = secondary >> 32;
  if (allowed == 0) GTEST_SKIP() << "no secondary control is allowed";
  const std::uint64_t less = secondary & ~((allowed & -allowed) << 32);
  EXPECT_TRUE(vcpu().WriteMsr(kMsrSecondaryControls, less)) << "one feature fewer";
  EXPECT_EQ(Msr(kMsrSecondaryControls), less);
  const std::uint64_t denied = ~allowed & 0xFFFF'FFFF;
  if (denied == 0) return;
  EXPECT_FALSE(vcpu().WriteMsr(kMsrSecondaryControls, secondary | (denied & -denied) << 32)) << "one that is not there";
}
NESTBENCH_CONDITION(nested_vmx, VmxCapabilityMsrs, FeatureControlIsLockedByItsLock,
                    "Intel SDM volume 3, Enabling and Entering VMX Operation: WRMSR to a locked IA32_FEATURE_CONTROL") {
  // mov ecx, 0x3A; xor eax, eax; xor edx, edx; wrmsr
  Kernel({0xB9, 0x3A, 0, 0, 0, 0x31, 0xC0, 0x31, 0xD2, 0x0F, 0x30});
  SetCr4(kCr4Vmxe);
  Expect(abi::x86::kVectorGeneralProtection, 0, 9);
}

}  // namespace
}  // namespace nestbench::conformance
