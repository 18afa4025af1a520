// Events: what L1 injects, what it intercepts, and what GIF and the virtual interrupt hold back. Source: AMD64
// Architecture Programmer's Manual volume 2, chapter "Secure Virtual Machine", sections "Event Injection", "Interrupt
// and Local APIC Support", "Global Interrupt Flag, STGI and CLGI Instructions".
#include <cstdint>

#include "svm_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::svm;

constexpr unsigned kVector = 25;  // it has a stub, and no exception has it
constexpr std::uint64_t kRflagsIf = 1U << 9;
constexpr std::uint64_t kEventMask = 0x8000'0FFF;

// L2 stops at HLT. Interrupts come from the APIC of the kernel: KVM_INTERRUPT without it is the event itself, not a
// request that could be held back. L2 sets RFLAGS.IF by POPF, which has no shadow, where the instruction of the
// delivery matters.
class SvmEvents : public SvmTest {
 protected:
  static constexpr std::uint16_t kMarkPort = 0x50;  // no chip of the kernel has it, and nobody intercepts it
  static constexpr std::uint64_t kVirtualInterrupt =
      kVirtualIrq | kVirtualMasking | std::uint64_t{kVector} << kVirtualVectorShift | 0xFULL << kVirtualPriorityShift;

  void PrepareVm() override { ASSERT_TRUE(vm().CreateIrqChip()); }
  void SetUp() override {
    SvmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    LoadL2({0xF4});
    vmcb().intercepts_1 = 1U << kIntercept1Hlt;
    auto apic = vcpu().GetLapic();
    ASSERT_TRUE(apic);
    constexpr std::size_t kSpurious = 0xF0;  // its bit 8 enables the APIC, which else accepts no vector
    apic->regs[kSpurious] = static_cast<char>(0xFF);
    apic->regs[kSpurious + 1] = 1;
    ASSERT_TRUE(vcpu().SetLapic(*apic));
  }

