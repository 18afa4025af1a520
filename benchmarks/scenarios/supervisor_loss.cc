#include "supervisor_loss.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <random>
#include <utility>

#include "fault_catalogue.h"
#include "nestbench/result/out_folder.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/scenarios/progress.h"
#include "nestbench/tenancy/judge.h"
#include "nestbench/vmm/base/clock.h"

namespace nestbench::scenarios {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using tenancy::Phase;
using tenancy::TenantId;
using vmm::Error;
using vmm::Fail;

constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint32_t kGuests = 4;
constexpr auto kDeadline = 1000ms;

constexpr TenantLoad kServe = {.name = "containment_healthy",
                               .summary = "requests of 1 ms, twenty a second",
                               .image = "cpu_integer",
                               .service_ns = kMs,
                               .period_ns = 50 * kMs};

// In a process of its own: guests, their numbers to `out`, then nothing until it is killed. The folder of groups that
// it leaves is a dead run's.
[[noreturn]] void SuperviseUntilKilled(const RunContext& context, TenantSubstrate substrate, int out) {
  std::optional<tenancy::CgroupTree> groups;
  if (context.cgroups != nullptr) {
    tenancy::CgroupTreeOptions options;
    options.run_id = result::NewRunId();
    if (auto made = tenancy::CgroupTree::Create(std::move(options))) groups.emplace(std::move(*made));
  }
  auto fleet = tenancy::Fleet::Start(
      {.tenant_program = context.installation.tenant_program, .images = TenantLoader::Images(context)});
  if (!fleet) ::_exit(1);
  if (context.zone) (*fleet)->SetZoneCommand(context.zone);
  (*fleet)->SetPlacement([&groups](const tenancy::Tenant& tenant) -> vmm::Result<> {
    return groups ? groups->Add(tenant.pid) : vmm::Result<>{};
  });
  TenantLoader loader(context, **fleet, "no disk was made");
  std::vector<TenantId> ids;
  for (std::uint32_t i = 0; i < kGuests; ++i) {
    if (auto id = loader.Add(kServe, substrate, -1)) ids.push_back(*id);
  }
  (void)(*fleet)->WaitReady(ids, 10s);
  std::array<pid_t, kGuests> pids{};
  for (std::size_t i = 0; i < ids.size(); ++i) {
    if ((*fleet)->Get(ids[i]).phase == Phase::kReady) pids[i] = (*fleet)->Get(ids[i]).pid;
  }
  if (::write(out, pids.data(), sizeof(pids)) != sizeof(pids)) ::_exit(1);
  for (;;) (*fleet)->Poll(1s);
}

bool IsAlive(pid_t pid) {
  ::waitpid(pid, nullptr, WNOHANG);  // an orphan that has become ours
  return ::kill(pid, 0) == 0;
}

// How one try went.
struct Loss {
  std::uint64_t detection_ns = 0;
  std::uint32_t guests = 0;
  std::uint32_t alive = 0;
  std::uint32_t groups_removed = 0;
  std::string error;
};

Loss LoseSupervisor(const RunContext& context, TenantSubstrate substrate) {
  Loss loss;
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return {.error = Error::System("pipe2", errno).ToString()};
  const vmm::UniqueFd read_end(ends[0]);
  vmm::UniqueFd write_end(ends[1]);
  const pid_t supervisor = ::fork();
  if (supervisor < 0) return {.error = Error::System("fork", errno).ToString()};
  if (supervisor == 0) SuperviseUntilKilled(context, substrate, write_end.get());
  write_end.Reset();
  std::array<pid_t, kGuests> pids{};
  const bool told = ::read(read_end.get(), pids.data(), sizeof(pids)) == sizeof(pids);
  const std::uint64_t begin_ns = vmm::MonotonicNs();
  ::kill(supervisor, SIGKILL);
  ::waitpid(supervisor, nullptr, 0);
  if (!told) return {.error = "the second supervisor could not start its guests"};
  const auto count_alive = [&pids] {
    return static_cast<std::uint32_t>(std::ranges::count_if(pids, [](pid_t pid) { return pid > 0 && IsAlive(pid); }));
  };
  loss.guests = static_cast<std::uint32_t>(std::ranges::count_if(pids, [](pid_t pid) { return pid > 0; }));
  while ((loss.alive = count_alive()) != 0 && vmm::MonotonicNs() - begin_ns < 3 * 1000 * kMs) ::usleep(500);
  loss.detection_ns = vmm::MonotonicNs() - begin_ns;
  while (::waitpid(-1, nullptr, WNOHANG) > 0) {  // its zygote
  }
  if (context.cgroups != nullptr) {
    if (auto removed = tenancy::CgroupTree::RemoveStale()) {
      loss.groups_removed = static_cast<std::uint32_t>(*removed);
    } else {
      loss.error = removed.error().ToString();
    }
  }
  return loss;
}

}  // namespace

