// Whether a fault stays inside its tenant: each fault of a catalogue, injected in one tenant among healthy, loaded
// ones. Ids `containment/...`.
#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <random>
#include <utility>

#include "experiment.h"
#include "fault_catalogue.h"
#include "nestbench/payload/disk_work.h"
#include "nestbench/payload/net_work.h"
#include "nestbench/result/id.h"
#include "nestbench/result/json.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/scenarios/progress.h"
#include "nestbench/scenarios/run_context.h"
#include "nestbench/tenancy/judge.h"
#include "nestbench/tenancy/restart_policy.h"
#include "nestbench/vmm/base/clock.h"
#include "supervisor_loss.h"
#include "tenant_loads.h"

namespace nestbench::scenarios {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using tenancy::Phase;
using tenancy::Tenant;
using tenancy::TenantId;
using tenancy::Trouble;
using vmm::Fail;

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kMiB = 1ULL << 20;

struct Plan {
  std::uint32_t tries;
  std::uint32_t neighbours;
  std::chrono::milliseconds phase;  // before the fault, and after it
  std::vector<TenantSubstrate> substrates;
};

Plan PlanOf(const RunContext& context) {
  using enum TenantSubstrate;
  Plan plan{.tries = 20, .neighbours = 8, .phase = 1s, .substrates = {kVm, kZone}};
  if (context.taste) {
    plan = {.tries = 1, .neighbours = 2, .phase = 150ms, .substrates = {kVm}};
  } else if (context.profile == workloads::Profile::kQuick) {
    plan = {.tries = 1, .neighbours = 4, .phase = 300ms, .substrates = {kVm, kZone}};
  } else if (context.profile == workloads::Profile::kStandard) {
    plan = {.tries = 5, .neighbours = 4, .phase = 500ms, .substrates = {kVm, kZone}};
  }
  if (context.containment.tries) plan.tries = *context.containment.tries;
  return plan;
}

// Of the catalogue, in ten seconds: one of each class.
bool IsTaste(std::string_view fault) {
  return fault == "triple_fault" || fault == "vmm_sigsegv" || fault == "spin_interrupts_off" || fault == "memory_bomb";
}

struct Job {
  const Fault* fault;
  TenantSubstrate substrate;
  [[nodiscard]] std::string Id() const {
    return fmt::format("containment/{}/{}", fault->name, scenarios::ToString(substrate));
  }
};

std::vector<Job> SelectJobs(const RunContext& context) {
  std::vector<Job> jobs;
  for (const TenantSubstrate substrate : PlanOf(context).substrates) {
    for (const Fault& fault : FaultCatalogue()) {
      if (fault.guest_only && substrate != TenantSubstrate::kVm) continue;
      if (context.taste && !IsTaste(fault.name)) continue;
      Job job{&fault, substrate};
      if (context.selects(job.Id())) jobs.push_back(job);
    }
  }
  return jobs;
}

constexpr TenantLoad kHealthy = {.name = "containment_healthy",
                                 .summary = "requests of 1 ms, twenty a second",
                                 .image = "cpu_integer",
                                 .service_ns = kMs,
                                 .period_ns = 50 * kMs};
constexpr TenantLoad Healthy(std::string_view name, tenants::TenantKind kind) {
  TenantLoad load = kHealthy;
  load.name = name;
  load.kind = kind;
  return load;
}
constexpr TenantLoad kHealthySupervisor64 = Healthy("containment_supervisor64", tenants::TenantKind::kSupervisor64);
constexpr TenantLoad kHealthyProtected32 = Healthy("containment_protected32", tenants::TenantKind::kProtected32);
constexpr TenantLoad kHealthyReal16 = Healthy("containment_real16", tenants::TenantKind::kReal16);
constexpr TenantLoad kBomb = {.name = "containment_bomb",
                              .summary = "touches 64 MiB under a limit of 32 MiB",
                              .image = "memory_first_touch",
                              .arena_bytes = 64 * kMiB,
                              .activity = tenants::Activity::kHoldMemory,
                              .hold_bytes = 64 * kMiB,
                              .memory_limit_bytes = 32 * kMiB};
constexpr TenantLoad kThreads = {.name = "containment_threads",
                                 .summary = "may start threads, up to a limit",
                                 .image = "cpu_integer",
                                 .service_ns = kMs,
                                 .period_ns = 50 * kMs,
                                 .process_limit = 64,
                                 .may_fork = true};

constexpr std::uint64_t kDiskBlockBytes = 4096;
constexpr TenantLoad kDisk = {.name = "containment_disk",
                              .summary = "random reads of 4 KiB, two under way, twenty times a second",
                              .image = "io_disk",
                              .arena_bytes = payload::DiskArenaBytes(kDiskBlockBytes, 2),
                              .operation = static_cast<std::uint64_t>(payload::DiskOperation::kRandomRead),
                              .parameter = kDiskBlockBytes,
                              .disk_depth = 2,
                              .iterations = 8,
                              .period_ns = 50 * kMs};

constexpr TenantLoad kNetwork = {
    .name = "containment_network",
    .summary = "messages to another guest and back, eight each time, twenty times a second",
    .image = "io_net",
    .arena_bytes = payload::kNetArenaBytes,
    .operation = static_cast<std::uint64_t>(payload::NetOperation::kPingPong),
    .parameter = 64,
    .net_window = 1,
    .net_give_up_ms = 200,
    .iterations = 8,
    .period_ns = 50 * kMs,
    .guest_only = true};

const TenantLoad& LoadFor(const Fault& fault) {
  if (fault.means == FaultMeans::kMemoryBomb) return kBomb;
  if (fault.needs_disk) return kDisk;
  if (fault.needs_network) return kNetwork;
  return fault.needs_threads ? kThreads : kHealthy;
}

json QuantilesOf(tenancy::Fleet& fleet, const std::vector<TenantId>& ids) {
  tenants::LatencyHistogram all;
  for (const TenantId id : ids) all.Merge(fleet.Get(id).histogram);
  return {{"p50", all.Quantile(0.5)}, {"p99", all.Quantile(0.99)}};
}

// The healthy tenants around the faulty one.
class Neighbours {
 public:
  // `on_disk`: the first of them uses the same disk.
  Neighbours(TenantExperiment& experiment, TenantSubstrate substrate, bool on_disk)
      : experiment_(experiment), substrate_(substrate), on_disk_(on_disk) {}

