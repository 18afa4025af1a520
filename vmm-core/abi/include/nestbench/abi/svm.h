// AMD's secure virtual machine, as a guest hypervisor uses it. Source: AMD64 Architecture Programmer's Manual volume 2,
// chapter "Secure Virtual Machine", appendix B "VMCB Layout" and appendix C "SVM Intercept Exit Codes".
#pragma once

#include <cstddef>
#include <cstdint>

namespace nestbench::abi::svm {

inline constexpr std::uint32_t kMsrVmCr = 0xC001'0114;
inline constexpr std::uint32_t kMsrHostSavePa = 0xC001'0117;
inline constexpr std::uint64_t kEferSvme = 1ULL << 12;
// CPUID 8000_0001, ECX. AMD APM volume 3, appendix E.
inline constexpr std::uint32_t kCpuidExtendedEcxSvm = 1U << 2;

// Appendix B, table "VMCB Layout, State Save Area": a segment, with the attributes of its descriptor in 12 bits.
struct Segment {
  std::uint16_t selector;
  std::uint16_t attributes;
  std::uint32_t limit;
  std::uint64_t base;
};
static_assert(sizeof(Segment) == 16);

// One page. Names are the manual's.
struct Vmcb {
  std::uint32_t cr_intercepts;  // 0-15: reads of CR0-15; 16-31: writes
  std::uint32_t dr_intercepts;
  std::uint32_t exception_intercepts;  // by vector
  std::uint32_t intercepts_1;          // Intercept1: INTR is bit 0
  std::uint32_t intercepts_2;          // Intercept2: VMRUN is bit 0
  std::byte reserved_14[0x40 - 0x14];
  std::uint64_t iopm_base_pa;
  std::uint64_t msrpm_base_pa;
  std::uint64_t tsc_offset;
  std::uint32_t guest_asid;
  std::uint32_t tlb_control;
  std::uint64_t virtual_interrupt;  // V_TPR, V_IRQ, V_GIF, V_INTR_PRIO, V_IGN_TPR, V_INTR_MASKING, V_INTR_VECTOR
  std::uint64_t interrupt_shadow;
  std::uint64_t exit_code;
  std::uint64_t exit_info_1;
  std::uint64_t exit_info_2;
  std::uint64_t exit_int_info;
  std::uint64_t nested_control;  // bit 0: nested paging
  std::byte reserved_98[0xA8 - 0x98];
  std::uint64_t event_injection;
  std::uint64_t nested_cr3;
  std::uint64_t lbr_control;
  std::uint64_t clean_bits;
  std::uint64_t next_rip;
  std::byte reserved_d0[0x400 - 0xD0];
  Segment es, cs, ss, ds, fs, gs, gdtr, ldtr, idtr, tr;
  std::byte reserved_4a0[0x4CB - 0x4A0];
  std::uint8_t cpl;
  std::byte reserved_4cc[4];
  std::uint64_t efer;
  std::byte reserved_4d8[0x548 - 0x4D8];
  std::uint64_t cr4;
  std::uint64_t cr3;
  std::uint64_t cr0;
  std::uint64_t dr7;
  std::uint64_t dr6;
  std::uint64_t rflags;
  std::uint64_t rip;
  std::byte reserved_580[0x5D8 - 0x580];
  std::uint64_t rsp;
  std::byte reserved_5e0[0x5F8 - 0x5E0];
  std::uint64_t rax;
  std::uint64_t star;
  std::byte reserved_608[0x640 - 0x608];
  std::uint64_t cr2;
  std::byte reserved_648[0x668 - 0x648];
  std::uint64_t guest_pat;
  std::byte reserved_670[0x1000 - 0x670];
};
static_assert(offsetof(Vmcb, iopm_base_pa) == 0x40);
static_assert(offsetof(Vmcb, guest_asid) == 0x58);
static_assert(offsetof(Vmcb, exit_code) == 0x70);
static_assert(offsetof(Vmcb, event_injection) == 0xA8);
static_assert(offsetof(Vmcb, next_rip) == 0xC8);
static_assert(offsetof(Vmcb, es) == 0x400);
static_assert(offsetof(Vmcb, tr) == 0x490);
static_assert(offsetof(Vmcb, cpl) == 0x4CB);
static_assert(offsetof(Vmcb, efer) == 0x4D0);
static_assert(offsetof(Vmcb, cr4) == 0x548);
static_assert(offsetof(Vmcb, rip) == 0x578);
static_assert(offsetof(Vmcb, rsp) == 0x5D8);
static_assert(offsetof(Vmcb, rax) == 0x5F8);
static_assert(offsetof(Vmcb, cr2) == 0x640);
static_assert(offsetof(Vmcb, guest_pat) == 0x668);
static_assert(sizeof(Vmcb) == 0x1000);

// Appendix C. An intercept of Intercept1 has the exit code 0x60 plus its bit, one of Intercept2 0x80 plus its bit.
inline constexpr std::uint64_t kExitReadCr0 = 0x00;
inline constexpr std::uint64_t kExitWriteCr0 = 0x10;
inline constexpr std::uint64_t kExitReadDr0 = 0x20;
inline constexpr std::uint64_t kExitWriteDr0 = 0x30;
inline constexpr std::uint64_t kExitException0 = 0x40;
inline constexpr std::uint64_t kExitIntercept1 = 0x60;
inline constexpr std::uint64_t kExitIntercept2 = 0x80;
inline constexpr std::uint64_t kExitCpuid = 0x72;
inline constexpr std::uint64_t kExitHlt = 0x78;
inline constexpr std::uint64_t kExitIoio = 0x7B;
inline constexpr std::uint64_t kExitMsr = 0x7C;
inline constexpr std::uint64_t kExitShutdown = 0x7F;
inline constexpr std::uint64_t kExitVmrun = 0x80;
inline constexpr std::uint64_t kExitVmmcall = 0x81;
inline constexpr std::uint64_t kExitNestedPageFault = 0x400;
inline constexpr std::uint64_t kExitInvalid = ~0ULL;

// EVENTINJ and EXITINTINFO: vector in bits 7:0, type in 10:8, error code in 63:32. Section "Event Injection".
inline constexpr std::uint64_t kEventInterrupt = 0U << 8;
inline constexpr std::uint64_t kEventNmi = 2U << 8;
inline constexpr std::uint64_t kEventException = 3U << 8;
inline constexpr std::uint64_t kEventSoftwareInterrupt = 4U << 8;
inline constexpr std::uint64_t kEventHasErrorCode = 1U << 11;
inline constexpr std::uint64_t kEventValid = 1ULL << 31;
inline constexpr unsigned kEventErrorShift = 32;

// Vmcb::virtual_interrupt: V_TPR in bits 7:0, V_INTR_PRIO in 19:16, V_INTR_VECTOR in 39:32. Appendix B.
inline constexpr std::uint64_t kVirtualIrq = 1ULL << 8;
inline constexpr unsigned kVirtualPriorityShift = 16;
inline constexpr std::uint64_t kVirtualIgnoreTpr = 1ULL << 20;
inline constexpr std::uint64_t kVirtualMasking = 1ULL << 24;  // by RFLAGS.IF as it was at VMRUN, not by L2's
inline constexpr std::uint64_t kVirtualAvicEnable = 1ULL << 31;
inline constexpr unsigned kVirtualVectorShift = 32;

// EXITINFO1 of an IOIO intercept; the port is in bits 31:16. Section "IOIO Intercepts".
inline constexpr std::uint64_t kIoIn = 1U << 0;
inline constexpr std::uint64_t kIoString = 1U << 2;
inline constexpr std::uint64_t kIoRepeat = 1U << 3;
inline constexpr std::uint64_t kIo8 = 1U << 4;
inline constexpr std::uint64_t kIo16 = 1U << 5;
inline constexpr std::uint64_t kIo32 = 1U << 6;
inline constexpr std::uint64_t kIoAddress32 = 1U << 8;
inline constexpr std::uint64_t kIoAddress64 = 1U << 9;
inline constexpr unsigned kIoPortShift = 16;

// EXITINFO1 of a nested page fault, above the error code of #PF. Section "Nested versus Guest Page Faults".
inline constexpr std::uint64_t kNestedFaultFinal = 1ULL << 32;
inline constexpr std::uint64_t kNestedFaultWalk = 1ULL << 33;

// CPUID 8000_000A, EDX: nested paging. AMD APM volume 3, appendix E.
inline constexpr std::uint32_t kCpuidSvmEdxNestedPaging = 1U << 0;

// Bits of Intercept1 and Intercept2.
inline constexpr unsigned kIntercept1Intr = 0;
inline constexpr unsigned kIntercept1Nmi = 1;
inline constexpr unsigned kIntercept1Vintr = 4;
inline constexpr unsigned kIntercept1Cpuid = 18;
inline constexpr unsigned kIntercept1Hlt = 24;
inline constexpr unsigned kIntercept1Ioio = 27;
inline constexpr unsigned kIntercept1Msr = 28;
inline constexpr unsigned kIntercept1Shutdown = 31;
inline constexpr unsigned kIntercept2Vmrun = 0;
inline constexpr unsigned kIntercept2Vmmcall = 1;

}  // namespace nestbench::abi::svm
