#include "nestbench/substrates/substrate.h"

#include <time.h>

namespace nestbench::substrates {

std::uint64_t MonotonicRawNs() {
  timespec now = {};
  ::clock_gettime(CLOCK_MONOTONIC_RAW, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

}  // namespace nestbench::substrates