  vmm::Result<> Start(std::uint32_t count) {
    for (std::uint32_t i = 0; i < count; ++i) {
      const TenantLoad& load = LoadOf(i);
      auto id = experiment_.AddReady(load, substrate_, -1);
      if (!id) return Fail(id.error());
      ids_.push_back(*id);
      if (auto calibrated = experiment_.loader().Calibrate(load, *id); !calibrated) return calibrated;
    }
    for (std::size_t i = 0; i < ids_.size(); ++i) {
      const double phase = static_cast<double>(i) / static_cast<double>(ids_.size());
      experiment_.fleet().SetLoad(ids_[i], experiment_.loader().MakeLoad(LoadOf(i), 100, phase));
    }
    return {};
  }

  // Latencies since the last call.
  json Latencies(bool verify) {
    (void)experiment_.fleet().Report(ids_, true, verify, kReportLimit);
    for (const TenantId id : ids_) {
      const auto& totals = experiment_.fleet().Get(id).totals;
      if (!totals) continue;
      wrong_ += totals->wrong + (totals->verified == 2 ? 1 : 0);
      // The same work has one answer, whoever does it.
      const std::uint64_t checksum = totals->checksum;
      const tenants::Spawn& spawn = experiment_.fleet().Get(id).spawn;
      std::uint64_t& right = checksum_[2 * static_cast<std::uint32_t>(spawn.kind) + spawn.has_disk];
      if (right == 0) right = checksum;
      if (checksum != 0 && checksum != right) ++wrong_;
    }
    return QuantilesOf(experiment_.fleet(), ids_);
  }

