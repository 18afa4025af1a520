// The real-time clock of a PC, as a kernel reads it once when it starts. Source: Motorola, "MC146818A Real-Time Clock
// Plus RAM" data sheet.
//
// Emulated: time and date (the host's, UTC, BCD, 24 hours), the RAM.
// Not emulated: setting the time, alarms, periodic and update interrupts.
//
// Any number of threads may access it at once.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>

#include "devices/rtc/registers.h"
#include "nestbench/vmm/bus/device.h"

namespace nestbench::vmm {

class RealTimeClock final : public Device {
 public:
  static constexpr std::uint64_t kPortCount = rtc::kPortCount;

  [[nodiscard]] AccessStatus Read(std::uint64_t offset, std::span<std::byte> data) override;
  [[nodiscard]] AccessStatus Write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  [[nodiscard]] std::uint8_t ReadRegister() const;

  std::mutex mutex_;
  std::uint8_t index_ = 0;
  std::array<std::uint8_t, rtc::kRegisters> ram_{};
};

}  // namespace nestbench::vmm
