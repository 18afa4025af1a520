#include "devices/power/power.h"

#include <cstring>

namespace nestbench::vmm {

using namespace power;

AccessStatus PowerManagement::Read(std::uint64_t offset, std::span<std::byte> data) {
  if (offset == kTimer) {
    if (data.size() != kTimerBytes) return FailRead(data, AccessStatus::kBadWidth);
    const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
    const auto ticks = static_cast<std::uint32_t>(
        static_cast<std::uint64_t>(passed.count() * static_cast<double>(kTimerHz)) & 0xFFFF'FFFF);
    std::memcpy(data.data(), &ticks, sizeof(ticks));
    return AccessStatus::kOk;
  }
  if (data.size() != sizeof(std::uint16_t)) return FailRead(data, AccessStatus::kBadWidth);
  const std::scoped_lock lock(mutex_);
  std::uint16_t value = 0;
  switch (offset) {
    case kStatus:
      break;
    case kEnable:
      value = enable_;
      break;
    case kControl:
      value = control_;
      break;
    default:
      return FailRead(data, AccessStatus::kBadOffset);
  }
  std::memcpy(data.data(), &value, sizeof(value));
  return AccessStatus::kOk;
}

AccessStatus PowerManagement::Write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset == kTimer) return AccessStatus::kReadOnly;
  if (data.size() != sizeof(std::uint16_t)) return AccessStatus::kBadWidth;
  std::uint16_t value = 0;
  std::memcpy(&value, data.data(), sizeof(value));
  bool off = false;
  {
    const std::scoped_lock lock(mutex_);
    switch (offset) {
      case kStatus:
        break;  // nothing is ever set
      case kEnable:
        enable_ = value;
        break;
      case kControl:
        // The sleep bit starts the transition and always reads as zero.
        control_ = static_cast<std::uint16_t>((value & ~kControlSleepEnable) | kControlSciEnable);
        off = (value & kControlSleepEnable) != 0 &&
              (value >> kControlSleepTypeShift & kControlSleepTypeMask) == kSleepTypeOff;
        break;
      default:
        return AccessStatus::kBadOffset;
    }
  }
  if (off) off_();
  return AccessStatus::kOk;
}

}  // namespace nestbench::vmm
