// Nested paging: what L1 learns of an access that its tables (EPT) do not allow, and that a change of them holds.
// Source: Intel SDM volume 3, chapter "VMX Support for Address Translation", section "The Extended Page Table Mechanism
// (EPT)".
#include <cstdint>

#include "vmx_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::vmx;

class VmxEpt : public VmxTest {
 protected:
  static constexpr std::uint64_t kPage = 0x60'0000;  // the last 2 MiB that L2 has: entry 3
  static constexpr std::uint64_t kIndex = 3;
  static constexpr std::uint64_t kAll = kEptRead | kEptWrite | kEptExecute;
  static constexpr std::uint64_t kAccess = kViolationRead | kViolationWrite | kViolationFetch;
  static constexpr std::uint64_t kAllowed = kViolationReadable | kViolationWritable | kViolationExecutable;

  void SetUp() override {
    VmxTest::SetUp();
    if (!IsOver() && LacksEpt()) return;
  }
  void Allow(std::uint64_t rights) { Ept(kIndex) = (Ept(kIndex) & ~kAll) | rights; }
  // By L1 itself, in VMX operation: KVM knows what changes in tables that it has read from what the guest writes.
  void AllowLater(std::uint64_t rights) {
    Expect(Ending::kSucceeded, {Op::kStore, EptAddress(kIndex), (Ept(kIndex) & ~kAll) | rights});
  }
  void LoadRead() { LoadL2({0x8B, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4}); }   // mov eax, [kPage]; hlt
  void LoadWrite() { LoadL2({0x89, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4}); }  // mov [kPage], eax; hlt
  void ExpectViolation(std::uint64_t access, std::uint64_t allowed) {
    ExpectExit(kReasonEptViolation);
    if (IsOver()) return;
    const std::uint64_t qualification = Read(kExitQualification);
    EXPECT_EQ(qualification & kAccess, access) << std::hex << "qualification 0x" << qualification;
    EXPECT_EQ(qualification & kAllowed, allowed) << std::hex << "qualification 0x" << qualification;
    EXPECT_EQ(Read(kGuestPhysicalAddress), kPage);
    if ((qualification & kViolationLinearValid) == 0) return;
    EXPECT_EQ(Read(kGuestLinearAddress), kPage);
    EXPECT_NE(qualification & kViolationFinal, 0U) << "of the access itself, not of a walk";
  }
  void ExpectMisconfiguration() {
    LoadRead();
    ExpectExit(kReasonEptMisconfiguration);
    if (IsOver()) return;
    EXPECT_EQ(Read(kGuestPhysicalAddress), kPage);
  }
};

