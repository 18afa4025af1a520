#include "supervisor.h"

#include <cstring>
#include <span>
#include <utility>

#include "nestbench/abi/task_state.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/base/mutant.h"
#include "nestbench/vmm/kvm/segments.h"

// The exception stubs, copied into the guest: position-independent, 16 bytes for each vector. A vector without an
// error code pushes a zero, so that every frame is an ExceptionFrame. #PF on the fault page is the one that is
// handled: the payload asked for it and resumes where RCX points; this path holds as few instructions as it can,
// because where CPL0 is emulated each costs half a microsecond.
//
// A naked function, because only inside a function may assembly take constants from C++.
[[gnu::naked, gnu::used]] static void SupervisorStubs() {
  asm volatile(
      ".balign 16\n"
      "nestbench_stubs_begin:\n"
      ".set vector, 0\n"
      ".rept 32\n"
      ".balign 16\n"
      ".if vector == 14\n"
      "  jmp nestbench_stub_page_fault\n"
      ".else\n"
      "  .if !((%c[error_code_vectors] >> vector) & 1)\n"
      "  pushq $0\n"
      "  .endif\n"
      "  pushq $vector\n"
      "  jmp nestbench_stub_panic\n"
      ".endif\n"
      ".set vector, vector + 1\n"
      ".endr\n"
      ".balign 16\n"
      "nestbench_stub_page_fault:\n"
      "  pushq %%rax\n"
      "  movq %%cr2, %%rax\n"
      "  shrq $12, %%rax\n"
      "  cmpq %[fault_page], %%rax\n"
      "  jne 1f\n"
      "  popq %%rax\n"
      "  addq $8, %%rsp\n"       // the error code
      "  movq %%rcx, (%%rsp)\n"  // resume where the payload said
      "  iretq\n"
      "1: popq %%rax\n"
      "  pushq $14\n"
      "nestbench_stub_panic:\n"
      "  movl (%%rsp), %%eax\n"
      "  movl %[panic_port], %%edx\n"
      "  outl %%eax, (%%dx)\n"
      "2: hlt\n"
      "  jmp 2b\n"
      "nestbench_stubs_end:\n" ::[fault_page] "i"(nestbench::abi::kFaultPage >> 12),
      [panic_port] "i"(nestbench::abi::kPanicPort),
      [error_code_vectors] "i"(std::uint64_t{nestbench::abi::x86::kErrorCodeVectors}));
}

extern "C" {
// Labels of the assembler text above.
extern const std::byte nestbench_stubs_begin[];  // NOLINT(readability-identifier-naming)
extern const std::byte nestbench_stubs_end[];    // NOLINT(readability-identifier-naming)
}

