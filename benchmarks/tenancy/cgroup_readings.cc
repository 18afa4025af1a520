// Limits and counters of one group: the files of v1 and v2.
#include <fmt/format.h>

#include <cmath>

#include "cgroup_state.h"
#include "nestbench/system_files/text.h"

namespace nestbench::tenancy {
namespace {

using system_files::KeyedNumber;
using vmm::Fail;

constexpr std::uint64_t kPeriodUs = 100'000;  // the kernel's default
constexpr std::uint64_t kNsPerUs = 1000;
constexpr double kLeastCpus = 0.01;  // the kernel's least quota is 1 ms
constexpr double kMostCpus = 1e6;
constexpr std::uint64_t kMostPids = 4'194'304;  // PID_MAX_LIMIT

std::optional<std::uint64_t> KeyedIn(const CgroupFiles& files, const std::string& path, std::string_view key,
                                     std::uint64_t scale = 1) {
  const auto text = files.Read(path);
  const auto number = text ? KeyedNumber(*text, key) : std::nullopt;
  return number ? std::optional(*number * scale) : std::nullopt;
}

}  // namespace

Result<> CheckLimits(const CgroupLimits& limits) {
  if (limits.memory_bytes && *limits.memory_bytes == 0) {
    return Fail(Error::InvalidArgument("cgroup limits", "a memory limit of 0 bytes leaves room for nothing"));
  }
  if (limits.cpus && !(*limits.cpus >= kLeastCpus && *limits.cpus <= kMostCpus)) {
    return Fail(Error::InvalidArgument("cgroup limits", fmt::format("{} CPUs: at least {} are needed, and at most {}",
                                                                    *limits.cpus, kLeastCpus, kMostCpus)));
  }
  if (limits.pids && (*limits.pids == 0 || *limits.pids > kMostPids)) {
    return Fail(Error::InvalidArgument("cgroup limits",
                                       fmt::format("{} processes: 1 to {} are possible", *limits.pids, kMostPids)));
  }
  return {};
}

Result<> WriteLimits(const CgroupFiles& files, const CgroupHierarchyInUse& hierarchy, const std::string& folder,
                     const CgroupLimits& limits) {
  if (limits.memory_bytes && hierarchy.Serves(CgroupController::kMemory)) {
    const std::string bytes = std::to_string(*limits.memory_bytes);
    if (hierarchy.is_v2) {
      if (auto set = files.Write(folder + "/memory.max", bytes); !set) return set;
      if (files.Exists(folder + "/memory.swap.max")) {
        if (auto set = files.Write(folder + "/memory.swap.max", "0"); !set) return set;
      }
    } else {
      if (auto set = files.Write(folder + "/memory.limit_in_bytes", bytes); !set) return set;
      if (files.Exists(folder + "/memory.memsw.limit_in_bytes")) {  // memory and swap together
        if (auto set = files.Write(folder + "/memory.memsw.limit_in_bytes", bytes); !set) return set;
      }
    }
  }
  if (limits.cpus && hierarchy.Serves(CgroupController::kCpu)) {
    const auto quota_us = static_cast<std::uint64_t>(std::llround(*limits.cpus * static_cast<double>(kPeriodUs)));
    auto set = hierarchy.is_v2 ? files.Write(folder + "/cpu.max", fmt::format("{} {}", quota_us, kPeriodUs))
                               : files.Write(folder + "/cpu.cfs_quota_us", std::to_string(quota_us));
    if (!set) return set;
  }
  if (limits.pids && hierarchy.Serves(CgroupController::kPids)) {
    if (auto set = files.Write(folder + "/pids.max", std::to_string(*limits.pids)); !set) return set;
  }
  return {};
}

std::optional<std::uint64_t> ReadOomKills(const CgroupFiles& files, bool is_v2, const std::string& folder) {
  return KeyedIn(files, folder + (is_v2 ? "/memory.events" : "/memory.oom_control"), "oom_kill");
}

std::optional<std::uint64_t> ReadMemoryUsage(const CgroupFiles& files, bool is_v2, const std::string& folder) {
  return files.ReadNumber(folder + (is_v2 ? "/memory.current" : "/memory.usage_in_bytes"));
}

std::optional<std::uint64_t> ReadKernelMemory(const CgroupFiles& files, bool is_v2, const std::string& folder) {
  if (!is_v2) return files.ReadNumber(folder + "/memory.kmem.usage_in_bytes");
  const auto text = files.Read(folder + "/memory.stat");
  if (!text) return std::nullopt;
  if (const auto kernel = KeyedNumber(*text, "kernel")) return kernel;  // since 5.18
  std::uint64_t sum = 0;
  for (const std::string_view key : {"kernel_stack", "pagetables", "percpu", "slab"}) {
    sum += KeyedNumber(*text, key).value_or(0);
  }
  return sum;
}

std::optional<std::uint64_t> ReadCpuUsage(const CgroupFiles& files, bool is_v2, const std::string& folder) {
  return is_v2 ? KeyedIn(files, folder + "/cpu.stat", "usage_usec", kNsPerUs)
               : files.ReadNumber(folder + "/cpuacct.usage");
}

std::optional<std::uint64_t> ReadThrottled(const CgroupFiles& files, bool is_v2, const std::string& folder) {
  return is_v2 ? KeyedIn(files, folder + "/cpu.stat", "throttled_usec", kNsPerUs)
               : KeyedIn(files, folder + "/cpu.stat", "throttled_time");
}

}  // namespace nestbench::tenancy
