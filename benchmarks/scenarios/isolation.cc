// Who hurts whom: a victim alone and beside an aggressor, in ABBA order. Ids `isolation/...`.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <utility>

#include "attribution.h"
#include "experiment.h"
#include "nestbench/result/id.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/scenarios/progress.h"
#include "nestbench/scenarios/run_context.h"
#include "nestbench/tenancy/placement.h"
#include "tenant_loads.h"

namespace nestbench::scenarios {
namespace {

using namespace std::chrono_literals;
using tenancy::TenantId;

// What a profile measures: the cells, and how long.
struct Plan {
  std::vector<std::string_view> victims;
  std::vector<std::string_view> aggressors;  // "none" comes first
  std::vector<std::uint32_t> intensities;
  std::vector<TenantSubstrate> substrates;
  std::uint32_t placements;  // the first so many of those that this machine has
  std::uint32_t rounds;
  std::chrono::milliseconds phase;
};

std::vector<std::string_view> NamesOf(std::span<const TenantLoad> loads) {
  std::vector<std::string_view> names;
  for (const TenantLoad& load : loads) names.push_back(load.name);
  return names;
}

Plan PlanOf(const RunContext& context) {
  using enum TenantSubstrate;
  if (context.taste) {
    return {.victims = {"latency"},
            .aggressors = {"none", "cpu_hog", "memory_bandwidth"},
            .intensities = {100},
            .substrates = {kVm},
            .placements = 1,
            .rounds = 1,
            .phase = 300ms};
  }
  switch (context.profile) {
    case workloads::Profile::kQuick:
      return {.victims = {"latency", "cache"},
              .aggressors = {"none", "cpu_hog", "memory_bandwidth", "tlb_churn"},
              .intensities = {100},
              .substrates = {kVm, kZone, kBare},
              .placements = 1,
              .rounds = 1,
              .phase = 300ms};
    case workloads::Profile::kStandard:
      return {.victims = NamesOf(Victims()),
              .aggressors = NamesOf(Aggressors()),
              .intensities = {50, 100},
              .substrates = {kVm, kZone, kBare},
              .placements = 4,
              .rounds = 1,
              .phase = 500ms};
    case workloads::Profile::kFull:
      break;
  }
  return {.victims = NamesOf(Victims()),
          .aggressors = NamesOf(Aggressors()),
          .intensities = {25, 50, 75, 100},
          .substrates = {kVm, kZone, kBare},
          .placements = 4,
          .rounds = 5,
          .phase = 2s};
}

struct Cell {
  const TenantLoad* victim = nullptr;
  const TenantLoad* aggressor = nullptr;
  std::uint32_t intensity = 0;
  tenancy::Placement placement;
  TenantSubstrate substrate = TenantSubstrate::kVm;

  [[nodiscard]] MeasurementName Name(std::string_view metric) const {
    const bool is_rate = metric == "throughput";
    return {.scenario = "isolation",
            .workload = std::string(victim->name),
            .substrate = std::string(ToString(substrate)),
            .params = {{"victim", std::string(victim->name)},
                       {"aggressor", std::string(aggressor->name)},
                       {"intensity", static_cast<std::int64_t>(intensity)},
                       {"placement", placement.name},
                       {"metric", std::string(metric)}},
            .unit = is_rate ? "op/s" : "ns",
            .direction = is_rate ? result::Direction::kHigher : result::Direction::kLower};
  }
};

constexpr std::array<std::string_view, 3> kMetrics = {"throughput", "latency_p50", "latency_p99"};

// A closed loop has no arrival times: the time of its requests is its throughput once more.
bool HasMetric(const TenantLoad& victim, std::string_view metric) {
  return metric == "throughput" || victim.period_ns != 0;
}

std::vector<Cell> SelectCells(const RunContext& context) {
  const Plan plan = PlanOf(context);
  std::vector<Cell> cells;
  const std::vector<tenancy::Placement> placements = tenancy::FindPlacements();
  for (const TenantSubstrate substrate : plan.substrates) {
    for (const std::string_view victim_name : plan.victims) {
      const TenantLoad* victim = FindLoad(Victims(), victim_name);
      std::uint32_t usable = 0;
      for (const tenancy::Placement& placement : placements) {
        if (placement.unsupported.empty() && usable++ >= plan.placements) continue;
        for (const std::string_view aggressor_name : plan.aggressors) {
          const TenantLoad* aggressor = FindLoad(Aggressors(), aggressor_name);
          for (const std::uint32_t intensity : plan.intensities) {
            const bool is_null = aggressor->activity == tenants::Activity::kNone;
            if (is_null && intensity != plan.intensities.front()) continue;
            // What the machine lacks is said once for each victim.
            if (!is_null && !placement.unsupported.empty()) continue;
            Cell cell{victim, aggressor, is_null ? 0 : intensity, placement, substrate};
            auto id = result::MakeId("isolation", cell.Name("throughput").workload, cell.Name("throughput").params,
                                     cell.Name("throughput").substrate);
            if (id && context.selects(*id)) cells.push_back(std::move(cell));
          }
        }
      }
    }
  }
  return cells;
}

class IsolationRun {
 public:
  IsolationRun(const RunContext& context, TenantExperiment& experiment)
      : context_(context), experiment_(experiment), plan_(PlanOf(context)) {
    plan_.rounds = context.rounds.value_or(plan_.rounds);
  }

