// The guest hypervisor (L1) with AMD's SVM. It runs one guest (L2) in the VMCB that the host has filled at
// abi::kHypervisorVmcb, takes its exits, and passes on to the host what only the host can do: ports, MMIO, CPUID.
//
// Small on purpose: what it costs is the least that a hypervisor can add. It saves and loads what VMRUN does not, and
// nothing that L2 cannot change; L2's FPU is never touched. In L2 virtual = physical = L1's physical address.
//
// With nested paging L2's MMIO pages are missing from the nested tables; with shadow paging they are missing from the
// tables that L2 runs on, and L1 takes every page fault first, as a hypervisor with shadow tables must.
#include <cstdint>

#include "nestbench/abi/hypervisor.h"
#include "nestbench/abi/layout.h"
#include "nestbench/abi/svm.h"
#include "nestbench/abi/x86.h"

namespace nestbench::l1 {
namespace {

using namespace abi::svm;
using abi::HypervisorData;

constexpr unsigned kVectors = 256;
constexpr std::uint64_t kKernelCodeSelector = 0x08;
constexpr std::uint64_t kPageFault = kExitException0 + abi::x86::kVectorPageFault;
constexpr std::uint64_t kInterrupt = kExitIntercept1 + kIntercept1Intr;
constexpr std::uint64_t kNoSuchHypercall = -1000ULL;  // Linux, Documentation/virt/kvm/x86/hypercalls.rst: KVM_ENOSYS
constexpr std::uint64_t kVmmcallBytes = 3;
constexpr std::uint64_t kTwoBytes = 2;  // CPUID, RDMSR, WRMSR
constexpr std::uint64_t kLongestInstruction = 15;

struct Gate {
  std::uint64_t low;
  std::uint64_t high;
};

Vmcb& Block() { return *reinterpret_cast<Vmcb*>(abi::kHypervisorVmcb); }
HypervisorData& Data() { return *reinterpret_cast<HypervisorData*>(abi::kHypervisorDataBase); }

// The host hears of it and the machine ends.
[[noreturn]] void GiveUp(std::uint64_t exit_code) {
  for (;;) {
    asm volatile("outl %0, %1\n\thlt"
                 :
                 : "a"(abi::kHypervisorPanic | static_cast<std::uint32_t>(exit_code)),
                   "Nd"(std::uint16_t{abi::kPanicPort}));
  }
}

std::uint64_t& Register(unsigned number) {
  if (number == abi::kRegisterRax) return Block().rax;
  if (number == abi::kRegisterRsp) return Block().rsp;
  return Data().registers[number];
}

// Not by VMCB.nRIP, which not every processor fills in.
void Skip(std::uint64_t bytes) {
  Block().rip += bytes;
  Block().interrupt_shadow = 0;
}

void InjectException(std::uint64_t vector, std::uint64_t error_code) {
  Block().event_injection =
      vector | kEventException | kEventHasErrorCode | kEventValid | error_code << kEventErrorShift;
}

void AnswerCpuid() {
  auto eax = static_cast<std::uint32_t>(Block().rax);
  auto ecx = static_cast<std::uint32_t>(Register(abi::kRegisterRcx));
  std::uint32_t ebx = 0;
  std::uint32_t edx = 0;
  asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  Block().rax = eax;
  Register(abi::kRegisterRbx) = ebx;
  Register(abi::kRegisterRcx) = ecx;
  Register(abi::kRegisterRdx) = edx;
  Skip(kTwoBytes);
}

// EXITINFO2 is where L2 goes on.
void PassPortOn() {
  const std::uint64_t info = Block().exit_info_1;
  if ((info & kIoString) != 0) GiveUp(kExitIoio);
  const auto port = static_cast<std::uint16_t>(info >> kIoPortShift);
  const bool is_in = (info & kIoIn) != 0;
  auto eax = static_cast<std::uint32_t>(Block().rax);
  if ((info & kIo8) != 0) {
    if (is_in) asm volatile("inb %1, %b0" : "+a"(eax) : "d"(port));
    if (!is_in) asm volatile("outb %b0, %1" : : "a"(eax), "d"(port));
  } else if ((info & kIo16) != 0) {
    if (is_in) asm volatile("inw %1, %w0" : "+a"(eax) : "d"(port));
    if (!is_in) asm volatile("outw %w0, %1" : : "a"(eax), "d"(port));
  } else {
    if (is_in) asm volatile("inl %1, %0" : "+a"(eax) : "d"(port));
    if (!is_in) asm volatile("outl %0, %1" : : "a"(eax), "d"(port));
  }
  // 32-bit results clear the upper half of RAX; shorter ones leave the rest as it is.
  constexpr std::uint64_t kUpperHalf = 0xFFFF'FFFF'0000'0000;
  const bool is_short = (info & (kIo8 | kIo16)) != 0;
  if (is_in) Block().rax = (is_short ? Block().rax & kUpperHalf : 0) | eax;
  Block().rip = Block().exit_info_2;
  Block().interrupt_shadow = 0;
}

// No MSR is L2's to have: #GP, as on a processor without it.
void RefuseMsr() { InjectException(abi::x86::kVectorGeneralProtection, 0); }

bool IsMmio(std::uint64_t address) { return address >= abi::kDoorbellPage && address < abi::kMmioPagesEnd; }

// ModRM, SIB and displacement of an operand in memory; 0 for a register. AMD APM volume 3, section "ModRM and SIB
// Bytes".
unsigned OperandBytes(const std::uint8_t* at) {
  const unsigned mode = at[0] >> 6U;
  const unsigned base = at[0] & 7U;
  if (mode == 3) return 0;
  const bool has_sib = base == 4;
  const unsigned bytes = has_sib ? 2 : 1;
  if (mode == 1) return bytes + 1;
  const bool has_no_base = base == 5 || (has_sib && (at[1] & 7U) == 5);
  return mode == 2 || has_no_base ? bytes + 4 : bytes;
}

// A 32-bit store of a register or of a constant, which is all that payloads do there.
void PassMmioOn(std::uint64_t address) {
  constexpr std::uint8_t kStoreRegister = 0x89;
  constexpr std::uint8_t kStoreConstant = 0xC7;
  const std::uint64_t rip = Block().rip;
  // What is not the image's text would be a page that L1 has not mapped.
  if (rip < abi::kImageBase || rip > abi::kImageBase + abi::kImageMaxBytes - kLongestInstruction) {
    GiveUp(Block().exit_code);
  }
  const auto* const begin = reinterpret_cast<const std::uint8_t*>(rip);
  const std::uint8_t* at = begin;
  const std::uint8_t rex = (*at & 0xF0U) == 0x40 ? *at++ : 0;
  const bool is_wide = (rex & 8U) != 0;
  const std::uint8_t opcode = *at++;
  const unsigned operand_bytes = OperandBytes(at);
  if (operand_bytes == 0 || is_wide || (opcode != kStoreRegister && opcode != kStoreConstant)) {
    GiveUp(Block().exit_code);
  }
  std::uint32_t value = 0;
  if (opcode == kStoreRegister) {
    value = static_cast<std::uint32_t>(Register((*at >> 3U & 7U) | (rex << 1U & 8U)));
    at += operand_bytes;
  } else {
    at += operand_bytes;
    __builtin_memcpy(&value, at, sizeof(value));
    at += sizeof(value);
  }
  *reinterpret_cast<volatile std::uint32_t*>(address) = value;
  Skip(static_cast<std::uint64_t>(at - begin));
}

void TakePageFault() {
  const std::uint64_t address = Block().exit_info_2;
  if (IsMmio(address)) return PassMmioOn(address);
  Block().cr2 = address;
  InjectException(abi::x86::kVectorPageFault, Block().exit_info_1);
}

// After #VMEXIT the global interrupt flag is clear: what is pending comes in between.
void TakeInterrupt() { asm volatile("stgi\n\tnop\n\tclgi" : : : "memory"); }

[[gnu::naked]] void InterruptStub() {
  asm volatile("incq %c[interrupts]\n\tiretq"
               :
               : [interrupts] "i"(abi::kHypervisorDataBase + offsetof(HypervisorData, interrupts)));
}

}  // namespace

// The host has written the gates of the exceptions, which are reported as L2's are; all other vectors are interrupts.
extern "C" [[gnu::used]] void NestbenchL1SetUp() {
  auto* const gates = reinterpret_cast<Gate*>(abi::kHypervisorIdtBase);
  const auto handler = reinterpret_cast<std::uint64_t>(&InterruptStub);
  for (unsigned vector = abi::x86::kExceptionVectors; vector < kVectors; ++vector) {
    gates[vector] = {(handler & 0xFFFF) | kKernelCodeSelector << 16 | (0x80ULL | abi::x86::kGateTypeInterrupt) << 40 |
                         (handler & 0xFFFF'0000) << 32,
                     0};
  }
}

extern "C" [[gnu::used]] void NestbenchL1Handle() {
  Vmcb& block = Block();
  switch (block.exit_code) {
    case kExitCpuid:
      return AnswerCpuid();
    case kExitIoio:
      return PassPortOn();
    case kExitMsr:
      return RefuseMsr();
    case kExitNestedPageFault:
      if (!IsMmio(block.exit_info_2)) GiveUp(block.exit_code);
      return PassMmioOn(block.exit_info_2);
    case kPageFault:
      return TakePageFault();
    case kInterrupt:
      return TakeInterrupt();
    case kExitHlt:
      asm volatile("hlt");
      return Skip(1);
    case kExitVmmcall:
      block.rax = kNoSuchHypercall;
      return Skip(kVmmcallBytes);
    default:
      GiveUp(block.exit_code);
  }
}

// At abi::kHypervisorBase, in 64-bit mode at CPL0, on abi::kHypervisorStackTop. VMLOAD once: what it loads L2 cannot
// change, and nothing here uses. VMRUN keeps RAX and RSP of both sides. L1 accepts interrupts only while L2 runs:
// RFLAGS.IF is set, the global interrupt flag is not.
[[gnu::naked, gnu::used, gnu::section(".text.entry")]] void Entry() {
#define NESTBENCH_L1_MOVE_ALL(MOVE) \
  MOVE(1, rcx)                      \
  MOVE(2, rdx)                      \
  MOVE(3, rbx)                      \
  MOVE(5, rbp)                      \
  MOVE(6, rsi)                      \
  MOVE(7, rdi)                      \
  MOVE(8, r8)                       \
  MOVE(9, r9)                       \
  MOVE(10, r10)                     \
  MOVE(11, r11)                     \
  MOVE(12, r12)                     \
  MOVE(13, r13)                     \
  MOVE(14, r14)                     \
  MOVE(15, r15)
#define NESTBENCH_L1_LOAD(number, name) "movq %c[data] + 8 * " #number ", %%" #name "\n"
#define NESTBENCH_L1_SAVE(number, name) "movq %%" #name ", %c[data] + 8 * " #number "\n"
  asm volatile(
      "call NestbenchL1SetUp\n"
      "clgi\n"
      "sti\n"
      "movl %[vmcb], %%eax\n"
      "vmload %%rax\n"
      "1:\n" NESTBENCH_L1_MOVE_ALL(NESTBENCH_L1_LOAD)
      "movl %[vmcb], %%eax\n"
      "vmrun %%rax\n" NESTBENCH_L1_MOVE_ALL(NESTBENCH_L1_SAVE)
      "cld\n"
      "call NestbenchL1Handle\n"
      "jmp 1b\n"
      :
      : [vmcb] "i"(abi::kHypervisorVmcb), [data] "i"(abi::kHypervisorDataBase));
}

}  // namespace nestbench::l1
