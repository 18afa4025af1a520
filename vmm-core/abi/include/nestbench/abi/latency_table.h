// Latencies in ticks of the time stamp counter, counted in log-linear buckets: what a payload that has many requests
// under way leaves at the start of its arena. The host clears it between batches and reads it as hostile: only counts.
//
// Each power of two is cut into 32 buckets, so that one is at most 1/32 of its value wide.
//
// Freestanding: included by guest code and host code alike.
#pragma once

#include <cstdint>
#include <type_traits>

namespace nestbench::abi {

struct LatencyTable {
  static constexpr std::uint32_t kSubBits = 5;
  static constexpr std::uint32_t kSubBuckets = 1U << kSubBits;
  static constexpr std::uint32_t kTopBit = 48;  // a day at any clock rate
  static constexpr std::uint32_t kBuckets = (kTopBit - kSubBits + 1) * kSubBuckets;
  static constexpr std::uint64_t kMaxTicks = (1ULL << kTopBit) - 1;

  std::uint64_t max_ticks;
  std::uint32_t counts[kBuckets];

  static constexpr std::uint32_t IndexOf(std::uint64_t ticks) {
    if (ticks > kMaxTicks) ticks = kMaxTicks;
    if (ticks < kSubBuckets) return static_cast<std::uint32_t>(ticks);
    const std::uint32_t shift = 63 - static_cast<std::uint32_t>(__builtin_clzll(ticks)) - kSubBits;
    return (shift << kSubBits) + static_cast<std::uint32_t>(ticks >> shift);
  }
  // The lowest value of a bucket, and the lowest of the next.
  static constexpr std::uint64_t LowestOf(std::uint32_t index) {
    if (index < 2 * kSubBuckets) return index;
    const std::uint32_t shift = (index >> kSubBits) - 1;
    return std::uint64_t{index - (shift << kSubBits)} << shift;
  }

  void Record(std::uint64_t ticks) {
    if (ticks > max_ticks) max_ticks = ticks;
    ++counts[IndexOf(ticks)];
  }
};
inline constexpr std::uint64_t kLatencyTableBytes = 8192;
static_assert(sizeof(LatencyTable) <= kLatencyTableBytes && std::is_trivially_copyable_v<LatencyTable>);
static_assert(LatencyTable::IndexOf(LatencyTable::kMaxTicks) == LatencyTable::kBuckets - 1);
static_assert(LatencyTable::LowestOf(LatencyTable::IndexOf(1'000'000)) <= 1'000'000 &&
              LatencyTable::LowestOf(LatencyTable::IndexOf(1'000'000) + 1) > 1'000'000);

}  // namespace nestbench::abi
