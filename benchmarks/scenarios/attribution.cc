#include "attribution.h"

#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <optional>
#include <random>
#include <utility>

#include "nestbench/attribution/collector.h"
#include "nestbench/attribution/detector.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/scenarios/progress.h"
#include "nestbench/vmm/base/clock.h"
#include "tenant_loads.h"

namespace nestbench::scenarios {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using tenancy::TenantId;

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::string_view kId = "isolation/attribution/vm";
constexpr std::size_t kGuests = 8;
constexpr auto kWindow = 200ms;
constexpr std::size_t kLearnWindows = 12;
constexpr std::size_t kScheduleWindows = 35;  // 7 s
constexpr double kQuietShare = 0.2;           // of the schedules have no aggressor

// Half of a CPU, and a twentieth: one heavy guest and light ones share each CPU, as on a host that is in use.
constexpr TenantLoad kHeavy = {.name = "attribution_heavy",
                               .summary = "requests of 2 ms, 250 a second",
                               .image = "cpu_integer",
                               .service_ns = 2 * kMs,
                               .period_ns = 4 * kMs};
constexpr TenantLoad Light(std::string_view name, std::string_view image) {
  TenantLoad load;
  load.name = name;
  load.image = image;
  load.service_ns = kMs;
  load.period_ns = 20 * kMs;
  return load;
}
TenantLoad LightOf(std::string_view aggressor) {
  const TenantLoad* of = FindLoad(Aggressors(), aggressor);
  TenantLoad load = Light(aggressor == "cpu_hog"        ? "attribution_light"
                          : aggressor == "cache_thrash" ? "attribution_light_gups"
                                                        : "attribution_light_bandwidth",
                          of->image);
  load.arena_bytes = of->arena_bytes;
  load.operation = of->operation;
  // One pass over all of it would be a request of several milliseconds.
  constexpr std::uint64_t kSmallWorkingSet = 2 << 20;
  load.parameter = aggressor == "memory_bandwidth" ? kSmallWorkingSet : of->parameter;
  return load;
}

struct Guest {
  TenantId id = 0;
  TenantLoad load;
  std::vector<std::string_view> can;  // aggressors that its image allows
};

// Windows within the schedule.
struct Episode {
  std::size_t guest = 0;
  std::string_view aggressor;
  std::uint32_t intensity = 0;
  std::size_t begin = 0;
  std::size_t end = 0;
};

std::vector<int> AllowedCpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE && cpus.size() < 2; ++cpu) {
    if (CPU_ISSET(static_cast<unsigned>(cpu), &set)) cpus.push_back(cpu);
  }
  return cpus;
}

std::uint32_t SchedulesOf(const RunContext& context) {
  if (context.schedules) return *context.schedules;
  if (context.taste) return 0;
  switch (context.profile) {
    case workloads::Profile::kQuick:
      return 2;
    case workloads::Profile::kStandard:
      return 20;
    case workloads::Profile::kFull:
      break;
  }
  return 200;
}

class AttributionRun {
 public:
  AttributionRun(const RunContext& context, result::Journal& journal, TenantExperiment& experiment)
      : context_(context), journal_(journal), experiment_(experiment), fleet_(experiment.fleet()) {}

  result::Result<void> Run() {
    const MeasurementName name{.scenario = "isolation",
                               .workload = "attribution",
                               .substrate = "vm",
                               .params = {},
                               .unit = "schedules",
                               .direction = result::Direction::kHigher};
    if (const std::string reason = experiment_.Unsupported(TenantSubstrate::kVm); !reason.empty()) {
      return experiment_.AddStatus(name, result::Status::kUnsupported, reason);
    }
    result::Experiment experiment;
    experiment.id = kId;
    experiment.scenario = "isolation";
    experiment.workload = "attribution";
    experiment.substrate = "vm";
    experiment.setup = {{"guests", kGuests}, {"window_ns", std::chrono::nanoseconds(kWindow).count()}};
    if (auto added = journal_.AddExperiment(experiment); !added) return added;
    if (auto started = StartGuests(); !started) {
      if (StopSignal() != 0) return {};
      return experiment_.AddStatus(name, result::Status::kError, started.error().ToString());
    }
    const std::uint32_t schedules = SchedulesOf(context_);
    Progress progress("attribution", schedules, context_.quiet);
    for (std::uint32_t number = 0; number < schedules && StopSignal() == 0; ++number) {
      progress.Step(fmt::format("schedule {}", number));
      auto done = RunSchedule(number);
      if (!done) return done;
      for (const Guest& guest : guests_) {
        if (fleet_.Get(guest.id).phase == tenancy::Phase::kReady) continue;
        const TenantFailure failure = experiment_.FailureOf(guest.id);
        return experiment_.AddStatus(name, result::Status::kCrashed,
                                     fmt::format("a guest {}: {}", failure.how, failure.evidence));
      }
    }
    return experiment_.AddSamples(name, 0, 0, result::Arm::kA, {static_cast<double>(schedules)});
  }

