// What makes L2 leave, and what L1 learns of it. Source: Intel SDM volume 3, chapters "VMX Non-Root Operation" and "VM
// Exits", with appendix C "VMX Basic Exit Reasons".
#include <variant>

#include "vmx_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::vmx;

class VmxExits : public VmxTest {
 protected:
  void SetUp() override {
    VmxTest::SetUp();
    if (IsOver()) return;
    SetField(kPortBitmapA, kPortBitmaps);
    SetField(kPortBitmapB, kPortBitmaps + 0x1000);
    SetField(kMsrBitmap, kMsrPermissions);
  }
  void WantPort(std::uint16_t port) {
    auto* const bitmap = reinterpret_cast<std::uint8_t*>(&Word(kPortBitmaps));
    bitmap[port / 8] |= static_cast<std::uint8_t>(1U << (port % 8));
  }
  // Section "MSR-Bitmap Address": reads of the low MSRs, of the high ones, writes of the low, of the high; 1 KiB each.
  void WantMsr(std::uint32_t quarter, std::uint32_t index) {
    auto* const bitmap = reinterpret_cast<std::uint8_t*>(&Word(kMsrPermissions));
    index &= 0x1FFF;
    bitmap[quarter * 1024 + index / 8] |= static_cast<std::uint8_t>(1U << (index % 8));
  }
  void ExpectQualification(std::uint64_t value) {
    if (IsOver()) return;
    EXPECT_EQ(Read(kExitQualification), value);
  }
  void ExpectLength(std::uint64_t bytes) {
    if (IsOver()) return;
    EXPECT_EQ(Read(kExitInstructionBytes), bytes);
  }
};

#define NESTBENCH_ALWAYS_EXITS(name, reason, ...)                                                                     \
  NESTBENCH_CONDITION(nested_vmx, VmxExits, Of##name,                                                                 \
                      "Intel SDM volume 3, Instructions That Cause VM Exits Unconditionally; exit reason " #reason) { \
    constexpr int kBytes[] = {__VA_ARGS__};                                                                           \
    ExpectExitAt(reason, 0, {__VA_ARGS__});                                                                           \
    ExpectLength(std::size(kBytes));                                                                                  \
  }
NESTBENCH_ALWAYS_EXITS(Cpuid, kReasonCpuid, 0x0F, 0xA2)
NESTBENCH_ALWAYS_EXITS(Invd, kReasonInvd, 0x0F, 0x08)
NESTBENCH_ALWAYS_EXITS(Vmcall, kReasonVmcall, 0x0F, 0x01, 0xC1)
NESTBENCH_ALWAYS_EXITS(Vmclear, kReasonVmclear, 0x66, 0x0F, 0xC7, 0x37)
NESTBENCH_ALWAYS_EXITS(Vmlaunch, kReasonVmlaunch, 0x0F, 0x01, 0xC2)
NESTBENCH_ALWAYS_EXITS(Vmptrld, kReasonVmptrld, 0x0F, 0xC7, 0x37)
NESTBENCH_ALWAYS_EXITS(Vmptrst, kReasonVmptrst, 0x0F, 0xC7, 0x3F)
NESTBENCH_ALWAYS_EXITS(Vmread, kReasonVmread, 0x0F, 0x78, 0xC0)
NESTBENCH_ALWAYS_EXITS(Vmresume, kReasonVmresume, 0x0F, 0x01, 0xC3)
NESTBENCH_ALWAYS_EXITS(Vmwrite, kReasonVmwrite, 0x0F, 0x79, 0xC0)
NESTBENCH_ALWAYS_EXITS(Vmxoff, kReasonVmxoff, 0x0F, 0x01, 0xC4)
NESTBENCH_ALWAYS_EXITS(Vmxon, kReasonVmxon, 0xF3, 0x0F, 0xC7, 0x37)
NESTBENCH_ALWAYS_EXITS(Invept, kReasonInvept, 0x66, 0x0F, 0x38, 0x80, 0x07)
NESTBENCH_ALWAYS_EXITS(Invvpid, kReasonInvvpid, 0x66, 0x0F, 0x38, 0x81, 0x07)

