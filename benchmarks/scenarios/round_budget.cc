#include "round_budget.h"

#include <fmt/format.h>

#include <algorithm>

namespace nestbench::scenarios {

RoundBudget::RoundBudget(std::uint32_t rounds, std::chrono::nanoseconds budget) : rounds_(rounds), budget_(budget) {}

bool RoundBudget::Next() {
  const auto now = Clock::now();
  if (started_ != 0) longest_ = std::max<std::chrono::nanoseconds>(longest_, now - round_began_);
  if (started_ == rounds_) return false;
  if (budget_.count() != 0 && started_ >= kMinimumRounds && now + longest_ > began_ + budget_) {
    is_cut_ = true;
    return false;
  }
  round_began_ = now;
  ++started_;
  return true;
}

result::Result<void> RoundBudget::Report(result::Journal& journal, const std::string& scenario) const {
  if (!is_cut_) return {};
  const auto seconds = [](std::chrono::nanoseconds time) { return std::chrono::duration<double>(time).count(); };
  return journal.AddFinding(
      {.id = scenario + "-rounds-cut",
       .severity = result::Severity::kWarning,
       .text = fmt::format("{} of {} rounds of {} were measured: this host is slow or busy, so intervals are wider.",
                           started_, rounds_, scenario),
       .evidence = fmt::format("a round took up to {:.1f} s; the profile allows {:.0f} s in all; --rounds N sets "
                               "their number whatever the time",
                               seconds(longest_), seconds(budget_))});
}

}  // namespace nestbench::scenarios
