// The guest hypervisor (L1) with Intel's VMX: what svm.cc is with SVM. The host has written what the VMCS is to hold as
// a list of fields at abi::kHypervisorControl, and the revision to the VMCS and the VMXON region.
//
// With EPT L2's MMIO pages are missing from its tables; without, they are missing from the tables that L2 runs on, and
// L1 takes every page fault first, as a hypervisor with shadow tables must.
#include <cstdint>

#include "level2.h"
#include "nestbench/abi/vmx.h"

namespace nestbench::l1 {
namespace {

using namespace abi::vmx;

// What the host is told, above every exit reason: an instruction of L1 that failed, with its error number.
constexpr std::uint64_t kInstructionFailed = 0x1'0000;
constexpr std::uint32_t kBlockedBySti = 1U << 0;
constexpr std::uint32_t kBlockedByMovSs = 1U << 1;

std::uint64_t Read(std::uint32_t field) {
  std::uint64_t value = 0;
  asm volatile("vmread %1, %0" : "=r"(value) : "r"(std::uint64_t{field}) : "cc");
  return value;
}

// Carry: no current VMCS. Zero: an error number is in the VMCS. Intel SDM volume 3, section "Conventions".
void Write(std::uint64_t field, std::uint64_t value) {
  bool failed = false;
  asm volatile("vmwrite %2, %1" : "=@ccbe"(failed) : "r"(field), "r"(value));
  if (failed) GiveUp(kInstructionFailed | Read(kInstructionError));
}

struct L2 {
  static std::uint64_t Register(unsigned number) {
    return number == abi::kRegisterRsp ? Read(kGuestRsp) : Data().registers[number];
  }
  static void SetRegister(unsigned number, std::uint64_t value) { Data().registers[number] = value; }
  static std::uint64_t Rip() { return Read(kGuestRip); }
  static void SkipBytes(std::uint64_t bytes) {
    Write(kGuestRip, Read(kGuestRip) + bytes);
    const std::uint64_t blocked = Read(kGuestInterruptibility);
    if ((blocked & (kBlockedBySti | kBlockedByMovSs)) != 0) {
      Write(kGuestInterruptibility, blocked & ~std::uint64_t{kBlockedBySti | kBlockedByMovSs});
    }
  }
  static void Skip() { SkipBytes(Read(kExitInstructionBytes)); }
};

void InjectException(std::uint32_t vector, std::uint64_t error_code) {
  Write(kEntryEventError, error_code);
  Write(kEntryEvent, vector | kEventException | kEventHasErrorCode | kEventValid);
}

void TakePort() {
  const std::uint64_t qualification = Read(kExitQualification);
  if ((qualification & kIoString) != 0) GiveUp(kReasonIo);
  PassPortOn<L2>(static_cast<std::uint16_t>(qualification >> kIoPortShift),
                 static_cast<unsigned>(qualification & kIoBytesMask) + 1, (qualification & kIoIn) != 0);
}

void TakeException() {
  const std::uint64_t event = Read(kExitEvent);
  if ((event & kEventVectorMask) != abi::x86::kVectorPageFault) GiveUp(kReasonException);
  const std::uint64_t address = Read(kExitQualification);
  if (IsMmio(address)) return PassMmioOn<L2>(address, kReasonException);
  asm volatile("movq %0, %%cr2" : : "r"(address));  // of both sides
  InjectException(abi::x86::kVectorPageFault, Read(kExitEventError));
}

void TakeEptViolation() {
  const std::uint64_t address = Read(kGuestPhysicalAddress);
  if (!IsMmio(address)) GiveUp(kReasonEptViolation);
  PassMmioOn<L2>(address, kReasonEptViolation);
}

}  // namespace

extern "C" [[gnu::used]] void NestbenchL1SetUp() {
  SetUpInterrupts();
  const std::uint64_t vmxon = abi::kHypervisorVmxonRegion;
  const std::uint64_t vmcs = abi::kHypervisorVmcs;
  bool failed = false;
  asm volatile("vmxon %1" : "=@ccbe"(failed) : "m"(vmxon));
  if (failed) GiveUp(kInstructionFailed);
  asm volatile("vmclear %1" : "=@ccbe"(failed) : "m"(vmcs));
  if (failed) GiveUp(kInstructionFailed);
  asm volatile("vmptrld %1" : "=@ccbe"(failed) : "m"(vmcs));
  if (failed) GiveUp(kInstructionFailed);
  for (const auto* field = reinterpret_cast<const abi::VmcsField*>(abi::kHypervisorControl);
       field->encoding != abi::kVmcsFieldsEnd; ++field) {
    Write(field->encoding, field->value);
  }
}

extern "C" [[gnu::used]] void NestbenchL1Handle() {
  const auto reason = static_cast<std::uint32_t>(Read(kExitReason));
  switch (reason) {
    case kReasonCpuid:
      return AnswerCpuid<L2>();
    case kReasonIo:
      return TakePort();
    case kReasonRdmsr:  // no MSR is L2's to have: #GP, as on a processor without it
    case kReasonWrmsr:
      return InjectException(abi::x86::kVectorGeneralProtection, 0);
    case kReasonEptViolation:
      return TakeEptViolation();
    case kReasonException:
      return TakeException();
    case kReasonInterrupt:
      asm volatile("sti\n\tnop\n\tcli" : : : "memory");
      return;
    case kReasonHlt:
      asm volatile("sti\n\thlt\n\tcli" : : : "memory");
      return L2::Skip();
    case kReasonVmcall:
      L2::SetRegister(abi::kRegisterRax, kNoSuchHypercall);
      return L2::Skip();
    default:
      GiveUp(reason & ~kReasonEntryFailed);
  }
}

// An entry that fails goes on behind its instruction.
extern "C" [[gnu::used, noreturn]] void NestbenchL1EntryFailed() {
  GiveUp(kInstructionFailed | Read(kInstructionError));
}

// At abi::kHypervisorBase, in 64-bit mode at CPL0, on abi::kHypervisorStackTop with interrupts off. An exit comes to
// HOST_RIP on HOST_RSP, which are set here, with every other register as L2 left it.
[[gnu::naked, gnu::used, gnu::section(".text.entry")]] void Entry() {
  asm volatile(
      "call NestbenchL1SetUp\n"
      "movl %[host_rsp], %%ecx\n"
      "vmwrite %%rsp, %%rcx\n"
      "movl %[host_rip], %%ecx\n"
      "movl $1f, %%eax\n"
      "vmwrite %%rax, %%rcx\n" NESTBENCH_L1_MOVE_ALL(NESTBENCH_L1_LOAD)
      "movq %c[data], %%rax\n"
      "vmlaunch\n"
      "call NestbenchL1EntryFailed\n"
      "1:\n"
      "movq %%rax, %c[data]\n" NESTBENCH_L1_MOVE_ALL(NESTBENCH_L1_SAVE)
      "call NestbenchL1Handle\n" NESTBENCH_L1_MOVE_ALL(NESTBENCH_L1_LOAD)
      "movq %c[data], %%rax\n"
      "vmresume\n"
      "call NestbenchL1EntryFailed\n"
      :
      : [host_rsp] "i"(kHostRsp), [host_rip] "i"(kHostRip), [data] "i"(abi::kHypervisorDataBase));
}

}  // namespace nestbench::l1