  [[nodiscard]] std::uint32_t Lost() const {
    return static_cast<std::uint32_t>(std::ranges::count_if(
        ids_, [this](TenantId id) { return experiment_.fleet().Get(id).phase != Phase::kReady; }));
  }
  [[nodiscard]] std::uint64_t wrong() const { return wrong_; }
  [[nodiscard]] const std::vector<TenantId>& ids() const { return ids_; }

 private:
  static constexpr auto kReportLimit = 5s;

  // Guests of every kind, side by side.
  [[nodiscard]] const TenantLoad& LoadOf(std::size_t index) const {
    constexpr std::size_t kKinds = 4;
    if (on_disk_ && index == 0) return kDisk;
    if (substrate_ != TenantSubstrate::kVm) return kHealthy;
    switch (index % kKinds) {
      case 1:
        return kHealthySupervisor64;
      case 2:
        return kHealthyProtected32;
      case 3:
        return kHealthyReal16;
      default:
        return kHealthy;
    }
  }

  TenantExperiment& experiment_;
  TenantSubstrate substrate_;
  bool on_disk_;
  std::vector<TenantId> ids_;
  std::uint64_t wrong_ = 0;
  std::map<std::uint32_t, std::uint64_t> checksum_;  // by kind of tenant and whether it has a disk
};

class FaultRun {
 public:
  FaultRun(const RunContext& context, result::Journal& journal, TenantExperiment& experiment, Job job)
      : context_(context),
        journal_(journal),
        experiment_(experiment),
        fleet_(experiment.fleet()),
        job_(job),
        fault_(*job.fault),
        plan_(PlanOf(context)),
        neighbours_(experiment, job.substrate, job.fault->needs_disk) {}

  result::Result<void> Run() {
    if (auto announced = Announce(); !announced) return announced;
    if (const std::string reason = WhyNot(); !reason.empty()) return Give(result::Status::kUnsupported, reason);
    if (auto started = neighbours_.Start(plan_.neighbours); !started) {
      if (StopSignal() != 0) return {};
      return Give(result::Status::kError, "the neighbours did not start: " + started.error().ToString());
    }
    experiment_.PollFor(plan_.phase);
    (void)neighbours_.Latencies(false);
    std::string first_failure;
    for (std::uint32_t number = 0; number < plan_.tries && StopSignal() == 0; ++number) {
      auto failure = Try(number);
      if (!failure) return Fail(failure.error());
      if (!unsupported_.empty()) return Give(result::Status::kUnsupported, unsupported_);
      if (first_failure.empty()) first_failure = *failure;
    }
    if (first_failure.empty() || StopSignal() != 0) return {};
    return Give(result::Status::kFailed, first_failure);
  }

 private:
  [[nodiscard]] MeasurementName Name() const {
    return {.scenario = "containment",
            .workload = std::string(fault_.name),
            .substrate = std::string(scenarios::ToString(job_.substrate)),
            .params = {},
            .unit = "ns"};
  }

  result::Result<void> Give(result::Status status, const std::string& reason) {
    return experiment_.AddStatus(Name(), status, reason);
  }

  [[nodiscard]] std::string WhyNot() const {
    if (std::string reason = experiment_.Unsupported(job_.substrate); !reason.empty()) return reason;
    const TenantLoad& load = LoadFor(fault_);
    if (std::string reason = experiment_.loader().Unsupported(load, job_.substrate); !reason.empty()) return reason;
    if (load.memory_limit_bytes != 0 || load.process_limit != 0) return experiment_.WhyNoLimits();
    return {};
  }

