// What every scenario of one run shares.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "nestbench/abi/mailbox.h"
#include "nestbench/result/journal.h"
#include "nestbench/scenarios/profile.h"
#include "nestbench/tenancy/cgroup.h"
#include "nestbench/tenancy/fleet.h"

namespace nestbench::scenarios {

// What was asked of the density scenario beyond its profile.
struct DensityOptions {
  std::optional<std::uint32_t> guests;               // exactly so many when idle, else at most
  bool idle = false;                                 // only idle guests
  std::optional<std::uint64_t> budget_memory_bytes;  // of the whole experiment
  std::optional<double> budget_cpus;
  std::uint64_t slo_p99_ns = 10'000'000;  // of a request whose work takes 1 ms
};

// What was asked of the containment scenario beyond its profile.
struct ContainmentOptions {
  std::optional<std::uint32_t> tries;  // of each fault
  std::uint32_t soak_s = 0;            // random faults among many guests for so long; 0: none
};

// What was asked of the io scenario beyond its profile.
struct IoOptions {
  bool fio = false;     // beside each disk workload, fio's numbers on a file of its own
  bool iperf3 = false;  // beside each stream over a network, iperf3's over a veth pair of its own
};

// The Linux guest of the scenario of that name.
struct LinuxGuest {
  std::string kernel;     // files for `nestbench boot`
  std::string initramfs;  // whose init knows task=costs: ci/emulated-host/guest_init.sh
};

// Which part of the conditions: of `shards` parts the one with this number, from 0.
struct ConformanceOptions {
  std::uint32_t shard = 0;
  std::uint32_t shards = 1;
};

struct RunContext {
  Installation installation;
  workloads::Profile profile = workloads::Profile::kQuick;
  Effort effort{};
  std::function<bool(std::string_view id)> selects;  // --filter
  std::uint64_t seed = 0;
  int cpu = -1;
  double tsc_hz = 0;
  abi::Doorbell doorbell = abi::Doorbell::kPort;
  bool nested = false;         // guests of guests too
  std::string vm_unsupported;  // why no guest can run here; empty when one can
  bool quiet = false;
  tenancy::CgroupTree* cgroups = nullptr;  // of the run; borrowed; nullptr where none can be made
  std::string cgroups_unsupported;         // why there are none
  tenancy::ZoneCommand zone;               // empty where no zone can be made
  std::string zone_unsupported;            // why not; empty when one can
  bool taste = false;                      // ten seconds of each scenario with many tenants
  DensityOptions density;
  ContainmentOptions containment;
  ConformanceOptions conformance;
  IoOptions io;
  LinuxGuest linux_guest;
  std::optional<std::uint32_t> rounds;     // asked for, instead of the profile's own number
  std::optional<std::uint32_t> schedules;  // of attribution, likewise
};

// A scenario: announces every selected measurement in the journal, measures, and adds rounds as they finish. Returns
// early, with what is finished, once StopSignal() is set. An error is one of the journal's (disk full, ...): what goes
// wrong with a measurement is its status.
using Scenario = result::Result<void>(const RunContext& context, result::Journal& journal);

// The same payload as a process and as a guest, in ABBA order. Ids `overhead/...`.
Scenario RunOverhead;

// The registrations of nestbench_micro, in processes of its own. Ids `exits/...`, `lifecycle/...`, `hotpath/...`.
Scenario RunExits;

// Disks through virtio, against the same work of a host process through io_uring. Ids `io/...`.
Scenario RunIo;

// How many tenants fit, and what gives out. Experiments and measurements `density/...`.
Scenario RunDensity;

// Who hurts whom, and who is found out. Ids `isolation/...`.
Scenario RunIsolation;

// Whether a fault stays inside its tenant and is called what it is. Ids `containment/...`.
Scenario RunContainment;

// Whether KVM behaves as documented: each condition in a process of its own. Experiments `conformance/<area>/vm`.
Scenario RunConformance;

// What one privileged operation costs a guest: nestbench-costs, in processes of its own. Ids `costs/...`.
Scenario RunCosts;

// How a Linux guest starts, and what its kernel's services cost against the same on the host. Ids `linux/...`.
Scenario RunLinux;

// The ids that each would measure here, in order.
std::vector<std::string> OverheadIds(const RunContext& context);
vmm::Result<std::vector<std::string>> ExitsIds(const RunContext& context);
vmm::Result<std::vector<std::string>> CostsIds(const RunContext& context);
std::vector<std::string> IoIds(const RunContext& context);
vmm::Result<std::vector<std::string>> LinuxIds(const RunContext& context);
std::vector<std::string> DensityIds(const RunContext& context);
std::vector<std::string> IsolationIds(const RunContext& context);
std::vector<std::string> ContainmentIds(const RunContext& context);
vmm::Result<std::vector<std::string>> ConformanceIds(const RunContext& context);

struct ConditionInfo {
  std::string id;      // conformance/kvm_api/MemorySlots.RefuseOverlap
  std::string source;  // document and section
};
vmm::Result<std::vector<ConditionInfo>> ListConditions(const RunContext& context);

}  // namespace nestbench::scenarios
