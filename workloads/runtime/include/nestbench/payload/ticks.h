// The time stamp counter, for time-outs and latencies: not ordered against what stands around it. Freestanding.
#pragma once

#include <cstdint>

namespace nestbench::payload {

inline std::uint64_t ReadTicks() {
  std::uint64_t low = 0;
  std::uint64_t high = 0;
  asm volatile("rdtsc" : "=a"(low), "=d"(high));
  return high << 32 | low;
}

}  // namespace nestbench::payload
