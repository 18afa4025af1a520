// How many tenants fit, and what gives out: ids `density/...`.
//
// Steady: each tenant is due a request of 1 ms twenty times a second; their number doubles until the objective breaks,
// something fails or the maximum is reached, and is then bisected. Idle: guests that were started and wait. Memory:
// guests that touch and keep memory until there is no more.
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "experiment.h"
#include "nestbench/payload/disk_work.h"
#include "nestbench/result/id.h"
#include "nestbench/result/json.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/scenarios/run_context.h"
#include "nestbench/tenants/latency_histogram.h"
#include "nestbench/vmm/base/clock.h"
#include "tenant_loads.h"

namespace nestbench::scenarios {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using tenancy::Phase;
using tenancy::TenantId;
using vmm::Fail;

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kMiB = 1ULL << 20;
constexpr double kKeepsUp = 0.95;  // of the offered throughput
constexpr std::size_t kStartsInFlight = 8;
constexpr auto kStartLimit = 30s;
constexpr auto kFloorLimit = 120s;
constexpr auto kBetweenRounds = 500ms;
constexpr auto kSettle = 300ms;  // after a change of the number, before measuring
constexpr auto kReportLimit = 20s;

enum class Kind : std::uint8_t { kSteady, kDisk, kIdle, kMemory };

// Requests that are due at a rate, and a tail latency that is to be kept.
bool Serves(Kind kind) { return kind == Kind::kSteady || kind == Kind::kDisk; }

std::string_view ToString(Kind kind) {
  switch (kind) {
    case Kind::kSteady:
      return "steady";
    case Kind::kDisk:
      return "disk";
    case Kind::kIdle:
      return "idle";
    case Kind::kMemory:
      break;
  }
  return "memory";
}

constexpr TenantLoad kServe = {.name = "density_steady",
                               .summary = "requests of 1 ms, twenty a second",
                               .image = "cpu_integer",
                               .service_ns = kMs,
                               .period_ns = 50 * kMs};
constexpr std::uint64_t kDiskBlockBytes = 4096;
constexpr std::uint64_t kDiskDepth = 2;
constexpr TenantLoad kServeFromDisk = {
    .name = "density_disk",
    .summary = "random reads of 4 KiB, two under way, worth 1 ms, twenty times a second, all of one disk",
    .image = "io_disk",
    .arena_bytes = payload::DiskArenaBytes(kDiskBlockBytes, kDiskDepth),
    .operation = static_cast<std::uint64_t>(payload::DiskOperation::kRandomRead),
    .parameter = kDiskBlockBytes,
    .disk_depth = kDiskDepth,
    .service_ns = kMs,
    .period_ns = 50 * kMs};
constexpr TenantLoad kWait = {.name = "density_idle",
                              .summary = "started, then idle",
                              .image = "cpu_integer",
                              .arena_bytes = 4 * kMiB,
                              .activity = tenants::Activity::kNone};
constexpr TenantLoad kHold = {.name = "density_memory",
                              .summary = "touches and keeps 32 MiB",
                              .image = "memory_first_touch",
                              .arena_bytes = 32 * kMiB,
                              .activity = tenants::Activity::kHoldMemory,
                              .hold_bytes = 32 * kMiB};

const TenantLoad& LoadOf(Kind kind) {
  switch (kind) {
    case Kind::kSteady:
      return kServe;
    case Kind::kDisk:
      return kServeFromDisk;
    case Kind::kIdle:
      return kWait;
    case Kind::kMemory:
      break;
  }
  return kHold;
}

// What a profile spends on each ramp.
struct Plan {
  std::uint32_t max_steady;
  std::uint32_t max_memory;
  std::uint32_t idle;
  std::chrono::milliseconds step;
  std::uint32_t bisections;
  std::uint32_t repetitions;  // of each step of the bisection
};

Plan PlanOf(const RunContext& context) {
  if (context.taste)
    return {.max_steady = 8, .max_memory = 0, .idle = 200, .step = 700ms, .bisections = 0, .repetitions = 1};
  switch (context.profile) {
    case workloads::Profile::kQuick:
      return {.max_steady = 128, .max_memory = 16, .idle = 500, .step = 1s, .bisections = 2, .repetitions = 1};
    case workloads::Profile::kStandard:
      return {.max_steady = 512, .max_memory = 64, .idle = 1000, .step = 3s, .bisections = 4, .repetitions = 3};
    case workloads::Profile::kFull:
      break;
  }
  return {.max_steady = 4096, .max_memory = 1024, .idle = 2000, .step = 5s, .bisections = 6, .repetitions = 5};
}

struct Job {
  Kind kind;
  TenantSubstrate substrate;
  [[nodiscard]] std::string Id() const {
    return fmt::format("density/{}/{}", ToString(kind), scenarios::ToString(substrate));
  }
};

// How many ran well: what a gate compares between hosts.
MeasurementName GuestsName(const Job& job) {
  return {.scenario = "density",
          .workload = "guests",
          .substrate = std::string(scenarios::ToString(job.substrate)),
          .params = {{"load", std::string(ToString(job.kind))}},
          .unit = "guests",
          .direction = result::Direction::kHigher};
}

std::vector<Job> SelectJobs(const RunContext& context) {
  std::vector<Job> jobs;
  const auto add = [&](Kind kind, TenantSubstrate substrate) {
    Job job{kind, substrate};
    if (context.selects(job.Id())) jobs.push_back(job);
  };
  const DensityOptions& options = context.density;
  const bool only_idle = options.idle;
  if (!only_idle) {
    for (const TenantSubstrate substrate : {TenantSubstrate::kVm, TenantSubstrate::kZone, TenantSubstrate::kBare}) {
      if (context.taste && substrate != TenantSubstrate::kVm) continue;
      add(Kind::kSteady, substrate);
      // In a taste and in quick there is no time for it.
      if (context.profile != workloads::Profile::kQuick && substrate != TenantSubstrate::kZone) {
        add(Kind::kDisk, substrate);
      }
    }
  }
  add(Kind::kIdle, TenantSubstrate::kVm);
  if (!only_idle && !context.taste) {
    for (const TenantSubstrate substrate : {TenantSubstrate::kZone, TenantSubstrate::kBare})
      add(Kind::kIdle, substrate);
    add(Kind::kMemory, TenantSubstrate::kVm);
  }
  return jobs;
}

json Quantiles(const tenants::LatencyHistogram& histogram) {
  return {{"p50", histogram.Quantile(0.50)},
          {"p99", histogram.Quantile(0.99)},
          {"p999", histogram.Quantile(0.999)},
          {"max", histogram.max()}};
}

// What one step showed, as far as the ramp decides by it.
struct Step {
  std::uint32_t guests = 0;
  bool kept_up = true;  // within the objective
  double throughput_per_s = 0;
  std::uint64_t p50_ns = 0;
  std::uint64_t p99_ns = 0;
  std::uint64_t p999_ns = 0;
};

// One ramp: tenants of its own in a fleet of its own.
class Ramp {
 public:
  Ramp(const RunContext& context, result::Journal& journal, Job job, TenantExperiment& experiment)
      : context_(context),
        journal_(journal),
        job_(job),
        load_(LoadOf(job.kind)),
        plan_(PlanOf(context)),
        experiment_(experiment),
        fleet_(experiment.fleet()),
        substrate_(scenarios::ToString(job.substrate)) {}