  result::Result<void> Announce() {
    result::Experiment experiment;
    experiment.id = job_.Id();
    experiment.scenario = "containment";
    experiment.workload = fault_.name;
    experiment.substrate = scenarios::ToString(job_.substrate);
    experiment.setup = {{"expected", ToString(fault_.expected)},
                        {"deadline_ns", std::chrono::nanoseconds(fault_.deadline).count()},
                        {"neighbours", plan_.neighbours},
                        {"summary", fault_.summary}};
    return journal_.AddExperiment(experiment);
  }

  // Why this try is not as it should be; empty when it is.
  result::Result<std::string> Try(std::uint32_t number) {
    auto victim = experiment_.AddReady(LoadFor(fault_), job_.substrate, -1);
    if (!victim) return std::string("the victim did not start: " + victim.error().ToString());
    const TenantLoad& load = LoadFor(fault_);
    if (load.activity == tenants::Activity::kRequests) {
      (void)experiment_.loader().Calibrate(load, *victim);
      tenants::Load message = experiment_.loader().MakeLoad(load, 100, 0);
      message.request_limit_ns = kRequestLimitNs;
      fleet_.SetLoad(*victim, message);
    }
    (void)neighbours_.Latencies(false);
    experiment_.PollFor(plan_.phase);
    const json before = neighbours_.Latencies(false);

    tenancy::JudgeOptions options;
    options.oom_kills = [this](TenantId id) {
      const tenancy::Cgroup* group = experiment_.GroupOf(id);
      return group == nullptr ? 0 : group->OomKills().value_or(0);
    };
    tenancy::Judge judge(options);
    judge.Begin(fleet_.Get(*victim));
    const std::uint64_t lived_since_ns = fleet_.Get(*victim).ready_ns;
    const std::uint64_t injected_ns = vmm::MonotonicNs();
    Inject(*victim, number);
    std::optional<Trouble> trouble;
    const auto deadline = std::chrono::nanoseconds(fault_.deadline) + kPatience;
    fleet_.Poll(0ns);
    const auto end = std::chrono::steady_clock::now() + deadline;
    while (!trouble && std::chrono::steady_clock::now() < end && StopSignal() == 0) {
      fleet_.Poll(5ms, [&] {
        trouble = judge.Look(fleet_.Get(*victim));
        // A fault that its guest survives is told by what its VMM notes, not by an end.
        if (!trouble) trouble = Survived(fleet_.Get(*victim));
        return trouble.has_value();
      });
    }
    const std::uint64_t detection_ns = vmm::MonotonicNs() - injected_ns;
    if (StopSignal() != 0) return std::string();
    const Tenant& tenant = fleet_.Get(*victim);
    if (tenant.fault && tenant.fault->fault_class == tenants::FaultClass::kUnsupported) {
      unsupported_ = tenant.fault->cause;
      (void)experiment_.Remove({*victim});
      return std::string();
    }
    experiment_.PollFor(plan_.phase / 2);
    const json during = neighbours_.Latencies(false);
    const json evidence = EvidenceOf(tenant, trouble);
    const auto lived = std::chrono::nanoseconds(injected_ns - lived_since_ns);
    if (auto removed = experiment_.Remove({*victim}); !removed) return removed.error().ToString();
    if (auto recovered = Recover(load, lived, number); !recovered) return Fail(recovered.error());
    experiment_.PollFor(plan_.phase);
    const json after = neighbours_.Latencies(true);

    const bool right = trouble && trouble->trouble == fault_.expected && detection_ns <= DeadlineNs();
    const std::uint32_t lost = neighbours_.Lost();
    const bool contained = lost == 0 && neighbours_.wrong() == 0;
    const std::string bundle = WriteBundle(number, trouble, evidence, detection_ns);
    auto added =
        journal_.AddRecord(job_.Id(), {{"kind", "try"},
                                       {"try", number},
                                       {"died", trouble ? trouble->died : "nothing"},
                                       {"classification", trouble ? std::string(ToString(trouble->trouble)) : "none"},
                                       {"cause", trouble ? trouble->cause : "nothing was noticed"},
                                       {"right", right},
                                       {"contained", contained},
                                       {"detection_ns", trouble ? json(detection_ns) : json(nullptr)},
                                       {"evidence", evidence},
                                       {"bundle", bundle},
                                       {"neighbours",
                                        {{"guests", neighbours_.ids().size()},
                                         {"checksums_wrong", neighbours_.wrong()},
                                         {"restarted", lost},
                                         {"latency_ns", {{"before", before}, {"during", during}, {"after", after}}}}}});
    if (!added) return Fail(added.error());
    if (trouble) {
      auto sampled = experiment_.AddSamples(Name(), number, 0, result::Arm::kA, {static_cast<double>(detection_ns)});
      if (!sampled) return Fail(sampled.error());
    }
    return Verdict(number, trouble, detection_ns, lost);
  }