NESTBENCH_CONDITION(nested_vmx, VmxEpt, AReadOfWhatIsNotThere,
                    "Intel SDM volume 3, EPT Violations; Exit Qualification for EPT Violations") {
  LoadRead();
  Allow(0);
  ExpectViolation(kViolationRead, 0);
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, AWriteOfWhatIsNotThere,
                    "Intel SDM volume 3, EPT Violations; Exit Qualification for EPT Violations") {
  LoadWrite();
  Allow(0);
  ExpectViolation(kViolationWrite, 0);
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, AWriteOfWhatIsReadOnly,
                    "Intel SDM volume 3, EPT Violations: write access to a page whose W is 0") {
  LoadWrite();
  Allow(kEptRead | kEptExecute);
  ExpectViolation(kViolationWrite, kViolationReadable | kViolationExecutable);
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, AReadOfWhatIsReadOnlyIsAllowed, "Intel SDM volume 3, EPT Violations") {
  LoadRead();
  Word(kPage) = 0x1234'5678;
  Allow(kEptRead);
  ExpectExit(kReasonHlt);
  if (IsOver()) return;
  EXPECT_EQ(L2Register(0), 0x1234'5678U);
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, AFetchOfWhatIsNotExecutable,
                    "Intel SDM volume 3, EPT Violations: instruction fetch from a page whose X is 0") {
  LoadL2({0xB8, 0x00, 0x00, 0x60, 0x00, 0xFF, 0xE0});  // mov eax, kPage; jmp rax
  Word(kPd + kIndex * 8) &= ~abi::x86::kPteNoExecute;
  Allow(kEptRead | kEptWrite);
  ExpectViolation(kViolationFetch, kViolationReadable | kViolationWritable);
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, AWalkThroughWhatIsNotThere,
                    "Intel SDM volume 3, Exit Qualification for EPT Violations: bit 8, a paging-structure entry") {
  // L2's own tables lead through a page table that its EPT does not have.
  Word(kPd + kIndex * 8) = kPage | abi::x86::kPtePresent | abi::x86::kPteWritable | abi::x86::kPteAccessed;
  LoadRead();
  Allow(0);
  ExpectExit(kReasonEptViolation);
  if (IsOver()) return;
  EXPECT_EQ(Read(kGuestPhysicalAddress), kPage) << "of the entry";
  const std::uint64_t qualification = Read(kExitQualification);
  if ((qualification & kViolationLinearValid) == 0) return;
  EXPECT_EQ(qualification & kViolationFinal, 0U);
  EXPECT_EQ(Read(kGuestLinearAddress), kPage);
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, WritableButNotReadableIsAMisconfiguration,
                    "Intel SDM volume 3, EPT Misconfigurations: bit 0 is 0 and bit 1 is 1") {
  Allow(kEptWrite);
  ExpectMisconfiguration();
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, AReservedMemoryTypeIsAMisconfiguration,
                    "Intel SDM volume 3, EPT Misconfigurations: memory type 2, 3 or 7") {
  Ept(kIndex) = (Ept(kIndex) & ~(7ULL << 3)) | 2U << 3;
  ExpectMisconfiguration();
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, AReservedBitIsAMisconfiguration,
                    "Intel SDM volume 3, EPT Misconfigurations: reserved bits of an entry that maps 2 MiB") {
  Ept(kIndex) |= 1U << 13;
  ExpectMisconfiguration();
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, L2SeesL1sMemoryWhereItsTablesLead,
                    "Intel SDM volume 3, EPT Overview: guest-physical addresses") {
  Word(0x40'0000) = 0x1111;
  Word(kPage) = 0x2222;
  Ept(kIndex) = (2ULL << 21) | kAll | kEptWriteBack | abi::x86::kPteLarge;
  LoadRead();
  ExpectExit(kReasonHlt);
  if (IsOver()) return;
  EXPECT_EQ(L2Register(0), 0x1111U);
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, WhatL1TakesAwayIsGoneAfterInvept,
                    "Intel SDM volume 3, Guidelines for Use of the INVEPT Instruction; stale nested permissions") {
  LoadL2({0x8B, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4,    // mov eax, [kPage]; hlt
          0x8B, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4});  // and again
  ExpectExit(kReasonHlt);
  if (IsOver()) return;
  AllowLater(0);
  Word(kScratch) = Field(kEptPointer);
  Word(kScratch + 8) = 0;
  Expect(Ending::kSucceeded, {Op::kInvept, 1});
  SetField(kGuestRip, kL2Code + 8);
  ExpectViolation(kViolationRead, 0);
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, AWriteThatL1ForbidsIsForbiddenAfterInvept,
                    "Intel SDM volume 3, Guidelines for Use of the INVEPT Instruction; stale nested permissions") {
  LoadL2({0x89, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4,    // mov [kPage], eax; hlt
          0x89, 0x04, 0x25, 0x00, 0x00, 0x60, 0x00, 0xF4});  // and again
  ExpectExit(kReasonHlt);
  if (IsOver()) return;
  AllowLater(kEptRead);
  Expect(Ending::kSucceeded, {Op::kInvept, 2});
  SetField(kGuestRip, kL2Code + 8);
  ExpectViolation(kViolationWrite, kViolationReadable);
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, WhatL1AllowsLaterIsAllowed, "Intel SDM volume 3, EPT Violations: resumed") {
  LoadRead();
  Word(kPage) = 0x77;
  Allow(0);
  ExpectViolation(kViolationRead, 0);
  if (IsOver()) return;
  AllowLater(kAll);
  ExpectExit(kReasonHlt);
  if (IsOver()) return;
  EXPECT_EQ(L2Register(0), 0x77U);
}
NESTBENCH_CONDITION(nested_vmx, VmxEpt, MemoryThatL1DoesNotHaveReachesNothing,
                    "Intel SDM volume 3, EPT Overview; L1's tables lead to addresses of L1, never of the host") {
  Ept(kIndex) = (1ULL << 36) | kAll | kEptWriteBack | abi::x86::kPteLarge;  // beyond L1's memory
  LoadRead();
  if (!EnterVmx()) return;
  Start({Op::kVmlaunch});
  const auto exit = RunTo<vmm::MmioExit>();
  if (!exit) return;
  EXPECT_FALSE(exit->is_write);
  EXPECT_EQ(exit->address.value(), 1ULL << 36) << "an access to MMIO of L1";
}

NESTBENCH_CONDITION(nested_vmx, VmxEpt, AnUnrestrictedGuestRunsInRealMode,
                    "Intel SDM volume 3, Unrestricted Guests: CR0.PE and CR0.PG may be 0") {
  if (LacksControls(kSecondaryControls, kSecondaryUnrestricted, "unrestricted guests")) return;
  using namespace abi::x86;
  constexpr std::uint64_t kSegmentBase = kL2Code & ~0xFFFFULL;
  constexpr std::uint64_t kRealModeAccess = 0x93;  // present, data, written, accessed; 16 bits
  SetField(kEntryControls, Field(kEntryControls) & ~std::uint64_t{kEntryGuest64});
  SetField(kGuestEfer, Field(kGuestEfer) & ~(kEferLongModeEnable | kEferLongModeActive));
  SetField(kGuestCr0, Field(kGuestCr0) & ~(kCr0ProtectedMode | kCr0Paging));
  for (std::uint32_t segment = 0; segment < 6; ++segment) {
    SetField(kGuestEsSelector + 2 * segment, kSegmentBase >> 4);
    SetField(kGuestEsBase + 2 * segment, kSegmentBase);
    SetField(kGuestEsLimit + 2 * segment, 0xFFFF);
    SetField(kGuestEsAccess + 2 * segment, kRealModeAccess);
  }
  SetField(kGuestRip, kL2Code - kSegmentBase);
  LoadL2({0xB8, 0x34, 0x12, 0x01, 0xC0, 0xF4});  // mov ax, 0x1234; add ax, ax; hlt
  ExpectExit(kReasonHlt);
  if (IsOver()) return;
  EXPECT_EQ(Read(kGuestRip), kL2Code - kSegmentBase + 5);
  EXPECT_EQ(L2Register(0) & 0xFFFF, 0x2468U);
  EXPECT_EQ(Read(kGuestCr0) & kCr0ProtectedMode, 0U);
}

}  // namespace
}  // namespace nestbench::conformance
