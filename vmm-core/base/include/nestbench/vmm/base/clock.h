// The host's two clocks of passing time, as numbers. Source: clock_gettime(2).
#pragma once

#include <time.h>

#include <cstdint>

namespace nestbench::vmm {

inline std::uint64_t ClockNs(clockid_t clock) {
  timespec now = {};
  ::clock_gettime(clock, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

// The clock that timeouts and poll(2) go by, the same in every process of the host; NTP changes its rate.
inline std::uint64_t MonotonicNs() { return ClockNs(CLOCK_MONOTONIC); }

// For measurements: NTP does not touch it.
inline std::uint64_t MonotonicRawNs() { return ClockNs(CLOCK_MONOTONIC_RAW); }

}  // namespace nestbench::vmm
