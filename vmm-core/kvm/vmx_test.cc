#include "nestbench/vmm/kvm/vmx.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "nestbench/abi/vmx.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/segments.h"

namespace nestbench::vmm {
namespace {

using namespace abi::vmx;
using ::testing::HasSubstr;

constexpr std::uint64_t Allowed(std::uint32_t must_be_one, std::uint32_t may_be_one) {
  return must_be_one | std::uint64_t{may_be_one} << 32;
}

// A processor that forces two controls and allows what a hypervisor with EPT needs.
VmxCapabilities Processor() {
  return {.revision = 7,
          .controls = {.pin = Allowed(0x16, 0x16 | kPinExternalInterrupt),
                       .processor = Allowed(0x2, 0x2 | kProcessorHlt | kProcessorSecondary),
                       .secondary = Allowed(0, kSecondaryEpt | kSecondaryRdtscp),
                       .exit = Allowed(0x4, 0x4 | kExitHost64 | kExitSaveEfer | kExitLoadEfer),
                       .entry = Allowed(0x4, 0x4 | kEntryGuest64 | kEntryLoadEfer)},
          .cr0_fixed_ones = 0x21,
          .cr4_fixed_ones = kCr4Vmxe};
}

std::optional<std::uint64_t> Find(const std::vector<VmcsValue>& values, std::uint32_t field) {
  std::optional<std::uint64_t> found;
  for (const VmcsValue& value : values) {
    if (value.field == field) found = value.value;
  }
  return found;
}

TEST(FillVmcsTest, SetsWhatMustBeOneAndWhatIsWanted) {
  const auto values = FillVmcs(Processor(), {}, {}, {.pin = kPinExternalInterrupt, .secondary = kSecondaryEpt});
  ASSERT_TRUE(values) << values.error().ToString();
  EXPECT_EQ(Find(*values, kPinControls), 0x16U | kPinExternalInterrupt);
  EXPECT_EQ(Find(*values, kProcessorControls), 0x2U | kProcessorSecondary);
  EXPECT_EQ(Find(*values, kSecondaryControls), kSecondaryEpt | kSecondaryRdtscp);
  EXPECT_EQ(Find(*values, kExitControls), 0x4U | kExitHost64 | kExitSaveEfer | kExitLoadEfer);
}

TEST(FillVmcsTest, NamesAControlThatIsNotAllowed) {
  const auto values = FillVmcs(Processor(), {}, {}, {.processor = kProcessorPortBitmaps});
  ASSERT_FALSE(values);
  EXPECT_EQ(values.error().kind, ErrorKind::kUnsupported);
  EXPECT_THAT(values.error().ToString(), HasSubstr("processor-based controls 0x2000000 are not allowed"));
}

TEST(FillVmcsTest, LeavesSecondaryControlsOutWhereThereAreNone) {
  VmxCapabilities old = Processor();
  old.controls.processor = Allowed(0x2, 0x2);
  old.controls.secondary = 0;
  const auto values = FillVmcs(old, {}, {}, {});
  ASSERT_TRUE(values) << values.error().ToString();
  EXPECT_EQ(Find(*values, kProcessorControls), 0x2U);
  EXPECT_EQ(Find(*values, kSecondaryControls), std::nullopt);
}

TEST(FillVmcsTest, AddsTheFixedBitsOfControlRegisters) {
  kvm_sregs guest = {};
  guest.cr0 = abi::x86::kCr0Paging;
  guest.cr4 = abi::x86::kCr4Pae;
  const auto values = FillVmcs(Processor(), {}, guest, {});
  ASSERT_TRUE(values) << values.error().ToString();
  EXPECT_EQ(Find(*values, kGuestCr0), abi::x86::kCr0Paging | 0x21);
  EXPECT_EQ(Find(*values, kGuestCr4), abi::x86::kCr4Pae | kCr4Vmxe);
  EXPECT_EQ(Find(*values, kHostCr4), kCr4Vmxe);
}

TEST(FillVmcsTest, WritesSegmentsAsTheProcessorHasThem) {
  kvm_sregs guest = {};
  guest.cs = FlatSegment(0x23, abi::x86::kSegmentTypeCodeReadAccessed, true);
  guest.tr = TaskStateSegment(0x28, 0x4000, 0x67, abi::x86::kSegmentTypeTssAvailable);
  guest.ldt.present = 1;
  const auto values = FillVmcs(Processor(), {}, guest, {});
  ASSERT_TRUE(values) << values.error().ToString();
  EXPECT_EQ(Find(*values, kGuestCsSelector), 0x23U);
  EXPECT_EQ(Find(*values, kGuestCsAccess), 0xA0FBU) << "G, L, present, DPL 3, code, read, accessed";
  EXPECT_EQ(Find(*values, kGuestTrAccess), 0x8BU) << "busy: no other may be loaded";
  EXPECT_EQ(Find(*values, kGuestTrBase), 0x4000U);
  EXPECT_EQ(Find(*values, kGuestLdtrAccess), kAccessUnusable);
  EXPECT_EQ(Find(*values, kGuestSsAccess), kAccessUnusable) << "not present";
}

}  // namespace
}  // namespace nestbench::vmm
