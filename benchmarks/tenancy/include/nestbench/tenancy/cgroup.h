// Control groups of one run: limits for tenants and for all of them together, and what the kernel counts for each.
//
// All groups of a run lie below a folder `nestbench-<run id>`, in this process's own group of each hierarchy that is of
// use. An exclusive flock(2) on that folder tells a run that lives from a dead one: the kernel drops it with the
// process, however that ends. It needs no file elsewhere, so nothing in /tmp can be forged and two users agree on who
// is alive.
//
// Not used: cpuset. Tenants are pinned by sched_setaffinity(2), which their system-call filter keeps them from
// changing.
//
// What a group costs (2 CPUs, kernel 6.18, v1 with each controller mounted apart, other programs at work; medians of
// 400 in two runs, means are up to 1.6 times as much):
//   memory and pids, both limited   CreateGroup 133-168 us, Add 33-39 us, Remove of an empty one 111-135 us
//   cpu and cpuacct as well         CreateGroup 236-280 us, Add 94-110 us, Remove 184-248 us
//   no group, CgroupTree::Add       39-53 us with two controllers, 79-98 us with four
// The bare floor starts a guest in 1.1-1.4 ms one after the other and in 0.6 ms four at a time on the same machine, so
// that a tenant which needs no limits of its own is better off in the group of the run.
//
// Source: cgroups(7); kernel documents "Control Group v2" and "Control Groups version 1".
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/vmm/base/error.h"

namespace nestbench::tenancy {

using vmm::Error;
using vmm::Result;

class CgroupFiles;
struct CgroupState;  // what a tree and its groups share

enum class CgroupController : std::uint8_t {
  kCpu,       // quota and throttled time
  kCpuUsage,  // CPU time: cpuacct in v1, every group in v2
  kMemory,
  kPids,
  kPressure,  // PSI of a group: where a v2 hierarchy is mounted, with or without controllers
};
std::string_view ToString(CgroupController controller);  // "cpu", "cpuacct", "memory", "pids", "pressure"

// Empty: no limit.
struct CgroupLimits {
  std::optional<std::uint64_t> memory_bytes = {};  // kernel memory included; swap is not given on top
  std::optional<double> cpus = {};         // CPU time for each time that passes, >= 0.01: 1.5 is one and a half CPU
  std::optional<std::uint64_t> pids = {};  // processes and threads
};

// Totals since the group was made; empty where the kernel does not tell.
struct CgroupReading {
  std::optional<std::uint64_t> memory_bytes;
  std::optional<std::uint64_t> memory_peak_bytes;
  std::optional<std::uint64_t> kernel_memory_bytes;  // page tables, KVM's structures, stacks, ... of its processes
  std::optional<std::uint64_t> oom_kills;
  std::optional<std::uint64_t> cpu_usage_ns;
  std::optional<std::uint64_t> throttled_ns;
  std::optional<std::uint64_t> pids;
  std::optional<std::uint64_t> cpu_pressure_some_ns;  // PSI "total" of "some"
  std::optional<std::uint64_t> memory_pressure_some_ns;
  std::optional<std::uint64_t> io_pressure_some_ns;
};

// One group, the same in every hierarchy. Move-only; the destructor kills what is in it and removes it. From one
// thread.
class Cgroup {
 public:
  Cgroup(Cgroup&& other) noexcept;
  Cgroup& operator=(Cgroup&& other) noexcept;
  Cgroup(const Cgroup&) = delete;
  Cgroup& operator=(const Cgroup&) = delete;
  ~Cgroup();

  // Moves a process with all its threads in; its children are born there.
  [[nodiscard]] Result<> Add(int pid) const;

  // Files into which a process of one thread writes "0" to move itself in. In v1 that takes no lock of the whole
  // system, as Add() does: for a zygote's children that start while others fork.
  [[nodiscard]] std::vector<std::string> EntryFiles() const;

  // clone3(2) with CLONE_INTO_CGROUP takes a descriptor of this folder; empty where memory or cpu is not in v2.
  [[nodiscard]] std::optional<std::string> UnifiedFolder() const;

  [[nodiscard]] CgroupReading Read() const;
  [[nodiscard]] std::optional<std::uint64_t> OomKills() const;
  [[nodiscard]] std::optional<std::uint64_t> MemoryUsageBytes() const;
  [[nodiscard]] std::optional<std::uint64_t> KernelMemoryBytes() const;
  [[nodiscard]] std::optional<std::uint64_t> CpuUsageNs() const;
  [[nodiscard]] std::optional<std::uint64_t> ThrottledNs() const;
  [[nodiscard]] std::vector<int> Processes() const;

