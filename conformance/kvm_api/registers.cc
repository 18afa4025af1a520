// vCPU state in and out. Source: kernel document "The Definitive KVM API Documentation", the sections of the ioctls.
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../harness/guest.h"
#include "nestbench/abi/x86.h"

namespace nestbench::conformance {
namespace {

using Registers = GuestTest;

NESTBENCH_CONDITION(kvm_api, Registers, GeneralOnesComeBackAsTheyWereSet, "KVM API, KVM_GET_REGS and KVM_SET_REGS") {
  kvm_regs regs = {};
  std::uint64_t value = 0x0123'4567'89AB'CDEF;
  for (auto* one : {&regs.rax, &regs.rbx, &regs.rcx, &regs.rdx, &regs.rsi, &regs.rdi, &regs.rsp, &regs.rbp, &regs.r8,
                    &regs.r9, &regs.r10, &regs.r11, &regs.r12, &regs.r13, &regs.r14, &regs.r15}) {
    *one = value;
    value = value << 4 | value >> 60;
  }
  regs.rip = 0x1234;
  regs.rflags = 0x202;
  ASSERT_TRUE(vcpu().SetRegs(regs));
  const auto back = vcpu().GetRegs();
  ASSERT_TRUE(back);
  EXPECT_EQ(std::memcmp(&regs, &*back, sizeof(regs)), 0);
}

NESTBENCH_CONDITION(kvm_api, Registers, TheFixedFlagIsAlwaysSet,
                    "Intel SDM volume 1, EFLAGS register: bit 1 is reserved and 1") {
  auto regs = vcpu().GetRegs();
  ASSERT_TRUE(regs);
  regs->rflags = 0;
  ASSERT_TRUE(vcpu().SetRegs(*regs));
  EXPECT_EQ(vcpu().GetRegs()->rflags & 2, 2U);
}

NESTBENCH_CONDITION(kvm_api, Registers, TheGuestSeesWhatWasSetAndWeWhatItLeft, "KVM API, KVM_GET_REGS, KVM_SET_REGS") {
  Load({0x89, 0xD8,          // mov ax, bx
        0x05, 0x34, 0x12,    // add ax, 0x1234
        0xE6, 0x10, 0xF4});  // out 0x10, al; hlt
  auto regs = vcpu().GetRegs();
  ASSERT_TRUE(regs);
  regs->rbx = 0x1111;
  ASSERT_TRUE(vcpu().SetRegs(*regs));
  if (!RunTo<vmm::IoExit>()) return;
  EXPECT_EQ(vcpu().GetRegs()->rax & 0xFFFF, 0x2345U);
}

NESTBENCH_CONDITION(kvm_api, Registers, AfterReset16BitRealModeAtTheResetVector,
                    "KVM API, KVM_CREATE_VCPU; Intel SDM volume 3, Processor State After Reset") {
  auto fresh = vmm::Vcpu::Create(vm(), abi::VcpuId(1));
  ASSERT_TRUE(fresh) << fresh.error().ToString();
  const auto regs = fresh->GetRegs();
  const auto sregs = fresh->GetSregs();
  ASSERT_TRUE(regs && sregs);
  EXPECT_EQ(regs->rip, 0xFFF0U);
  EXPECT_EQ(regs->rflags, 2U);
  EXPECT_EQ(sregs->cs.selector, 0xF000U);
  EXPECT_EQ(sregs->cs.base, 0xFFFF0000U);
  EXPECT_EQ(sregs->cs.limit, 0xFFFFU);
  EXPECT_EQ(sregs->cr0, 0x6000'0010U);
  EXPECT_EQ(sregs->cr3, 0U);
  EXPECT_EQ(sregs->cr4, 0U);
  EXPECT_EQ(sregs->efer, 0U);
  EXPECT_EQ(sregs->idt.limit, 0xFFFFU);
}

NESTBENCH_CONDITION(kvm_api, Registers, SegmentsComeBackAsTheyWereSet, "KVM API, KVM_GET_SREGS and KVM_SET_SREGS") {
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  std::uint16_t selector = 0x100;
  for (kvm_segment* segment : {&sregs->ds, &sregs->es, &sregs->fs, &sregs->gs, &sregs->ss}) {
    segment->selector = selector;
    segment->base = std::uint64_t{selector} << 4;
    selector = static_cast<std::uint16_t>(selector + 0x100);
  }
  sregs->gdt = {.base = 0x4000, .limit = 0x37, .padding = {}};
  sregs->idt = {.base = 0x5000, .limit = 0x3FF, .padding = {}};
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  const auto back = vcpu().GetSregs();
  ASSERT_TRUE(back);
  EXPECT_EQ(std::memcmp(&sregs->ds, &back->ds, sizeof(kvm_segment)), 0);
  EXPECT_EQ(std::memcmp(&sregs->gs, &back->gs, sizeof(kvm_segment)), 0);
  EXPECT_EQ(back->gdt.base, 0x4000U);
  EXPECT_EQ(back->gdt.limit, 0x37U);
  EXPECT_EQ(back->idt.base, 0x5000U);
}

NESTBENCH_CONDITION(kvm_api, Registers, ControlRegistersThatContradictAreRefused,
                    "KVM API, KVM_SET_SREGS: EINVAL; Intel SDM volume 3, Control Registers: CR0.PG needs CR0.PE") {
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->cr0 = abi::x86::kCr0Paging;
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_SET_SREGS, &*sregs), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Registers, ReservedBitsOfCr4AreRefused,
                    "KVM API, KVM_SET_SREGS: EINVAL; Intel SDM volume 3, Control Registers") {
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->cr4 = 1ULL << 60;
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_SET_SREGS, &*sregs), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Registers, LongModeWithoutPaeIsRefused,
                    "KVM API, KVM_SET_SREGS: EINVAL; Intel SDM volume 3, Initializing IA-32e Mode") {
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->cr0 = abi::x86::kCr0ProtectedMode | abi::x86::kCr0Paging;
  sregs->cr4 = 0;
  sregs->efer = abi::x86::kEferLongModeEnable | abi::x86::kEferLongModeActive;
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_SET_SREGS, &*sregs), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Registers, FpuComesBackAsItWasSet, "KVM API, KVM_GET_FPU and KVM_SET_FPU") {
  kvm_fpu fpu = {};
  for (int i = 0; i < 8; ++i) std::memset(fpu.fpr[i], 0x10 + i, 10);
  for (int i = 0; i < 16; ++i) std::memset(fpu.xmm[i], 0x40 + i, sizeof(fpu.xmm[i]));
  fpu.fcw = 0x37F;
  ASSERT_TRUE(vcpu().SetFpu(fpu));
  const auto back = vcpu().GetFpu();
  ASSERT_TRUE(back);
  EXPECT_EQ(std::memcmp(fpu.xmm, back->xmm, sizeof(fpu.xmm)), 0);
  for (int i = 0; i < 8; ++i) EXPECT_EQ(std::memcmp(fpu.fpr[i], back->fpr[i], 10), 0) << "x87 register " << i;
}