  result::Result<void> Run() {
    const std::vector<Cell> cells = SelectCells(context_);
    Progress progress("isolation", cells.size() * plan_.rounds, context_.quiet);
    for (std::uint32_t round = 0; round < plan_.rounds; ++round) {
      for (const Cell& cell : cells) {
        progress.Step(
            fmt::format("{} beside {} ({})", cell.victim->name, cell.aggressor->name, ToString(cell.substrate)));
        if (auto done = Measure(cell, round); !done) return done;
        if (StopSignal() != 0) return {};
      }
    }
    return {};
  }

 private:
  result::Result<void> Give(const Cell& cell, result::Status status, const std::string& reason) {
    for (const std::string_view metric : kMetrics) {
      if (!HasMetric(*cell.victim, metric)) continue;
      if (status == result::Status::kUnsupported && metric != kMetrics.front()) continue;  // said once is enough
      if (auto added = experiment_.AddStatus(cell.Name(metric), status, reason); !added) return added;
    }
    return {};
  }

  [[nodiscard]] std::string WhyNot(const Cell& cell) const {
    if (!cell.placement.unsupported.empty()) return cell.placement.unsupported;
    for (const TenantLoad* load : {cell.victim, cell.aggressor}) {
      if (std::string reason = experiment_.loader().Unsupported(*load, cell.substrate); !reason.empty()) return reason;
    }
    return {};
  }

  using ArmSamples = std::array<std::vector<double>, kMetrics.size()>;
  using PairSamples = std::array<ArmSamples, 2>;  // alone, with the aggressor

  // One cell of one round: a fresh victim, a fresh aggressor, and pairs of phases in the order AB BA AB or BA AB BA.
  result::Result<void> Measure(const Cell& cell, std::uint32_t round) {
    if (const std::string reason = WhyNot(cell); !reason.empty()) {
      return round == 0 ? Give(cell, result::Status::kUnsupported, reason) : result::Result<void>{};
    }
    std::vector<TenantId> ids;
    auto done = MeasureWith(cell, round, ids);
    if (auto removed = experiment_.Remove(ids); !removed && done) {
      spdlog::warn("isolation: {}", removed.error().ToString());
    }
    return done;
  }

