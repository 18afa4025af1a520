// Page faults with each bit of their error code, and what the processor writes into page tables.
#include <variant>

#include "../harness/long_mode.h"

namespace nestbench::conformance {
namespace {

using namespace abi::x86;
using CpuPaging = LongModeTest;

NESTBENCH_CONDITION(cpu, CpuPaging, AUserReadOfAnAbsentPageIsError4, "AMD APM volume 2, Page-Fault Error Code") {
  User({0x8A, 0x47, 0x08});  // mov al, [rdi + 8]
  Pte(kData) = 0;
  ExpectPageFault(4, kData + 8);
}
NESTBENCH_CONDITION(cpu, CpuPaging, AUserWriteToAnAbsentPageIsError6, "AMD APM volume 2, Page-Fault Error Code") {
  User({0x88, 0x47, 0x08});  // mov [rdi + 8], al
  Pte(kData) = 0;
  ExpectPageFault(6, kData + 8);
}
NESTBENCH_CONDITION(cpu, CpuPaging, AUserWriteToAReadOnlyPageIsError7, "AMD APM volume 2, Page-Fault Error Code") {
  User({0x88, 0x07});  // mov [rdi], al
  Pte(kData) &= ~kPteWritable;
  ExpectPageFault(7, kData);
}
NESTBENCH_CONDITION(cpu, CpuPaging, AUserReadOfASupervisorPageIsError5, "AMD APM volume 2, Page-Fault Error Code") {
  User({0x8A, 0x07});  // mov al, [rdi]
  Pte(kData) &= ~kPteUser;
  ExpectPageFault(5, kData);
}
NESTBENCH_CONDITION(cpu, CpuPaging, AUserFetchOfANoExecutePageIsError15, "AMD APM volume 2, No Execute (NX) Bit") {
  User({0xFF, 0xE7});  // jmp rdi
  ExpectPageFault(0x15, kData);
}
NESTBENCH_CONDITION(cpu, CpuPaging, AReservedBitAboveEveryPageIsAShutdown, "AMD APM volume 2, Shutdown") {
  User({0x8A, 0x07});                   // mov al, [rdi]
  Word(0x11000 - 0x1000) |= kPteLarge;  // bit 7 of a PML4 entry must be zero
  const vmm::Exit exit = Run();         // nothing can be fetched either: no handler runs
  EXPECT_TRUE(std::holds_alternative<vmm::ShutdownExit>(exit)) << vmm::ToString(exit);
}
NESTBENCH_CONDITION(cpu, CpuPaging, AKernelReadOfAnAbsentPageIsError0, "AMD APM volume 2, Page-Fault Error Code") {
  Kernel({0x8A, 0x07});  // mov al, [rdi]
  Pte(kData) = 0;
  ExpectPageFault(0, kData);
}
NESTBENCH_CONDITION(cpu, CpuPaging, WriteProtectHoldsForTheKernel, "AMD APM volume 2, Write Protect (WP) Bit") {
  Kernel({0x88, 0x07});  // mov [rdi], al
  Pte(kData) &= ~kPteWritable;
  ExpectPageFault(3, kData);
}
NESTBENCH_CONDITION(cpu, CpuPaging, WithoutWriteProtectTheKernelWrites, "AMD APM volume 2, Write Protect (WP) Bit") {
  Kernel({0xB0, 0x5A, 0x88, 0x07, 0xE6, 0x10});  // mov al, 0x5a; mov [rdi], al; out 0x10, al
  Pte(kData) &= ~kPteWritable;
  ChangeSregs([](kvm_sregs& sregs) { sregs.cr0 &= ~kCr0WriteProtect; });
  if (!Done()) return;
  EXPECT_EQ(Word(kData), 0x5AU);
}
NESTBENCH_CONDITION(cpu, CpuPaging, AReadSetsAccessedOnly, "AMD APM volume 2, Accessed (A) Bit") {
  User({0x8A, 0x07, 0xE6, 0x10});  // mov al, [rdi]; out 0x10, al
  if (!Done()) return;
  EXPECT_EQ(Pte(kData) & (kPteAccessed | kPteDirty), kPteAccessed);
}
NESTBENCH_CONDITION(cpu, CpuPaging, AWriteSetsDirty, "AMD APM volume 2, Dirty (D) Bit") {
  User({0x88, 0x07, 0xE6, 0x10});  // mov [rdi], al; out 0x10, al
  if (!Done()) return;
  EXPECT_EQ(Pte(kData) & (kPteAccessed | kPteDirty), kPteAccessed | kPteDirty);
}
NESTBENCH_CONDITION(cpu, CpuPaging, AnUntouchedPageStaysUnaccessed, "AMD APM volume 2, Accessed (A) Bit") {
  User({0xE6, 0x10});  // out 0x10, al
  if (!Done()) return;
  EXPECT_EQ(Pte(kData) & (kPteAccessed | kPteDirty), 0U);
}
NESTBENCH_CONDITION(cpu, CpuPaging, ALargePageMapsTwoMebibytes, "AMD APM volume 2, 2-Mbyte Page Translation") {
  User({0xB8, 0x08, 0, 0x3F, 0, 0x8B, 0x00, 0xE6, 0x10});  // mov eax, 0x3f0008; mov eax, [rax]; out 0x10, al
  Word(0x3F0008) = 0x1234567;
  if (!Done()) return;
  EXPECT_EQ(Rax(), 0x1234567U);
}
NESTBENCH_CONDITION(cpu, CpuPaging, AWriteToALargePageSetsDirty, "AMD APM volume 2, Dirty (D) Bit") {
  User({0xB8, 0, 0, 0x20, 0, 0x88, 0x00, 0xE6, 0x10});  // mov eax, 0x200000; mov [rax], al; out 0x10, al
  if (!Done()) return;
  EXPECT_NE(Word(kPd + 8) & kPteDirty, 0U);
}
NESTBENCH_CONDITION(cpu, CpuPaging, AFaultIsRestartedWhenThePageComes, "AMD APM volume 2, #PF: a fault; IRETQ") {
  User({0x8A, 0x07, 0xE6, 0x10});  // mov al, [rdi]; out 0x10, al
  const std::uint64_t entry = Pte(kData);
  Pte(kData) = 0;
  Word(kData) = 0x77;
  ExpectPageFault(4, kData);
  if (HasFailure() || IsSkipped()) return;
  Pte(kData) = entry;
  if (!Done()) return;
  EXPECT_EQ(Rax() & 0xFF, 0x77U);
}

}  // namespace
}  // namespace nestbench::conformance
