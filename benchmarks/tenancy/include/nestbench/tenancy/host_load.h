// What the host went through during an interval, as differences of the kernel's own counters, and how much is left of
// what runs out. System-wide: everything on the host is in it, not only what nestbench started.
//
// Source: proc(5) ("/proc/stat", "/proc/meminfo", "/proc/sys/fs/file-nr", "/proc/loadavg"); kernel document "PSI -
// Pressure Stall Information".
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>

#include "nestbench/system_files/system_files.h"

namespace nestbench::tenancy {

// Empty: this kernel does not tell. Fractions are of the time that passed, 0 to 1.
struct HostLoadInterval {
  std::uint64_t duration_ns = 0;
  std::optional<double>
      cpu_busy;  // of all CPUs together: neither idle nor stolen. In ticks: needs some 100 ms to mean anything
  std::optional<double> steal;  // of all CPUs together: the hypervisor above ran something else
  std::optional<double> psi_cpu_some;
  std::optional<double> psi_memory_some;
  std::optional<double> psi_memory_full;
  std::optional<double> psi_io_some;
  std::optional<std::uint64_t> context_switches;
  std::optional<std::uint64_t> processes_started;
  std::optional<std::uint64_t> oom_kills;  // on the whole host, cgroup limits included (/proc/vmstat)
  // At the end of the interval.
  std::optional<std::uint64_t> mem_available_bytes;
  // What this process may still open: the least of RLIMIT_NOFILE and fs.file-max, less what is open.
  std::optional<std::uint64_t> descriptors_left;
  // What this user may still start, processes and threads: the least of kernel.pid_max and kernel.threads-max less all
  // threads of the host, of pids.max of this process's cgroup and those above, and, not for root, of RLIMIT_NPROC less
  // all threads of the host: the kernel counts the user's alone, so that there may be more left than this says.
  std::optional<std::uint64_t> threads_left;
};

// The keys of `step.host` that can be told from here; those that only the experiment knows (run_queue_wait, budget_*)
// are null, and oom_kills is the host's.
nlohmann::json ToJson(const HostLoadInterval& interval);

class HostLoad {
 public:
  static HostLoad Begin(system_files::SystemFiles files = system_files::SystemFiles());

  // What has passed since Begin(); may be called again. Costs 0.3 ms and 1.5 to 2 ms for each 1,000 descriptors that
  // this process has open (measured with 4,000): they are counted one by one.
  [[nodiscard]] HostLoadInterval Difference() const;
  [[nodiscard]] nlohmann::json End() const { return ToJson(Difference()); }

 private:
  struct Totals {
    std::uint64_t at_ns = 0;
    std::optional<std::uint64_t> busy_ticks, idle_ticks, steal_ticks;
    std::optional<std::uint64_t> cpu_some_ns, memory_some_ns, memory_full_ns, io_some_ns;
    std::optional<std::uint64_t> context_switches, processes, oom_kills;
  };
  explicit HostLoad(system_files::SystemFiles files) : files_(std::move(files)) {}
  [[nodiscard]] Totals Read() const;

  system_files::SystemFiles files_;
  Totals begin_;
};

}  // namespace nestbench::tenancy