  result::Result<void> Run() {
    max_ = job_.kind == Kind::kIdle ? plan_.idle : job_.kind == Kind::kMemory ? plan_.max_memory : plan_.max_steady;
    if (job_.kind == Kind::kIdle && job_.substrate == TenantSubstrate::kZone) max_ = std::min(max_, kMostZones);
    if (context_.density.guests) max_ = *context_.density.guests;
    if (auto announced = Announce(); !announced) return announced;
    if (Serves(job_.kind)) {
      if (auto calibrated = Calibrate(); !calibrated) return calibrated;
    }
    has_floor_ = job_.kind == Kind::kIdle && job_.substrate == TenantSubstrate::kVm;
    auto done = job_.kind == Kind::kIdle ? Idle() : Climb();
    if (!done) return done;
    return Finish();
  }

 private:
  static constexpr std::uint32_t kMostZones = 100;  // each is three processes and a set of namespaces

  [[nodiscard]] std::uint64_t SloNs() const { return context_.density.slo_p99_ns; }

  // Beside a floor in alternating order, so that neither always comes to a host that the other has warmed or worn.
  // Odd: the last round is one that leaves our guests alive, whose end is measured as well.
  static constexpr std::uint32_t kFloorRounds = 3;

  result::Result<void> Idle() {
    if (!has_floor_) return StepTo(max_, 0);
    for (std::uint32_t round = 0; round < kFloorRounds && StopSignal() == 0 && !failure_; ++round) {
      const bool floor_first = round % 2 == 0;
      if (floor_first) {
        EndAll();
        if (auto measured = MeasureFloor(round, 0); !measured || StopSignal() != 0) return measured;
      }
      EndAll();
      experiment_.RestartMemoryTotal();
      if (auto done = StepTo(max_, round); !done) return done;
      if (floor_first || StopSignal() != 0 || failure_) continue;
      EndAll();
      if (auto measured = MeasureFloor(round, 1); !measured) return measured;
    }
    return {};
  }