  // SIGKILL to everything in it and in groups below it.
  Result<> Kill() const;

  // Kills and removes; retries while the kernel drains it. Once it is gone, and at every later call, this is success.
  Result<> Remove(std::chrono::nanoseconds limit = std::chrono::seconds(5));

  [[nodiscard]] const std::string& name() const { return name_; }

 private:
  friend class CgroupTree;
  Cgroup(std::shared_ptr<CgroupState> state, std::string name) : state_(std::move(state)), name_(std::move(name)) {}
  [[nodiscard]] std::string FolderFor(CgroupController controller) const;  // empty when it is in no hierarchy
  template <typename ReadFile>
  [[nodiscard]] std::optional<std::uint64_t> ReadFrom(CgroupController controller, ReadFile read) const;

  std::shared_ptr<CgroupState> state_;  // null after a move and once removed
  std::string name_;                    // empty: the group of the run
};

struct CgroupTreeOptions {
  std::string run_id;  // as result::NewRunId() makes them: 20261123T071453Z-0a1b2c
  // Each in the group of every tenant. What is left out costs nothing and limits nothing.
  std::vector<CgroupController> controllers = {CgroupController::kCpu, CgroupController::kCpuUsage,
                                               CgroupController::kMemory, CgroupController::kPids};
  CgroupLimits budget;                       // of all tenants together
  std::shared_ptr<const CgroupFiles> files;  // null: the system's
};

// The groups of one run. Move-only; the destructor kills what is in them and removes all. One thread.
class CgroupTree {
 public:
  // Never fails for want of a right or a controller: what is missing is told by missing(), and the limits that would
  // need it are not enforced. kInvalidArgument: a run id or budget that is none. kSystem: a budget that the kernel
  // refuses, or a group of that name that another process has locked; nothing is left behind then.
  //
  // In v2, a group that has processes cannot give controllers to groups below it. Where this process's group is its
  // own (systemd-run --scope -p Delegate=yes), it moves itself to a leaf beside the run's group, for as long as the
  // tree lives.
  static Result<CgroupTree> Create(CgroupTreeOptions options);

  CgroupTree(CgroupTree&& other) noexcept;
  CgroupTree& operator=(CgroupTree&& other) noexcept;
  CgroupTree(const CgroupTree&) = delete;
  CgroupTree& operator=(const CgroupTree&) = delete;
  ~CgroupTree();

  // Removes the groups of runs that are dead, wherever in the hierarchies they lie, and kills what is in them: guests
  // whose supervisor was killed. Returns how many runs it found; an error names the first group that stayed.
  static Result<std::size_t> RemoveStale(std::shared_ptr<const CgroupFiles> files = nullptr);

  // A group below the run's. `name`: letters, digits, '-', '_' and '.', at most 100, not `shared`. A limit whose
  // controller is missing is not set; see Enforces(). In v1 a quota beyond the budget's is the budget's.
  Result<Cgroup> CreateGroup(std::string_view name, const CgroupLimits& limits);

  // Moves a process into the run's own group: under the budget, without limits of its own.
  [[nodiscard]] Result<> Add(int pid) const;
  [[nodiscard]] std::vector<std::string> EntryFiles() const;

  // Of all tenants together, those that are gone included.
  [[nodiscard]] CgroupReading Read() const;
  [[nodiscard]] std::optional<std::uint64_t> OomKills() const;
  [[nodiscard]] std::optional<std::uint64_t> MemoryUsageBytes() const;
  [[nodiscard]] std::optional<std::uint64_t> KernelMemoryBytes() const;
  [[nodiscard]] std::optional<std::uint64_t> ThrottledNs() const;

  [[nodiscard]] const std::string& layout() const;  // "v1", "v2", "hybrid", "none"
  [[nodiscard]] bool Enforces(CgroupController controller) const;
  // What is not controlled and why, one line each: "memory: mkdir (/sys/...): Permission denied (errno 13); ...".
  [[nodiscard]] const std::vector<std::string>& missing() const;
  // Groups of tenants that exist now (a group in several hierarchies counts once).
  [[nodiscard]] std::size_t CountGroups() const;

  // Kills what is in the groups and removes all of them. The tree is empty afterwards: nothing can be made in it.
  Result<> Remove(std::chrono::nanoseconds limit = std::chrono::seconds(10));

 private:
  explicit CgroupTree(std::shared_ptr<CgroupState> state) : state_(std::move(state)) {}

  std::shared_ptr<CgroupState> state_;
};

}  // namespace nestbench::tenancy