result::Result<void> RunSupervisorLoss(const RunContext& context, result::Journal& journal,
                                       TenantExperiment& experiment, TenantSubstrate substrate) {
  const MeasurementName name{.scenario = "containment",
                             .workload = "supervisor_loss",
                             .substrate = std::string(ToString(substrate)),
                             .params = {},
                             .unit = "ns"};
  if (const std::string reason = experiment.Unsupported(substrate); !reason.empty()) {
    return experiment.AddStatus(name, result::Status::kUnsupported, reason);
  }
  const std::string id = fmt::format("containment/supervisor_loss/{}", ToString(substrate));
  if (auto added = journal.AddExperiment({.id = id,
                                          .scenario = "containment",
                                          .workload = "supervisor_loss",
                                          .substrate = std::string(ToString(substrate)),
                                          .setup = {{"expected", "vmm_fault"},
                                                    {"deadline_ns", std::chrono::nanoseconds(kDeadline).count()},
                                                    {"neighbours", kGuests},
                                                    {"summary", "a supervisor is killed: its guests end with it"}}});
      !added) {
    return added;
  }
  std::vector<TenantId> neighbours;
  for (std::uint32_t i = 0; i < kGuests; ++i) {
    auto neighbour = experiment.AddReady(kServe, substrate, -1);
    if (!neighbour) return experiment.AddStatus(name, result::Status::kError, neighbour.error().ToString());
    neighbours.push_back(*neighbour);
    (void)experiment.loader().Calibrate(kServe, *neighbour);
  }
  for (const TenantId neighbour : neighbours) {
    experiment.fleet().SetLoad(neighbour, experiment.loader().MakeLoad(kServe, 100, 0));
  }
  const auto latencies = [&] {
    (void)experiment.fleet().Report(neighbours, true, true, 5s);
    tenants::LatencyHistogram all;
    for (const TenantId neighbour : neighbours) all.Merge(experiment.fleet().Get(neighbour).histogram);
    return json{{"p50", all.Quantile(0.5)}, {"p99", all.Quantile(0.99)}};
  };
  const std::uint32_t tries = context.containment.tries.value_or(context.profile == workloads::Profile::kFull ? 20 : 1);
  std::string failure;
  for (std::uint32_t number = 0; number < tries && StopSignal() == 0; ++number) {
    experiment.PollFor(300ms);
    const json before = latencies();
    const Loss loss = LoseSupervisor(context, substrate);
    const json during = latencies();
    experiment.PollFor(300ms);
    const json after = latencies();
    std::uint64_t wrong = 0;
    std::uint32_t lost = 0;
    for (const TenantId neighbour : neighbours) {
      const tenancy::Tenant& tenant = experiment.fleet().Get(neighbour);
      lost += tenant.phase == Phase::kReady ? 0 : 1;
      wrong += tenant.totals ? tenant.totals->wrong + (tenant.totals->verified == 2 ? 1 : 0) : 0;
    }
    const bool right = loss.error.empty() && loss.alive == 0 && loss.guests == kGuests &&
                       loss.detection_ns <= static_cast<std::uint64_t>(std::chrono::nanoseconds(kDeadline).count());
    const bool contained = lost == 0 && wrong == 0;
    auto added = journal.AddRecord(
        id, {{"kind", "try"},
             {"try", number},
             {"died", "the supervisor and its guests"},
             {"classification", loss.error.empty() && loss.alive == 0 ? "vmm_fault" : "none"},
             {"cause", loss.error.empty() ? "the supervisor was killed; its guests ended with it" : loss.error},
             {"right", right},
             {"contained", contained},
             {"detection_ns", loss.detection_ns},
             {"evidence",
              {{"text", fmt::format("{} guests, {} of them alive after {} ms; {} groups removed", loss.guests,
                                    loss.alive, loss.detection_ns / kMs, loss.groups_removed)},
               {"log", json::array()},
               {"wait_status", SIGKILL},
               {"max_resident_bytes", 0},
               {"cgroup", nullptr}}},
             {"bundle", ""},
             {"neighbours",
              {{"guests", neighbours.size()},
               {"checksums_wrong", wrong},
               {"restarted", lost},
               {"latency_ns", {{"before", before}, {"during", during}, {"after", after}}}}}});
    if (!added) return added;
    if (failure.empty() && !(right && contained)) {
      failure = fmt::format("try {}: {} of {} guests outlived their supervisor, {} neighbours lost {}", number,
                            loss.alive, loss.guests, lost, loss.error);
    }
    auto sampled = experiment.AddSamples(name, number, 0, result::Arm::kA, {static_cast<double>(loss.detection_ns)});
    if (!sampled) return sampled;
  }
  return failure.empty() ? result::Result<void>{} : experiment.AddStatus(name, result::Status::kFailed, failure);
}