  // Ends the guests of a round and gives the kernel time to take back what was theirs.
  void EndAll() {
    (void)experiment_.Remove(running_);
    running_.clear();
    experiment_.PollFor(kBetweenRounds);
  }

  // The floor of the same number of guests with the same memory: a program of raw ioctls.
  result::Result<void> MeasureFloor(std::uint32_t round, std::uint32_t order) {
    const auto announce = [&](std::string_view workload, result::Params params, std::string_view unit,
                              result::Direction direction) {
      params["guests"] = static_cast<std::int64_t>(max_);
      params["load"] = std::string("idle");
      return MeasurementName{.scenario = "density",
                             .workload = std::string(workload),
                             .substrate = "floor",
                             .params = std::move(params),
                             .unit = std::string(unit),
                             .direction = direction};
    };
    const MeasurementName memory =
        announce("memory_per_guest", {{"part", std::string("total")}}, "bytes", result::Direction::kLower);
    const MeasurementName rate = announce("start_rate", {}, "guests/s", result::Direction::kHigher);
    // Few guests take less than what the rest of the host may free meanwhile: a try that shows nothing is made again.
    constexpr int kTries = 3;
    std::string failure;
    double rate_seen = 0;
    double memory_seen = 0;
    for (int i = 0; i < kTries && failure.empty() && memory_seen == 0; ++i) {
      auto child = RunChild(
          context_.installation.density_floor_program,
          {"--guests", std::to_string(max_), "--guest-ram-bytes", std::to_string(load_.arena_bytes), "--parallel",
           std::to_string(kStartsInFlight), "--image", (context_.installation.images / "cpu_integer.elf").string()},
          "", kFloorLimit);
      if (child && child->interrupted) return {};
      if (!child || child->exit_code != 0) {
        failure = child ? child->Describe() : child.error().ToString();
        break;
      }
      auto said = result::ParseJson(child->output, "the density floor's output");
      const auto number = [&](const char* key) {
        return said && said->is_object() && said->contains(key) && (*said)[key].is_number() ? (*said)[key].get<double>()
                                                                                            : -1;
      };
      rate_seen = number("guests_per_s");
      memory_seen = number("memory_per_guest_bytes");
      if (rate_seen <= 0 || memory_seen < 0) failure = "the density floor said: " + child->output.substr(0, 200);
    }
    if (!failure.empty()) {
      for (const MeasurementName& name : {memory, rate}) {
        if (auto added = experiment_.AddStatus(name, result::Status::kError, failure); !added) return added;
      }
      return {};
    }
    if (auto added = experiment_.AddSamples(rate, round, order, result::Arm::kA, {rate_seen}); !added) return added;
    if (memory_seen > 0) return experiment_.AddSamples(memory, round, order, result::Arm::kA, {memory_seen});
    return experiment_.AddStatus(memory, result::Status::kUnsupported,
                                 fmt::format("while {} guests of the floor ran, others freed more memory than these "
                                             "took, {} times: ask for more guests, or end what else runs",
                                             max_, kTries));
  }

  result::Result<void> Announce() {
    result::Experiment experiment;
    experiment.id = job_.Id();
    experiment.scenario = "density";
    experiment.workload = ToString(job_.kind);
    experiment.substrate = substrate_;
    experiment.setup = {
        {"rate_per_s", load_.period_ns == 0 ? 0.0 : 1e9 / static_cast<double>(load_.period_ns)},
        {"service_ns", load_.service_ns},
        {"slo_p99_ns", Serves(job_.kind) ? SloNs() : 0},
        {"max_guests", max_},
        {"guest_ram_bytes", load_.arena_bytes},
        {"budget_memory_bytes",
         context_.density.budget_memory_bytes ? json(*context_.density.budget_memory_bytes) : json(nullptr)},
        {"budget_cpus", context_.density.budget_cpus ? json(*context_.density.budget_cpus) : json(nullptr)},
        {"cgroups", experiment_.CgroupsJson()}};
    return journal_.AddExperiment(experiment);
  }

