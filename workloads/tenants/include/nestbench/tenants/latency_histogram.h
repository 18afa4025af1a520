// Latencies by log-linear buckets: three significant decimal digits from 0 to 2^42 ns (73 minutes), in the way of
// HdrHistogram ("High Dynamic Range Histogram", Gil Tene), which Debian packages for Java and Go only.
//
// Values below 2048 have a bucket each; above, each power of two is cut into 1024 buckets, so that a bucket is at most
// 1/1024 of its value wide.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nestbench::tenants {

class LatencyHistogram {
 public:
  static constexpr std::uint32_t kSubBuckets = 1024;
  static constexpr std::uint32_t kTopBit = 42;
  static constexpr std::uint64_t kMaxValue = (1ULL << kTopBit) - 1;
  static constexpr std::size_t kBuckets = (kTopBit - 10 + 1) * std::size_t{kSubBuckets};

  // No memory before the first Record().
  void Record(std::uint64_t value, std::uint32_t count = 1) {
    if (counts_.empty()) counts_.resize(kBuckets);
    counts_[IndexOf(value)] += count;
    total_ += count;
    max_ = std::max(max_, std::min(value, kMaxValue));
  }

  // False for an index that no histogram has.
  bool AddBucket(std::size_t index, std::uint32_t count) {
    if (index >= kBuckets) return false;
    Record(HighestOf(index), count);
    return true;
  }

  void Merge(const LatencyHistogram& other) {
    for (std::size_t i = 0; i < other.counts_.size(); ++i) {
      if (other.counts_[i] != 0) Record(HighestOf(i), other.counts_[i]);
    }
  }

  void Clear() {
    std::ranges::fill(counts_, 0U);
    total_ = 0;
    max_ = 0;
  }

  // The smallest recorded value that at least `quantile` (0 to 1) of all are not above, to a bucket's width; 0 when
  // nothing was recorded.
  [[nodiscard]] std::uint64_t Quantile(double quantile) const {
    if (total_ == 0) return 0;
    const auto wanted =
        std::max<std::uint64_t>(1, static_cast<std::uint64_t>(quantile * static_cast<double>(total_) + 0.999999));
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen >= wanted) return std::min(HighestOf(i), max_);
    }
    return max_;
  }

  [[nodiscard]] std::uint64_t total() const { return total_; }
  [[nodiscard]] std::uint64_t max() const { return max_; }
  [[nodiscard]] const std::vector<std::uint32_t>& counts() const { return counts_; }

  static std::size_t IndexOf(std::uint64_t value) {
    value = std::min(value, kMaxValue);
    const auto shift = static_cast<std::uint32_t>(std::max(0, static_cast<int>(std::bit_width(value)) - 11));
    return shift * std::size_t{kSubBuckets} + (value >> shift);
  }

  // The highest value of a bucket.
  static std::uint64_t HighestOf(std::size_t index) {
    if (index < 2 * std::size_t{kSubBuckets}) return index;
    const std::size_t shift = index / kSubBuckets - 1;
    const std::uint64_t sub = index - shift * kSubBuckets;
    return ((sub + 1) << shift) - 1;
  }

 private:
  std::vector<std::uint32_t> counts_;
  std::uint64_t total_ = 0;
  std::uint64_t max_ = 0;
};

}  // namespace nestbench::tenants
