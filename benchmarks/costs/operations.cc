#include "operations.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "nestbench/abi/layout.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/machine/flat_machine.h"

namespace nestbench::costs {
namespace {

using namespace abi::x86;

template <typename... Values>
constexpr auto Code(Values... values) {
  return std::array<std::uint8_t, sizeof...(Values)>{static_cast<std::uint8_t>(values)...};
}

template <std::size_t... kSizes>
constexpr auto Join(const std::array<std::uint8_t, kSizes>&... parts) {
  std::array<std::uint8_t, (kSizes + ...)> joined{};
  auto end = joined.begin();
  ((end = std::ranges::copy(parts, end).out), ...);
  return joined;
}

constexpr auto Word(std::uint32_t value) { return Code(value, value >> 8, value >> 16, value >> 24); }
constexpr auto MovEax(std::uint32_t value) { return Join(Code(0xB8), Word(value)); }
constexpr auto MovEcx(std::uint32_t value) { return Join(Code(0xB9), Word(value)); }
constexpr auto MovR14d(std::uint32_t value) { return Join(Code(0x41, 0xBE), Word(value)); }

constexpr std::uint16_t kEventPort = 0x510;

constexpr auto kNothing = std::array<std::uint8_t, 0>{};
constexpr auto kRdtsc = Code(0x0F, 0x31);
constexpr auto kCpuid = Code(0x31, 0xC0, 0x0F, 0xA2);             // xor eax, eax; cpuid
constexpr auto kUnusedPort = Code(0xBA, 0x80, 0x00, 0x00, 0x00);  // mov edx, 0x80
// One that CPL3 may write to; no event is attached to it here.
constexpr auto kPayloadPort = Code(0xBA, abi::kEventPort & 0xFF, abi::kEventPort >> 8, 0x00, 0x00);
constexpr auto kEventPortSetUp = Code(0xBA, kEventPort & 0xFF, kEventPort >> 8, 0x00, 0x00);
constexpr auto kOut = Code(0xEF);                                         // out dx, eax
constexpr auto kEmptyAddress = Code(0x41, 0xBE, 0x00, 0x00, 0x00, 0xF0);  // mov r14d, 0xF0000000
constexpr auto kStore = Code(0x41, 0x89, 0x06);                           // mov [r14], eax
constexpr auto kVmcall = Code(0xB8, 0x64, 0, 0, 0, 0x0F, 0x01, 0xC1);     // mov eax, 100: no such call; vmcall
constexpr auto kVmmcall = Code(0xB8, 0x64, 0, 0, 0, 0x0F, 0x01, 0xD9);    // the same; vmmcall
constexpr auto kApicBase = Code(0xB9, 0x1B, 0, 0, 0);                     // mov ecx, IA32_APIC_BASE
constexpr auto kRdmsr = Code(0x0F, 0x32);
// mov ecx, IA32_PAT; mov eax, 0x00070406; mov edx, eax: what it holds after reset.
constexpr auto kPat = Code(0xB9, 0x77, 0x02, 0, 0, 0xB8, 0x06, 0x04, 0x07, 0x00, 0x89, 0xC2);
constexpr auto kWrmsr = Code(0x0F, 0x30);
constexpr auto kReadCr0 = Code(0x0F, 0x20, 0xC3);   // mov rbx, cr0
constexpr auto kWriteCr0 = Code(0x0F, 0x22, 0xC3);  // mov cr0, rbx
constexpr auto kReadCr3 = Code(0x0F, 0x20, 0xDB);
constexpr auto kWriteCr3 = Code(0x0F, 0x22, 0xDB);
constexpr auto kReadCr4 = Code(0x0F, 0x20, 0xE3);
constexpr auto kWriteCr4 = Code(0x0F, 0x22, 0xE3);
constexpr auto kOwnPage = Code(0x41, 0xBE, 0x00, 0x90, 0x00, 0x00);  // mov r14d, 0x9000
constexpr auto kInvlpg = Code(0x41, 0x0F, 0x01, 0x3E);               // invlpg [r14]
constexpr auto kUd2 = Code(0x0F, 0x0B);
constexpr auto kSkipUd2 = Code(0x48, 0x83, 0x04, 0x24, 0x02, 0x48, 0xCF);  // add qword [rsp], 2; iretq
constexpr auto kUnmapped = Code(0x49, 0xBE, 0, 0, 0, 0, 0, 1, 0, 0);       // mov r14, 1 << 40
constexpr auto kLoad = Code(0x49, 0x8B, 0x1E);                             // mov rbx, [r14]
// add rsp, 8; add qword [rsp], 3; iretq
constexpr auto kSkipLoad = Code(0x48, 0x83, 0xC4, 0x08, 0x48, 0x83, 0x04, 0x24, 0x03, 0x48, 0xCF);
// mov eax, kVmcb; vmrun
constexpr auto kVmrun = Code(0xB8, kVmcb & 0xFF, kVmcb >> 8 & 0xFF, kVmcb >> 16 & 0xFF, kVmcb >> 24, 0x0F, 0x01, 0xD8);

constexpr std::uint64_t kFewPasses = 8;  // of what sleeps or wakes

// Interrupts. All end in the handler of kFreeVector, which adds one to R13.
constexpr auto kSti = Code(0xFB);
constexpr auto kSleep = Code(0xFB, 0xF4, 0xFA);  // sti; hlt; cli: nothing is taken between STI and HLT
constexpr auto kZeroEdx = Code(0x31, 0xD2);
constexpr auto kCount = Code(0x49, 0xFF, 0xC5);  // inc r13
constexpr auto kIretq = Code(0x48, 0xCF);
constexpr auto WriteMsr32(std::uint32_t msr, std::uint32_t value) {
  return Join(MovEcx(msr), MovEax(value), kZeroEdx, kWrmsr);
}
constexpr auto kX2apicEoi =
    Join(MovEcx(X2apicMsr(kApicEndOfInterrupt)), Code(0x31, 0xC0), kZeroEdx, kWrmsr);  // xor eax, eax
constexpr auto kX2apicHandler = Join(kX2apicEoi, kCount, kIretq);
// Around what raises an interrupt: mov rbx, r13, and behind it: cmp rbx, r13; je to the cmp. Where interrupts are taken
// at once it costs two instructions; not every KVM that emulates CPL0 does so.
constexpr auto kBefore = Code(0x4C, 0x89, 0xEB);
constexpr auto kWait = Code(0x4C, 0x39, 0xEB, 0x74, 0xFB);
constexpr auto kX2apicSelf = WriteMsr32(kMsrX2apicSelfIpi, kFreeVector);
constexpr auto kX2apicIpi = Join(kBefore, kX2apicSelf, kWait);
constexpr auto kApicPage = MovR14d(kApicMmioBase);
constexpr auto kXapicSetUp = Join(kApicPage, kSti);
// mov dword [r14 + register], value
constexpr auto WriteXapic(std::uint32_t apic_register, std::uint32_t value) {
  return Join(Code(0x41, 0xC7, 0x86), Word(apic_register), Word(value));
}
constexpr auto kXapicIpi =
    Join(kBefore, WriteXapic(kApicInterruptCommand, kIcrToSelf | kIcrAssert | kFreeVector), kWait);
constexpr auto kXapicHandler = Join(WriteXapic(kApicEndOfInterrupt, 0), kCount, kIretq);
static_assert(kXapicHandler.size() <= vmm::kFlatStubBytes && kX2apicHandler.size() <= vmm::kFlatStubBytes);
constexpr auto kHltWake = Join(kX2apicSelf, kSleep);

// Interrupt controllers in the kernel.
constexpr auto kXapicRead = Code(0x41, 0x8B, 0x5E, kApicVersion);  // mov ebx, [r14 + register]
constexpr auto kX2apicVersion = MovEcx(X2apicMsr(kApicVersion));
constexpr auto kIoApicSetUp = MovR14d(kIoApicWindow);
constexpr auto kLoad32 = Code(0x41, 0x8B, 0x1E);  // mov ebx, [r14]
constexpr auto kPicRead = Code(0xE4, kPicMaskPort);

// Timers. How far ahead is part of what the loop takes.
constexpr std::uint32_t kDeadlineTicks = 50'000;
constexpr std::uint32_t kOneShotNs = 20'000;  // KVM's APIC bus: 1 GHz
constexpr auto kOneShotSetUp = Join(WriteMsr32(X2apicMsr(kApicTimerDivide), kApicTimerDivideBy1),
                                    WriteMsr32(X2apicMsr(kApicLvtTimer), kFreeVector));
constexpr auto kOneShot = Join(WriteMsr32(X2apicMsr(kApicTimerInitialCount), kOneShotNs), kSleep);
constexpr std::uint32_t kPeriodNs = 400'000;  // shorter ones than kvm.min_timer_period_us, 200, KVM stretches
constexpr auto kPeriodicSetUp = Join(WriteMsr32(X2apicMsr(kApicTimerDivide), kApicTimerDivideBy1),
                                     WriteMsr32(X2apicMsr(kApicLvtTimer), kLvtTimerPeriodic | kFreeVector),
                                     WriteMsr32(X2apicMsr(kApicTimerInitialCount), kPeriodNs));
constexpr auto kDeadlineSetUp = WriteMsr32(X2apicMsr(kApicLvtTimer), kLvtTimerTscDeadline | kFreeVector);
constexpr auto kRdtsc64 = Join(kRdtsc, Code(0x48, 0xC1, 0xE2, 0x20, 0x48, 0x09, 0xD0));  // shl rdx, 32; or rax, rdx
// add rax, kDeadlineTicks; mov rsi, rax; mov rdx, rax; shr rdx, 32; mov ecx, the MSR; wrmsr
constexpr auto kArmDeadline =
    Join(kRdtsc64, Code(0x48, 0x05), Word(kDeadlineTicks),
         Code(0x48, 0x89, 0xC6, 0x48, 0x89, 0xC2, 0x48, 0xC1, 0xEA, 0x20), MovEcx(kMsrTscDeadline), kWrmsr);
constexpr auto kDeadline = Join(kArmDeadline, kSleep);
constexpr auto kSpin = Join(kBefore, kSti, kWait, Code(0xFA));  // cli at last
// The handler leaves the time of its first instruction in RAX; the EOI is left for later.
constexpr auto kTimeHandler = Join(kRdtsc64, kCount, kIretq);
static_assert(kTimeHandler.size() <= vmm::kFlatStubBytes);
// sub rax, rsi; mov [kValues + 8 * r15 - 8], rax
constexpr auto kKeepLateness = Join(Code(0x48, 0x29, 0xF0, 0x4A, 0x89, 0x04, 0xFD), Word(kValues - 8), kX2apicEoi);
constexpr auto kLateAsleep = Join(kArmDeadline, kSleep, kKeepLateness);
constexpr auto kLateAwake = Join(kArmDeadline, kSpin, kKeepLateness);

// An MSR that nobody has: outside the ranges of AMD APM, section "MSR Intercepts", so that it always leaves the guest.
constexpr auto kUnknownMsr = MovEcx(0x2000'0000);

// CPL3 and back. lea r12, [rip + 19], behind the sysretq; mov rcx, kUserPage; mov r11d, RFLAGS; sysretq. SYSCALL's
// target is the handler: jmp r12.
constexpr auto kSyscall = Code(0x4C, 0x8D, 0x25, 19, 0, 0, 0,                     //
                               0x48, 0xB9, 0, 0, 0, 0, kUserPage >> 32, 0, 0, 0,  //
                               0x41, 0xBB, kRflagsReserved1, 0, 0, 0,             //
                               0x48, 0x0F, 0x07);
static_assert(kUserPage == std::uint64_t{static_cast<std::uint8_t>(kUserPage >> 32)} << 32);
constexpr auto kSyscallHandler = Code(0x41, 0xFF, 0xE4);
constexpr auto kUserCode = Join(kCount, Code(0x0F, 0x05));  // inc r13; syscall

// mov r14, kMovingPage
constexpr auto kMovingSetUp = Code(0x49, 0xBE, 0, kMovingPage >> 8, 0, 0, kMovingPage >> 32, 0, 0, 0);
// xor qword [entry], what the two differ in; invlpg [r14]; add r13, [r14], which holds 0 and 2 in turn
constexpr std::uint32_t kMovingEntry = kPageTable + 8;
constexpr auto kMove = Join(Code(0x48, 0x81, 0x34, 0x25), Word(kMovingEntry), Word(kFirstPage ^ kSecondPage), kInvlpg);
constexpr auto kRemap = Join(kMove, Code(0x4D, 0x03, 0x2E));

// Two vCPUs. mov ebx, [kAnswers]; mov ecx, the ICR; mov eax, fixed, vector; mov edx, 1: to the second; wrmsr. Then
// pause; cmp ebx, [kAnswers]; je to the pause; inc r13.
constexpr auto kCross = Join(Code(0x8B, 0x1C, 0x25), Word(kAnswers), MovEcx(X2apicMsr(kApicInterruptCommand)),
                             MovEax(kIcrAssert | kFreeVector), Code(0xBA), Word(1), kWrmsr,  //
                             Code(0xF3, 0x90, 0x3B, 0x1C, 0x25), Word(kAnswers), Code(0x74, 0xF5), kCount);
// The second one's, whose registers are ready for the EOI: wrmsr; inc dword [kAnswers]; iretq.
constexpr auto kAnswer = Join(kWrmsr, Code(0xFF, 0x04, 0x25), Word(kAnswers), kIretq);
constexpr auto kFlushAndAnswer = Join(kInvlpg, kAnswer);
static_assert(kFlushAndAnswer.size() <= vmm::kFlatStubBytes);
constexpr auto kShootdown = Join(kMove, kCross);

constexpr auto kOperations = std::to_array<Operation>({
    {"rdtsc", "control: RDTSC, which must not leave the guest", kNothing, kRdtsc},
    {"cpuid", "CPUID, which the hypervisor answers", kNothing, kCpuid},
    {"pio_user", "port write that leaves the guest for the VMM", kUnusedPort, kOut},
    {"pio_kernel", "port write that ends in the kernel, as an event", kEventPortSetUp, kOut, -1, {}, kEventPort},
    {"mmio_user", "write to an address without memory, for the VMM", kEmptyAddress, kStore},
    {"hypercall_vmcall", "VMCALL with a number that KVM does not know", kNothing, kVmcall},
    {"hypercall_vmmcall", "VMMCALL with a number that KVM does not know", kNothing, kVmmcall},
    {"msr_read", "RDMSR of IA32_APIC_BASE, which KVM answers", kApicBase, kRdmsr},
    {"msr_write", "WRMSR of IA32_PAT, the value that it has", kPat, kWrmsr},
    {"cr0_write", "MOV to CR0, the value that it has", kReadCr0, kWriteCr0},
    {"cr3_write", "MOV to CR3, the value that it has", kReadCr3, kWriteCr3},
    {"cr4_write", "MOV to CR4, the value that it has", kReadCr4, kWriteCr4},
    {"invlpg", "INVLPG of a page in use", kOwnPage, kInvlpg},
    {"undefined_opcode", "#UD that the guest handles itself", kNothing, kUd2, abi::x86::kVectorInvalidOpcode, kSkipUd2},
    {"page_fault", "#PF that the guest handles itself", kUnmapped, kLoad, abi::x86::kVectorPageFault, kSkipLoad},
    {"vmrun_shadow", "VMRUN, and VMMCALL back, with shadow paging", kNothing, kVmrun, -1, {}, 0, Level2::kShadowPaging},
    {"vmrun_nested", "VMRUN, and VMMCALL back, with nested paging", kNothing, kVmrun, -1, {}, 0, Level2::kNestedPaging},
    {"nested_page_fault", "VMRUN, and a nested page fault back", kNothing, kVmrun, -1, {}, 0, Level2::kNestedFault},
    {.name = "l2_cpuid_nested",
     .summary = "CPUID in a guest of the guest, which its hypervisor answers, with nested paging",
     .set_up = kNothing,
     .code = kCpuid,
     .level2 = Level2::kHypervisor},
    {.name = "l2_cpuid_shadow",
     .summary = "CPUID in a guest of the guest, which its hypervisor answers, with shadow paging",
     .set_up = kNothing,
     .code = kCpuid,
     .level2 = Level2::kHypervisorShadow},
    {.name = "l2_port_nested",
     .summary = "port write in a guest of the guest, which its hypervisor passes on to the VMM, with nested paging",
     .set_up = kPayloadPort,
     .code = kOut,
     .level2 = Level2::kHypervisor},
    {.name = "l2_port_shadow",
     .summary = "port write in a guest of the guest, which its hypervisor passes on to the VMM, with shadow paging",
     .set_up = kPayloadPort,
     .code = kOut,
     .level2 = Level2::kHypervisorShadow},
    {.name = "hlt_wake",
     .summary = "HLT with an interrupt to itself on its way: left, woken, handled",
     .set_up = kNothing,
     .code = kHltWake,
     .handled_vector = kFreeVector,
     .handler = kX2apicHandler,
     .apic = Apic::kX2apic,
     .is_counted = true},
    {.name = "ipi_self_x2apic",
     .summary = "an interrupt to itself by WRMSR, handled",
     .set_up = kSti,
     .code = kX2apicIpi,
     .handled_vector = kFreeVector,
     .handler = kX2apicHandler,
     .apic = Apic::kX2apic,
     .is_counted = true},
    {.name = "ipi_self_xapic",
     .summary = "an interrupt to itself by a store to the local APIC, handled",
     .set_up = kXapicSetUp,
     .code = kXapicIpi,
     .handled_vector = kFreeVector,
     .handler = kXapicHandler,
     .apic = Apic::kXapic,
     .is_counted = true},
    {.name = "eoi_x2apic",
     .summary = "WRMSR of the end of an interrupt, with none in service",
     .set_up = kNothing,
     .code = kX2apicEoi,
     .apic = Apic::kX2apic},
    {.name = "apic_read_xapic",
     .summary = "load of the local APIC's version, in the kernel",
     .set_up = kApicPage,
     .code = kXapicRead,
     .apic = Apic::kXapic},
    {.name = "apic_read_x2apic",
     .summary = "RDMSR of the local APIC's version, in the kernel",
     .set_up = kX2apicVersion,
     .code = kRdmsr,
     .apic = Apic::kX2apic},
    {.name = "ioapic_read",
     .summary = "load from the I/O APIC, in the kernel",
     .set_up = kIoApicSetUp,
     .code = kLoad32,
     .apic = Apic::kXapic},
    {.name = "pic_read",
     .summary = "port read of the 8259's mask, in the kernel",
     .set_up = kNothing,
     .code = kPicRead,
     .apic = Apic::kXapic},
    {.name = "msr_read_user",
     .summary = "RDMSR of an MSR that the VMM answers",
     .set_up = kUnknownMsr,
     .code = kRdmsr,
     .has_user_msrs = true},
    {.name = "msr_write_user",
     .summary = "WRMSR of an MSR that the VMM takes",
     .set_up = kUnknownMsr,
     .code = kWrmsr,
     .has_user_msrs = true},
    {.name = "syscall",
     .summary = "SYSRETQ to CPL3, and its SYSCALL back",
     .set_up = kNothing,
     .code = kSyscall,
     .handled_vector = kFreeVector,
     .handler = kSyscallHandler,
     .user_code = kUserCode,
     .has_small_pages = true,
     .is_counted = true},
    {.name = "pte_remap",
     .summary = "another page in a page table, INVLPG, and a load from it",
     .set_up = kMovingSetUp,
     .code = kRemap,
     .has_small_pages = true,
     .is_counted = true},
    {.name = "timer_one_shot",
     .summary = "20 us of the local APIC's timer, slept through, and its interrupt",
     .set_up = kOneShotSetUp,
     .code = kOneShot,
     .handled_vector = kFreeVector,
     .handler = kX2apicHandler,
     .apic = Apic::kX2apic,
     .is_counted = true,
     .least_passes = kFewPasses},
    // Not counted: where the guest is held up, two interrupts come in one pass.
    {.name = "timer_periodic",
     .summary = "a period of 400 us of the local APIC's timer, slept through, and its interrupt",
     .set_up = kPeriodicSetUp,
     .code = kSleep,
     .handled_vector = kFreeVector,
     .handler = kX2apicHandler,
     .apic = Apic::kX2apic,
     .least_passes = kFewPasses},
    {.name = "timer_tsc_deadline",
     .summary = "a deadline 50,000 TSC ticks ahead, slept through, and its interrupt",
     .set_up = kDeadlineSetUp,
     .code = kDeadline,
     .handled_vector = kFreeVector,
     .handler = kX2apicHandler,
     .apic = Apic::kX2apic,
     .needs_tsc_deadline = true,
     .is_counted = true,
     .least_passes = kFewPasses},
    {.name = "timer_late_asleep",
     .summary = "from a TSC deadline to its handler, in a guest that sleeps",
     .set_up = kDeadlineSetUp,
     .code = kLateAsleep,
     .handled_vector = kFreeVector,
     .handler = kTimeHandler,
     .apic = Apic::kX2apic,
     .needs_tsc_deadline = true,
     .is_counted = true,
     .measures_itself = true},
    {.name = "timer_late_awake",
     .summary = "from a TSC deadline to its handler, in a guest that spins",
     .set_up = kDeadlineSetUp,
     .code = kLateAwake,
     .handled_vector = kFreeVector,
     .handler = kTimeHandler,
     .apic = Apic::kX2apic,
     .needs_tsc_deadline = true,
     .is_counted = true,
     .measures_itself = true},
    {.name = "ipi_cross",
     .summary = "an interrupt to a second vCPU that sleeps, until its handler has answered in memory",
     .set_up = kNothing,
     .code = kCross,
     .handled_vector = kFreeVector,
     .handler = kAnswer,
     .apic = Apic::kX2apic,
     .has_small_pages = true,
     .has_second_vcpu = true,
     .is_counted = true,
     .least_passes = kFewPasses},
    {.name = "tlb_shootdown",
     .summary = "another page in a page table, INVLPG here and, by an interrupt, on a second vCPU, until it answers",
     .set_up = kMovingSetUp,
     .code = kShootdown,
     .handled_vector = kFreeVector,
     .handler = kFlushAndAnswer,
     .apic = Apic::kX2apic,
     .has_small_pages = true,
     .has_second_vcpu = true,
     .is_counted = true,
     .least_passes = kFewPasses},
});

}  // namespace

std::span<const Operation> Operations() { return kOperations; }

}  // namespace nestbench::costs
