#include "run_command.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <regex>
#include <set>
#include <span>
#include <utility>

#include "exit_codes.h"
#include "nestbench/probe/probe.h"
#include "nestbench/result/document.h"
#include "nestbench/result/journal.h"
#include "nestbench/result/out_folder.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/scenarios/describe.h"
#include "nestbench/scenarios/run_context.h"
#include "nestbench/substrates/substrate.h"
#include "nestbench/tenancy/cgroup.h"
#include "nestbench/tenancy/zone.h"
#include "nestbench/vmm/loader/loaded_file.h"
#include "nestbench/workloads/catalogue.h"
#include "python.h"
#include "version.h"

namespace nestbench::program {
namespace {

using result::Status;
using scenarios::RunContext;
using namespace std::chrono_literals;

constexpr auto kDoorbellLimit = 2s;

// Prints the message; for `return Complain(kExitUsage, ...)`.
template <typename... Args>
int Complain(int code, fmt::format_string<Args...> format, Args&&... args) {
  spdlog::error("{}", fmt::format(format, std::forward<Args>(args)...));
  return code;
}

// Full disks, lost folders and the like break a run; what the caller chose wrong is a usage error.
int CodeOf(const vmm::Error& error) { return error.kind == vmm::ErrorKind::kInvalidArgument ? kExitUsage : kExitBroke; }

struct NamedScenario {
  std::string_view name;
  scenarios::Scenario* run;
  vmm::Result<std::vector<std::string>> (*ids)(const RunContext& context);
};

constexpr NamedScenario kScenarios[] = {
    {"overhead", scenarios::RunOverhead,
     [](const RunContext& context) { return vmm::Result<std::vector<std::string>>(scenarios::OverheadIds(context)); }},
    {"exits", scenarios::RunExits, scenarios::ExitsIds},
    {"io", scenarios::RunIo,
     [](const RunContext& context) { return vmm::Result<std::vector<std::string>>(scenarios::IoIds(context)); }},
    {"density", scenarios::RunDensity,
     [](const RunContext& context) { return vmm::Result<std::vector<std::string>>(scenarios::DensityIds(context)); }},
    {"isolation", scenarios::RunIsolation,
     [](const RunContext& context) { return vmm::Result<std::vector<std::string>>(scenarios::IsolationIds(context)); }},
    {"containment", scenarios::RunContainment,
     [](const RunContext& context) {
       return vmm::Result<std::vector<std::string>>(scenarios::ContainmentIds(context));
     }},
    {kCosts, scenarios::RunCosts, scenarios::CostsIds},
    {kLinux, scenarios::RunLinux, scenarios::LinuxIds},
    {kConformance, scenarios::RunConformance, scenarios::ConformanceIds},
};
static_assert(std::size(kScenarios) == kScenarioNames.size() + 3, "`run all` leaves costs, linux and conformance out");

bool Contains(const std::vector<std::string>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

struct Selection {
  workloads::Profile profile;
  std::function<bool(std::string_view)> selects;
};

// Checks what the user typed. The message is already printed when there is none.
std::optional<Selection> Select(const std::string& profile_name, const std::string& filter) {
  const auto profile = scenarios::ParseProfile(profile_name);
  if (!profile) {
    spdlog::error("there is no profile `{}`; use quick, standard or full", profile_name);
    return std::nullopt;
  }
  if (filter.empty()) return Selection{*profile, [](std::string_view) { return true; }};
  try {
    const std::regex expression(filter);
    return Selection{*profile,
                     [expression](std::string_view id) { return std::regex_search(id.begin(), id.end(), expression); }};
  } catch (const std::regex_error& error) {
    spdlog::error("--filter `{}` is not a regular expression: {}", filter, error.what());
    return std::nullopt;
  }
}

// The quick profile has no time for guests of guests, but for those that are asked for by name.
bool IncludesNested(const Selection& selection, std::string_view filter) {
  return selection.profile != workloads::Profile::kQuick || filter.find("nested") != std::string_view::npos;
}

// The doorbell that works here, or why no guest can run.
void ChooseDoorbell(const probe::HostReport& host, RunContext& context) {
  if (!host.kvm.available) {
    context.vm_unsupported = host.kvm.reason;
    return;
  }
  const auto path = context.installation.images / (workloads::Catalogue().front().image + ".elf");
  auto image = vmm::LoadedFile::Read(path.string(), vmm::kMaxImageFileBytes);
  if (!image) {
    context.vm_unsupported = image.error().ToString();
    return;
  }
  auto doorbell = substrates::ChooseDoorbell(image->bytes(), kDoorbellLimit);
  if (doorbell) {
    context.doorbell = *doorbell;
  } else {
    context.vm_unsupported = doorbell.error().ToString();
  }
}

// One line for all controllers: they are mostly missing for one reason.
std::string DescribeMissing(const std::vector<std::string>& missing) {
  std::vector<std::string_view> controllers;
  for (const std::string& entry : missing) controllers.push_back(std::string_view(entry).substr(0, entry.find(':')));
  return fmt::format("no cgroups of our own for {}; {}", fmt::join(controllers, ", "),
                     missing.empty() ? "" : missing.front());
}

// Groups and zones for the scenarios with many tenants; what cannot be had is said and does without.
void PrepareTenants(const RunRequest& request, std::optional<tenancy::CgroupTree>& cgroups, RunContext& context) {
  if (auto removed = tenancy::CgroupTree::RemoveStale(); !removed) {
    spdlog::warn("groups of an earlier run could not be removed: {}", removed.error().ToString());
  } else if (*removed != 0) {
    spdlog::warn("removed what {} earlier run{} left: groups and the guests in them", *removed,
                 *removed == 1 ? "" : "s");
  }
  tenancy::CgroupTreeOptions options;
  options.run_id = result::NewRunId();
  options.budget.memory_bytes = request.density.budget_memory_bytes;
  options.budget.cpus = request.density.budget_cpus;
  auto tree = tenancy::CgroupTree::Create(std::move(options));
  if (!tree) {
    context.cgroups_unsupported = tree.error().ToString();
  } else if (!tree->Enforces(tenancy::CgroupController::kMemory) || !tree->Enforces(tenancy::CgroupController::kPids)) {
    context.cgroups_unsupported = DescribeMissing(tree->missing());
  } else {
    context.cgroups = &cgroups.emplace(std::move(*tree));
  }
  if (!context.cgroups_unsupported.empty()) {
    spdlog::warn("tenants share this process's limits: {}; limits, out-of-memory kills and budgets cannot be told",
                 context.cgroups_unsupported);
  }
  auto zones = tenancy::ZoneRuntime::Find();
  if (!zones) {
    context.zone_unsupported = zones.error().ToString();
    return;
  }
  context.zone = [runtime = std::move(*zones)](const std::vector<std::string>& command, int /*socket*/) {
    return vmm::Result<std::vector<std::string>>(runtime.Command(command));
  };
}

std::uint64_t DrawSeed() {
  std::random_device device;
  return (std::uint64_t{device()} << 20) ^ device();  // fits the integers that JSON readers keep exact
}

// The worst that happened to any measurement, as an exit code.
int CodeOfMeasurements(const std::vector<result::Measurement>& measurements, bool guests_cannot_run) {
  const auto any = [&measurements](std::initializer_list<Status> statuses) {
    return std::ranges::any_of(measurements, [&statuses](const result::Measurement& measurement) {
      return std::ranges::find(statuses, measurement.status) != statuses.end();
    });
  };
  if (any({Status::kError, Status::kCrashed, Status::kTimeout})) return kExitBroke;
  if (any({Status::kFailed})) return kExitFailed;
  const bool nothing_ran = std::ranges::all_of(
      measurements, [](const auto& measurement) { return measurement.status == Status::kUnsupported; });
  return nothing_ran || guests_cannot_run ? kExitUnsupported : kExitPass;
}

// The same of conditions, without the list of known failures, which the checklist knows.
int CodeOfConditions(const nlohmann::json& document) {
  std::set<std::string> outcomes;
  for (const auto& experiment : document.at("nestbench").at("experiments")) {
    for (const auto& record : experiment.at("records")) outcomes.insert(record.value("outcome", "error"));
  }
  for (const char* broken : {"error", "crash", "timeout"}) {
    if (outcomes.contains(broken)) return kExitBroke;
  }
  if (outcomes.contains("fail")) return kExitFailed;
  return outcomes.contains("pass") ? kExitPass : kExitUnsupported;
}

// A problem of the run outweighs whatever a verdict says about its numbers.
int Combine(int run_code, int verdict_code) { return run_code != kExitPass ? run_code : verdict_code; }

int Finish(const RunRequest& request, const RunContext& context, result::Journal& journal) {
  const int stop_signal = scenarios::StopSignal();
  auto ended = journal.End(stop_signal != 0);
  if (ended) ended = journal.Sync();
  if (!ended) return Complain(kExitBroke, "{}", ended.error().ToString());
  auto document = journal.WriteDocument();
  if (!document) {
    return Complain(kExitBroke, "{}; what was measured is in {}: free some space and run `nestbench recover {}`",
                    document.error().ToString(), (journal.folder() / result::kJournalName).string(),
                    journal.folder().string());
  }
  const bool is_conformance = Contains(request.scenarios, kConformance);
  int run_code = kExitSignalBase + stop_signal;
  if (stop_signal != 0) {
    spdlog::warn("stopped by signal {}; what was finished is kept", stop_signal);
  } else if (is_conformance) {
    auto built = journal.builder().Build(false);
    if (!built) return Complain(kExitBroke, "{}", built.error().ToString());
    run_code = CodeOfConditions(*built);
  } else {
    // The Linux guest was asked for by name.
    const auto& measurements = journal.builder().measurements();
    const bool no_linux = std::ranges::any_of(measurements, [](const result::Measurement& measurement) {
      return measurement.scenario == kLinux && measurement.status == Status::kUnsupported;
    });
    run_code = CodeOfMeasurements(measurements, no_linux || !context.vm_unsupported.empty());
  }
  if (request.json_only) {
    fmt::print("{}\n", document->string());
    return run_code;
  }
  const auto report = journal.folder() / result::kReportName;
  if (is_conformance) {
    const int report_code = CallPython(context.installation, {"report", document->string(), "-o", report.string()});
    std::vector<std::string> arguments = {"checklist", document->string()};
    if (request.junit) arguments.insert(arguments.end(), {"--junit", request.junit->string()});
    const int code = CallPython(context.installation, arguments);
    fmt::print("\nresult document  {}\n", document->string());
    if (report_code == kExitPass) fmt::print("report           {}\n", report.string());
    return stop_signal != 0 ? run_code : std::max(code, report_code);
  }
  const int report_code = CallPython(context.installation, {"report", document->string(), "-o", report.string(),
                                                            "--policy", context.installation.policy});
  const int summary_code = CallPython(context.installation, {"summary", document->string()});
  int code = Combine(run_code, std::max(report_code, summary_code));
  if (request.judge) {
    code = Combine(code, CallPython(context.installation,
                                    {"gate", "--policy", context.installation.policy.string(), document->string()}));
  }
  fmt::print("\nresult document  {}\n", document->string());
  if (report_code == kExitPass) fmt::print("report           {}\n", report.string());
  return code;
}

}  // namespace

int Run(const RunRequest& request) {
  const auto selection = Select(request.profile, request.filter);
  if (!selection) return kExitUsage;
  if (request.rounds == 0U) return Complain(kExitUsage, "--rounds must be 1 or more");
  RunContext context;
  auto installation = scenarios::Installation::Find();
  if (!installation) return Complain(kExitBroke, "{}", installation.error().ToString());
  auto cpu = scenarios::ChooseCpu();
  if (!cpu) return Complain(kExitBroke, "{}", cpu.error().ToString());
  context.installation = std::move(*installation);
  context.cpu = *cpu;
  context.profile = selection->profile;
  context.selects = selection->selects;
  context.nested = IncludesNested(*selection, request.filter);
  context.effort = scenarios::EffortOf(selection->profile);
  context.rounds = request.rounds;
  if (request.rounds) {
    context.effort.rounds = context.effort.micro_rounds = *request.rounds;
    context.effort.budget = context.effort.micro_budget = context.effort.io_budget = 0s;
  }
  context.seed = request.seed ? *request.seed : DrawSeed();
  context.quiet = request.json_only;

  context.taste = request.taste;
  context.density = request.density;
  context.containment = request.containment;
  context.conformance = request.conformance;
  context.io = request.io;
  context.linux_guest = request.linux_guest;
  context.schedules = request.schedules;

  std::size_t selected = 0;
  for (const NamedScenario& scenario : kScenarios) {
    if (!Contains(request.scenarios, scenario.name)) continue;
    auto ids = scenario.ids(context);
    if (!ids) return Complain(kExitBroke, "{}", ids.error().ToString());
    selected += ids->size();
  }
  if (selected == 0) {
    return Complain(kExitUsage, "--filter `{}` selects nothing in {}; `nestbench list --profile {}` shows the ids",
                    request.filter, fmt::join(request.scenarios, ", "), request.profile);
  }

  const bool has_guest = !request.linux_guest.kernel.empty() && !request.linux_guest.initramfs.empty();
  if (has_guest != Contains(request.scenarios, kLinux)) {
    return Complain(kExitUsage,
                    "--kernel and --initrd are the linux scenario's, which needs both: `nestbench run linux "
                    "--kernel K --initrd I`");
  }
  const bool has_budget = request.density.budget_memory_bytes || request.density.budget_cpus;
  if (has_budget && !Contains(request.scenarios, "density")) {
    return Complain(kExitUsage, "--budget-memory and --budget-cpus are the density scenario's");
  }
  auto folder = result::PrepareOutFolder(request.out);
  if (!folder) return Complain(kExitUsage, "{}", folder.error().ToString());
  if (auto installed = scenarios::InstallStopHandlers(); !installed) {
    return Complain(kExitBroke, "{}", installed.error().ToString());
  }

  const probe::HostReport host = probe::Probe();
  if (!host.clock) return Complain(kExitBroke, "{}", host.clock.error().ToString());
  context.tsc_hz = static_cast<double>(host.clock->tsc_hz);
  // There an entry of a guest takes up to a millisecond, which the payload's own clock does not see: with longer
  // batches it is below what the two clocks may disagree by.
  constexpr int kEmulatedBatches = 8;
  if (host.clock->is_emulated && !host.clock->counts_instructions) context.effort.batch_target *= kEmulatedBatches;
  ChooseDoorbell(host, context);
  if (!context.vm_unsupported.empty()) {
    spdlog::warn("no guest can run here: {}; measuring what can run without", context.vm_unsupported);
    if (!host.kvm.remedy.empty()) spdlog::warn("to change that: {}", host.kvm.remedy);
  }

  // Tenants of a run that was killed would disturb this one.
  std::optional<tenancy::CgroupTree> cgroups;
  const bool has_tenants = std::ranges::any_of(request.scenarios, [](const std::string& name) {
    return name != "overhead" && name != "exits" && name != "io" && name != kCosts && name != kLinux &&
           name != kConformance;
  });
  if (has_tenants) PrepareTenants(request, cgroups, context);
  if (has_budget && context.cgroups == nullptr) {
    return Complain(kExitUnsupported, "a budget needs cgroups: {}", context.cgroups_unsupported);
  }

  result::Header header;
  header.context = result::MakeContext(request.arguments.empty() ? "nestbench" : request.arguments.front());
  header.host = probe::ToJson(host);
  header.build = BuildJson();
  header.run.id = result::NewRunId();
  header.run.started = result::Rfc3339Now();
  header.run.profile = request.profile;
  header.run.seed = context.seed;
  header.run.arguments = request.arguments;
  header.capability = host.capability;
  auto journal = result::Journal::Create(*folder, header);
  if (!journal) return Complain(CodeOf(journal.error()), "{}", journal.error().ToString());

  result::Result<void> done = {};
  for (const result::Finding& finding : host.findings) {
    if (done) done = journal->AddFinding(finding);
  }
  for (const NamedScenario& scenario : kScenarios) {
    if (!Contains(request.scenarios, scenario.name)) continue;
    if (done && scenarios::StopSignal() == 0) done = scenario.run(context, *journal);
  }
  if (!done) {
    return Complain(kExitBroke,
                    "{}; what was measured before is in {}: `nestbench recover {}` makes the document of it",
                    done.error().ToString(), (*folder / result::kJournalName).string(), folder->string());
  }
  return Finish(request, context, *journal);
}

int ListConditions(const std::string& filter) {
  const auto selection = Select("quick", filter);
  if (!selection) return kExitUsage;
  RunContext context;
  context.selects = selection->selects;
  auto installation = scenarios::Installation::Find();
  if (!installation) return Complain(kExitBroke, "{}", installation.error().ToString());
  context.installation = std::move(*installation);
  auto conditions = scenarios::ListConditions(context);
  if (!conditions) return Complain(kExitBroke, "{}", conditions.error().ToString());
  if (conditions->empty()) return Complain(kExitUsage, "--filter `{}` selects nothing", filter);
  for (const scenarios::ConditionInfo& condition : *conditions) {
    fmt::print("{:<90} {}\n", condition.id, condition.source);
  }
  return kExitPass;
}

int List(const std::string& profile, const std::string& filter, bool ids_only) {
  const auto selection = Select(profile, filter);
  if (!selection) return kExitUsage;
  RunContext context;
  context.profile = selection->profile;
  context.selects = selection->selects;
  context.nested = IncludesNested(*selection, filter);
  auto installation = scenarios::Installation::Find();
  if (!installation) return Complain(kExitBroke, "{}", installation.error().ToString());
  context.installation = std::move(*installation);

  std::vector<std::string> ids;
  for (const NamedScenario& scenario : kScenarios) {
    if (scenario.name == kConformance) continue;
    auto more = scenario.ids(context);
    if (!more) return Complain(kExitBroke, "{}", more.error().ToString());
    ids.insert(ids.end(), more->begin(), more->end());
  }
  if (ids.empty()) return Complain(kExitUsage, "--filter `{}` selects nothing", filter);
  for (const std::string& id : ids) {
    if (ids_only) {
      fmt::print("{}\n", id);
      continue;
    }
    const scenarios::Description description = scenarios::Describe(id);
    fmt::print("{:<72} {:<9} {}\n", id, description.unit, description.summary);
  }
  return kExitPass;
}

}  // namespace nestbench::program