NESTBENCH_CONDITION(kvm_api, Registers, FpuHoldsMxcsr, "KVM API, KVM_GET_FPU: struct kvm_fpu, mxcsr") {
  auto fpu = vcpu().GetFpu();
  ASSERT_TRUE(fpu) << fpu.error().ToString();
  fpu->mxcsr = 0x1FA0;
  ASSERT_TRUE(vcpu().SetFpu(*fpu));
  const auto back = vcpu().GetFpu();
  ASSERT_TRUE(back) << back.error().ToString();
  EXPECT_EQ(back->mxcsr, 0x1FA0U);
}

NESTBENCH_CONDITION(kvm_api, Registers, XsaveComesBackAsItWasSet, "KVM API, KVM_GET_XSAVE2 and KVM_SET_XSAVE") {
  const auto area = vcpu().GetXsave();
  ASSERT_TRUE(area) << area.error().ToString();
  Evidence("xsave_bytes", static_cast<long long>(area->size()));
  EXPECT_GE(area->size(), 4096U);
  auto changed = *area;
  // XMM0 lies at 160, and XSTATE_BV at 512 says that SSE state is not the initial one (Intel SDM volume 1, XSAVE Area).
  std::memset(changed.data() + 160, 0xA5, 16);
  changed[512] |= std::byte{2};
  ASSERT_TRUE(vcpu().SetXsave(changed));
  const auto back = vcpu().GetXsave();
  ASSERT_TRUE(back);
  EXPECT_EQ(std::memcmp(back->data() + 160, changed.data() + 160, 16), 0);
}

