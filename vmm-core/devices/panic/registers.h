// The panic port's registers. Source: nestbench/abi/layout.h (kPanicPort).
#pragma once

#include <cstddef>
#include <cstdint>

namespace nestbench::vmm::panic {

inline constexpr std::uint64_t kVector = 0;  // WO, 4 bytes: the exception vector
inline constexpr std::size_t kVectorWidthBytes = 4;
inline constexpr std::uint64_t kSizeBytes = 4;

}  // namespace nestbench::vmm::panic
