// Registers of the keyboard controller. Source: Intel, "8042 Keyboard Controller", as in the IBM Personal Computer AT
// Technical Reference, section "Keyboard Controller".
#pragma once

#include <cstddef>
#include <cstdint>

namespace nestbench::vmm::keyboard {

inline constexpr std::uint64_t kDataOffset = 0;     // port 0x60
inline constexpr std::uint64_t kCommandOffset = 4;  // port 0x64: status when read
inline constexpr std::uint64_t kPortCount = 5;      // 0x61 between them is the speaker's, and goes elsewhere
inline constexpr std::uint8_t kStatusSystemFlag = 0x04;
inline constexpr std::uint8_t kCommandPulseReset = 0xFE;

}  // namespace nestbench::vmm::keyboard
