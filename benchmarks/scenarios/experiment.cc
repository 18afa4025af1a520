#include "experiment.h"

#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <utility>

#include "nestbench/result/id.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/tenancy/process_accounting.h"
#include "nestbench/vmm/base/clock.h"
#include "scratch_disk.h"

namespace nestbench::scenarios {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using tenancy::Phase;
using tenancy::Tenant;
using tenancy::TenantId;
using vmm::Error;
using vmm::Fail;

constexpr auto kReadyLimit = 10s;
constexpr auto kRemoveLimit = 30s;
constexpr std::chrono::nanoseconds kPollStep = 50ms;  // how soon a stop request is seen

// Files in the temporary folders that bear our name. Tenants make none: this is how one would be seen.
std::set<std::string> TemporaryFiles() {
  std::set<std::string> found;
  std::error_code ignored;
  const std::filesystem::path temporary = std::filesystem::temp_directory_path(ignored);
  for (const std::filesystem::path& folder : {temporary, std::filesystem::path("/dev/shm")}) {
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
      if (entry.path().filename().string().starts_with("nestbench")) found.insert(entry.path().string());
    }
  }
  return found;
}

}  // namespace

// A disk in the folder of the run's results, past the page cache where the file system can. Without one, the loads that
// want it say why.
TenantExperiment::TenantDisk TenantExperiment::MakeDisk(const std::filesystem::path& folder) {
  TenantDisk made;
  auto disk = ScratchDisk::Create(folder, TenantLoader::kDiskBytes);
  if (!disk) {
    made.unsupported = disk.error().ToString();
    return made;
  }
  auto fd = disk->Open(true);
  if (!fd) fd = disk->Open(false);
  if (fd) {
    made.fd = std::move(*fd);
  } else {
    made.unsupported = fd.error().ToString();
  }
  return made;
}

std::string ErrnoName(int error_number) {
  const char* name = error_number == 0 ? nullptr : ::strerrorname_np(error_number);
  return name == nullptr ? "error" : name;
}

vmm::Result<std::unique_ptr<TenantExperiment>> TenantExperiment::Create(const RunContext& context,
                                                                        result::Journal& journal) {
  TenantDisk disk = MakeDisk(journal.folder());
  auto fleet = tenancy::Fleet::Start({.tenant_program = context.installation.tenant_program,
                                      .images = TenantLoader::Images(context),
                                      .disk = disk.fd.valid() ? disk.fd.get() : -1});
  if (!fleet) return Fail(std::move(fleet.error()));
  return std::unique_ptr<TenantExperiment>(new TenantExperiment(context, journal, std::move(disk), std::move(*fleet)));
}

TenantExperiment::TenantExperiment(const RunContext& context, result::Journal& journal, TenantDisk disk,
                                   std::unique_ptr<tenancy::Fleet> fleet)
    : context_(context),
      journal_(journal),
      disk_(std::move(disk)),
      fleet_(std::move(fleet)),
      loader_(context, *fleet_, disk_.unsupported),
      files_before_(TemporaryFiles()) {
  fleet_->SetPlacement([this](const Tenant& tenant) { return Place(tenant); });
  if (context.zone) fleet_->SetZoneCommand(context.zone);
  if (context.cgroups != nullptr) (void)context.cgroups->Add(fleet_->zygote_pid());  // Place() says what fails
  fleet_->Poll(100ms);  // the zygote loads what tenants share: no tenant's memory
  RestartMemoryTotal();
}

void TenantExperiment::RestartMemoryTotal() { memory_.emplace(tenancy::MemoryAccount::Begin()); }

TenantExperiment::~TenantExperiment() {
  fleet_->Shutdown();
  group_of_.clear();  // their processes are gone now
}

std::string TenantExperiment::Unsupported(TenantSubstrate substrate) const {
  if (substrate == TenantSubstrate::kVm) return context_.vm_unsupported;
  return substrate == TenantSubstrate::kZone ? context_.zone_unsupported : std::string();
}

std::string TenantExperiment::WhyNoLimits() const {
  return context_.cgroups == nullptr ? context_.cgroups_unsupported : std::string();
}

vmm::Result<TenantId> TenantExperiment::Add(const TenantLoad& load, TenantSubstrate substrate, int cpu,
                                            std::uint32_t heartbeat_ms) {
  auto id = loader_.Add(load, substrate, cpu, heartbeat_ms);
  if (!id) return id;
  load_of_.insert_or_assign(*id, load);
  return id;
}

vmm::Result<TenantId> TenantExperiment::AddReady(const TenantLoad& load, TenantSubstrate substrate, int cpu) {
  auto id = Add(load, substrate, cpu);
  if (!id) return id;
  const auto end = std::chrono::steady_clock::now() + kReadyLimit;
  while (!fleet_->WaitReady({*id}, kPollStep) && std::chrono::steady_clock::now() < end && StopSignal() == 0) {
  }
  if (fleet_->Get(*id).phase == Phase::kReady) return id;
  const TenantFailure failure = FailureOf(*id);
  (void)Remove({*id});
  return Fail(Error::Unsupported("start tenant", fmt::format("{}: {}", failure.how, failure.evidence)));
}