 private:
  vmm::Result<> StartGuests() {
    const std::vector<int> cpus = AllowedCpus();
    for (std::size_t i = 0; i < kGuests; ++i) {
      Guest guest;
      const std::size_t place = i % (kGuests / 2);
      const std::string_view special = place == 1 ? "memory_bandwidth" : place == 2 ? "cache_thrash" : "cpu_hog";
      guest.load = place == 0 ? kHeavy : LightOf(special);
      if (place != 0) guest.can = {special};
      if (place == 3) guest.can = {"cpu_hog", "timer_storm", "vm_churn"};
      auto id = experiment_.AddReady(guest.load, TenantSubstrate::kVm,
                                     cpus.empty() ? -1 : cpus[i / (kGuests / 2) % cpus.size()]);
      if (!id) return Fail(id.error());
      guest.id = *id;
      if (auto calibrated = experiment_.loader().Calibrate(guest.load, *id); !calibrated) return calibrated;
      for (const std::string_view name : guest.can) {
        if (auto calibrated = experiment_.loader().Calibrate(*FindLoad(Aggressors(), name), *id); !calibrated) {
          return calibrated;
        }
      }
      guests_.push_back(std::move(guest));
    }
    return {};
  }

  std::vector<Episode> MakeEpisodes(std::mt19937_64& random) const {
    std::vector<Episode> episodes;
    if (std::uniform_real_distribution<double>(0, 1)(random) < kQuietShare) return episodes;
    constexpr std::array<std::uint32_t, 3> kIntensities = {50, 75, 100};
    Episode episode;
    do {
      episode.guest = random() % kGuests;
    } while (guests_[episode.guest].can.empty());
    const auto& can = guests_[episode.guest].can;
    episode.aggressor = can[random() % can.size()];
    episode.intensity = kIntensities[random() % kIntensities.size()];
    episode.begin = kLearnWindows + random() % 6;
    episode.end = episode.begin + 8 + random() % 6;
    episodes.push_back(episode);
    return episodes;
  }

  void SetNormal(std::size_t guest) {
    const double phase = static_cast<double>(guest) / kGuests;
    fleet_.SetLoad(guests_[guest].id, experiment_.loader().MakeLoad(guests_[guest].load, 100, phase));
  }