NESTBENCH_CONDITION(nested_vmx, VmxExits, OfXsetbv,
                    "Intel SDM volume 3, Instructions That Cause VM Exits Unconditionally: XSETBV") {
  const auto cpuid = vcpu().GetCpuid();
  ASSERT_TRUE(cpuid) << cpuid.error().ToString();
  const auto* const leaf = cpuid->Find(1);
  if (leaf == nullptr || (leaf->ecx & 1U << 26) == 0) GTEST_SKIP() << "CPUID 1 ECX.XSAVE is 0";
  AddBits(kGuestCr4, abi::x86::kCr4Osxsave);
  ExpectExitAt(kReasonXsetbv, 0, {0x0F, 0x01, 0xD1});
}

// Controls with a bit of their own. An instruction that does not leave without it comes to the HLT behind.
#define NESTBENCH_CONTROL_EXITS(name, field, control, reason, ...)                                    \
  NESTBENCH_CONDITION(nested_vmx, VmxExits, Of##name,                                                 \
                      "Intel SDM volume 3, Instructions That Cause VM Exits Conditionally: " #name) { \
    if (LacksControls(field, control, #control)) return;                                              \
    constexpr int kBytes[] = {__VA_ARGS__};                                                           \
    ExpectExitAt(reason, 0, {__VA_ARGS__, 0xF4});                                                     \
    ExpectLength(std::size(kBytes));                                                                  \
  }
NESTBENCH_CONTROL_EXITS(Invlpg, kProcessorControls, kProcessorInvlpg, kReasonInvlpg, 0x0F, 0x01, 0x3F)
NESTBENCH_CONTROL_EXITS(Rdpmc, kProcessorControls, kProcessorRdpmc, kReasonRdpmc, 0x0F, 0x33)
NESTBENCH_CONTROL_EXITS(Rdtsc, kProcessorControls, kProcessorRdtsc, kReasonRdtsc, 0x0F, 0x31)
NESTBENCH_CONTROL_EXITS(MovDr, kProcessorControls, kProcessorMovDr, kReasonMovDr, 0x0F, 0x21, 0xF8)
NESTBENCH_CONTROL_EXITS(Pause, kProcessorControls, kProcessorPause, kReasonPause, 0xF3, 0x90)
NESTBENCH_CONTROL_EXITS(Monitor, kProcessorControls, kProcessorMonitor, kReasonMonitor, 0x0F, 0x01, 0xC8)
NESTBENCH_CONTROL_EXITS(Mwait, kProcessorControls, kProcessorMwait, kReasonMwait, 0x0F, 0x01, 0xC9)
NESTBENCH_CONTROL_EXITS(Wbinvd, kSecondaryControls, kSecondaryWbinvd, kReasonWbinvd, 0x0F, 0x09)
NESTBENCH_CONTROL_EXITS(Sgdt, kSecondaryControls, kSecondaryDescriptorTable, kReasonGdtrIdtr, 0x0F, 0x01, 0x07)
NESTBENCH_CONTROL_EXITS(Sldt, kSecondaryControls, kSecondaryDescriptorTable, kReasonLdtrTr, 0x0F, 0x00, 0xC0)
NESTBENCH_CONTROL_EXITS(MovToCr3, kProcessorControls, kProcessorCr3Load, kReasonCrAccess, 0x0F, 0x22, 0xD8)
NESTBENCH_CONTROL_EXITS(MovFromCr3, kProcessorControls, kProcessorCr3Store, kReasonCrAccess, 0x0F, 0x20, 0xD8)
NESTBENCH_CONTROL_EXITS(MovToCr8, kProcessorControls, kProcessorCr8Load, kReasonCrAccess, 0x44, 0x0F, 0x22, 0xC0)
NESTBENCH_CONTROL_EXITS(MovFromCr8, kProcessorControls, kProcessorCr8Store, kReasonCrAccess, 0x44, 0x0F, 0x20, 0xC0)

NESTBENCH_CONDITION(nested_vmx, VmxExits, OfRdtscp,
                    "Intel SDM volume 3, Instructions That Cause VM Exits Conditionally: RDTSCP") {
  if (LacksControls(kSecondaryControls, kSecondaryRdtscp, "RDTSCP")) return;
  AddBits(kProcessorControls, kProcessorRdtsc);
  ExpectExitAt(kReasonRdtscp, 0, {0x0F, 0x01, 0xF9});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, RdtscpIsUndefinedWithoutItsControl,
                    "Intel SDM volume 3, Changes to Instruction Behavior: RDTSCP") {
  SetField(kSecondaryControls, Field(kSecondaryControls) & ~std::uint64_t{kSecondaryRdtscp});
  SetField(kExceptionBitmap, 1U << abi::x86::kVectorInvalidOpcode);
  ExpectExitAt(kReasonException, 0, {0x0F, 0x01, 0xF9, 0xF4});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, NothingElseLeaves,
                    "Intel SDM volume 3, Instructions That Cause VM Exits Conditionally: controls that are 0") {
  // invlpg [rdi]; rdtsc; mov rax, dr7; pause; mov rax, cr0; hlt
  ExpectExitAt(kReasonHlt, 13, {0x0F, 0x01, 0x3F, 0x0F, 0x31, 0x0F, 0x21, 0xF8, 0xF3, 0x90, 0x0F, 0x20, 0xC0, 0xF4});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, InvlpgTellsItsAddress,
                    "Intel SDM volume 3, Basic VM-Exit Information: INVLPG, the linear address") {
  AddBits(kProcessorControls, kProcessorInvlpg);
  ExpectExitAt(kReasonInvlpg, 0, {0x0F, 0x01, 0x3F});  // invlpg [rdi]
  ExpectQualification(kData);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, ACrAccessTellsRegisterAndDirection,
                    "Intel SDM volume 3, Exit Qualification for Control-Register Accesses") {
  AddBits(kProcessorControls, kProcessorCr3Store);
  ExpectExitAt(kReasonCrAccess, 0, {0x0F, 0x20, 0xDA});  // mov rdx, cr3
  ExpectQualification(3 | 1U << 4 | 2U << 8);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAWriteToAMaskedBitOfCr0,
                    "Intel SDM volume 3, Guest/Host Masks and Read Shadows for CR0 and CR4") {
  SetField(kCr0Mask, 1U << 3);  // TS
  ExpectExitAt(kReasonCrAccess, 5,
               {0x0F, 0x20, 0xC0,    // mov rax, cr0
                0x0C, 0x08,          // or al, 8
                0x0F, 0x22, 0xC0});  // mov cr0, rax
  ExpectQualification(0);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, AWriteOfWhatTheShadowSaysDoesNotLeave,
                    "Intel SDM volume 3, Guest/Host Masks and Read Shadows for CR0 and CR4") {
  SetField(kCr0Mask, 1U << 3);
  SetField(kCr0Shadow, 1U << 3);
  ExpectExitAt(kReasonHlt, 6, {0x0F, 0x20, 0xC0, 0x0F, 0x22, 0xC0, 0xF4});
  if (IsOver()) return;
  EXPECT_EQ(L2Register(0) >> 3 & 1, 1U) << "L2 reads the shadow";
  EXPECT_EQ(Read(kGuestCr0) >> 3 & 1, 0U) << "and the register is as L1 left it";
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, L2ReadsTheShadowOfCr4,
                    "Intel SDM volume 3, Changes to Instruction Behavior: MOV from CR4") {
  SetField(kCr4Mask, kCr4Vmxe);
  SetField(kCr4Shadow, 0);
  ExpectExitAt(kReasonHlt, 3, {0x0F, 0x20, 0xE0, 0xF4});  // mov rax, cr4; hlt
  if (IsOver()) return;
  EXPECT_EQ(L2Register(0) & kCr4Vmxe, 0U);
  EXPECT_EQ(Read(kGuestCr4) & kCr4Vmxe, kCr4Vmxe);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfEveryPort, "Intel SDM volume 3, Unconditional I/O exiting") {
  AddBits(kProcessorControls, kProcessorEveryPort);
  ExpectExitAt(kReasonIo, 0, {0xE4, 0x80});  // in al, 0x80
  ExpectQualification(kIoIn | 1U << 6 | 0x80ULL << kIoPortShift);
  ExpectLength(2);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAPortInTheBitmap, "Intel SDM volume 3, I/O-Bitmap Addresses") {
  AddBits(kProcessorControls, kProcessorPortBitmaps);
  WantPort(0x80);
  ExpectExitAt(kReasonIo, 0, {0xE6, 0x80});  // out 0x80, al
  ExpectQualification(1U << 6 | 0x80ULL << kIoPortShift);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAPortInTheSecondBitmap,
                    "Intel SDM volume 3, I/O-Bitmap Addresses: bitmap B") {
  AddBits(kProcessorControls, kProcessorPortBitmaps);
  WantPort(0x8123);
  ExpectExitAt(kReasonIo, 4, {0x66, 0xBA, 0x23, 0x81, 0xEE});  // mov dx, 0x8123; out dx, al
  ExpectQualification(0x8123ULL << kIoPortShift);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAnAccessThatTouchesAPortInTheBitmap,
                    "Intel SDM volume 3, Instructions That Cause VM Exits Conditionally: any of the ports accessed") {
  AddBits(kProcessorControls, kProcessorPortBitmaps);
  WantPort(0x80);
  ExpectExitAt(kReasonIo, 0, {0xE7, 0x7D});  // out 0x7D, eax
  ExpectQualification(3 | 1U << 6 | 0x7DULL << kIoPortShift);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAnAccessThatWrapsAround,
                    "Intel SDM volume 3, Unconditional I/O exiting: a wrap at the end of the ports leaves") {
  AddBits(kProcessorControls, kProcessorPortBitmaps);
  ExpectExitAt(kReasonIo, 4, {0x66, 0xBA, 0xFE, 0xFF, 0xEF});  // mov dx, 0xFFFE; out dx, eax
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, AStringOfPortsTellsSo,
                    "Intel SDM volume 3, Exit Qualification for I/O Instructions: string and REP") {
  AddBits(kProcessorControls, kProcessorEveryPort);
  // mov edx, 0x80; mov ecx, 4; mov rsi, rdi; rep outsb
  ExpectExitAt(kReasonIo, 13, {0xBA, 0x80, 0, 0, 0, 0xB9, 4, 0, 0, 0, 0x48, 0x89, 0xFE, 0xF3, 0x6E});
  ExpectQualification(kIoString | 1U << 5 | 0x80ULL << kIoPortShift);
  if (IsOver()) return;
  EXPECT_EQ(Read(kGuestLinearAddress), kData);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, APortThatL1DoesNotWantIsTheHosts,
                    "Intel SDM volume 3, I/O-Bitmap Addresses; L0 keeps what L1 does not intercept") {
  AddBits(kProcessorControls, kProcessorPortBitmaps);
  LoadL2({0xE6, 0x50, 0xF4});  // out 0x50, al; hlt
  if (!EnterVmx()) return;
  Start({Op::kVmlaunch});
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->port, 0x50U);
  ASSERT_TRUE(Done());
  EXPECT_EQ(Read(kExitReason), kReasonHlt);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfRdmsrWithoutABitmap, "Intel SDM volume 3, MSR-Bitmap Address: not used") {
  ExpectExitAt(kReasonRdmsr, 0, {0x0F, 0x32});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfWrmsrWithoutABitmap, "Intel SDM volume 3, MSR-Bitmap Address: not used") {
  ExpectExitAt(kReasonWrmsr, 0, {0x0F, 0x30});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAnMsrInTheBitmap, "Intel SDM volume 3, MSR-Bitmap Address: low reads") {
  AddBits(kProcessorControls, kProcessorMsrBitmaps);
  WantMsr(0, 0x174);
  // mov ecx, 0x174; xor eax, eax; xor edx, edx; wrmsr; rdmsr
  ExpectExitAt(kReasonRdmsr, 11, {0xB9, 0x74, 1, 0, 0, 0x31, 0xC0, 0x31, 0xD2, 0x0F, 0x30, 0x0F, 0x32});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAHighMsrInTheBitmap,
                    "Intel SDM volume 3, MSR-Bitmap Address: high writes") {
  AddBits(kProcessorControls, kProcessorMsrBitmaps);
  WantMsr(3, 0xC000'0102);
  // mov ecx, 0xC0000102; rdmsr; wrmsr
  ExpectExitAt(kReasonWrmsr, 7, {0xB9, 0x02, 0x01, 0x00, 0xC0, 0x0F, 0x32, 0x0F, 0x30});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAnMsrBeyondTheBitmap,
                    "Intel SDM volume 3, Instructions That Cause VM Exits Conditionally: RDMSR outside both ranges") {
  AddBits(kProcessorControls, kProcessorMsrBitmaps);
  ExpectExitAt(kReasonRdmsr, 5, {0xB9, 0x00, 0x20, 0x00, 0x00, 0x0F, 0x32});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, AnMsrThatL1DoesNotWantStaysInThisVm,
                    "Intel SDM volume 3, MSR-Bitmap Address; L0 keeps what L1 does not intercept") {
  AddBits(kProcessorControls, kProcessorMsrBitmaps);
  // mov ecx, 0x174 (IA32_SYSENTER_CS); mov eax, 0x1234; xor edx, edx; wrmsr; hlt
  ExpectExitAt(kReasonHlt, 14, {0xB9, 0x74, 1, 0, 0, 0xB8, 0x34, 0x12, 0, 0, 0x31, 0xD2, 0x0F, 0x30, 0xF4});
  if (IsOver()) return;
  EXPECT_EQ(Read(kGuestSysenterCs), 0x1234U);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAnExceptionInTheBitmap,
                    "Intel SDM volume 3, Exception Bitmap; Information for VM Exits Due to Vectored Events") {
  SetField(kExceptionBitmap, 1U << abi::x86::kVectorInvalidOpcode);
  ExpectExitAt(kReasonException, 0, {0x0F, 0x0B});
  if (IsOver()) return;
  EXPECT_EQ(Read(kExitEvent), abi::x86::kVectorInvalidOpcode | kEventException | kEventValid);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfABreakpointTellsItsLength,
                    "Intel SDM volume 3, Information for VM Exits Due to Vectored Events: software exception") {
  SetField(kExceptionBitmap, 1U << abi::x86::kVectorBreakpoint);
  ExpectExitAt(kReasonException, 0, {0xCC});
  if (IsOver()) return;
  EXPECT_EQ(Read(kExitEvent), abi::x86::kVectorBreakpoint | kEventSoftwareException | kEventValid);
  ExpectLength(1);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAPageFaultTellsAddressAndErrorCode,
                    "Intel SDM volume 3, Exception Bitmap: page faults; exit qualification") {
  SetField(kExceptionBitmap, 1U << abi::x86::kVectorPageFault);
  ExpectExitAt(kReasonException, 0, {0x89, 0x04, 0x25, 0x00, 0x00, 0x00, 0x40});  // mov [1 << 30], eax
  ExpectQualification(1U << 30);
  if (IsOver()) return;
  EXPECT_EQ(Read(kExitEvent), abi::x86::kVectorPageFault | kEventException | kEventHasErrorCode | kEventValid);
  EXPECT_EQ(Read(kExitEventError), 2U) << "a write to a page that is not present";
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, APageFaultThatDoesNotMatchIsL2s,
                    "Intel SDM volume 3, Exception Bitmap: page-fault error-code mask and match") {
  SetField(kExceptionBitmap, 1U << abi::x86::kVectorPageFault);
  SetField(kPageFaultErrorMask, 2);
  SetField(kPageFaultErrorMatch, 2);
  LoadL2({0x8B, 0x04, 0x25, 0x00, 0x00, 0x00, 0x40});  // mov eax, [1 << 30]: no write
  if (!EnterVmx()) return;
  Start({Op::kVmlaunch});
  const auto exception = NextException();
  if (!exception) return;
  EXPECT_EQ(exception->vector, abi::x86::kVectorPageFault);
  EXPECT_EQ(exception->rip, kL2Code);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, APageFaultThatMatchesNotLeavesWithoutItsBit,
                    "Intel SDM volume 3, Exception Bitmap: page-fault error-code mask and match, bit 14 is 0") {
  SetField(kPageFaultErrorMask, 2);
  SetField(kPageFaultErrorMatch, 2);
  ExpectExitAt(kReasonException, 0, {0x8B, 0x04, 0x25, 0x00, 0x00, 0x00, 0x40});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfATripleFault,
                    "Intel SDM volume 3, Other Causes of VM Exits: triple fault") {
  SetField(kGuestIdtrLimit, 0);
  ExpectExitAt(kReasonTripleFault, 0, {0x0F, 0x0B});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAnNmi, "Intel SDM volume 3, Pin-Based VM-Execution Controls: NMI exiting") {
  if (LacksControls(kPinControls, kPinNmi, "NMI exiting")) return;
  AddBits(kGuestRflags, abi::x86::kRflagsInterrupts);
  LoadL2({0xE6, 0x50, 0xEB, 0xFE});  // out 0x50, al; jmp to itself
  if (!EnterVmx()) return;
  Start({Op::kVmlaunch});
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  ASSERT_EQ(exit->port, 0x50U);
  ASSERT_TRUE(vcpu().InjectNmi());
  ASSERT_TRUE(Done());
  EXPECT_EQ(Read(kExitReason), kReasonException);
  EXPECT_EQ(Read(kExitEvent), 2U | kEventNmi | kEventValid);
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, AtAnInterruptWindow,
                    "Intel SDM volume 3, Other Causes of VM Exits: interrupt-window exiting") {
  AddBits(kProcessorControls, kProcessorInterruptWindow);
  // nop; sti; nop; nop: STI blocks for one instruction more
  ExpectExitAt(kReasonInterruptWindow, 3, {0x90, 0xFB, 0x90, 0x90, 0xF4});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, AtAnNmiWindow,
                    "Intel SDM volume 3, Other Causes of VM Exits: NMI-window exiting") {
  if (LacksControls(kPinControls, kPinNmi | kPinVirtualNmis, "virtual NMIs")) return;
  if (LacksControls(kProcessorControls, kProcessorNmiWindow, "NMI-window exiting")) return;
  ExpectExitAt(kReasonNmiWindow, 0, {0x90, 0xF4});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfTheMonitorTrapFlag, "Intel SDM volume 3, Monitor Trap Flag") {
  if (LacksControls(kProcessorControls, kProcessorMonitorTrap, "the monitor trap flag")) return;
  ExpectExitAt(kReasonMonitorTrap, 1, {0x90, 0x90, 0xF4});
  if (IsOver()) return;
  ExpectExit(kReasonMonitorTrap);
  if (IsOver()) return;
  EXPECT_EQ(Read(kGuestRip), kL2Code + 2) << "and of each instruction that follows";
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAPreemptionTimerThatIsZero,
                    "Intel SDM volume 3, VMX-Preemption Timer: expires before any instruction") {
  if (LacksControls(kPinControls, kPinPreemptionTimer, "the preemption timer")) return;
  SetField(kGuestPreemptionTimer, 0);
  ExpectExitAt(kReasonPreemptionTimer, 0, {0x90, 0xF4});
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, OfAPreemptionTimerThatRunsDown, "Intel SDM volume 3, VMX-Preemption Timer") {
  if (LacksControls(kPinControls, kPinPreemptionTimer, "the preemption timer")) return;
  SetField(kGuestPreemptionTimer, 10'000);
  AddBits(kGuestRflags, abi::x86::kRflagsInterrupts);     // else Bochs 2.7 takes no timer of its host
  ExpectExitAt(kReasonPreemptionTimer, 0, {0xEB, 0xFE});  // jmp to itself
}
NESTBENCH_CONDITION(nested_vmx, VmxExits, AddTheTscOffset, "Intel SDM volume 3, Time-Stamp Counter Offset") {
  AddBits(kProcessorControls, kProcessorTscOffset);
  SetField(kTscOffset, 1ULL << 60);
  ExpectExitAt(kReasonHlt, 2, {0x0F, 0x31, 0xF4});  // rdtsc; hlt
  if (IsOver()) return;
  EXPECT_EQ(L2Register(2) >> 28, 1U) << "bit 60 of L2's time stamp counter";
}
// Without an interrupt chip in the kernel a halted vCPU is user space's business.
class VmxHalt : public VmxTest {
 protected:
  void PrepareVm() override {
    auto made = vm().CreateIrqChip();
    ASSERT_TRUE(made) << made.error().ToString();
  }
};

NESTBENCH_CONDITION(nested_vmx, VmxHalt, AHaltedGuestStaysHaltedUntilAnEvent,
                    "Intel SDM volume 3, Activity State: HLT, left by what would wake it") {
  if (LacksControls(kPinControls, kPinPreemptionTimer, "the preemption timer")) return;
  SetField(kGuestPreemptionTimer, 10'000);
  SetField(kGuestActivity, 1);
  ExpectExitAt(kReasonPreemptionTimer, 0, {0x0F, 0x0B});  // ud2, which it must not come to
  if (IsOver()) return;
  EXPECT_EQ(Read(kGuestActivity), 1U);
}

}  // namespace
}  // namespace nestbench::conformance