  [[nodiscard]] std::uint64_t DeadlineNs() const {
    return static_cast<std::uint64_t>(std::chrono::nanoseconds(fault_.deadline).count());
  }

  std::string Verdict(std::uint32_t number, const std::optional<Trouble>& trouble, std::uint64_t detection_ns,
                      std::uint32_t lost) {
    if (!trouble) return fmt::format("try {}: nothing was noticed", number);
    if (trouble->trouble != fault_.expected) {
      return fmt::format("try {}: classified as {} ({}), expected {}", number, ToString(trouble->trouble),
                         trouble->cause, ToString(fault_.expected));
    }
    if (detection_ns > DeadlineNs()) {
      return fmt::format("try {}: noticed after {} ms, allowed are {}", number, detection_ns / kMs, DeadlineNs() / kMs);
    }
    if (lost != 0) return fmt::format("try {}: {} neighbours were lost", number, lost);
    if (neighbours_.wrong() != 0) return fmt::format("try {}: a neighbour's checksum is wrong", number);
    return {};
  }

  void Inject(TenantId victim, std::uint32_t number) {
    switch (fault_.means) {
      case FaultMeans::kInject:
        fleet_.Inject(victim, fault_.number, context_.seed + number);
        return;
      case FaultMeans::kSignal:
        fleet_.Signal(victim, static_cast<int>(fault_.number));
        return;
      case FaultMeans::kMemoryBomb:
        fleet_.SetLoad(victim, experiment_.loader().MakeLoad(kBomb, 100, 0));
        return;
      case FaultMeans::kSupervisorLoss:
        return;  // RunSupervisorLoss
    }
  }

  // Of a guest that did its worst and goes on: what its VMM noted.
  static std::optional<Trouble> Survived(const Tenant& tenant) {
    for (const std::string& line : tenant.log) {
      const std::size_t at = line.find("survived: ");
      if (at == std::string::npos) continue;
      return Trouble{tenancy::TroubleClass::kGuestFault, "nothing: the guest goes on", line.substr(at), line};
    }
    return std::nullopt;
  }

  json EvidenceOf(const Tenant& tenant, const std::optional<Trouble>& trouble) const {
    json evidence = {{"text", trouble ? trouble->evidence : ""},
                     {"log", tenant.log},
                     {"wait_status", tenant.wait_status ? json(*tenant.wait_status) : json(nullptr)},
                     {"max_resident_bytes", tenant.max_resident_bytes},
                     {"cgroup", nullptr}};
    if (const tenancy::Cgroup* group = experiment_.GroupOf(tenant.id)) {
      evidence["cgroup"] = {{"oom_kills", group->OomKills().value_or(0)}};
    }
    return evidence;
  }

