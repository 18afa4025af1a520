#include "nestbench/attribution/detector.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace nestbench::attribution {
namespace {

double Median(const std::deque<double>& values) {
  std::vector<double> sorted(values.begin(), values.end());
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::ranges::nth_element(sorted, middle);
  return *middle;
}

void Remember(std::deque<double>& values, double value, std::size_t most) {
  values.push_back(value);
  if (values.size() > most) values.pop_front();
}

}  // namespace

std::vector<Detection> Detector::Observe(const Window& window) {
  if (window.duration_ns == 0) return {};
  const auto share = [&window](std::uint64_t ns) {
    return static_cast<double>(ns) / static_cast<double>(window.duration_ns);
  };
  std::vector<Now> now;
  now.reserve(window.guests.size());
  for (const GuestWindow& guest : window.guests) {
    Past& past = past_[guest.guest];
    Now entry{.guest = &guest,
              .use = share(guest.cpu_ns),
              .waiting = share(guest.run_queue_wait_ns),
              .rise = 0,
              .suffering = 0,
              .past = &past};
    if (past.use.size() >= options_.learn) {
      const double use_before = Median(past.use);
      entry.rise = entry.use - use_before;
      // Waiting more than it used to; or running less while it waits: a guest that wants less does not suffer.
      const double waits_more = std::max(0.0, entry.waiting - Median(past.waiting));
      const double runs_less = std::max(0.0, use_before - entry.use);
      entry.suffering = waits_more + std::min(runs_less, waits_more);
    }
    now.push_back(entry);
  }

  std::vector<Detection> detections;
  std::map<int, std::vector<Now*>> by_cpu;
  for (Now& entry : now) by_cpu[entry.guest->cpu].push_back(&entry);
  for (auto& [cpu, sharing] : by_cpu) {
    auto accused = Accuse(window, sharing);
    for (Now* entry : sharing) entry->past->owed -= std::min<std::size_t>(entry->past->owed, 1);
    if (accused) {
      for (const std::uint64_t victim : accused->victims) past_[victim].owed = options_.catch_up;
    }
    for (Now* entry : sharing) {
      const bool is_suspect = accused && accused->guest == entry->guest->guest;
      entry->past->suspected = is_suspect ? entry->past->suspected + 1 : 0;
      // The past stands still while somebody disturbs it, or the disturbance would become the rule.
      if (accused) continue;
      Remember(entry->past->use, entry->use, options_.history);
      Remember(entry->past->waiting, entry->waiting, options_.history);
    }
    if (!accused) continue;
    if (past_[accused->guest].suspected >= options_.confirm) detections.push_back(std::move(*accused));
  }
  return detections;
}

std::optional<Detection> Detector::Accuse(const Window& window, std::vector<Now*>& sharing) {
  // Who was held up does more afterwards than it used to, and means no harm.
  const auto rise = [](const Now* entry) { return entry->past->owed == 0 ? entry->rise : 0.0; };
  const auto loudest = std::ranges::max_element(sharing, {}, rise);
  if (loudest == sharing.end() || rise(*loudest) < options_.least_rise) return std::nullopt;
  const Now& suspect = **loudest;
  Detection detection{.at_ns = window.at_ns, .guest = suspect.guest->guest, .score = 0, .victims = {}, .cause = {}};
  double suffering = 0;
  double risen = 0;
  for (const Now* entry : sharing) {
    risen += std::max(0.0, entry->rise);
    if (entry == &suspect || entry->suffering < options_.least_victim) continue;
    suffering += entry->suffering;
    detection.victims.push_back(entry->guest->guest);
  }
  if (suffering < options_.least_suffering) return std::nullopt;
  detection.score = suspect.rise / risen;
  detection.cause =
      fmt::format("its CPU time rose from {:.0f} % to {:.0f} %, while {} other{} lost {:.0f} % of a CPU to waiting",
                  (suspect.use - suspect.rise) * 100, suspect.use * 100, detection.victims.size(),
                  detection.victims.size() == 1 ? "" : "s", suffering * 100);
  return detection;
}

}  // namespace nestbench::attribution