bool IsSoakSelected(const RunContext& context) { return context.containment.soak_s != 0 && context.selects(kSoakId); }

result::Result<void> RunSoak(const RunContext& context, result::Journal& journal) {
  constexpr std::uint32_t kSoakGuests = 50;
  constexpr std::uint32_t kFaultsBetweenChecks = 20;
  const std::string id(kSoakId);
  const MeasurementName name{
      .scenario = "containment", .workload = "soak", .substrate = "vm", .params = {}, .unit = "faults"};
  auto made = TenantExperiment::Create(context, journal);
  if (!made) return Fail(made.error());
  TenantExperiment& experiment = **made;
  tenancy::Fleet& fleet = experiment.fleet();
  if (const std::string reason = experiment.Unsupported(TenantSubstrate::kVm); !reason.empty()) {
    return experiment.AddStatus(name, result::Status::kUnsupported, reason);
  }
  if (auto added =
          journal.AddExperiment({.id = id,
                                 .scenario = "containment",
                                 .workload = "soak",
                                 .substrate = "vm",
                                 .setup = {{"guests", kSoakGuests}, {"duration_s", context.containment.soak_s}}});
      !added) {
    return added;
  }

  // Each at a fifth of the usual rate: fifty of them leave the host room.
  TenantLoad light = kServe;
  light.name = "containment_soak";
  light.period_ns = 250 * kMs;
  std::vector<TenantId> guests;
  const auto start = [&](TenantLoad const& load) -> vmm::Result<TenantId> {
    auto guest = experiment.AddReady(load, TenantSubstrate::kVm, -1);
    if (!guest) return guest;
    if (auto calibrated = experiment.loader().Calibrate(load, *guest); !calibrated) return Fail(calibrated.error());
    tenants::Load message = experiment.loader().MakeLoad(load, 100, static_cast<double>(*guest % 50) / 50);
    message.request_limit_ns = 400 * kMs;
    fleet.SetLoad(*guest, message);
    return guest;
  };
  for (std::uint32_t i = 0; i < kSoakGuests; ++i) {
    auto guest = start(light);
    if (!guest) return experiment.AddStatus(name, result::Status::kError, guest.error().ToString());
    guests.push_back(*guest);
  }
  std::vector<const Fault*> faults;
  for (const Fault& fault : FaultCatalogue()) {
    const bool is_simple = fault.means == FaultMeans::kInject || fault.means == FaultMeans::kSignal;
    if (is_simple && !fault.survivable && !fault.needs_threads) faults.push_back(&fault);
  }
  std::mt19937_64 random(context.seed);
  std::uint64_t injected = 0;
  std::uint64_t misjudged = 0;
  std::uint64_t lost = 0;
  std::uint64_t wrong = 0;
  std::string first;
  const std::uint64_t begin_ns = vmm::MonotonicNs();
  const std::uint64_t end_ns = begin_ns + std::uint64_t{context.containment.soak_s} * 1000 * kMs;
  Progress progress("soak", context.containment.soak_s, context.quiet);
  std::uint64_t shown_s = 0;
  tenancy::Judge judge({});
  while (vmm::MonotonicNs() < end_ns && StopSignal() == 0) {
    const std::size_t victim = random() % guests.size();
    const Fault& fault = *faults[random() % faults.size()];
    judge.Begin(fleet.Get(guests[victim]));
    if (fault.means == FaultMeans::kSignal) {
      fleet.Signal(guests[victim], static_cast<int>(fault.number));
    } else {
      fleet.Inject(guests[victim], fault.number, random());
    }
    ++injected;
    std::optional<tenancy::Trouble> trouble;
    const auto limit = std::chrono::steady_clock::now() + fault.deadline + 1s;
    while (!trouble && std::chrono::steady_clock::now() < limit && StopSignal() == 0) {
      fleet.Poll(5ms, [&] { return (trouble = judge.Look(fleet.Get(guests[victim]))).has_value(); });
    }
    if (StopSignal() != 0) break;
    if (!trouble || trouble->trouble != fault.expected) {
      ++misjudged;
      if (first.empty()) first = fmt::format("{}: {}", fault.name, trouble ? trouble->cause : "nothing was noticed");
    }
    (void)experiment.Remove({guests[victim]});
    auto next = start(light);
    if (!next) return experiment.AddStatus(name, result::Status::kError, next.error().ToString());
    guests[victim] = *next;
    if (injected % kFaultsBetweenChecks == 0) (void)fleet.Report(guests, true, true, 10s);
    for (TenantId& guest : guests) {
      const tenancy::Tenant& tenant = fleet.Get(guest);
      if (tenant.totals) wrong += tenant.totals->wrong + (tenant.totals->verified == 2 ? 1 : 0);
      if (tenant.phase == Phase::kReady) continue;
      ++lost;
      if (first.empty()) first = "a guest was lost that nobody had touched: " + tenant.DescribeEnd();
      (void)experiment.Remove({guest});
      if (auto again = start(light)) guest = *again;
    }
    for (const std::uint64_t now_s = (vmm::MonotonicNs() - begin_ns) / (1000 * kMs); shown_s < now_s; ++shown_s) {
      progress.Step(fmt::format("{} faults", injected));
    }
  }
  auto added = journal.AddRecord(id, {{"kind", "soak"},
                                      {"duration_ns", vmm::MonotonicNs() - begin_ns},
                                      {"guests", kSoakGuests},
                                      {"faults", injected},
                                      {"wrong", misjudged + wrong},
                                      {"lost", lost}});
  if (!added) return added;
  if (misjudged + wrong + lost != 0) {
    return experiment.AddStatus(name, result::Status::kFailed,
                                fmt::format("{} of {} faults misjudged, {} wrong checksums, {} guests lost; first: {}",
                                            misjudged, injected, wrong, lost, first));
  }
  return experiment.AddSamples(name, 0, 0, result::Arm::kA, {static_cast<double>(injected)});
}

}  // namespace nestbench::scenarios