NESTBENCH_CONDITION(kvm_api, Registers, AReservedBitOfMxcsrIsRefused,
                    "KVM API, KVM_SET_XSAVE: EINVAL; Intel SDM volume 1, MXCSR Control and Status Register") {
  auto area = vcpu().GetXsave();
  ASSERT_TRUE(area);
  (*area)[24 + 3] = std::byte{0x80};
  (*area)[512] |= std::byte{2};
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_SET_XSAVE, area->data()), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Registers, Xcr0NeedsX87, "KVM API, KVM_SET_XCRS: EINVAL; Intel SDM volume 1, XCR0 bit 0") {
  if (Lacks(KVM_CAP_XCRS, "KVM_CAP_XCRS")) return;
  kvm_xcrs xcrs = {};
  xcrs.nr_xcrs = 1;
  xcrs.xcrs[0].value = 2;
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_SET_XCRS, &xcrs), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Registers, DebugRegistersComeBackAsTheyWereSet,
                    "KVM API, KVM_GET_DEBUGREGS and KVM_SET_DEBUGREGS") {
  if (Lacks(KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS")) return;
  auto debug = vcpu().GetDebugRegs();
  ASSERT_TRUE(debug);
  for (std::uint64_t i = 0; i < 4; ++i) debug->db[i] = 0x1000 * (i + 1);
  debug->dr7 = 0x400;
  ASSERT_TRUE(vcpu().SetDebugRegs(*debug));
  const auto back = vcpu().GetDebugRegs();
  ASSERT_TRUE(back);
  for (std::uint64_t i = 0; i < 4; ++i) EXPECT_EQ(back->db[i], 0x1000 * (i + 1));
  EXPECT_EQ(back->dr7, 0x400U);
}

NESTBENCH_CONDITION(kvm_api, Registers, FlagsOfDebugRegistersMustBeZero, "KVM API, KVM_SET_DEBUGREGS: flags unused") {
  if (Lacks(KVM_CAP_DEBUGREGS, "KVM_CAP_DEBUGREGS")) return;
  auto debug = vcpu().GetDebugRegs();
  ASSERT_TRUE(debug);
  debug->flags = 1;
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_SET_DEBUGREGS, &*debug), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Registers, AnMsrComesBackAsItWasSet, "KVM API, KVM_GET_MSRS and KVM_SET_MSRS") {
  ASSERT_TRUE(vcpu().WriteMsr(abi::x86::kMsrStar, 0x0013'0008'0000'0000));
  const auto back = vcpu().ReadMsr(abi::x86::kMsrStar);
  ASSERT_TRUE(back) << back.error().ToString();
  EXPECT_EQ(*back, 0x0013'0008'0000'0000U);
}

// Room for two entries behind the header.
struct TwoMsrs {
  std::uint32_t nmsrs;
  std::uint32_t pad;
  kvm_msr_entry entries[2];
};

NESTBENCH_CONDITION(kvm_api, Registers, SetMsrsSaysHowManyWereSet,
                    "KVM API, KVM_SET_MSRS: number of msrs successfully set") {
  TwoMsrs msrs = {.nmsrs = 2, .pad = 0, .entries = {}};
  msrs.entries[0] = {.index = abi::x86::kMsrStar, .reserved = 0, .data = 0};
  msrs.entries[1] = {.index = 0xDEAD'BEEF, .reserved = 0, .data = 0};
  EXPECT_EQ(::ioctl(vcpu().fd(), KVM_SET_MSRS, &msrs), 1);
}

NESTBENCH_CONDITION(kvm_api, Registers, ANonCanonicalLstarIsRefused,
                    "Intel SDM volume 4, IA32_LSTAR; KVM API, KVM_SET_MSRS: stops at the first that fails") {
  TwoMsrs msrs = {.nmsrs = 1, .pad = 0, .entries = {}};
  msrs.entries[0] = {.index = abi::x86::kMsrLstar, .reserved = 0, .data = 1ULL << 62};
  EXPECT_EQ(::ioctl(vcpu().fd(), KVM_SET_MSRS, &msrs), 0);
}

NESTBENCH_CONDITION(kvm_api, Registers, TooManyMsrsAtOnceAreRefused, "arch/x86/kvm/x86.c, MAX_IO_MSRS: E2BIG") {
  TwoMsrs msrs = {.nmsrs = 100'000, .pad = 0, .entries = {}};
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_GET_MSRS, &msrs), {E2BIG}));
}

NESTBENCH_CONDITION(kvm_api, Registers, EventsComeBackAsTheyWereSet,
                    "KVM API, KVM_GET_VCPU_EVENTS and KVM_SET_VCPU_EVENTS") {
  if (Lacks(KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS")) return;
  auto events = vcpu().GetEvents();
  ASSERT_TRUE(events);
  events->nmi.masked = 1;
  events->flags |= KVM_VCPUEVENT_VALID_NMI_PENDING;
  ASSERT_TRUE(vcpu().SetEvents(*events));
  EXPECT_EQ(vcpu().GetEvents()->nmi.masked, 1);
}

NESTBENCH_CONDITION(kvm_api, Registers, UnknownFlagsOfEventsAreRefused, "KVM API, KVM_SET_VCPU_EVENTS: EINVAL") {
  if (Lacks(KVM_CAP_VCPU_EVENTS, "KVM_CAP_VCPU_EVENTS")) return;
  auto events = vcpu().GetEvents();
  ASSERT_TRUE(events);
  events->flags = 1U << 31;
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_SET_VCPU_EVENTS, &*events), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Registers, TheFirstVcpuIsRunnable, "KVM API, KVM_GET_MP_STATE: KVM_MP_STATE_RUNNABLE") {
  if (Lacks(KVM_CAP_MP_STATE, "KVM_CAP_MP_STATE")) return;
  const auto state = vcpu().GetMpState();
  ASSERT_TRUE(state) << state.error().ToString();
  EXPECT_EQ(state->mp_state, static_cast<std::uint32_t>(KVM_MP_STATE_RUNNABLE));
}

using LocalApic = VmTest;

NESTBENCH_CONDITION(kvm_api, LocalApic, TakesNoInterruptFromUserSpace,
                    "KVM API, KVM_INTERRUPT: ENXIO if in-kernel local APIC is used") {
  ASSERT_TRUE(vm().CreateIrqChip());
  auto vcpu = vmm::Vcpu::Create(vm(), abi::VcpuId(0));
  ASSERT_TRUE(vcpu) << vcpu.error().ToString();
  const kvm_interrupt interrupt = {.irq = 0x20};
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu->fd(), KVM_INTERRUPT, &interrupt), {ENXIO}));
}

NESTBENCH_CONDITION(kvm_api, Registers, AVcpuIsMadeAfterTheInterruptChip,
                    "arch/x86/kvm/x86.c, kvm_arch_vm_ioctl, KVM_CREATE_IRQCHIP: EINVAL once there are vCPUs") {
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_CREATE_IRQCHIP), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Registers, AnInterruptVectorHasEightBits, "KVM API, KVM_INTERRUPT: EINVAL, vector") {
  kvm_interrupt interrupt = {.irq = 256};
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_INTERRUPT, &interrupt), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Registers, RealModeAddressesTranslateToThemselves, "KVM API, KVM_TRANSLATE") {
  const auto translated = vcpu().Translate(abi::GuestVirtAddr(0x3000));
  ASSERT_TRUE(translated) << translated.error().ToString();
  EXPECT_EQ(translated->physical_address, 0x3000U);
  EXPECT_EQ(translated->valid, 1);
}

