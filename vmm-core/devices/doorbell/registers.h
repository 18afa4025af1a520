// The doorbell's registers. Source: nestbench/abi/layout.h (kDoorbellPort, kDoorbellPage).
#pragma once

#include <cstddef>
#include <cstdint>

namespace nestbench::vmm::doorbell {

inline constexpr std::uint64_t kRing = 0;  // WO, 4 bytes: any value rings
inline constexpr std::size_t kRingWidthBytes = 4;
inline constexpr std::uint64_t kSizeBytes = 4;

}  // namespace nestbench::vmm::doorbell
