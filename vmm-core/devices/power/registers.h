// ACPI's fixed power management registers, as this machine lays them out. Source: "Advanced Configuration and Power
// Interface Specification", section "ACPI Hardware Specification", "PM1 Event Grouping", "PM1 Control Grouping",
// "Power Management Timer".
#pragma once

#include <cstddef>
#include <cstdint>

namespace nestbench::vmm::power {

inline constexpr std::uint64_t kStatus = 0;   // 2 bytes, write one to clear
inline constexpr std::uint64_t kEnable = 2;   // 2 bytes
inline constexpr std::uint64_t kControl = 4;  // 2 bytes
inline constexpr std::uint64_t kTimer = 8;    // 4 bytes, RO
inline constexpr std::uint64_t kPortCount = 12;
inline constexpr std::size_t kEventBytes = 4;
inline constexpr std::size_t kControlBytes = 2;
inline constexpr std::size_t kTimerBytes = 4;

inline constexpr std::uint16_t kControlSciEnable = 1U << 0;
inline constexpr unsigned kControlSleepTypeShift = 10;
inline constexpr std::uint16_t kControlSleepTypeMask = 7;
inline constexpr std::uint16_t kControlSleepEnable = 1U << 13;
inline constexpr std::uint16_t kSleepTypeOff = 5;  // what the DSDT's \_S5 says
inline constexpr std::uint64_t kTimerHz = 3'579'545;

}  // namespace nestbench::vmm::power
