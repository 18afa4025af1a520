// What each level of the page tables decides: rights, reserved bits, accessed and dirty bits, large pages.
#include <cstdint>
#include <span>
#include <string>

#include "../harness/long_mode.h"

NESTBENCH_GUEST_CODE(ReadAtRdi, "mov (%rdi), %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(WriteAtRdi, "mov %rax, (%rdi)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(JumpToRdi, "jmp *%rdi")
NESTBENCH_GUEST_CODE(AddAtRdi, "addq $1, (%rdi)\n out %al, $0x10")

namespace nestbench::conformance {
namespace {

using namespace abi::x86;

constexpr std::uint64_t kAll = kPtePresent | kPteWritable | kPteUser;
constexpr std::uint64_t kTouched = kPteAccessed | kPteDirty;

// A second way to the memory: tables of its own for the virtual addresses from 512 GiB, so that code and stack, which
// are below, do not touch or lose them.
class PageTables : public LongModeTest {
 protected:
  static constexpr std::uint64_t kOther = 1ULL << 39;
  static constexpr std::uint64_t kTables = 0x60000;  // directory pointers, directory, table

  std::uint64_t& Pml4e() { return Word(kPml4 + 8); }
  std::uint64_t& Pdpte() { return Word(kTables); }
  std::uint64_t& Pde() { return Word(kTables + 0x1000); }
  std::uint64_t& Entry() { return Word(kTables + 0x2000); }

  // kOther is kData, in a small page.
  void Prepare(bool at_user, std::span<const std::byte> code) {
    at_user ? User(code) : Kernel(code);
    Pml4e() = kTables | kAll;
    Pdpte() = (kTables + 0x1000) | kAll;
    Pde() = (kTables + 0x2000) | kAll;
    Entry() = kData | kAll;
    SetRegister(&kvm_regs::rdi, kOther);
    Word(kData) = 0x1234'5678;
  }

  void ExpectAccessed(bool is_dirty) {
    EXPECT_EQ(Pml4e() & kTouched, kPteAccessed) << "PML4 entry";
    EXPECT_EQ(Pdpte() & kTouched, kPteAccessed) << "directory-pointer entry";
    EXPECT_EQ(Pde() & kTouched, kPteAccessed) << "directory entry";
    EXPECT_EQ(Entry() & kTouched, is_dirty ? kTouched : kPteAccessed) << "table entry";
  }

  // The same fault whichever level takes the right away.
  void ExpectAtEveryLevel(std::span<const std::byte> code, std::uint64_t set, std::uint64_t clear,
                          std::uint64_t error) {
    for (const unsigned level : {4U, 3U, 2U, 1U}) {
      SCOPED_TRACE("level " + std::to_string(level));
      Prepare(true, code);
      std::uint64_t& entry = level == 4 ? Pml4e() : level == 3 ? Pdpte() : level == 2 ? Pde() : Entry();
      entry = (entry & ~clear) | set;
      ExpectPageFault(error, kOther);
      if (IsSkipped() || HasFailure()) return;
    }
  }
};

// Rights.

NESTBENCH_CONDITION(cpu, PageTables, AnAbsentEntryOfAnyLevelIsAbsent,
                    "Intel SDM volume 3, Page-Fault Exceptions: P flag") {
  ExpectAtEveryLevel(ReadAtRdi(), 0, kPtePresent, 4);
}
NESTBENCH_CONDITION(cpu, PageTables, AReadOnlyEntryOfAnyLevelIsReadOnly,
                    "Intel SDM volume 3, Access Rights: R/W flag") {
  ExpectAtEveryLevel(WriteAtRdi(), 0, kPteWritable, 7);
}
NESTBENCH_CONDITION(cpu, PageTables, ASupervisorEntryOfAnyLevelIsForTheSupervisor,
                    "Intel SDM volume 3, Access Rights: U/S flag") {
  ExpectAtEveryLevel(ReadAtRdi(), 0, kPteUser, 5);
}
NESTBENCH_CONDITION(cpu, PageTables, ANoExecuteEntryOfAnyLevelIsNotExecuted,
                    "Intel SDM volume 3, Access Rights: XD flag") {
  ExpectAtEveryLevel(JumpToRdi(), kPteNoExecute, 0, 0x15);
}

// Reserved bits.

NESTBENCH_CONDITION(cpu, PageTables, AReservedBitOfAnyLevelIsInTheErrorCode,
                    "Intel SDM volume 3, Page-Fault Exceptions: RSVD flag") {
  ExpectAtEveryLevel(ReadAtRdi(), 1ULL << 51, 0, 0xD);
}
NESTBENCH_CONDITION(cpu, PageTables, WithoutNoExecuteItsBitIsReserved,
                    "Intel SDM volume 3, Page-Fault Exceptions: XD is reserved if IA32_EFER.NXE = 0") {
  Prepare(true, ReadAtRdi());
  for (std::uint64_t page = 0; page < kPageTableEntries; ++page) Pte(page << 12) &= ~kPteNoExecute;
  ChangeSregs([](kvm_sregs& sregs) { sregs.efer &= ~kEferNoExecute; });
  Entry() |= kPteNoExecute;
  ExpectPageFault(0xD, kOther);
}
NESTBENCH_CONDITION(cpu, PageTables, ALargePageThatIsNotAlignedIsReserved,
                    "Intel SDM volume 3, 4-Level Paging: bits 20:13 of an entry that maps a 2-MByte page") {
  Prepare(true, ReadAtRdi());
  Pde() = 0x20'0000 | 1ULL << 13 | kAll | kPteLarge;
  ExpectPageFault(0xD, kOther);
}
NESTBENCH_CONDITION(cpu, PageTables, TheSizeBitOfAPml4EntryIsReserved,
                    "Intel SDM volume 3, 4-Level Paging: bit 7 of a PML4 entry") {
  Prepare(true, ReadAtRdi());
  Pml4e() |= kPteLarge;
  ExpectPageFault(0xD, kOther);
}

// Accessed and dirty.

NESTBENCH_CONDITION(cpu, PageTables, AReadSetsAccessedOnEveryLevel, "Intel SDM volume 3, Accessed and Dirty Flags") {
  for (const bool at_user : {true, false}) {
    Prepare(at_user, ReadAtRdi());
    if (!Done()) return;
    ExpectAccessed(false);
  }
}
NESTBENCH_CONDITION(cpu, PageTables, AWriteSetsDirtyOnTheLastLevelOnly,
                    "Intel SDM volume 3, Accessed and Dirty Flags") {
  for (const bool at_user : {true, false}) {
    Prepare(at_user, WriteAtRdi());
    if (!Done()) return;
    ExpectAccessed(true);
  }
}
NESTBENCH_CONDITION(cpu, PageTables, AReadModifyWriteSetsDirty, "Intel SDM volume 3, Accessed and Dirty Flags") {
  for (const bool at_user : {true, false}) {
    Prepare(at_user, AddAtRdi());
    if (!Done()) return;
    ExpectAccessed(true);
    EXPECT_EQ(Word(kData), 0x1234'5679U);
  }
}
NESTBENCH_CONDITION(cpu, PageTables, AWriteAfterAReadStillSetsDirty, "Intel SDM volume 3, Accessed and Dirty Flags") {
  for (const bool at_user : {true, false}) {
    Prepare(at_user, ReadAtRdi());
    if (!Done()) return;
    at_user ? User(WriteAtRdi()) : Kernel(WriteAtRdi());
    SetRegister(&kvm_regs::rdi, kOther);
    if (!Done()) return;
    ExpectAccessed(true);
  }
}
NESTBENCH_CONDITION(cpu, PageTables, AFaultSetsNoDirtyBit, "Intel SDM volume 3, Accessed and Dirty Flags") {
  Prepare(true, WriteAtRdi());
  Entry() &= ~kPteWritable;
  ExpectPageFault(7, kOther);
  EXPECT_EQ(Entry() & kPteDirty, 0U);
}

// CR2.

NESTBENCH_CONDITION(cpu, PageTables, AnAccessAcrossTwoPagesFaultsAtTheAbsentOne,
                    "Intel SDM volume 3, Interrupt 14-Page-Fault Exception (#PF): CR2") {
  for (const bool at_user : {true, false}) {
    Prepare(at_user, WriteAtRdi());
    SetRegister(&kvm_regs::rdi, kOther + 0xFFD);
    Word(kData + 0xFF8) = 0x7777'7777'7777'7777;
    ExpectPageFault(at_user ? 6 : 2, kOther + 0x1000);
    if (IsSkipped() || HasFailure()) return;
    const bool is_partly_written = Word(kData + 0xFF8) != 0x7777'7777'7777'7777;  // no document forbids it
    Evidence(at_user ? "partly_written_at_cpl3" : "partly_written_at_cpl0", is_partly_written);
  }
}

// Large pages.

NESTBENCH_CONDITION(cpu, PageTables, ALargePageHasAccessedAndDirtyOfItsOwn,
                    "Intel SDM volume 3, Accessed and Dirty Flags") {
  for (const bool at_user : {true, false}) {
    Prepare(at_user, WriteAtRdi());
    Pde() = 0x20'0000 | kAll | kPteLarge;
    SetRegister(&kvm_regs::rdi, kOther + 0x1F'F008);
    SetRegister(&kvm_regs::rax, 0x77);
    if (!Done()) return;
    EXPECT_EQ(Pde() & kTouched, kTouched);
    EXPECT_EQ(Pdpte() & kTouched, kPteAccessed);
    EXPECT_EQ(Word(0x3F'F008), 0x77U);
  }
}
NESTBENCH_CONDITION(cpu, PageTables, APageOfOneGibibyteMapsIt, "Intel SDM volume 3, 4-Level Paging: 1-GByte page") {
  if (Lacks(CpuidBit{"CPUID 80000001:EDX.Page1GB", 0x8000'0001, &kvm_cpuid_entry2::edx, 26})) return;
  for (const bool at_user : {true, false}) {
    Prepare(at_user, WriteAtRdi());
    Pdpte() = kAll | kPteLarge;
    SetRegister(&kvm_regs::rdi, kOther + 0x40'0008);
    SetRegister(&kvm_regs::rax, 0x78);
    if (!Done()) return;
    EXPECT_EQ(Pdpte() & kTouched, kTouched);
    EXPECT_EQ(Word(0x40'0008), 0x78U);
  }
}
NESTBENCH_CONDITION(cpu, PageTables, APageOfOneGibibyteThatIsNotAlignedIsReserved,
                    "Intel SDM volume 3, 4-Level Paging: bits 29:13 of an entry that maps a 1-GByte page") {
  Prepare(true, ReadAtRdi());
  Pdpte() = 1ULL << 13 | kAll | kPteLarge;
  ExpectPageFault(0xD, kOther);
}

}  // namespace
}  // namespace nestbench::conformance
