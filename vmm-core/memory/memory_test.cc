#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

#include "nestbench/abi/layout.h"
#include "nestbench/vmm/memory/guest_memory.h"
#include "nestbench/vmm/memory/memory_region.h"

namespace nestbench::vmm {
namespace {

using abi::GuestPhysAddr;
using abi::GuestPhysRange;
using ::testing::HasSubstr;

constexpr std::uint64_t kMiB = 1ULL << 20;

GuestPhysRange Range(std::uint64_t start, std::uint64_t size_bytes) { return {GuestPhysAddr(start), size_bytes}; }

class BackingTest : public ::testing::TestWithParam<Backing> {};

TEST_P(BackingTest, IsZeroWritableAndZeroAgainAfterDiscard) {
  const std::uint64_t size_bytes = GetParam() == Backing::kHugetlb1G ? 1ULL << 30 : 4 * kMiB;
  auto region = MemoryRegion::Create(Range(0x4000'0000, size_bytes), {.backing = GetParam()});
  if (!region && region.error().kind == ErrorKind::kUnsupported) {
    EXPECT_THAT(region.error().ToString(), HasSubstr("nr_hugepages"));
    GTEST_SKIP() << region.error().ToString();
  }
  ASSERT_TRUE(region) << region.error().ToString();
  ASSERT_EQ(region->bytes().size(), size_bytes);
  EXPECT_EQ(region->bytes()[size_bytes - 1], std::byte{0});
  region->bytes()[size_bytes - 1] = std::byte{0x5A};
  EXPECT_EQ(region->bytes()[size_bytes - 1], std::byte{0x5A});
  auto discarded = region->Discard();
  ASSERT_TRUE(discarded) << discarded.error().ToString();
  EXPECT_EQ(region->bytes()[size_bytes - 1], std::byte{0});
}

INSTANTIATE_TEST_SUITE_P(All, BackingTest,
                         ::testing::Values(Backing::kSmallPages, Backing::kTransparentHuge, Backing::kMemfd,
                                           Backing::kHugetlb2M, Backing::kHugetlb1G));

TEST(MemoryRegionTest, ATransparentHugeRegionIsCongruentToItsGuestAddress) {
  // Guest-physical start 1 MiB into a large page: the host address must lie 1 MiB into one as well.
  auto region = MemoryRegion::Create(Range(0x4010'0000, 8 * kMiB), {.backing = Backing::kTransparentHuge});
  ASSERT_TRUE(region) << region.error().ToString();
  EXPECT_EQ(reinterpret_cast<std::uint64_t>(region->bytes().data()) % abi::kLargePageBytes, kMiB);
}

TEST(MemoryRegionTest, SmallPagesNeverBecomeHuge) {
  auto region = MemoryRegion::Create(Range(0x4000'0000, 8 * kMiB), {});
  ASSERT_TRUE(region);
  std::memset(region->bytes().data(), 1, region->bytes().size());
  auto huge = region->HugeBytes();
  ASSERT_TRUE(huge) << huge.error().ToString();
  EXPECT_EQ(*huge, 0U);
}

TEST(MemoryRegionTest, RefusesEmptyUnalignedAndOverflowingRanges) {
  for (const GuestPhysRange& range : {Range(0, 0), Range(1, 4096), Range(0, 4097), Range(~0ULL - 4095, 8192)}) {
    auto region = MemoryRegion::Create(range, {});
    ASSERT_FALSE(region) << range.start.value();
    EXPECT_EQ(region.error().kind, ErrorKind::kInvalidArgument);
  }
}

TEST(MemoryRegionTest, RefusesAFixedAddressThatIsTaken) {
  auto first = MemoryRegion::Create(Range(0, 4096), {.fixed_host_address = abi::kArenaBase});
  ASSERT_TRUE(first) << first.error().ToString();
  EXPECT_EQ(reinterpret_cast<std::uint64_t>(first->bytes().data()), abi::kArenaBase);
  auto second = MemoryRegion::Create(Range(0, 4096), {.fixed_host_address = abi::kArenaBase});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().error_number, EEXIST);
}

TEST(MemoryRegionTest, BindsToANodeThatExistsAndRefusesOneThatDoesNot) {
  auto bound = MemoryRegion::Create(Range(0, 4096), {.numa_node = 0});
  if (!bound && bound.error().error_number == ENOSYS) GTEST_SKIP() << "this kernel has no mbind";
  ASSERT_TRUE(bound) << bound.error().ToString();
  auto refused = MemoryRegion::Create(Range(0, 4096), {.numa_node = NumaNodeCount()});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind, ErrorKind::kInvalidArgument);
}

class GuestMemoryTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const GuestPhysRange& range : {Range(0x1000, 0x2000), Range(0x10000, 0x1000)}) {
      auto region = MemoryRegion::Create(range, {});
      ASSERT_TRUE(region);
      ASSERT_TRUE(memory_.Add(std::move(*region)));
    }
  }
  GuestMemory memory_;
};

TEST_F(GuestMemoryTest, ReadsBackWhatWasWritten) {
  ASSERT_TRUE(memory_.Write<std::uint64_t>(GuestPhysAddr(0x2FF8), 0x1122'3344'5566'7788));
  auto value = memory_.Read<std::uint64_t>(GuestPhysAddr(0x2FF8));
  ASSERT_TRUE(value);
  EXPECT_EQ(*value, 0x1122'3344'5566'7788U);
}

TEST_F(GuestMemoryTest, RefusesAccessOutsideAcrossAndPastTheEndOfTheAddressSpace) {
  for (const std::uint64_t address : {0x0ULL, 0xFFFULL, 0x2FF9ULL, 0x3000ULL, 0xFFFCULL, ~0ULL, ~0ULL - 7}) {
    EXPECT_FALSE(memory_.Read<std::uint64_t>(GuestPhysAddr(address))) << address;
    EXPECT_FALSE(memory_.Write<std::uint64_t>(GuestPhysAddr(address), 1)) << address;
  }
  EXPECT_FALSE(memory_.Slice(GuestPhysAddr(0x1000), ~0ULL));
}

TEST_F(GuestMemoryTest, RefusesARegionThatOverlaps) {
  auto region = MemoryRegion::Create(Range(0x2000, 0x1000), {});
  ASSERT_TRUE(region);
  auto added = memory_.Add(std::move(*region));
  ASSERT_FALSE(added);
  EXPECT_THAT(added.error().ToString(), HasSubstr("overlaps"));
}

TEST_F(GuestMemoryTest, ForgetsARemovedRegionAndReusesItsPlace) {
  for (int round = 0; round < 3; ++round) {
    ASSERT_TRUE(memory_.Remove(GuestPhysAddr(0x1000)));
    EXPECT_FALSE(memory_.Slice(GuestPhysAddr(0x1000), 1));
    EXPECT_FALSE(memory_.Remove(GuestPhysAddr(0x1000)));
    auto region = MemoryRegion::Create(Range(0x1000, 0x1000), {});
    ASSERT_TRUE(region);
    ASSERT_TRUE(memory_.Add(std::move(*region)));
  }
  EXPECT_EQ(memory_.regions().size(), 2U);
}

TEST(AddressTest, ArithmeticIsChecked) {
  GuestPhysAddr sum;
  EXPECT_TRUE(GuestPhysAddr(1).CheckedAdd(2, sum));
  EXPECT_EQ(sum.value(), 3U);
  EXPECT_FALSE(GuestPhysAddr(~0ULL).CheckedAdd(1, sum));
  std::uint64_t distance_bytes = 7;
  EXPECT_FALSE(GuestPhysAddr(1).CheckedOffsetFrom(GuestPhysAddr(2), distance_bytes));
  EXPECT_EQ(distance_bytes, 7U);
}

TEST(AddressTest, RangesOverlapOnlyWhereTheyShareAByte) {
  EXPECT_TRUE(Range(0, 10).Overlaps(Range(9, 1)));
  EXPECT_FALSE(Range(0, 10).Overlaps(Range(10, 1)));
  EXPECT_FALSE(Range(0, 10).Overlaps(Range(5, 0)));
  EXPECT_TRUE(Range(~0ULL - 9, 10).Overlaps(Range(~0ULL, 1)));
  EXPECT_TRUE(Range(0, 10).Contains(GuestPhysAddr(10), 0));
  EXPECT_FALSE(Range(0, 10).Contains(GuestPhysAddr(1), ~0ULL));
}

}  // namespace
}  // namespace nestbench::vmm
