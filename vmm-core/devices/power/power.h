// ACPI power management: switching the machine off, and the power management timer. Source: "Advanced Configuration and
// Power Interface Specification", section "ACPI Hardware Specification".
//
// Emulated: the control register with soft off (S5), the timer (32 bits), the event registers.
// Not emulated: events (no button, no wake-up, no timer interrupt), other sleep states, leaving ACPI mode.
//
// Any number of threads may access it at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <mutex>

#include "devices/power/registers.h"
#include "nestbench/vmm/bus/device.h"

namespace nestbench::vmm {

class PowerManagement final : public Device {
 public:
  static constexpr std::uint64_t kPortCount = power::kPortCount;

  // `off` is called on the vCPU thread that asks for soft off, and may be called several times.
  explicit PowerManagement(std::function<void()> off) : off_(std::move(off)) {}

  // 2 bytes for events and control, 4 for the timer.
  [[nodiscard]] AccessStatus Read(std::uint64_t offset, std::span<std::byte> data) override;
  [[nodiscard]] AccessStatus Write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  std::function<void()> off_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::mutex mutex_;
  std::uint16_t enable_ = 0;
  std::uint16_t control_ = power::kControlSciEnable;
};

}  // namespace nestbench::vmm