vmm::Result<> TenantExperiment::Place(const Tenant& tenant) {
  if (context_.cgroups == nullptr) return {};
  const auto found = load_of_.find(tenant.id);
  const TenantLoad load = found == load_of_.end() ? TenantLoad{} : found->second;
  if (!load.NeedsGroup()) return context_.cgroups->Add(tenant.pid);
  tenancy::CgroupLimits limits;
  if (load.memory_limit_bytes != 0) limits.memory_bytes = load.memory_limit_bytes;
  if (load.process_limit != 0) limits.pids = load.process_limit;
  auto group = context_.cgroups->CreateGroup(fmt::format("tenant-{}-{}", fleet_->zygote_pid(), tenant.id), limits);
  if (!group) return Fail(std::move(group.error()));
  if (auto added = group->Add(tenant.pid); !added) return added;
  group_of_.insert_or_assign(tenant.id, std::move(*group));
  return {};
}

vmm::Result<std::chrono::nanoseconds> TenantExperiment::Remove(const std::vector<TenantId>& ids) {
  auto killed = fleet_->Kill(ids, kRemoveLimit);
  for (const TenantId id : ids) {
    group_of_.erase(id);
    load_of_.erase(id);
    fleet_->Forget(id);
  }
  return killed;
}

void TenantExperiment::PollFor(std::chrono::nanoseconds duration) {
  const auto end = std::chrono::steady_clock::now() + duration;
  for (auto now = std::chrono::steady_clock::now(); now < end && StopSignal() == 0;
       now = std::chrono::steady_clock::now()) {
    fleet_->Poll(std::min(kPollStep, std::chrono::nanoseconds(end - now)));
  }
}

const tenancy::Cgroup* TenantExperiment::GroupOf(TenantId id) const {
  const auto found = group_of_.find(id);
  return found == group_of_.end() ? nullptr : &found->second;
}

TenantFailure TenantExperiment::FailureOf(TenantId id) const {
  const Tenant& tenant = fleet_->Get(id);
  const tenancy::Cgroup* group = GroupOf(id);
  const std::uint64_t oom_kills = group == nullptr ? 0 : group->OomKills().value_or(0);
  if (oom_kills != 0) return {"oom_kill", fmt::format("its cgroup counts {} OOM kills", oom_kills)};
  if (tenant.refused) return {ErrnoName(tenant.refused->error_number), tenant.refused->cause};
  if (tenant.fault && tenant.fault->error_number != 0) {
    return {ErrnoName(tenant.fault->error_number), tenant.fault->cause};
  }
  if (tenant.wait_status && WIFSIGNALED(*tenant.wait_status) && WTERMSIG(*tenant.wait_status) == SIGKILL &&
      RunOomKills() > run_oom_kills_) {
    return {"oom_kill", "killed by SIGKILL while the group of the run counted an OOM kill"};
  }
  if (tenant.phase != Phase::kEnded) return {"missed_heartbeat", "it was not ready in time"};
  std::string end = tenant.DescribeEnd();
  if (!tenant.log.empty()) end += (end.empty() ? "" : "; ") + tenant.log.back();
  return {"crashed", end.empty() ? "it ended without a word" : end};
}

std::uint64_t TenantExperiment::RunOomKills() const {
  return context_.cgroups == nullptr ? 0 : context_.cgroups->OomKills().value_or(0);
}

void TenantExperiment::BeginEvidence(const std::vector<TenantId>& ids) {
  observed_ = ids;
  run_queue_wait_ns_ = RunQueueWait();
  run_oom_kills_ = RunOomKills();
  throttled_ns_ = context_.cgroups == nullptr ? 0 : context_.cgroups->ThrottledNs().value_or(0);
  evidence_begin_ns_ = vmm::MonotonicNs();
  host_ = tenancy::HostLoad::Begin();
}

std::uint64_t TenantExperiment::RunQueueWait() const {
  std::uint64_t total_ns = 0;
  for (const TenantId id : observed_) {
    if (fleet_->Get(id).phase == Phase::kEnded) continue;
    if (auto usage = tenancy::ReadProcess(fleet_->Get(id).pid)) total_ns += usage->run_queue_wait_ns;
  }
  return total_ns;
}

json TenantExperiment::EndEvidence() {
  json host = host_ ? host_->End() : json::object();
  const std::uint64_t elapsed_ns = std::max<std::uint64_t>(vmm::MonotonicNs() - evidence_begin_ns_, 1);
  const std::uint64_t wait_ns = RunQueueWait();
  // Of the time that all of them together lived: 0.5 is each tenant waiting half of its life for a CPU.
  host["run_queue_wait"] = observed_.empty()
                               ? 0.0
                               : static_cast<double>(wait_ns - std::min(wait_ns, run_queue_wait_ns_)) /
                                     static_cast<double>(elapsed_ns) / static_cast<double>(observed_.size());
  host["oom_kills"] = RunOomKills() - std::min(RunOomKills(), run_oom_kills_);
  host["budget_memory_left_bytes"] = nullptr;
  host["budget_throttled"] = nullptr;
  if (context_.cgroups != nullptr && context_.density.budget_memory_bytes) {
    if (auto used = context_.cgroups->MemoryUsageBytes()) {
      const std::uint64_t budget = *context_.density.budget_memory_bytes;
      host["budget_memory_left_bytes"] = budget - std::min(budget, *used);
    }
  }
  if (context_.cgroups != nullptr && context_.density.budget_cpus) {
    const std::uint64_t now_ns = context_.cgroups->ThrottledNs().value_or(0);
    host["budget_throttled"] =
        static_cast<double>(now_ns - std::min(now_ns, throttled_ns_)) / static_cast<double>(elapsed_ns);
  }
  return host;
}

