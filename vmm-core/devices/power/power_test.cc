#include "devices/power/power.h"

#include <gtest/gtest.h>

#include <cstring>

namespace nestbench::vmm {
namespace {

class PowerTest : public testing::Test {
 protected:
  AccessStatus Write(std::uint64_t offset, std::uint16_t value) {
    return power_.Write(offset, std::as_bytes(std::span(&value, 1)));
  }
  template <typename Value>
  Value Read(std::uint64_t offset) {
    Value value{};
    EXPECT_EQ(power_.Read(offset, std::as_writable_bytes(std::span(&value, 1))), AccessStatus::kOk);
    return value;
  }

  int offs_ = 0;
  PowerManagement power_{[this] { ++offs_; }};
};

TEST_F(PowerTest, SwitchesOffOnlyForSoftOff) {
  for (std::uint16_t type = 0; type < 8; ++type) {
    EXPECT_EQ(Write(power::kControl, static_cast<std::uint16_t>(type << 10)), AccessStatus::kOk);
    EXPECT_EQ(offs_, 0);
  }
  for (std::uint16_t type = 0; type < 8; ++type) {
    EXPECT_EQ(Write(power::kControl, static_cast<std::uint16_t>(type << 10 | 1U << 13)), AccessStatus::kOk);
  }
  EXPECT_EQ(offs_, 1);
  EXPECT_EQ(Read<std::uint16_t>(power::kControl), 7U << 10 | 1U);
}

TEST_F(PowerTest, TheTimerRuns) {
  const auto first = Read<std::uint32_t>(power::kTimer);
  while (Read<std::uint32_t>(power::kTimer) == first) {
  }
  EXPECT_EQ(Write(power::kTimer, 0), AccessStatus::kReadOnly);
}

TEST_F(PowerTest, RefusesOtherWidthsAndPlaces) {
  std::array<std::byte, 4> data{};
  EXPECT_EQ(power_.Read(power::kTimer, std::span(data).first(2)), AccessStatus::kBadWidth);
  EXPECT_EQ(power_.Read(power::kControl, data), AccessStatus::kBadWidth);
  EXPECT_EQ(power_.Read(6, std::span(data).first(2)), AccessStatus::kBadOffset);
  EXPECT_EQ(power_.Write(6, std::span(data).first(2)), AccessStatus::kBadOffset);
}

}  // namespace
}  // namespace nestbench::vmm