  // On a tenant that is alone; it stays as the first of the ramp.
  result::Result<void> Calibrate() {
    StartMore(1);
    if (running_.empty()) return {};  // Climb() finds out the same and records it
    if (auto calibrated = experiment_.loader().Calibrate(load_, running_.front()); !calibrated) {
      spdlog::warn("{}: {}", job_.Id(), calibrated.error().ToString());
    }
    service_ns_ = experiment_.loader().ServiceNs(load_);
    return {};
  }

  // 1, 2, 4, ... to the first step that breaks, then between that and the last good one.
  result::Result<void> Climb() {
    std::uint32_t good = 0;
    std::uint32_t bad = 0;
    for (std::uint32_t guests = 1; bad == 0; guests = std::min(guests * 2, max_)) {
      if (auto done = StepTo(guests, 0); !done) return done;
      if (StopSignal() != 0) return {};
      (last_.kept_up && !exhausted_ ? good : bad) = guests;
      if (exhausted_ || guests == max_) break;
    }
    if (bad != 0) reason_ = exhausted_ ? "exhaustion" : "slo";
    guests_ok_ = good;
    for (std::uint32_t i = 0; i < plan_.bisections && bad > good + 1 && StopSignal() == 0; ++i) {
      const std::uint32_t middle = good + (bad - good) / 2;
      bool kept_up = true;
      for (std::uint32_t repetition = 0; repetition < plan_.repetitions && StopSignal() == 0; ++repetition) {
        exhausted_ = false;
        if (auto done = StepTo(middle, repetition); !done) return done;
        kept_up = kept_up && last_.kept_up && !exhausted_;
      }
      (kept_up ? good : bad) = middle;
      guests_ok_ = good;
    }
    // The step itself once more on either side of the edge, so that the knee's interval rests on more than one look.
    for (std::uint32_t repetition = 1; repetition < plan_.repetitions && StopSignal() == 0; ++repetition) {
      for (const std::uint32_t guests : {good, bad}) {
        exhausted_ = false;
        if (guests == 0) continue;
        if (auto done = StepTo(guests, repetition); !done) return done;
      }
    }
    return {};
  }

  // Starts tenants until `count` more are there or one fails. Several at once: a supervisor that waits for each is
  // idle.
  void StartMore(std::uint32_t count) {
    std::vector<TenantId> started;
    std::size_t settled = 0;
    const auto advance = [&] {
      while (settled < started.size() && fleet_.Get(started[settled]).phase >= Phase::kReady) ++settled;
      return started.size() - settled;
    };
    const std::uint64_t begin_ns = vmm::MonotonicNs();
    for (std::uint32_t i = 0; i < count && !failure_ && StopSignal() == 0; ++i) {
      auto id = experiment_.Add(load_, job_.substrate, -1, job_.kind == Kind::kIdle ? 0 : TenantLoader::kHeartbeatMs);
      if (!id) {
        failure_ = TenantFailure{ErrnoName(id.error().error_number), id.error().ToString()};
        break;
      }
      started.push_back(*id);
      fleet_.Poll(kStartLimit, [&] { return advance() < kStartsInFlight; });
      if (settled > 0 && fleet_.Get(started[settled - 1]).phase == Phase::kEnded) break;
    }
    (void)fleet_.WaitReady(started, kStartLimit);
    start_elapsed_ns_ = vmm::MonotonicNs() - begin_ns;
    started_ = 0;
    start_ns_.clear();
    for (const TenantId id : started) {
      const tenancy::Tenant& tenant = fleet_.Get(id);
      if (tenant.phase == Phase::kReady) {
        running_.push_back(id);
        start_ns_.push_back(tenant.ready_ns - tenant.asked_ns);
        ++started_;
        continue;
      }
      if (!failure_) failure_ = experiment_.FailureOf(id);
      (void)experiment_.Remove({id});
    }
  }

  result::Result<void> StopSome(std::uint32_t count) {
    std::vector<TenantId> victims(running_.end() - static_cast<std::ptrdiff_t>(count), running_.end());
    if (auto killed = experiment_.Remove(victims); !killed) return Fail(killed.error());
    running_.resize(running_.size() - count);
    return {};
  }

