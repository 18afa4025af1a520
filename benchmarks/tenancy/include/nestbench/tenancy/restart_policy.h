// Whether and when a tenant that failed is started again.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <optional>

namespace nestbench::tenancy {

enum class RestartMode : std::uint8_t { kNever, kOnFailure };

// Back-off that doubles with each failure and starts over after a healthy while, so that a tenant which always fails
// costs little and one that failed once is back at once. Pure; one for each tenant.
class RestartPolicy {
 public:
  struct Options {
    RestartMode mode = RestartMode::kOnFailure;
    std::chrono::nanoseconds first{std::chrono::milliseconds(10)};
    std::chrono::nanoseconds most{std::chrono::seconds(5)};
    std::chrono::nanoseconds healthy{std::chrono::seconds(10)};  // lived so long: the next failure is the first again
  };
  explicit RestartPolicy(Options options) : options_(options) {}

  // After a failure of a tenant that had lived for `lived`: how long to wait before it is started again; empty: never.
  std::optional<std::chrono::nanoseconds> OnFailure(std::chrono::nanoseconds lived) {
    if (options_.mode == RestartMode::kNever) return std::nullopt;
    if (lived >= options_.healthy) failures_ = 0;
    auto wait = options_.first;
    for (std::uint32_t i = 0; i < failures_ && wait < options_.most; ++i) wait *= 2;
    ++failures_;
    return std::min(wait, options_.most);
  }

  [[nodiscard]] std::uint32_t failures() const { return failures_; }

 private:
  Options options_;
  std::uint32_t failures_ = 0;
};

}  // namespace nestbench::tenancy