// Guest RAM is the tenant's arena; what else its guest has (tables, mailbox, stack, image) counts as its VMM's.
json TenantExperiment::MemoryPerGuest(const std::vector<TenantId>& ids, bool by_host) {
  json memory = {{"total_bytes", nullptr},
                 {"guest_ram_bytes", nullptr},
                 {"vmm_private_bytes", nullptr},
                 {"kernel_bytes", nullptr}};
  std::vector<tenancy::GuestProcess> guests;
  for (const TenantId id : ids) {
    const Tenant& tenant = fleet_->Get(id);
    guests.push_back({.pid = tenant.pid, .guest_ram = {{tenant.ready.memory_base, tenant.ready.memory_bytes}}});
  }
  const auto per_guest = memory_->PerGuest(guests);
  if (!per_guest) return memory;
  const auto charged = by_host || context_.cgroups == nullptr ? std::nullopt : context_.cgroups->MemoryUsageBytes();
  const double total =
      charged ? static_cast<double>(*charged) / static_cast<double>(ids.size()) : per_guest->total_bytes;
  memory["total_bytes"] = total;
  memory["guest_ram_bytes"] = per_guest->guest_ram_bytes;
  memory["vmm_private_bytes"] = per_guest->vmm_private_bytes;
  memory["kernel_bytes"] = std::max(0.0, total - per_guest->guest_ram_bytes - per_guest->vmm_private_bytes);
  return memory;
}

json TenantExperiment::CgroupsJson() const {
  json missing = json::array();
  if (context_.cgroups == nullptr) {
    missing.push_back(context_.cgroups_unsupported);
    return {{"layout", "none"}, {"own", false}, {"missing", missing}};
  }
  for (const std::string& reason : context_.cgroups->missing()) missing.push_back(reason);
  return {{"layout", context_.cgroups->layout()}, {"own", true}, {"missing", missing}};
}

json TenantExperiment::LeftBehind() const {
  std::uint64_t processes = 0;
  for (const TenantId id : fleet_->Ids()) {
    const Tenant& tenant = fleet_->Get(id);
    processes += tenant.phase != Phase::kEnded || (tenant.pid > 0 && ::kill(tenant.pid, 0) == 0) ? 1 : 0;
  }
  std::uint64_t groups = 0;
  if (context_.cgroups != nullptr) groups = context_.cgroups->CountGroups();
  const auto files = std::ranges::count_if(TemporaryFiles(),
                                           [this](const std::string& path) { return !files_before_.contains(path); });
  return {{"processes", processes}, {"cgroups", groups}, {"files", files}};
}

result::Result<std::string> TenantExperiment::Announce(const MeasurementName& name, result::Status status,
                                                       const std::string& reason) {
  auto id = result::MakeId(name.scenario, name.workload, name.params, name.substrate);
  if (!id) return id;
  if (!announced_.insert(*id).second) return id;
  result::Measurement measurement;
  measurement.id = *id;
  measurement.scenario = name.scenario;
  measurement.workload = name.workload;
  measurement.substrate = name.substrate;
  measurement.params = name.params;
  measurement.unit = name.unit;
  measurement.direction = name.direction;
  measurement.status = status;
  measurement.reason = reason;
  if (!name.floor_id.empty()) measurement.floor_id = name.floor_id;
  if (auto added = journal_.AddMeasurement(measurement); !added) return Fail(added.error());
  return id;
}

result::Result<void> TenantExperiment::AddSamples(const MeasurementName& name, std::uint32_t round, std::uint32_t order,
                                                  result::Arm arm, std::vector<double> samples) {
  auto id = Announce(name, result::Status::kOk, "");
  if (!id) return Fail(id.error());
  if (samples.empty()) return {};
  result::Round record;
  record.round = round;
  record.order = order;
  record.arm = arm;
  record.samples = std::move(samples);
  record.iterations = 1;
  return journal_.AddRound(*id, record);
}

result::Result<void> TenantExperiment::AddStatus(const MeasurementName& name, result::Status status,
                                                 const std::string& reason) {
  auto id = result::MakeId(name.scenario, name.workload, name.params, name.substrate);
  if (!id) return Fail(id.error());
  if (announced_.contains(*id)) return journal_.SetStatus(*id, status, reason);
  if (auto added = Announce(name, status, reason); !added) return Fail(added.error());
  return {};
}

}  // namespace nestbench::scenarios