  void DropEnded() {
    std::vector<TenantId> ended;
    for (const TenantId id : running_) {
      if (fleet_.Get(id).phase != Phase::kEnded) continue;
      if (!failure_) failure_ = experiment_.FailureOf(id);
      ended.push_back(id);
    }
    std::erase_if(running_, [this](TenantId id) { return fleet_.Get(id).phase == Phase::kEnded; });
    (void)experiment_.Remove(ended);
  }

  result::Result<void> StepTo(std::uint32_t guests, std::uint32_t repetition) {
    failure_.reset();
    start_ns_.clear();
    started_ = 0;
    start_elapsed_ns_ = 0;
    if (running_.size() > guests) {
      if (auto stopped = StopSome(static_cast<std::uint32_t>(running_.size()) - guests); !stopped) return stopped;
    }
    if (running_.size() < guests) {
      const auto missing = guests - static_cast<std::uint32_t>(running_.size());
      job_.kind == Kind::kMemory ? HoldMore(missing) : StartMore(missing);
    }
    if (StopSignal() != 0) return {};
    if (Serves(job_.kind)) SetLoads();
    if (auto done = MeasureStep(repetition); !done) return done;
    if (!failure_) return {};
    exhausted_ = true;
    if (reason_ == "max") reason_ = "exhaustion";
    return journal_.AddRecord(
        job_.Id(),
        {{"kind", "failure"}, {"guests", running_.size()}, {"how", failure_->how}, {"evidence", failure_->evidence}});
  }

  void SetLoads() {
    // Golden-ratio steps spread the phases evenly for any number of tenants.
    double phase = 0;
    for (const TenantId id : running_) {
      phase = std::fmod(phase + 0.6180339887498949, 1.0);
      fleet_.SetLoad(id, experiment_.loader().MakeLoad(load_, 100, phase));
    }
  }

  // Starts one at a time and lets it take its memory, so that the number at which memory gave out is known.
  void HoldMore(std::uint32_t count) {
    std::vector<std::uint64_t> start_ns;
    std::uint64_t elapsed_ns = 0;
    std::uint32_t started = 0;
    for (; started < count && !failure_ && StopSignal() == 0; ++started) {
      StartMore(1);
      if (failure_) break;
      start_ns.insert(start_ns.end(), start_ns_.begin(), start_ns_.end());
      elapsed_ns += start_elapsed_ns_;
      fleet_.SetLoad(running_.back(), experiment_.loader().MakeLoad(load_, 100, 0));
      (void)fleet_.Report({running_.back()}, false, false, kReportLimit);
      DropEnded();
    }
    start_ns_ = std::move(start_ns);
    start_elapsed_ns_ = elapsed_ns;
    started_ = started;
  }

  result::Result<void> MeasureStep(std::uint32_t repetition) {
    const auto step = Serves(job_.kind) ? plan_.step : std::chrono::milliseconds(500);
    PollFor(Serves(job_.kind) ? kSettle : std::chrono::milliseconds(50));
    (void)fleet_.Report(running_, true, false, kReportLimit);
    for (const TenantId id : running_) fleet_.Get(id).windows.clear();
    experiment_.BeginEvidence(running_);
    const std::uint64_t begin_ns = vmm::MonotonicNs();
    PollFor(step);
    const std::uint64_t end_ns = vmm::MonotonicNs();
    json host = experiment_.EndEvidence();
    const bool reported = fleet_.Report(running_, false, repetition == 0, kReportLimit);
    DropEnded();
    if (!reported && !failure_ && StopSignal() == 0) {
      failure_ = TenantFailure{"missed_heartbeat", "a tenant did not report within 20 s"};
    }

    const double seconds = static_cast<double>(end_ns - begin_ns) / 1e9;
    tenants::LatencyHistogram all;
    std::vector<double> each;
    std::uint64_t exits = 0;
    std::uint64_t wrong = 0;
    for (const TenantId id : running_) {
      const tenancy::Tenant& tenant = fleet_.Get(id);
      if (!tenant.totals) continue;
      all.Merge(tenant.histogram);
      each.push_back(static_cast<double>(tenant.totals->requests) / seconds);
      exits += tenant.totals->exits;
      wrong += tenant.totals->wrong + (tenant.totals->verified == 2 ? 1 : 0);
    }
    last_ = {.guests = static_cast<std::uint32_t>(running_.size()),
             .kept_up = true,
             .throughput_per_s = std::accumulate(each.begin(), each.end(), 0.0),
             .p50_ns = all.Quantile(0.50),
             .p99_ns = all.Quantile(0.99),
             .p999_ns = all.Quantile(0.999)};
    const double offered = load_.period_ns == 0 ? 0.0 : 1e9 / static_cast<double>(load_.period_ns) * last_.guests;
    if (Serves(job_.kind)) {
      last_.kept_up = last_.p99_ns <= SloNs() && last_.throughput_per_s >= kKeepsUp * offered;
    }
    if (wrong != 0) failure_ = TenantFailure{"wrong_result", fmt::format("{} answers with a wrong checksum", wrong)};

    const auto [totals, p99] = ByWindow(begin_ns, end_ns);
    const json memory = experiment_.MemoryPerGuest(running_, job_.kind == Kind::kIdle);
    json record = {{"kind", "step"},
                   {"guests", running_.size()},
                   {"repetition", repetition},
                   {"duration_ns", end_ns - begin_ns},
                   {"offered_per_s", offered},
                   {"throughput_per_s", totals},
                   {"latency_ns", Quantiles(all)},
                   {"latency_p99_ns", p99},
                   {"guest_per_s", each},
                   {"start_ns", start_ns_},
                   {"start_rate_per_s", StartRate()},
                   {"exits_per_s", job_.substrate == TenantSubstrate::kVm ? json(static_cast<double>(exits) / seconds)
                                                                          : json(nullptr)},
                   {"memory", memory},
                   {"host", std::move(host)}};
    if (auto added = journal_.AddRecord(job_.Id(), std::move(record)); !added) return added;
    return AddMeasurements(repetition, totals, memory);
  }