  result::Result<void> MeasureWith(const Cell& cell, std::uint32_t round, std::vector<TenantId>& ids) {
    const auto start = [&](const TenantLoad& load, int cpu) -> std::optional<TenantId> {
      auto id = experiment_.AddReady(load, cell.substrate, cpu);
      if (!id) {
        failure_ = id.error().ToString();
        return std::nullopt;
      }
      ids.push_back(*id);
      if (auto calibrated = experiment_.loader().Calibrate(load, *id); !calibrated) {
        failure_ = calibrated.error().ToString();
        return std::nullopt;
      }
      return *id;
    };
    const auto victim = start(*cell.victim, cell.placement.victim_cpu);
    const auto aggressor = victim ? start(*cell.aggressor, cell.placement.aggressor_cpu) : std::nullopt;
    if (!aggressor) return StopSignal() != 0 ? result::Result<void>{} : Give(cell, result::Status::kError, failure_);

    tenancy::Fleet& fleet = experiment_.fleet();
    fleet.SetLoad(*victim, experiment_.loader().MakeLoad(*cell.victim, 100, 0));
    experiment_.PollFor(kWarmUp);
    const bool swapped = round % 2 != 0;
    for (std::uint32_t pair = 0; pair < kPairs; ++pair) {
      const bool aggressor_first = (pair % 2 != 0) != swapped;
      PairSamples samples;
      for (const bool with_aggressor : {aggressor_first, !aggressor_first}) {
        const std::uint32_t intensity = with_aggressor ? cell.intensity : 0;
        fleet.SetLoad(*aggressor, experiment_.loader().MakeLoad(*cell.aggressor, intensity, 0));
        experiment_.PollFor(kSettle);
        tenancy::Tenant& tenant = fleet.Get(*victim);
        tenant.windows.clear();
        experiment_.PollFor(plan_.phase);
        if (StopSignal() != 0) return {};
        for (const tenants::Window& window : tenant.windows) Take(window, samples[with_aggressor ? 1 : 0]);
        for (const TenantId id : {*victim, *aggressor}) {
          if (fleet.Get(id).phase != tenancy::Phase::kEnded && !fleet.Get(id).refused) continue;
          const bool is_victim = id == *victim;
          const TenantFailure failure = experiment_.FailureOf(id);
          return Give(cell, is_victim ? result::Status::kCrashed : result::Status::kError,
                      fmt::format("the {} {}: {}", is_victim ? "victim" : "aggressor", failure.how, failure.evidence));
        }
        if (tenant.windows.empty()) return Give(cell, result::Status::kTimeout, "the victim finished no window");
      }
      if (auto done = Record(cell, round * kPairs + pair, aggressor_first, samples); !done) return done;
    }
    return {};
  }

  static void Take(const tenants::Window& window, ArmSamples& samples) {
    if (window.duration_ns == 0) return;
    samples[0].push_back(static_cast<double>(window.requests) * 1e9 / static_cast<double>(window.duration_ns));
    if (window.requests == 0) return;
    samples[1].push_back(static_cast<double>(window.p50_ns));
    samples[2].push_back(static_cast<double>(window.p99_ns));
  }

  // One pair of phases is one round of the document: what its two phases share falls out of their ratio.
  result::Result<void> Record(const Cell& cell, std::uint32_t round, bool aggressor_first, PairSamples& samples) {
    for (std::size_t metric = 0; metric < kMetrics.size(); ++metric) {
      if (!HasMetric(*cell.victim, kMetrics[metric])) continue;
      for (const std::uint32_t arm : {0U, 1U}) {
        auto added =
            experiment_.AddSamples(cell.Name(kMetrics[metric]), round, aggressor_first ? 1 - arm : arm,
                                   arm == 0 ? result::Arm::kA : result::Arm::kB, std::move(samples[arm][metric]));
        if (!added) return added;
      }
    }
    return {};
  }

  static constexpr std::uint32_t kPairs = 3;
  static constexpr auto kWarmUp = 200ms;
  static constexpr auto kSettle = 150ms;  // a window and a half: none that began before the change is kept

  const RunContext& context_;
  TenantExperiment& experiment_;
  Plan plan_;
  std::string failure_;
};

}  // namespace

result::Result<void> RunIsolation(const RunContext& context, result::Journal& journal) {
  if (!SelectCells(context).empty()) {
    auto experiment = TenantExperiment::Create(context, journal);
    if (!experiment) return Fail(experiment.error());
    if (auto done = IsolationRun(context, **experiment).Run(); !done || StopSignal() != 0) return done;
  }
  return RunAttribution(context, journal);
}

std::vector<std::string> IsolationIds(const RunContext& context) {
  std::vector<std::string> ids = AttributionIds(context);
  for (const Cell& cell : SelectCells(context)) {
    for (const std::string_view metric : kMetrics) {
      if (!HasMetric(*cell.victim, metric)) continue;
      const MeasurementName name = cell.Name(metric);
      if (auto id = result::MakeId(name.scenario, name.workload, name.params, name.substrate)) ids.push_back(*id);
    }
  }
  return ids;
}

}  // namespace nestbench::scenarios
