// The guest hypervisor (L1) with AMD's SVM. It runs one guest (L2) in the VMCB that the host has filled at
// abi::kHypervisorControl, takes its exits, and passes on to the host what only the host can do: ports, MMIO, CPUID.
//
// Small on purpose: what it costs is the least that a hypervisor can add. It saves and loads what VMRUN does not, and
// nothing that L2 cannot change; L2's FPU is never touched.
//
// With nested paging L2's MMIO pages are missing from the nested tables; with shadow paging they are missing from the
// tables that L2 runs on, and L1 takes every page fault first, as a hypervisor with shadow tables must.
#include <cstdint>

#include "level2.h"
#include "nestbench/abi/svm.h"

namespace nestbench::l1 {
namespace {

using namespace abi::svm;

constexpr std::uint64_t kPageFault = kExitException0 + abi::x86::kVectorPageFault;
constexpr std::uint64_t kInterrupt = kExitIntercept1 + kIntercept1Intr;

Vmcb& Block() { return *reinterpret_cast<Vmcb*>(abi::kHypervisorControl); }

struct L2 {
  static std::uint64_t Register(unsigned number) {
    if (number == abi::kRegisterRax) return Block().rax;
    if (number == abi::kRegisterRsp) return Block().rsp;
    return Data().registers[number];
  }
  static void SetRegister(unsigned number, std::uint64_t value) {
    if (number == abi::kRegisterRax) {
      Block().rax = value;
    } else {
      Data().registers[number] = value;
    }
  }
  static std::uint64_t Rip() { return Block().rip; }
  static void SkipBytes(std::uint64_t bytes) {
    Block().rip += bytes;
    Block().interrupt_shadow = 0;
  }
  // Not by VMCB.nRIP, which not every processor fills in. Only a port's exit says where L2 goes on.
  static void Skip() {
    switch (Block().exit_code) {
      case kExitIoio:
        return SkipBytes(Block().exit_info_2 - Block().rip);
      case kExitHlt:
        return SkipBytes(1);
      case kExitVmmcall:
        return SkipBytes(3);
      default:  // CPUID
        return SkipBytes(2);
    }
  }
};

void InjectException(std::uint64_t vector, std::uint64_t error_code) {
  Block().event_injection =
      vector | kEventException | kEventHasErrorCode | kEventValid | error_code << kEventErrorShift;
}

void TakePort() {
  const std::uint64_t info = Block().exit_info_1;
  if ((info & kIoString) != 0) GiveUp(kExitIoio);
  unsigned bytes = 4;
  if ((info & kIo8) != 0) bytes = 1;
  if ((info & kIo16) != 0) bytes = 2;
  PassPortOn<L2>(static_cast<std::uint16_t>(info >> kIoPortShift), bytes, (info & kIoIn) != 0);
}

void TakePageFault() {
  const std::uint64_t address = Block().exit_info_2;
  if (IsMmio(address)) return PassMmioOn<L2>(address, kPageFault);
  Block().cr2 = address;
  InjectException(abi::x86::kVectorPageFault, Block().exit_info_1);
}

void TakeNestedPageFault() {
  const std::uint64_t address = Block().exit_info_2;
  if (!IsMmio(address)) GiveUp(kExitNestedPageFault);
  PassMmioOn<L2>(address, kExitNestedPageFault);
}

}  // namespace

extern "C" [[gnu::used]] void NestbenchL1SetUp() { SetUpInterrupts(); }

extern "C" [[gnu::used]] void NestbenchL1Handle() {
  switch (Block().exit_code) {
    case kExitCpuid:
      return AnswerCpuid<L2>();
    case kExitIoio:
      return TakePort();
    case kExitMsr:  // no MSR is L2's to have: #GP, as on a processor without it
      return InjectException(abi::x86::kVectorGeneralProtection, 0);
    case kExitNestedPageFault:
      return TakeNestedPageFault();
    case kPageFault:
      return TakePageFault();
    case kInterrupt:  // after #VMEXIT the global interrupt flag is clear: what is pending comes in between
      asm volatile("stgi\n\tnop\n\tclgi" : : : "memory");
      return;
    case kExitHlt:
      asm volatile("hlt");
      return L2::Skip();
    case kExitVmmcall:
      L2::SetRegister(abi::kRegisterRax, kNoSuchHypercall);
      return L2::Skip();
    default:
      GiveUp(Block().exit_code);
  }
}

// At abi::kHypervisorBase, in 64-bit mode at CPL0, on abi::kHypervisorStackTop. VMLOAD once: what it loads L2 cannot
// change, and nothing here uses. VMRUN keeps RAX and RSP of both sides. L1 accepts interrupts only while L2 runs:
// RFLAGS.IF is set, the global interrupt flag is not.
[[gnu::naked, gnu::used, gnu::section(".text.entry")]] void Entry() {
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
      : [vmcb] "i"(abi::kHypervisorControl), [data] "i"(abi::kHypervisorDataBase));
}

}  // namespace nestbench::l1
