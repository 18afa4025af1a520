#include "devices/rtc/rtc.h"

#include <gtest/gtest.h>

#include <ctime>

namespace nestbench::vmm {
namespace {

class RtcTest : public testing::Test {
 protected:
  void Write(std::uint64_t port, std::uint8_t value) {
    const auto byte = std::byte{value};
    status_ = clock_.Write(port, std::span(&byte, 1));
  }
  std::uint8_t Read(std::uint8_t index) {
    Write(rtc::kIndexPort, index);
    std::byte value{};
    EXPECT_EQ(clock_.Read(rtc::kDataPort, std::span(&value, 1)), AccessStatus::kOk);
    return std::to_integer<std::uint8_t>(value);
  }
  int Decimal(std::uint8_t index) {
    const int bcd = Read(index);
    return bcd / 16 * 10 + bcd % 16;
  }

  RealTimeClock clock_;
  AccessStatus status_ = AccessStatus::kOk;
};

TEST_F(RtcTest, TellsTheHostsTime) {
  const std::time_t before = std::time(nullptr);
  std::tm utc{};
  std::time_t told = 0;
  int seconds = -1;
  // As a kernel does: read again when the second has changed in between.
  while (Decimal(rtc::kSeconds) != seconds) {
    seconds = Decimal(rtc::kSeconds);
    utc = {};
    utc.tm_sec = seconds;
    utc.tm_min = Decimal(rtc::kMinutes);
    utc.tm_hour = Decimal(rtc::kHours);
    utc.tm_mday = Decimal(rtc::kDayOfMonth);
    utc.tm_mon = Decimal(rtc::kMonth) - 1;
    utc.tm_year = Decimal(rtc::kCentury) * 100 + Decimal(rtc::kYear) - 1900;
  }
  told = ::timegm(&utc);
  EXPECT_GE(told, before);
  EXPECT_LE(told, std::time(nullptr));
  EXPECT_EQ(Decimal(rtc::kDayOfWeek), utc.tm_wday + 1);
  EXPECT_EQ(Read(rtc::kRegisterB), rtc::kRegisterB24Hours);
  EXPECT_EQ(Read(rtc::kRegisterD), rtc::kRegisterDValid);
}

TEST_F(RtcTest, KeepsRamAndNotTheTime) {
  Write(rtc::kIndexPort, 0x80 | 0x40);
  Write(rtc::kDataPort, 0x5A);
  EXPECT_EQ(status_, AccessStatus::kOk);
  EXPECT_EQ(Read(0x40), 0x5A);
  Write(rtc::kIndexPort, rtc::kSeconds);
  Write(rtc::kDataPort, 1);
  EXPECT_EQ(status_, AccessStatus::kReadOnly);
}

TEST_F(RtcTest, RefusesOtherWidthsAndTheIndex) {
  std::array<std::byte, 2> two{};
  EXPECT_EQ(clock_.Read(rtc::kDataPort, two), AccessStatus::kBadWidth);
  EXPECT_EQ(clock_.Write(rtc::kIndexPort, two), AccessStatus::kBadWidth);
  EXPECT_EQ(clock_.Read(rtc::kIndexPort, std::span(two).first(1)), AccessStatus::kWriteOnly);
}

}  // namespace
}  // namespace nestbench::vmm