  void Interrupt() {
    const auto sent = vm().SignalMsi(0xFEE0'0000, kVector);  // physical, to APIC 0, fixed, edge
    ASSERT_TRUE(sent) << sent.error().ToString();
    ASSERT_EQ(*sent, 1) << "the APIC did not take it";
  }
  // The stub of that vector reports, in whatever guest has the IDT.
  void ExpectDelivery(std::uint64_t vector, std::uint64_t error, std::uint64_t rip) {
    const auto exception = NextException();
    if (!exception) return;
    EXPECT_EQ(exception->vector, vector);
    EXPECT_EQ(exception->error, error);
    EXPECT_EQ(exception->rip, rip);
  }
  void ExpectInvalid(std::uint64_t event) {
    vmcb().event_injection = event | kEventValid;
    ExpectExit(kExitInvalid);
  }
};

NESTBENCH_CONDITION(nested_svm, SvmEvents, AnInjectedExceptionWithItsErrorCodeReachesL2,
                    "AMD APM volume 2, Event Injection: type 3, EV and ERRORCODE") {
  vmcb().event_injection = 13 | kEventException | kEventHasErrorCode | kEventValid | 0x18ULL << 32;
  ExpectDelivery(13, 0x18, kL2Code);
  ExpectExit(kExitHlt);  // IRETQ came back to L2
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnInjectedExceptionWithoutErrorCodeReachesL2,
                    "AMD APM volume 2, Event Injection: type 3, EV 0") {
  vmcb().event_injection = 6 | kEventException | kEventValid;
  ExpectDelivery(6, 0, kL2Code);
  ExpectExit(kExitHlt);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnInjectedInterruptReachesL2,
                    "AMD APM volume 2, Event Injection: type 0, external or virtual interrupt") {
  vmcb().rflags |= kRflagsIf;
  vmcb().event_injection = kVector | kEventInterrupt | kEventValid;
  ExpectDelivery(kVector, 0, kL2Code);
  ExpectExit(kExitHlt);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnInjectedNmiReachesL2, "AMD APM volume 2, Event Injection: type 2, NMI") {
  vmcb().event_injection = 2 | kEventNmi | kEventValid;
  ExpectDelivery(2, 0, kL2Code);
  ExpectExit(kExitHlt);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnInjectedSoftwareInterruptReachesL2,
                    "AMD APM volume 2, Event Injection: type 4, software interrupt (INTn)") {
  // L2 stands at the INTn that the event stands for, and VMCB.nRIP behind it: the frame holds one of both, by whether
  // the processor has nRIP.
  LoadL2({0xCD, kVector, 0xF4});  // int 25; hlt
  vmcb().next_rip = kL2Code + 2;
  vmcb().event_injection = kVector | kEventSoftwareInterrupt | kEventValid;
  const auto exception = NextException();
  if (!exception) return;
  EXPECT_EQ(exception->vector, kVector);
  EXPECT_TRUE(exception->rip == kL2Code || exception->rip == kL2Code + 2) << std::hex << "RIP 0x" << exception->rip;
  Evidence("pushed_rip", static_cast<long long>(exception->rip - kL2Code));
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnExceptionIsRefusedWithTheVectorOfNmi,
                    "AMD APM volume 2, Event Injection: type 3 with vector 2 is VMEXIT_INVALID") {
  ExpectInvalid(2 | kEventException);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnExceptionIsRefusedWithAVectorAbove31,
                    "AMD APM volume 2, Event Injection: type 3 with a vector that is no exception's") {
  ExpectInvalid(32 | kEventException);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnEventOfType1IsRefused,
                    "AMD APM volume 2, Event Injection: reserved values of TYPE are VMEXIT_INVALID") {
  ExpectInvalid(kVector | 1U << 8);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnEventOfType5IsRefused,
                    "AMD APM volume 2, Event Injection: reserved values of TYPE are VMEXIT_INVALID") {
  ExpectInvalid(kVector | 5U << 8);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnEventThatIsNotValidIsNone, "AMD APM volume 2, Event Injection: V is 0") {
  vmcb().event_injection = 6 | kEventException;
  ExpectExit(kExitHlt);
}

NESTBENCH_CONDITION(nested_svm, SvmEvents, AnInterruptOfL1LeavesL2AndStaysPending,
                    "AMD APM volume 2, Interrupt Intercepts: INTR") {
  LoadL2({0xFB, 0x90, 0xEB, 0xFE});  // sti; nop; jmp $
  vmcb().intercepts_1 |= 1U << kIntercept1Intr;
  Interrupt();
  if (HasFailure()) return;
  ExpectExit(kExitIntercept1 + kIntercept1Intr);
  // Nobody has acknowledged it, so that it is there again.
  ExpectExit(kExitIntercept1 + kIntercept1Intr);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnInterruptOfL1WaitsForL2sFlag,
                    "AMD APM volume 2, Interrupt Masking in EFLAGS: V_INTR_MASKING 0, L2's RFLAGS.IF masks") {
  vmcb().intercepts_1 |= 1U << kIntercept1Intr;
  Interrupt();
  if (HasFailure()) return;
  ExpectExit(kExitHlt);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, WithMaskingL1sFlagHoldsItsInterruptBack,
                    "AMD APM volume 2, Interrupt Masking in EFLAGS: V_INTR_MASKING 1, the host's IF masks: 0") {
  LoadL2({0xFB, 0x90, 0x90, 0xF4});  // sti; nop; nop; hlt
  vmcb().intercepts_1 |= 1U << kIntercept1Intr;
  vmcb().virtual_interrupt = kVirtualMasking;
  Interrupt();
  if (HasFailure()) return;
  ExpectExit(kExitHlt);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, WithMaskingL1sFlagLetsItsInterruptLeaveL2,
                    "AMD APM volume 2, Interrupt Masking in EFLAGS: V_INTR_MASKING 1, the host's IF masks: 1") {
  LoadL1({0x0F, 0x01, 0xDD,              // clgi
          0xFB,                          // sti
          0xE6, kMarkPort,               // out
          0xB8, 0x00, 0x00, 0x05, 0x00,  // mov eax, kVmcb
          0x0F, 0x01, 0xD8,              // vmrun
          0xE6, kDonePort});             // out
  LoadL2({0xEB, 0xFE});                  // jmp $, with IF clear
  vmcb().intercepts_1 |= 1U << kIntercept1Intr;
  vmcb().virtual_interrupt = kVirtualMasking;
  if (!ReachPort(kMarkPort)) return;
  Interrupt();
  if (HasFailure()) return;
  ExpectExit(kExitIntercept1 + kIntercept1Intr);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnInterruptWithoutAnInterceptIsL2s,
                    "AMD APM volume 2, Interrupt Intercepts: INTR intercept clear") {
  LoadL2({0x68, 0x02, 0x02, 0x00, 0x00, 0x9D, 0xF4});  // push 0x202; popfq; hlt
  Interrupt();
  if (HasFailure()) return;
  ExpectDelivery(kVector, 0, kL2Code + 6);
  ExpectExit(kExitHlt);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnNmiOfL1LeavesL2, "AMD APM volume 2, Interrupt Intercepts: NMI") {
  LoadL2({0xE6, kMarkPort, 0xEB, 0xFE});  // out; jmp $
  vmcb().intercepts_1 |= 1U << kIntercept1Nmi;
  if (!ReachPort(kMarkPort)) return;
  ASSERT_TRUE(vcpu().InjectNmi());
  ExpectExit(kExitIntercept1 + kIntercept1Nmi);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AnNmiWithoutAnInterceptIsL2s,
                    "AMD APM volume 2, Interrupt Intercepts: NMI intercept clear") {
  LoadL2({0xE6, kMarkPort, 0xF4});  // out; hlt
  if (!ReachPort(kMarkPort)) return;
  ASSERT_TRUE(vcpu().InjectNmi());
  ExpectDelivery(2, 0, kL2Code + 2);
  ExpectExit(kExitHlt);
}

// QEMU's emulator forgets to clear V_IRQ when the delivery needs a page that KVM has yet to map, and delivers it twice
// (target/i386/tcg/sysemu/seg_helper.c, x86_cpu_exec_interrupt): L2 goes that way once before, by INTn.
NESTBENCH_CONDITION(nested_svm, SvmEvents, AVirtualInterruptReachesL2,
                    "AMD APM volume 2, Virtual Interrupts: V_IRQ, V_INTR_VECTOR") {
  LoadL2({0xCD, kVector, 0x68, 0x02, 0x02, 0x00, 0x00, 0x9D, 0xF4});  // int 25; push 0x202; popfq; hlt
  vmcb().virtual_interrupt = kVirtualInterrupt;
  ExpectDelivery(kVector, 0, kL2Code + 2);  // INTn's: where delivery goes has its pages by now
  ExpectDelivery(kVector, 0, kL2Code + 8);
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().virtual_interrupt & kVirtualIrq, 0U) << "it was taken";
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AVirtualInterruptWaitsForL2sFlag,
                    "AMD APM volume 2, Virtual Interrupts: V_IRQ, guest RFLAGS.IF 0") {
  vmcb().virtual_interrupt = kVirtualInterrupt;
  ExpectExit(kExitHlt);
  EXPECT_NE(vmcb().virtual_interrupt & kVirtualIrq, 0U) << "it is still to come";
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AVirtualInterruptWaitsForItsPriority,
                    "AMD APM volume 2, Virtual Interrupts: V_INTR_PRIO not above V_TPR") {
  LoadL2({0xFB, 0x90, 0x90, 0xF4});  // sti; nop; nop; hlt
  vmcb().virtual_interrupt =
      kVirtualIrq | kVirtualMasking | std::uint64_t{kVector} << kVirtualVectorShift | 1ULL << kVirtualPriorityShift | 5;
  ExpectExit(kExitHlt);
  EXPECT_NE(vmcb().virtual_interrupt & kVirtualIrq, 0U);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AVirtualInterruptThatIgnoresThePriorityReachesL2,
                    "AMD APM volume 2, Virtual Interrupts: V_IGN_TPR") {
  LoadL2({0xCD, kVector, 0x68, 0x02, 0x02, 0x00, 0x00, 0x9D, 0xF4});  // int 25; push 0x202; popfq; hlt
  vmcb().virtual_interrupt = kVirtualIrq | kVirtualMasking | kVirtualIgnoreTpr |
                             std::uint64_t{kVector} << kVirtualVectorShift | 1ULL << kVirtualPriorityShift | 5;
  ExpectDelivery(kVector, 0, kL2Code + 2);  // INTn's: where delivery goes has its pages by now
  ExpectDelivery(kVector, 0, kL2Code + 8);
  ExpectExit(kExitHlt);
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, TheInterceptOfVintrComesBeforeTheVirtualInterrupt,
                    "AMD APM volume 2, Virtual Interrupt Intercept: VINTR") {
  LoadL2({0x68, 0x02, 0x02, 0x00, 0x00, 0x9D, 0xF4});  // push 0x202; popfq; hlt
  vmcb().intercepts_1 |= 1U << kIntercept1Vintr;
  vmcb().virtual_interrupt = kVirtualInterrupt;
  ExpectExit(kExitIntercept1 + kIntercept1Vintr);
  EXPECT_EQ(vmcb().rip, kL2Code + 6) << "when L2 could take it";
  EXPECT_NE(vmcb().virtual_interrupt & kVirtualIrq, 0U) << "it was not taken";
}
NESTBENCH_CONDITION(nested_svm, SvmEvents, AVirtualInterruptWaitsForStisShadow,
                    "AMD APM volume 2, Virtual Interrupts; VMCB offset 068h: INTERRUPT_SHADOW") {
  LoadL2({0xFB, 0x90, 0xF4});  // sti; nop; hlt
  vmcb().intercepts_1 |= 1U << kIntercept1Vintr;
  vmcb().virtual_interrupt = kVirtualInterrupt;
  ExpectExit(kExitIntercept1 + kIntercept1Vintr);
  EXPECT_EQ(vmcb().rip, kL2Code + 2);
}