  std::string WriteBundle(std::uint32_t number, const std::optional<Trouble>& trouble, const json& evidence,
                          std::uint64_t detection_ns) {
    std::string name = fmt::format("crashes/{}-{}-{}", fault_.name, scenarios::ToString(job_.substrate), number);
    const auto folder = journal_.folder() / name;
    std::error_code error;
    std::filesystem::create_directories(folder, error);
    std::ofstream file(folder / "bundle.json");
    const json bundle = {{"fault", fault_.name},
                         {"substrate", scenarios::ToString(job_.substrate)},
                         {"died", trouble ? trouble->died : "nothing"},
                         {"classification", trouble ? std::string(ToString(trouble->trouble)) : "none"},
                         {"cause", trouble ? trouble->cause : ""},
                         {"detection_ns", detection_ns},
                         {"evidence", evidence}};
    file << result::Dump(bundle, 1) << '\n';
    file.close();
    if (error || !file) {
      spdlog::warn("the crash bundle {} could not be written; its content is in the journal", folder.string());
      return "";
    }
    return name;
  }

  // Starts the victim's successor as the restart policy says, and takes the time until it serves.
  result::Result<void> Recover(const TenantLoad& load, std::chrono::nanoseconds lived, std::uint32_t number) {
    if (load.activity != tenants::Activity::kRequests || fault_.name != kRecoveryFault) return {};
    const auto wait = restart_.OnFailure(lived);
    if (!wait) return {};
    const std::uint64_t begin_ns = vmm::MonotonicNs();
    experiment_.PollFor(*wait);
    auto next = experiment_.AddReady(load, job_.substrate, -1);
    if (!next) return {};  // the next try says why
    fleet_.SetLoad(*next, experiment_.loader().MakeLoad(load, 100, 0));
    fleet_.Poll(2s, [&] { return fleet_.Get(*next).heartbeat.requests != 0; });
    const std::uint64_t took_ns = vmm::MonotonicNs() - begin_ns;
    const bool serves = fleet_.Get(*next).heartbeat.requests != 0;
    (void)experiment_.Remove({*next});
    MeasurementName name = Name();
    name.workload = "recovery_time";
    name.params["policy"] = std::string("on-failure");
    if (!serves) return experiment_.AddStatus(name, result::Status::kTimeout, "no request was served within 2 s");
    return experiment_.AddSamples(name, number, 0, result::Arm::kA, {static_cast<double>(took_ns)});
  }

  static constexpr std::uint64_t kRequestLimitNs = 400 * kMs;
  static constexpr auto kPatience = 1500ms;  // beyond the deadline, to see what a late detection says
  static constexpr std::string_view kRecoveryFault = "vmm_sigkill";

  const RunContext& context_;
  result::Journal& journal_;
  TenantExperiment& experiment_;
  tenancy::Fleet& fleet_;
  Job job_;
  const Fault& fault_;
  Plan plan_;
  Neighbours neighbours_;
  tenancy::RestartPolicy restart_{{}};
  std::string unsupported_;
};

result::Result<void> RunJobs(const RunContext& context, result::Journal& journal, const std::vector<Job>& jobs) {
  Progress progress("containment", jobs.size(), context.quiet);
  for (const Job& job : jobs) {
    progress.Step(job.Id());
    auto experiment = TenantExperiment::Create(context, journal);
    if (!experiment) return Fail(experiment.error());
    auto done = job.fault->means == FaultMeans::kSupervisorLoss
                    ? RunSupervisorLoss(context, journal, **experiment, job.substrate)
                    : FaultRun(context, journal, **experiment, job).Run();
    if (!done || StopSignal() != 0) return done;
  }
  return {};
}

}  // namespace

result::Result<void> RunContainment(const RunContext& context, result::Journal& journal) {
  if (const std::vector<Job> jobs = SelectJobs(context); !jobs.empty()) {
    if (auto done = RunJobs(context, journal, jobs); !done || StopSignal() != 0) return done;
  }
  return IsSoakSelected(context) ? RunSoak(context, journal) : result::Result<void>{};
}

std::vector<std::string> ContainmentIds(const RunContext& context) {
  std::vector<std::string> ids;
  for (const Job& job : SelectJobs(context)) ids.push_back(job.Id());
  if (IsSoakSelected(context)) ids.emplace_back(kSoakId);
  return ids;
}

}  // namespace nestbench::scenarios
