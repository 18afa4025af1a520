// Nested paging: which of L2's accesses leave for L1's nested tables, and what the exit says. Source: AMD64
// Architecture Programmer's Manual volume 2, chapter "Secure Virtual Machine", section "Nested Paging".
#include <cstdint>
#include <cstring>

#include "svm_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::svm;
using namespace abi::x86;

// EXITINFO1 has the bits of #PF's error code. Section "Page-Fault Exception Vector".
constexpr std::uint64_t kFaultPresent = 1U << 0;
constexpr std::uint64_t kFaultWrite = 1U << 1;
constexpr std::uint64_t kFaultUser = 1U << 2;
constexpr std::uint64_t kFaultReserved = 1U << 3;
constexpr std::uint64_t kFaultFetch = 1U << 4;
constexpr std::uint64_t kFaultMask = 0x1F;

// L2 stops at HLT. Its tables are L1's: kPage, the last of four large pages, is writable and executable in them.
class SvmNestedPaging : public SvmTest {
 protected:
  static constexpr std::uint64_t kPage = 0x60'0000;
  static constexpr std::uint64_t kOtherPage = 0x40'0000;

  void SetUp() override {
    SvmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    vmcb().intercepts_1 = 1U << kIntercept1Hlt;
    UseNestedPaging();
  }
  // L1's nested entry of the large page at that address.
  std::uint64_t& Nested(std::uint64_t address) { return Word(kNestedTables + 0x2000 + (address >> 21) * 8); }
  void Read() { LoadL2({0x8B, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4}); }   // mov eax, [kPage]; hlt
  void Write() { LoadL2({0x89, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4}); }  // mov [kPage], eax; hlt
  void Call() { LoadL2({0xB8, 0x00, 0x00, 0x60, 0x00, 0xFF, 0xE0}); }         // mov eax, kPage; jmp rax
  // L1's loop writes the entry before its next VMRUN: KVM learns of the guest's writes to tables, not of the test's.
  void L1Changes(std::uint64_t& entry, std::uint64_t value) {
    const auto address =
        static_cast<std::uint64_t>(reinterpret_cast<std::byte*>(&entry) - reinterpret_cast<std::byte*>(&Word(0)));
    LoadAt(kCode + 10, {0xE9, 0xF1, 0x03, 0x00, 0x00});                 // behind the report: jmp kCode + 0x400
    LoadAt(kCode + 0x400, {0x48, 0xB8, 0,    0,    0,   0, 0, 0, 0, 0,  // mov rax, value
                           0x48, 0xA3, 0,    0,    0,   0, 0, 0, 0, 0,  // mov [address], rax
                           0xE9, 0xE7, 0xFB, 0xFF, 0xFF});              // jmp kCode
    std::memcpy(&Word(kCode + 0x402), &value, sizeof(value));
    std::memcpy(&Word(kCode + 0x40C), &address, sizeof(address));
  }
  void ExpectFault(std::uint64_t error, std::uint64_t where, std::uint64_t page) {
    ExpectExit(kExitNestedPageFault);
    EXPECT_EQ(vmcb().exit_info_1 & kFaultMask, error);
    EXPECT_EQ(vmcb().exit_info_1 & (kNestedFaultFinal | kNestedFaultWalk), where);
    EXPECT_EQ(vmcb().exit_info_2 >> 12, page >> 12);
  }
};

NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, AFetchFromAPageThatIsNotPresentFaults,
                    "AMD APM volume 2, Nested versus Guest Page Faults: EXITINFO1 bit 4, instruction fetch") {
  Nested(kPage) = 0;
  Call();
  ExpectFault(kFaultUser | kFaultFetch, kNestedFaultFinal, kPage);
  EXPECT_EQ(vmcb().rip, kPage);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, AFetchFromAPageWithoutExecutionFaults,
                    "AMD APM volume 2, Combining Nested and Guest Attributes: NX of the nested tables") {
  Nested(kPage) |= kPteNoExecute;
  Call();
  ExpectFault(kFaultPresent | kFaultUser | kFaultFetch, kNestedFaultFinal, kPage);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, AReadFromAPageWithoutExecutionWorks,
                    "AMD APM volume 2, Combining Nested and Guest Attributes: NX of the nested tables") {
  Nested(kPage) |= kPteNoExecute;
  Read();
  ExpectExit(kExitHlt);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, AReadOfASupervisorPageFaults,
                    "AMD APM volume 2, Nested Table Walk: accesses of L2 are user accesses to the nested tables") {
  Nested(kPage) &= ~kPteUser;
  Read();
  ExpectFault(kFaultPresent | kFaultUser, kNestedFaultFinal, kPage);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, AReservedBitFaults,
                    "AMD APM volume 2, Nested versus Guest Page Faults: EXITINFO1 bit 3, reserved bits") {
  Nested(kPage) |= 1ULL << 13;  // of the address, which is aligned to 2 MiB
  Read();
  ExpectExit(kExitNestedPageFault);
  EXPECT_NE(vmcb().exit_info_1 & kFaultReserved, 0U);
  EXPECT_NE(vmcb().exit_info_1 & kFaultPresent, 0U);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, TheWalkOfTheGuestsTablesFaults,
                    "AMD APM volume 2, Nested versus Guest Page Faults: EXITINFO1 bit 33, and a walk is a user write") {
  Read();
  vmcb().cr3 = kPage;  // L2's tables are in a page that is not there
  Nested(kPage) = 0;
  ExpectFault(kFaultWrite | kFaultUser, kNestedFaultWalk, kPage);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, TheGuestsTablesMustBeWritable,
                    "AMD APM volume 2, Nested Table Walk: walks of the guest's tables are user writes") {
  Read();
  Word(kPage) = Word(vmcb().cr3);
  vmcb().cr3 = kPage;
  Nested(kPage) &= ~kPteWritable;
  ExpectFault(kFaultPresent | kFaultWrite | kFaultUser, kNestedFaultWalk, kPage);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, AFaultThatL1ResolvesRunsOn,
                    "AMD APM volume 2, Nested versus Guest Page Faults: the access is restarted") {
  const std::uint64_t entry = Nested(kPage);
  Nested(kPage) = 0;
  Write();
  ExpectFault(kFaultWrite | kFaultUser, kNestedFaultFinal, kPage);
  EXPECT_EQ(vmcb().rip, kL2Code);
  Word(kPage) = 0xFFFF'FFFF'FFFF'FFFF;
  Nested(kPage) = entry;
  ExpectExit(kExitHlt);
  EXPECT_EQ(Word(kPage) & 0xFFFF'FFFF, vmcb().rax & 0xFFFF'FFFF);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, AnAddressIsTranslatedByBothTables,
                    "AMD APM volume 2, Nested Paging: guest physical to system physical") {
  Nested(kPage) = Nested(kOtherPage);
  Word(kPage) = 0x1111'1111;
  Word(kOtherPage) = 0x2222'2222;
  Read();
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().rax, 0x2222'2222U);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, AFaultOfTheGuestsTablesIsTheGuests,
                    "AMD APM volume 2, Nested versus Guest Page Faults: the guest's faults go to the guest") {
  Word(kPd + (kPage >> 21) * 8) = 0;
  Nested(kPage) = 0;  // and it comes first
  Read();
  const auto exception = NextException();
  if (!exception) return;
  EXPECT_EQ(exception->vector, kVectorPageFault);
  EXPECT_EQ(exception->error, 0U) << "not present, a read at CPL0";
  EXPECT_EQ(exception->cr2, kPage);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, ARightThatIsTakenIsGoneAfterAFlush,
                    "AMD APM volume 2, TLB Flush: TLB_CONTROL 1") {
  LoadL2({0x89, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4,    // mov [kPage], eax; hlt
          0x89, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4});  // and again
  ExpectExit(kExitHlt);
  vmcb().rip = kL2Code + 8;
  L1Changes(Nested(kPage), Nested(kPage) & ~kPteWritable);
  vmcb().tlb_control = 1;
  ExpectFault(kFaultPresent | kFaultWrite | kFaultUser, kNestedFaultFinal, kPage);
  EXPECT_EQ(vmcb().rip, kL2Code + 8);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, APageThatIsMovedIsFoundAfterAFlush,
                    "AMD APM volume 2, TLB Flush: TLB_CONTROL 1") {
  LoadL2({0x8B, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4,    // mov eax, [kPage]; hlt
          0x8B, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4});  // and again
  Word(kPage) = 0x1111'1111;
  Word(kOtherPage) = 0x2222'2222;
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().rax, 0x1111'1111U);
  vmcb().rip = kL2Code + 8;
  L1Changes(Nested(kPage), Nested(kOtherPage));
  vmcb().tlb_control = 1;
  ExpectExit(kExitHlt);
  EXPECT_EQ(vmcb().rax, 0x2222'2222U);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, AReadMarksTheNestedPageAccessed,
                    "AMD APM volume 2, Nested Table Walk: accessed and dirty bits of the nested tables") {
  Read();
  ASSERT_EQ(Nested(kPage) & (kPteAccessed | kPteDirty), 0U);
  ExpectExit(kExitHlt);
  EXPECT_EQ(Nested(kPage) & (kPteAccessed | kPteDirty), kPteAccessed);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, AWriteMarksTheNestedPageDirty,
                    "AMD APM volume 2, Nested Table Walk: accessed and dirty bits of the nested tables") {
  Write();
  ExpectExit(kExitHlt);
  EXPECT_EQ(Nested(kPage) & (kPteAccessed | kPteDirty), kPteAccessed | kPteDirty);
}
NESTBENCH_CONDITION(nested_svm, SvmNestedPaging, AWriteMarksTheGuestsPageDirty,
                    "AMD APM volume 2, Nested Table Walk: accessed and dirty bits of the guest's tables") {
  std::uint64_t& entry = Word(kPd + (kPage >> 21) * 8);
  entry &= ~(kPteAccessed | kPteDirty);
  Write();
  ExpectExit(kExitHlt);
  EXPECT_EQ(entry & (kPteAccessed | kPteDirty), kPteAccessed | kPteDirty);
}

}  // namespace
}  // namespace nestbench::conformance
