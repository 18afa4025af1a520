// What the scenarios with many tenants share: a fleet with its cgroups, evidence of what the host went through, and the
// way into the journal. Private to the scenarios.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/result/journal.h"
#include "nestbench/scenarios/run_context.h"
#include "nestbench/tenancy/cgroup.h"
#include "nestbench/tenancy/fleet.h"
#include "nestbench/tenancy/host_load.h"
#include "nestbench/tenancy/process_accounting.h"
#include "nestbench/vmm/base/unique_fd.h"
#include "tenant_loads.h"

namespace nestbench::scenarios {

// How a tenant failed, in the words of the document's `failure` record.
struct TenantFailure {
  std::string how;       // "ENOMEM", "oom_kill", "crashed", "missed_heartbeat", ...
  std::string evidence;  // one line
};

// "ENOMEM" for ENOMEM; "error" for 0.
std::string ErrnoName(int error_number);

// A measurement before its first sample.
struct MeasurementName {
  std::string scenario;
  std::string workload;
  std::string substrate;
  result::Params params;
  std::string unit;
  result::Direction direction = result::Direction::kLower;
  std::string floor_id = {};  // of the measurement that is the floor of this one; empty: none
};

class TenantExperiment {
 public:
  static vmm::Result<std::unique_ptr<TenantExperiment>> Create(const RunContext& context, result::Journal& journal);
  ~TenantExperiment();
  TenantExperiment(const TenantExperiment&) = delete;
  TenantExperiment& operator=(const TenantExperiment&) = delete;

  tenancy::Fleet& fleet() { return *fleet_; }
  TenantLoader& loader() { return loader_; }

  // Why no tenant of this substrate can run here; empty when one can.
  [[nodiscard]] std::string Unsupported(TenantSubstrate substrate) const;

  // Why no tenant can be given limits here; empty when it can.
  [[nodiscard]] std::string WhyNoLimits() const;

  // Asks for a tenant, in a cgroup of its own with the limits of its load where that is possible.
  vmm::Result<tenancy::TenantId> Add(const TenantLoad& load, TenantSubstrate substrate, int cpu,
                                     std::uint32_t heartbeat_ms = TenantLoader::kHeartbeatMs);

  // The same and waits until it is ready. The error says how it failed.
  vmm::Result<tenancy::TenantId> AddReady(const TenantLoad& load, TenantSubstrate substrate, int cpu);

  // Ends tenants, forgets them and removes their cgroups.
  vmm::Result<std::chrono::nanoseconds> Remove(const std::vector<tenancy::TenantId>& ids);

  // Runs the fleet for this long, or until the program is asked to stop.
  void PollFor(std::chrono::nanoseconds duration);

  // How an ended tenant ended.
  [[nodiscard]] TenantFailure FailureOf(tenancy::TenantId id) const;

  // The cgroup of a tenant; nullptr without one.
  [[nodiscard]] const tenancy::Cgroup* GroupOf(tenancy::TenantId id) const;

  // What the host goes through between the two calls: the keys of `step.host`.
  void BeginEvidence(const std::vector<tenancy::TenantId>& ids);
  nlohmann::json EndEvidence();

  // `step.memory`: bytes for each of these tenants, split by whose they are. Null where it cannot be told.
  // The total is what the run's cgroup is charged with; with `by_host`, or where there is no cgroup, what MemAvailable
  // has lost since the start: all of it, but everyone else's as well.
  nlohmann::json MemoryPerGuest(const std::vector<tenancy::TenantId>& ids, bool by_host);

  // Counts the memory that is free now as that before the first tenant.
  void RestartMemoryTotal();

  // {layout, own, missing[]}.
  [[nodiscard]] nlohmann::json CgroupsJson() const;

  // Processes, groups and files (in the temporary folders) that are still there although every tenant was ended.
  [[nodiscard]] nlohmann::json LeftBehind() const;

  // Announces the measurement with its first samples.
  result::Result<void> AddSamples(const MeasurementName& name, std::uint32_t round, std::uint32_t order,
                                  result::Arm arm, std::vector<double> samples);
  // Announces a measurement that cannot be measured here, or changes the status of one that was.
  result::Result<void> AddStatus(const MeasurementName& name, result::Status status, const std::string& reason);

 private:
  struct TenantDisk {
    vmm::UniqueFd fd;
    std::string unsupported;
  };
  static TenantDisk MakeDisk(const std::filesystem::path& folder);
  TenantExperiment(const RunContext& context, result::Journal& journal, TenantDisk disk,
                   std::unique_ptr<tenancy::Fleet> fleet);
  vmm::Result<> Place(const tenancy::Tenant& tenant);
  [[nodiscard]] std::uint64_t RunOomKills() const;
  [[nodiscard]] std::uint64_t RunQueueWait() const;
  result::Result<std::string> Announce(const MeasurementName& name, result::Status status, const std::string& reason);

  const RunContext& context_;
  result::Journal& journal_;
  TenantDisk disk_;
  std::unique_ptr<tenancy::Fleet> fleet_;
  TenantLoader loader_;
  std::map<tenancy::TenantId, TenantLoad> load_of_;
  std::map<tenancy::TenantId, tenancy::Cgroup> group_of_;
  std::vector<tenancy::TenantId> observed_;
  std::set<std::string> announced_;     // ids
  std::set<std::string> files_before_;  // of ours, in the temporary folders
  std::uint64_t run_queue_wait_ns_ = 0;
  std::uint64_t run_oom_kills_ = 0;
  std::uint64_t throttled_ns_ = 0;
  std::uint64_t evidence_begin_ns_ = 0;
  std::optional<tenancy::MemoryAccount> memory_;  // since before the first tenant
  std::optional<tenancy::HostLoad> host_;
};

}  // namespace nestbench::scenarios
