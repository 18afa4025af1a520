#include "guest_tables.h"

#include <cstring>

#include "nestbench/abi/layout.h"
#include "nestbench/abi/x86.h"

// Two stubs, position-independent. #PF on the fault page resumes at RCX, by the same instructions as in UserMachine:
// where CPL0 is emulated, each is a noticeable part of a page fault's cost. All else writes to the panic port.
[[gnu::naked, gnu::used]] static void RawStubs() {
  asm volatile(
      ".balign 16\n"
      "nestbench_raw_stub_page_fault:\n"
      "  jmp 3f\n"  // UserMachine's vector 14 is such a jump
      "3:\n"
      "  pushq %%rax\n"
      "  movq %%cr2, %%rax\n"
      "  shrq $12, %%rax\n"
      "  cmpq %[fault_page], %%rax\n"
      "  jne 1f\n"
      "  popq %%rax\n"
      "  addq $8, %%rsp\n"
      "  movq %%rcx, (%%rsp)\n"
      "  iretq\n"
      "nestbench_raw_stub_panic:\n"
      "1: movl %[panic_port], %%edx\n"
      "  outl %%eax, (%%dx)\n"
      "2: hlt\n"
      "  jmp 2b\n"
      "nestbench_raw_stubs_end:\n" ::[fault_page] "i"(nestbench::abi::kFaultPage >> 12),
      [panic_port] "i"(nestbench::abi::kPanicPort));
}

extern "C" {
// Labels of the assembler text above.
extern const std::byte nestbench_raw_stub_page_fault[];  // NOLINT(readability-identifier-naming)
extern const std::byte nestbench_raw_stub_panic[];       // NOLINT(readability-identifier-naming)
extern const std::byte nestbench_raw_stubs_end[];        // NOLINT(readability-identifier-naming)
}

namespace nestbench::floor {
namespace {

using namespace abi::x86;

constexpr std::uint64_t kTss = TaskStateDescriptor(kSegmentTypeTssBusy, kTssBase, kTssLimit);
constexpr std::uint16_t kKernelCodeSelector = 0x08;

}  // namespace

void GuestTables::WriteTss() {
  std::byte* tss = supervisor_ + kTssBase;
  const auto put = [tss](std::uint64_t offset, auto value) { std::memcpy(tss + offset, &value, sizeof(value)); };
  put(kTssRsp0Offset, kKernelStackBase + kKernelStackBytes);
  put(kTssIst1Offset, kFaultStackBase + kFaultStackBytes);
  put(kTssIoMapBaseOffset, static_cast<std::uint16_t>(kTssBytes));
  std::memset(tss + kTssBytes, 0xFF, kIoPermissionBitmapBytes + 1);
  const auto open = [tss](std::uint32_t first, std::uint32_t count) {
    for (std::uint32_t port = first; port < first + count; ++port) {
      tss[kTssBytes + port / 8] &= ~(std::byte{1} << (port % 8));
    }
  };
  open(abi::kDoorbellPort, 4);
  open(abi::kEventPort, 4);
  open(abi::kSerialPort, 8);
}

void GuestTables::Map(std::uint64_t start, std::uint64_t size_bytes, std::uint64_t flags) {
  for (std::uint64_t address = start; address < start + size_bytes; address += abi::kPageBytes) {
    std::uint64_t* table = Table(kPageTablesBase);
    for (unsigned shift = 39; shift > 12; shift -= 9) {
      std::uint64_t& entry = table[(address >> shift) % kPageTableEntries];
      if (entry == 0) {
        entry = next_table_ | kPtePresent | kPteWritable | kPteUser;
        next_table_ += abi::kPageBytes;
      }
      table = Table(entry & kPteAddressMask);
    }
    table[(address >> 12) % kPageTableEntries] = address | flags | kPtePresent | kPteAccessed | kPteDirty;
  }
}

void GuestTables::MapUser(std::uint64_t start, std::uint64_t size_bytes, bool writable, bool executable) {
  Map(start, size_bytes, kPteUser | (writable ? kPteWritable : 0) | (executable ? 0 : kPteNoExecute));
}

void GuestTables::Write() {
  const std::uint64_t gdt[] = {0, kDescriptorCode64, kDescriptorData, kDescriptorUserData, kDescriptorUserCode64, kTss,
                               0};
  static_assert(sizeof(gdt) == kGdtBytes);
  std::memcpy(supervisor_ + kGdtBase, gdt, sizeof(gdt));
  const auto panic = kStubsBase + static_cast<std::uint64_t>(nestbench_raw_stub_panic - nestbench_raw_stub_page_fault);
  for (std::uint64_t vector = 0; vector < kExceptionVectors; ++vector) {
    Table(kIdtBase)[2 * vector] = InterruptGate(kKernelCodeSelector, vector == kVectorPageFault ? kStubsBase : panic,
                                                vector == kVectorDoubleFault ? 1 : 0);
  }
  std::memcpy(supervisor_ + kStubsBase, nestbench_raw_stub_page_fault,
              static_cast<std::size_t>(nestbench_raw_stubs_end - nestbench_raw_stub_page_fault));
  WriteTss();

  constexpr std::uint64_t kData = kPteWritable | kPteNoExecute;
  Map(kGdtBase, kIdtBase + abi::kPageBytes - kGdtBase, kData);
  Map(kStubsBase, abi::kPageBytes, 0);
  Map(kTssBase, kTssPagesBytes, kData);
  Map(kKernelStackBase, kKernelStackBytes, kData);
  Map(kFaultStackBase, kFaultStackBytes, kData);
  Map(abi::kMailboxBase, abi::kMailboxBytes, kData | kPteUser);
  Map(abi::kStackBase, abi::kStackBytes, kData | kPteUser);
  Map(abi::kDoorbellPage, abi::kMmioPagesEnd - abi::kDoorbellPage, kData | kPteUser | kPteCacheDisable);
}

}  // namespace nestbench::floor
