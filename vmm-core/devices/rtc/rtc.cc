#include "devices/rtc/rtc.h"

#include <ctime>

namespace nestbench::vmm {
namespace {

using namespace rtc;

std::uint8_t Bcd(int value) { return static_cast<std::uint8_t>(value / 10 % 10 * 16 + value % 10); }

}  // namespace

AccessStatus RealTimeClock::Read(std::uint64_t offset, std::span<std::byte> data) {
  if (data.size() != 1) return FailRead(data, AccessStatus::kBadWidth);
  if (offset != kDataPort) return FailRead(data, AccessStatus::kWriteOnly);
  const std::scoped_lock lock(mutex_);
  data[0] = std::byte{ReadRegister()};
  return AccessStatus::kOk;
}

AccessStatus RealTimeClock::Write(std::uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1) return AccessStatus::kBadWidth;
  const std::scoped_lock lock(mutex_);
  if (offset == kIndexPort) {
    index_ = std::to_integer<std::uint8_t>(data[0]) & kIndexMask;
    return AccessStatus::kOk;
  }
  if (index_ <= kRegisterD || index_ == kCentury) return AccessStatus::kReadOnly;
  ram_[index_] = std::to_integer<std::uint8_t>(data[0]);
  return AccessStatus::kOk;
}

std::uint8_t RealTimeClock::ReadRegister() const {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  const int year = utc.tm_year + 1900;
  switch (index_) {
    case kSeconds:
      return Bcd(utc.tm_sec);
    case kMinutes:
      return Bcd(utc.tm_min);
    case kHours:
      return Bcd(utc.tm_hour);
    case kDayOfWeek:
      return Bcd(utc.tm_wday + 1);
    case kDayOfMonth:
      return Bcd(utc.tm_mday);
    case kMonth:
      return Bcd(utc.tm_mon + 1);
    case kYear:
      return Bcd(year % 100);
    case kCentury:
      return Bcd(year / 100);
    case kRegisterA:
      return kRegisterADividers;
    case kRegisterB:
      return kRegisterB24Hours;
    case kRegisterD:
      return kRegisterDValid;
    default:
      return ram_[index_];
  }
}

}  // namespace nestbench::vmm