NESTBENCH_CONDITION(kvm_api, Registers, CpuidCanBeSetAndReadBack, "KVM API, KVM_SET_CPUID2 and KVM_GET_CPUID2") {
  auto policy = device().SupportedCpuid();
  ASSERT_TRUE(policy) << policy.error().ToString();
  ASSERT_TRUE(vcpu().SetCpuid(*policy));
  EXPECT_TRUE(vcpu().GetCpuid());
}

NESTBENCH_CONDITION(kvm_api, Registers, RegistersCanBeReadFromTheRunArea,
                    "KVM API, KVM_CAP_SYNC_REGS: kvm_valid_regs, s.regs.regs") {
  const int fields = vm().CheckCapability(KVM_CAP_SYNC_REGS);
  Evidence("KVM_CAP_SYNC_REGS", fields);
  if ((fields & KVM_SYNC_X86_REGS) == 0) GTEST_SKIP() << "KVM_CAP_SYNC_REGS is " << fields;
  Load({0xB8, 0x34, 0x12, 0xE6, 0x10, 0xF4});  // mov ax, 0x1234; out 0x10, al; hlt
  vcpu().run()->kvm_valid_regs = KVM_SYNC_X86_REGS;
  if (!RunTo<vmm::IoExit>()) return;
  EXPECT_EQ(vcpu().run()->s.regs.regs.rax & 0xFFFF, 0x1234U);
}

NESTBENCH_CONDITION(kvm_api, Registers, RegistersCanBeSetInTheRunArea,
                    "KVM API, KVM_CAP_SYNC_REGS: kvm_dirty_regs, s.regs.regs") {
  const int fields = vm().CheckCapability(KVM_CAP_SYNC_REGS);
  if ((fields & KVM_SYNC_X86_REGS) == 0) GTEST_SKIP() << "KVM_CAP_SYNC_REGS is " << fields;
  Load({0xE6, 0x10, 0xF4});  // out 0x10, al; hlt
  const auto regs = vcpu().GetRegs();
  ASSERT_TRUE(regs);
  vcpu().run()->s.regs.regs = *regs;
  vcpu().run()->s.regs.regs.rax = 0x77;
  vcpu().run()->kvm_dirty_regs = KVM_SYNC_X86_REGS;
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->data[0], std::byte{0x77});
}

NESTBENCH_CONDITION(kvm_api, Registers, UnknownFieldsOfTheRunAreaAreRefused,
                    "KVM API, KVM_CAP_SYNC_REGS: EINVAL for fields that are not supported") {
  if (vm().CheckCapability(KVM_CAP_SYNC_REGS) == 0) GTEST_SKIP() << "KVM_CAP_SYNC_REGS is 0";
  vcpu().run()->kvm_valid_regs = 1ULL << 63;
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_RUN), {EINVAL}));
}

}  // namespace
}  // namespace nestbench::conformance