  result::Result<void> RunSchedule(std::uint32_t number) {
    const std::uint64_t seed = (context_.seed + 0x9E37'79B9ULL * (number + 1)) & ((1ULL << 53) - 1);
    std::mt19937_64 random(seed);
    const std::vector<Episode> episodes = MakeEpisodes(random);
    for (std::size_t guest = 0; guest < kGuests; ++guest) SetNormal(guest);
    experiment_.PollFor(400ms);

    // From here on only what an operator sees goes to the detector.
    attribution::Collector collector;
    attribution::Detector detector;
    for (std::size_t guest = 0; guest < kGuests; ++guest) {
      const tenancy::Tenant& tenant = fleet_.Get(guests_[guest].id);
      fleet_.Get(guests_[guest].id).windows.clear();
      collector.Add({.guest = guest, .pid = tenant.pid, .statistics = vmm::UniqueFd(::dup(tenant.statistics.get()))});
    }
    std::vector<std::pair<std::uint64_t, std::uint64_t>> spans(episodes.size());
    std::vector<std::uint64_t> bounds;
    json detections = json::array();
    std::uint64_t quiet_windows = 0;
    std::uint64_t false_alarms = 0;
    const std::uint64_t begin_ns = vmm::MonotonicNs();
    for (std::size_t at = 0; at < kScheduleWindows && StopSignal() == 0; ++at) {
      bool is_quiet = true;
      for (std::size_t i = 0; i < episodes.size(); ++i) {
        const Episode& episode = episodes[i];
        if (at == episode.begin) {
          fleet_.SetLoad(
              guests_[episode.guest].id,
              experiment_.loader().MakeLoad(*FindLoad(Aggressors(), episode.aggressor), episode.intensity, 0));
          spans[i].first = vmm::MonotonicNs() - begin_ns;
        }
        if (at == episode.end) {
          SetNormal(episode.guest);
          spans[i].second = vmm::MonotonicNs() - begin_ns;
        }
        // What an episode did is still seen for two windows.
        is_quiet = is_quiet && (at < episode.begin || at > episode.end + 1);
      }
      experiment_.PollFor(kWindow);
      const auto window = collector.Take();
      const auto found = detector.Observe(window);
      for (const attribution::Detection& detection : found) {
        detections.push_back({{"at_ns", vmm::MonotonicNs() - begin_ns},
                              {"guest", detection.guest},
                              {"score", detection.score},
                              {"victims", detection.victims}});
      }
      quiet_windows += is_quiet ? 1 : 0;
      false_alarms += is_quiet && !found.empty() ? 1 : 0;
    }
    if (StopSignal() != 0) return {};
    json told = json::array();
    for (std::size_t i = 0; i < episodes.size(); ++i) {
      told.push_back({{"guest", episodes[i].guest},
                      {"aggressor", episodes[i].aggressor},
                      {"intensity", episodes[i].intensity},
                      {"begin_ns", spans[i].first},
                      {"end_ns", spans[i].second},
                      {"impact", Impact(episodes[i], begin_ns, spans[i])}});
    }
    return journal_.AddRecord(std::string(kId), {{"kind", "schedule"},
                                                 {"schedule", number},
                                                 {"seed", seed},
                                                 {"guests", kGuests},
                                                 {"duration_ns", vmm::MonotonicNs() - begin_ns},
                                                 {"window_ns", std::chrono::nanoseconds(kWindow).count()},
                                                 {"windows", kScheduleWindows},
                                                 {"quiet", episodes.empty()},
                                                 {"episodes", told},
                                                 {"detections", detections},
                                                 {"quiet_windows", quiet_windows},
                                                 {"false_alarm_windows", false_alarms}});
  }

  // What the worst hit victim lost of its throughput: the truth, from what the guests themselves report.
  double Impact(const Episode& episode, std::uint64_t begin_ns, std::pair<std::uint64_t, std::uint64_t> span) {
    double worst = 0;
    for (std::size_t guest = 0; guest < kGuests; ++guest) {
      if (guest == episode.guest) continue;
      double before = 0;
      double before_s = 0;
      double during = 0;
      double during_s = 0;
      for (const tenants::Window& window : fleet_.Get(guests_[guest].id).windows) {
        const std::uint64_t at_ns = window.begin_ns - std::min(window.begin_ns, begin_ns);
        const double seconds = static_cast<double>(window.duration_ns) / 1e9;
        if (at_ns + window.duration_ns < span.first) {
          before += static_cast<double>(window.requests);
          before_s += seconds;
        } else if (at_ns >= span.first && at_ns + window.duration_ns <= span.second) {
          during += static_cast<double>(window.requests);
          during_s += seconds;
        }
      }
      if (before == 0 || before_s == 0 || during_s == 0) continue;
      worst = std::max(worst, 1 - (during / during_s) / (before / before_s));
    }
    return worst;
  }

  const RunContext& context_;
  result::Journal& journal_;
  TenantExperiment& experiment_;
  tenancy::Fleet& fleet_;
  std::vector<Guest> guests_;
};

}  // namespace

std::vector<std::string> AttributionIds(const RunContext& context) {
  if (SchedulesOf(context) == 0 || !context.selects(kId)) return {};
  return {std::string(kId)};
}

result::Result<void> RunAttribution(const RunContext& context, result::Journal& journal) {
  if (AttributionIds(context).empty()) return {};
  auto experiment = TenantExperiment::Create(context, journal);
  if (!experiment) return Fail(experiment.error());
  return AttributionRun(context, journal, **experiment).Run();
}

}  // namespace nestbench::scenarios