  // Of the floor that was measured for this; empty where there is none.
  [[nodiscard]] std::string FloorId(std::string_view workload, const result::Params& params) const {
    const auto part = params.find("part");
    const bool is_total = part == params.end() || part->second == result::ParamValue("total");
    if (!has_floor_ || !is_total || running_.size() != max_) return {};
    return result::MakeId("density", workload, params, "floor").value_or("");
  }

  [[nodiscard]] double StartRate() const {
    return start_elapsed_ns_ == 0 ? 0 : static_cast<double>(started_) * 1e9 / static_cast<double>(start_elapsed_ns_);
  }

  // Sums of all tenants' windows by the window of the clock that they end in: throughput, and the worst p99.
  [[nodiscard]] std::pair<std::vector<double>, std::vector<double>> ByWindow(std::uint64_t begin_ns,
                                                                             std::uint64_t end_ns) const {
    const std::uint64_t window_ns = TenantLoader::kWindowNs;
    const std::size_t count = (end_ns - begin_ns) / window_ns;
    std::vector<double> throughput(count);
    std::vector<std::vector<double>> p99(count);
    for (const TenantId id : running_) {
      for (const tenants::Window& window : fleet_.Get(id).windows) {
        const std::uint64_t at_ns = window.begin_ns + window.duration_ns / 2;
        if (at_ns < begin_ns || window.duration_ns == 0) continue;
        const std::size_t index = (at_ns - begin_ns) / window_ns;
        if (index >= count) continue;
        throughput[index] += static_cast<double>(window.requests) * 1e9 / static_cast<double>(window.duration_ns);
        if (window.requests != 0) p99[index].push_back(static_cast<double>(window.p99_ns));
      }
    }
    std::vector<double> worst;
    for (std::vector<double>& values : p99) {
      if (values.empty()) continue;
      const auto at = values.begin() + static_cast<std::ptrdiff_t>(values.size() * 99 / 100);
      std::ranges::nth_element(values, at);
      worst.push_back(*at);
    }
    return {std::move(throughput), std::move(worst)};
  }