namespace nestbench::vmm::internal {
namespace {

using namespace abi::x86;

constexpr std::uint64_t kStubBytes = 16;
constexpr std::uint8_t kDoubleFaultStack = 1;  // index into the interrupt stack table

constexpr std::uint64_t kTssLimit = kTssBytes + kIoPermissionBitmapBytes;  // with the closing byte of ones
static_assert(kTssLimit < kTssPagesBytes);

struct Gate {
  std::uint64_t low;
  std::uint64_t high;
};

Result<void> WriteTss(const GuestMemory& memory) {
  std::array<std::byte, kTssLimit + 1> tss = {};
  const auto put = [&tss](std::uint64_t offset, auto value) { std::memcpy(&tss[offset], &value, sizeof(value)); };
  put(kTssRsp0Offset, kStackBase + kStackBytes);
  put(kTssIst1Offset, kFaultStackBase + kFaultStackBytes);
  put(kTssIoMapBaseOffset, static_cast<std::uint16_t>(kTssBytes));
  // A set bit closes a port. AMD APM, section "I/O-Permission Bitmap".
  std::memset(&tss[kTssBytes], 0xFF, kIoPermissionBitmapBytes + 1);
  const auto open = [&tss](std::uint16_t first, std::uint16_t count) {
    if (Mutated("tss-opens-a-port-too-many")) ++count;
    for (std::uint32_t port = first; port < std::uint32_t{first} + count; ++port) {
      tss[kTssBytes + port / 8] &= ~(std::byte{1} << (port % 8));
    }
  };
  open(abi::kDoorbellPort, 4);
  open(abi::kEventPort, 4);
  open(abi::kSerialPort, 8);
  return memory.WriteBytes(abi::GuestPhysAddr(kTssBase), tss);
}

}  // namespace

Result<void> WriteSupervisor(const GuestMemory& memory) {
  constexpr std::array<std::uint64_t, 7> kGdt = {
      0,
      kDescriptorCode64,
      kDescriptorData,
      kDescriptorUserData,
      kDescriptorUserCode64,
      TaskStateDescriptor(kSegmentTypeTssBusy, kTssBase, kTssLimit),
      0,
  };
  struct Block {
    std::uint64_t address;
    std::span<const std::byte> bytes;
  };
  const Block blocks[] = {{kGdtBase, std::as_bytes(std::span(kGdt))},
                          {kStubsBase, std::span(nestbench_stubs_begin, nestbench_stubs_end)}};
  for (const Block& block : blocks) {
    if (auto written = memory.WriteBytes(abi::GuestPhysAddr(block.address), block.bytes); !written) return written;
  }
  if (auto written = WriteExceptionGates(memory, kIdtBase); !written) return written;
  return WriteTss(memory);
}

Result<void> WriteExceptionGates(const GuestMemory& memory, std::uint64_t idt_base) {
  std::array<Gate, kExceptionVectors> idt = {};
  for (unsigned vector = 0; vector < kExceptionVectors; ++vector) {
    idt[vector].low = InterruptGate(kKernelCodeSelector, kStubsBase + vector * kStubBytes,
                                    vector == kVectorDoubleFault ? kDoubleFaultStack : 0);
  }
  return memory.WriteBytes(abi::GuestPhysAddr(idt_base), std::as_bytes(std::span(idt)));
}

void SetUserMode(kvm_sregs& sregs, abi::GuestPhysAddr page_table_root, bool has_xsave) {
  sregs.cs = FlatSegment(kUserCodeSelector, kSegmentTypeCodeReadAccessed, true);
  sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs =
      FlatSegment(kUserDataSelector, kSegmentTypeDataWriteAccessed, false);
  sregs.tr = TaskStateSegment(kTssSelector, kTssBase, kTssLimit, TaskStateType());
  sregs.gdt.base = kGdtBase;
  sregs.gdt.limit = 7 * sizeof(std::uint64_t) - 1;
  sregs.idt.base = kIdtBase;
  sregs.idt.limit = kExceptionVectors * sizeof(Gate) - 1;
  sregs.cr0 =
      kCr0ProtectedMode | kCr0MonitorCoprocessor | kCr0ExtensionType | kCr0NumericError | kCr0WriteProtect | kCr0Paging;
  sregs.cr3 = page_table_root.value();
  sregs.cr4 = kCr4Pae | kCr4Osfxsr | kCr4Osxmmexcpt | (has_xsave ? kCr4Osxsave : 0);
  sregs.efer = kEferSyscall | kEferLongModeEnable | kEferLongModeActive | kEferNoExecute;
}

Result<void> EnterUserMode(Vcpu& vcpu, abi::GuestPhysAddr page_table_root, abi::GuestVirtAddr entry, bool has_xsave) {
  auto sregs = vcpu.GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));
  SetUserMode(*sregs, page_table_root, has_xsave);
  if (auto set = vcpu.SetSregs(*sregs); !set) return set;

  kvm_regs regs = {};
  regs.rip = entry.value();
  regs.rdi = abi::kMailboxBase;
  regs.rsp = kUserStackPointer + (Mutated("stack-misaligned") ? 8 : 0);
  regs.rflags = kRflagsReserved1;
  return vcpu.SetRegs(regs);
}

}  // namespace nestbench::vmm::internal
