#include "devices/panic/panic.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>

namespace nestbench::vmm {
namespace {

std::array<std::byte, 4> Encode(std::uint32_t vector) {
  std::array<std::byte, 4> data{};
  std::memcpy(data.data(), &vector, sizeof(vector));
  return data;
}

TEST(PanicTest, HasNoVectorBeforeAReport) {
  const PanicPort panic;
  EXPECT_FALSE(panic.vector().has_value());
  EXPECT_EQ(panic.count(), 0U);
}

TEST(PanicTest, RecordsVectorZeroAsAReport) {
  PanicPort panic;
  EXPECT_EQ(panic.Write(0, Encode(0)), AccessStatus::kOk);
  EXPECT_EQ(panic.vector(), 0U);
}

TEST(PanicTest, KeepsTheFirstVectorAndCountsAll) {
  PanicPort panic;
  EXPECT_EQ(panic.Write(0, Encode(14)), AccessStatus::kOk);
  EXPECT_EQ(panic.Write(0, Encode(8)), AccessStatus::kOk);
  EXPECT_EQ(panic.vector(), 14U);
  EXPECT_EQ(panic.count(), 2U);
}

TEST(PanicTest, TakesValuesThatAreNoVector) {
  PanicPort panic;
  EXPECT_EQ(panic.Write(0, Encode(0xFFFF'FFFF)), AccessStatus::kOk);
  EXPECT_EQ(panic.vector(), 0xFFFF'FFFFU);
}

TEST(PanicTest, RefusesEveryWidthButFourAndRecordsNothing) {
  PanicPort panic;
  constexpr std::array<std::byte, 16> kBytes{};
  for (const std::size_t width : {0U, 1U, 2U, 3U, 5U, 8U, 16U}) {
    EXPECT_EQ(panic.Write(0, std::span(kBytes).first(width)), AccessStatus::kBadWidth) << width;
  }
  EXPECT_EQ(panic.count(), 0U);
  EXPECT_FALSE(panic.vector().has_value());
}

TEST(PanicTest, RefusesEveryOffsetButZeroAndRecordsNothing) {
  PanicPort panic;
  for (const std::uint64_t offset : {std::uint64_t{1}, std::uint64_t{4}, ~std::uint64_t{0}}) {
    EXPECT_EQ(panic.Write(offset, Encode(6)), AccessStatus::kBadOffset) << offset;
  }
  EXPECT_EQ(panic.count(), 0U);
}

TEST(PanicTest, ReadsAsAllOnesBecauseItIsWriteOnly) {
  PanicPort panic;
  EXPECT_EQ(panic.Write(0, Encode(14)), AccessStatus::kOk);
  std::array<std::byte, 4> data{};
  EXPECT_EQ(panic.Read(0, data), AccessStatus::kWriteOnly);
  EXPECT_EQ(data, Encode(0xFFFF'FFFF));
  EXPECT_EQ(panic.Read(1, data), AccessStatus::kBadOffset);
}

}  // namespace
}  // namespace nestbench::vmm