// L1 with GIF clear between the two ports.
class SvmGif : public SvmEvents {
 protected:
  static constexpr std::uint16_t kHeldPort = 0x51;
  static constexpr std::uint64_t kAfterStgi = kCode + 12;

  void SetUp() override {
    SvmEvents::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    LoadL1({0x0F, 0x01, 0xDD,  // clgi
            0xFB,              // sti
            0xE6, kMarkPort,   // out
            0x90,              // nop
            0xE6, kHeldPort,   // out
            0x0F, 0x01, 0xDC,  // stgi
            0x90,              // nop
            0xEB, 0xFE});      // jmp $
  }
  void ExpectAfterStgi(std::uint64_t vector) {
    if (!ReachPort(kHeldPort)) return;  // the stub's port would come first, had it not been held
    const auto exception = NextException();
    if (!exception) return;
    EXPECT_EQ(exception->vector, vector);
    EXPECT_GE(exception->rip, kAfterStgi);
  }
};

NESTBENCH_CONDITION(nested_svm, SvmGif, HoldsAnInterruptUntilStgi,
                    "AMD APM volume 2, Global Interrupt Flag, STGI and CLGI Instructions: INTR held pending") {
  if (!ReachPort(kMarkPort)) return;
  Interrupt();
  if (HasFailure()) return;
  ExpectAfterStgi(kVector);
}
NESTBENCH_CONDITION(nested_svm, SvmGif, HoldsAnNmiUntilStgi,
                    "AMD APM volume 2, Global Interrupt Flag, STGI and CLGI Instructions: NMI held pending") {
  if (!ReachPort(kMarkPort)) return;
  ASSERT_TRUE(vcpu().InjectNmi());
  ExpectAfterStgi(2);
}
NESTBENCH_CONDITION(nested_svm, SvmGif, IsClearAfterAnExit,
                    "AMD APM volume 2, Global Interrupt Flag, STGI and CLGI Instructions: #VMEXIT clears GIF") {
  LoadL1({0xB8, 0x00,      0x00, 0x05, 0x00,  // mov eax, kVmcb
          0x0F, 0x01,      0xD8,              // vmrun
          0xFB,                               // sti
          0xE6, kMarkPort,                    // out
          0x90,                               // nop
          0xE6, kHeldPort,                    // out
          0x0F, 0x01,      0xDC,              // stgi
          0x90,                               // nop
          0xEB, 0xFE});                       // jmp $
  if (!ReachPort(kMarkPort)) return;
  EXPECT_EQ(vmcb().exit_code, kExitHlt);
  Interrupt();
  if (HasFailure()) return;
  ExpectAfterStgi(kVector);
}
NESTBENCH_CONDITION(nested_svm, SvmGif, IsSetWhileL2Runs,
                    "AMD APM volume 2, VMRUN Instruction: GIF is set, so that a held interrupt leaves L2") {
  LoadL1({0x0F, 0x01, 0xDD,              // clgi
          0xE6, kMarkPort,               // out
          0xB8, 0x00, 0x00, 0x05, 0x00,  // mov eax, kVmcb
          0x0F, 0x01, 0xD8,              // vmrun
          0xE6, kDonePort});             // out
  LoadL2({0xEB, 0xFE});                  // jmp $
  vmcb().rflags |= kRflagsIf;
  vmcb().intercepts_1 |= 1U << kIntercept1Intr;
  if (!ReachPort(kMarkPort)) return;
  Interrupt();
  if (HasFailure()) return;
  ExpectExit(kExitIntercept1 + kIntercept1Intr);
}

