// How many rounds a scenario measures: as many as the profile says, fewer where the host is too slow for its budget.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include "nestbench/result/journal.h"
#include "nestbench/scenarios/profile.h"

namespace nestbench::scenarios {

// for (RoundBudget rounds(...); rounds.Next();) { ... rounds.current() ... }; then Report().
class RoundBudget {
 public:
  // `budget` of 0: no limit. Time starts to count here.
  RoundBudget(std::uint32_t rounds, std::chrono::nanoseconds budget);

  // Whether another round is to be measured: rounds are left and, once kMinimumRounds are done, one as long as the
  // longest so far would end within the budget.
  bool Next();
  [[nodiscard]] std::uint32_t current() const { return started_ - 1; }  // from 0; only after Next() was true

  // A finding in the journal when rounds were left out for want of time.
  result::Result<void> Report(result::Journal& journal, const std::string& scenario) const;

 private:
  using Clock = std::chrono::steady_clock;

  std::uint32_t rounds_;
  std::chrono::nanoseconds budget_;
  std::uint32_t started_ = 0;
  bool is_cut_ = false;
  Clock::time_point began_ = Clock::now();
  Clock::time_point round_began_ = began_;
  std::chrono::nanoseconds longest_{0};
};

}  // namespace nestbench::scenarios
