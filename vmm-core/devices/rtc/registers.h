// Registers of the real-time clock. Source: Motorola, "MC146818A Real-Time Clock Plus RAM" data sheet, sections
// "Address Map" and "Registers"; the century where PCs have it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nestbench::vmm::rtc {

inline constexpr std::uint64_t kIndexPort = 0;  // WO; bit 7 masks NMI on a PC and is no part of the index
inline constexpr std::uint64_t kDataPort = 1;
inline constexpr std::uint64_t kPortCount = 2;
inline constexpr std::uint8_t kIndexMask = 0x7F;
inline constexpr std::size_t kRegisters = 128;

inline constexpr std::uint8_t kSeconds = 0x00;
inline constexpr std::uint8_t kMinutes = 0x02;
inline constexpr std::uint8_t kHours = 0x04;
inline constexpr std::uint8_t kDayOfWeek = 0x06;  // 1: Sunday
inline constexpr std::uint8_t kDayOfMonth = 0x07;
inline constexpr std::uint8_t kMonth = 0x08;
inline constexpr std::uint8_t kYear = 0x09;
inline constexpr std::uint8_t kCentury = 0x32;
inline constexpr std::uint8_t kRegisterA = 0x0A;
inline constexpr std::uint8_t kRegisterB = 0x0B;
inline constexpr std::uint8_t kRegisterC = 0x0C;
inline constexpr std::uint8_t kRegisterD = 0x0D;

inline constexpr std::uint8_t kRegisterADividers = 0x26;  // 32768 Hz, 1024 Hz; no update in progress
inline constexpr std::uint8_t kRegisterB24Hours = 0x02;   // and BCD, no interrupts
inline constexpr std::uint8_t kRegisterDValid = 0x80;

}  // namespace nestbench::vmm::rtc