// L2's stack has no page, so that the delivery of an event ends in #PF, which L1 intercepts.
class SvmExitIntInfo : public SvmTest {
 protected:
  void SetUp() override {
    SvmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    LoadL2({0xF4});
    Pte(kL2StackTop - 8) = 0;
    vmcb().exception_intercepts = 1U << 14;
  }
  void ExpectInfo(std::uint64_t info, std::uint64_t mask) {
    ExpectExit(kExitException0 + 14);
    EXPECT_EQ(vmcb().exit_int_info & mask, info | kEventValid);
    EXPECT_EQ(vmcb().exit_info_2, kL2StackTop - 8) << "where the push went";
  }
};

NESTBENCH_CONDITION(nested_svm, SvmExitIntInfo, HoldsAnInjectedInterrupt,
                    "AMD APM volume 2, EXITINTINFO: an interrupt whose delivery was intercepted") {
  vmcb().event_injection = kVector | kEventInterrupt | kEventValid;
  ExpectInfo(kVector | kEventInterrupt, kEventMask);
}
NESTBENCH_CONDITION(
    nested_svm, SvmExitIntInfo, HoldsAnInjectedExceptionAndItsErrorCode,
    "AMD APM volume 2, EXITINTINFO: an exception whose delivery was intercepted, with EV and ERRORCODE") {
  vmcb().event_injection = 12 | kEventException | kEventHasErrorCode | kEventValid | 0x28ULL << 32;
  ExpectInfo(12 | kEventException | kEventHasErrorCode | 0x28ULL << 32, ~0ULL);
}
NESTBENCH_CONDITION(nested_svm, SvmExitIntInfo, HoldsAnInjectedNmi,
                    "AMD APM volume 2, EXITINTINFO: an NMI whose delivery was intercepted") {
  vmcb().event_injection = 2 | kEventNmi | kEventValid;
  ExpectInfo(kEventNmi, kEventMask & ~0xFFULL);  // the vector of an NMI is not defined
}
NESTBENCH_CONDITION(nested_svm, SvmExitIntInfo, HoldsTheExceptionOfAnInstruction,
                    "AMD APM volume 2, EXITINTINFO: an exception of L2 whose delivery was intercepted") {
  LoadL2({0x0F, 0x0B});  // ud2
  ExpectInfo(6 | kEventException, kEventMask);
  EXPECT_EQ(vmcb().rip, kL2Code);
}
NESTBENCH_CONDITION(nested_svm, SvmExitIntInfo, HoldsASoftwareInterrupt,
                    "AMD APM volume 2, EXITINTINFO: an INTn of L2 whose delivery was intercepted") {
  LoadL2({0xCD, kVector});  // int 25
  ExpectInfo(kVector | kEventSoftwareInterrupt, kEventMask);
}
NESTBENCH_CONDITION(nested_svm, SvmExitIntInfo, IsNotValidAfterAnExitOfAnInstruction,
                    "AMD APM volume 2, EXITINTINFO: V is 0 when no event was being delivered") {
  vmcb().intercepts_1 = 1U << kIntercept1Hlt;
  vmcb().exit_int_info = kEventValid;  // what an exit before might have left
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().exit_int_info & kEventValid, 0U);
}

}  // namespace
}  // namespace nestbench::conformance