  // The numbers that gates look at.
  result::Result<void> AddMeasurements(std::uint32_t repetition, const std::vector<double>& throughput,
                                       const json& memory) {
    const auto guests = static_cast<std::int64_t>(running_.size());
    // A step that fell short of its number would be another of a smaller one: its record tells.
    if (guests == 0 || failure_ || !measured_.emplace(guests, repetition).second) return {};
    const std::string load(ToString(job_.kind));
    const auto add = [&](std::string_view workload, result::Params params, std::string_view unit,
                         result::Direction direction, std::vector<double> samples) {
      params["guests"] = guests;
      params["load"] = load;
      std::string floor_id = FloorId(workload, params);
      return experiment_.AddSamples({.scenario = "density",
                                     .workload = std::string(workload),
                                     .substrate = substrate_,
                                     .params = std::move(params),
                                     .unit = std::string(unit),
                                     .direction = direction,
                                     .floor_id = std::move(floor_id)},
                                    repetition, 0, result::Arm::kA, std::move(samples));
    };
    using result::Direction;
    if (started_ == static_cast<std::uint32_t>(guests)) {
      if (auto done = add("start_rate", {}, "guests/s", Direction::kHigher, {StartRate()}); !done) return done;
    }
    for (const auto& [key, part] : std::map<std::string, std::string>{{"total_bytes", "total"},
                                                                      {"guest_ram_bytes", "guest_ram"},
                                                                      {"vmm_private_bytes", "vmm_private"},
                                                                      {"kernel_bytes", "kernel"}}) {
      if (!memory.contains(key) || memory[key].is_null()) continue;
      auto done = add("memory_per_guest", {{"part", part}}, "bytes", Direction::kLower, {memory[key].get<double>()});
      if (!done) return done;
    }
    if (!Serves(job_.kind)) return {};
    if (auto done = add("throughput", {}, "op/s", Direction::kHigher, throughput); !done) return done;
    for (const auto& [quantile, value] :
         std::map<std::string, std::uint64_t>{{"p50", last_.p50_ns}, {"p99", last_.p99_ns}, {"p999", last_.p999_ns}}) {
      auto done = add("latency", {{"quantile", quantile}}, "ns", Direction::kLower, {static_cast<double>(value)});
      if (!done) return done;
    }
    return {};
  }

  result::Result<void> Finish() {
    if (job_.kind == Kind::kIdle) guests_ok_ = static_cast<std::uint32_t>(running_.size());
    auto teardown = fleet_.Kill(running_, kStartLimit);
    (void)experiment_.Remove(running_);  // their groups; the processes are gone
    const json left = experiment_.LeftBehind();
    if (StopSignal() == 0 && guests_ok_ != 0) {
      auto added = experiment_.AddSamples(GuestsName(job_), 0, 0, result::Arm::kA, {static_cast<double>(guests_ok_)});
      if (!added) return added;
    }
    return journal_.AddRecord(job_.Id(), {{"kind", "end"},
                                          {"reason", StopSignal() != 0 ? "interrupted" : reason_},
                                          {"guests", guests_ok_},
                                          {"teardown_ns", teardown ? json(teardown->count()) : json(nullptr)},
                                          {"left_behind", left}});
  }

  void PollFor(std::chrono::nanoseconds duration) { experiment_.PollFor(duration); }

  const RunContext& context_;
  result::Journal& journal_;
  Job job_;
  const TenantLoad& load_;
  Plan plan_;
  TenantExperiment& experiment_;
  tenancy::Fleet& fleet_;
  std::string substrate_;
  std::uint32_t max_ = 0;
  std::uint64_t service_ns_ = 0;
  std::vector<TenantId> running_;
  std::set<std::pair<std::int64_t, std::uint32_t>> measured_;  // guests and repetition
  std::vector<std::uint64_t> start_ns_;
  std::uint64_t start_elapsed_ns_ = 0;
  std::uint32_t started_ = 0;
  Step last_;
  std::optional<TenantFailure> failure_;
  bool exhausted_ = false;
  bool has_floor_ = false;
  std::string reason_ = "max";
  std::uint32_t guests_ok_ = 0;
};

}  // namespace

result::Result<void> RunDensity(const RunContext& context, result::Journal& journal) {
  for (const Job& job : SelectJobs(context)) {
    if (StopSignal() != 0) return {};
    auto experiment = TenantExperiment::Create(context, journal);
    if (!experiment) return Fail(experiment.error());
    if (const std::string reason = (*experiment)->loader().Unsupported(LoadOf(job.kind), job.substrate);
        !reason.empty()) {
      if (auto added = (*experiment)->AddStatus(GuestsName(job), result::Status::kUnsupported, reason); !added)
        return added;
      continue;
    }
    if (auto done = Ramp(context, journal, job, **experiment).Run(); !done) return done;
  }
  return {};
}

std::vector<std::string> DensityIds(const RunContext& context) {
  std::vector<std::string> ids;
  for (const Job& job : SelectJobs(context)) ids.push_back(job.Id());
  return ids;
}

}  // namespace nestbench::scenarios
