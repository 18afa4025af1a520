#include "nestbench/tenancy/host_load.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/system_files/cgroups.h"
#include "nestbench/system_files/text.h"
#include "nestbench/vmm/base/clock.h"

namespace nestbench::tenancy {
namespace {

using system_files::ParseUnsigned;
using system_files::SplitWords;
using system_files::SystemFiles;
using Number = std::optional<std::uint64_t>;

Number Keyed(const std::string& text, std::string_view key) { return system_files::KeyedNumber(text, key); }

// A counter that went backwards (steal does, on some hypervisors) has not moved.
Number Less(Number end, Number begin) {
  if (!end || !begin) return std::nullopt;
  return *end - std::min(*end, *begin);
}

std::optional<double> Fraction(Number part, std::uint64_t whole) {
  if (!part || whole == 0) return std::nullopt;
  return std::min(1.0, static_cast<double>(*part) / static_cast<double>(whole));
}

void KeepLeast(Number& least, Number limit, Number used) {
  if (!limit || !used) return;
  const std::uint64_t left = *limit - std::min(*limit, *used);
  least = least ? std::min(*least, left) : left;
}

Number ReadNumber(const SystemFiles& files, const std::string& path) {
  const std::string text = files.ReadTrimmedOrEmpty(path);
  return ParseUnsigned(text);
}

Number SoftLimit(__rlimit_resource resource) {
  rlimit limit = {};
  if (::getrlimit(resource, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return std::nullopt;
  return limit.rlim_cur;
}

Number DescriptorsLeft(const SystemFiles& files) {
  Number left;
  KeepLeast(left, SoftLimit(RLIMIT_NOFILE), files.List("/proc/self/fd").size());
  const std::string text = files.ReadTrimmedOrEmpty("/proc/sys/fs/file-nr");  // "allocated 0 maximum"
  std::string numbers = text;
  std::ranges::replace(numbers, '\t', ' ');
  const std::vector<std::string_view> words = SplitWords(numbers);
  if (words.size() == 3) KeepLeast(left, ParseUnsigned(words[2]), ParseUnsigned(words[0]));
  return left;
}

// "0.10 0.20 0.30 2/345 6789": 345 threads exist.
Number ThreadsOnHost(const SystemFiles& files) {
  const std::string text = files.ReadTrimmedOrEmpty("/proc/loadavg");
  const std::vector<std::string_view> words = SplitWords(text);
  if (words.size() < 4) return std::nullopt;
  const auto slash = words[3].find('/');
  return slash == std::string_view::npos ? std::nullopt : ParseUnsigned(words[3].substr(slash + 1));
}

Number ThreadsLeft(const SystemFiles& files) {
  Number left;
  const Number threads = ThreadsOnHost(files);
  KeepLeast(left, ReadNumber(files, "/proc/sys/kernel/pid_max"), threads);
  KeepLeast(left, ReadNumber(files, "/proc/sys/kernel/threads-max"), threads);
  if (::geteuid() != 0) KeepLeast(left, SoftLimit(RLIMIT_NPROC), threads);

  const std::string mounts = files.ReadTrimmedOrEmpty("/proc/self/mountinfo");
  const std::string memberships = files.ReadTrimmedOrEmpty("/proc/self/cgroup");
  const auto view =
      system_files::FindCgroups(system_files::ParseMountInfo(mounts), system_files::ParseSelfCgroup(memberships));
  for (const auto& hierarchy : view.hierarchies) {
    if (!hierarchy.is_v2 && std::ranges::find(hierarchy.controllers, "pids") == hierarchy.controllers.end()) continue;
    // The top group of a hierarchy has no limit and no file; above it are no groups.
    for (std::string folder = hierarchy.folder; files.Exists(folder + "/cgroup.procs");
         folder = folder.substr(0, folder.rfind('/'))) {
      KeepLeast(left, ReadNumber(files, folder + "/pids.max"), ReadNumber(files, folder + "/pids.current"));
    }
  }
  return left;
}

nlohmann::json OrNull(const auto& value) { return value ? nlohmann::json(*value) : nlohmann::json(nullptr); }

}  // namespace

HostLoad HostLoad::Begin(SystemFiles files) {
  HostLoad load(std::move(files));
  load.begin_ = load.Read();
  return load;
}

HostLoad::Totals HostLoad::Read() const {
  Totals totals;
  totals.at_ns = vmm::MonotonicNs();
  const std::string stat = files_.ReadTrimmedOrEmpty("/proc/stat");
  for (const std::string_view line : system_files::SplitLines(stat)) {
    if (!line.starts_with("cpu ")) continue;
    // "cpu user nice system idle iowait irq softirq steal ...": guest time is in user already.
    constexpr std::size_t kFields = 8;
    constexpr std::size_t kIdle = 3;
    constexpr std::size_t kIoWait = 4;
    constexpr std::size_t kSteal = 7;
    const std::vector<std::string_view> words = SplitWords(line);
    if (words.size() < kFields + 1) break;
    std::uint64_t busy = 0;
    std::uint64_t idle = 0;
    for (std::size_t i = 0; i < kFields; ++i) {
      const std::uint64_t ticks = ParseUnsigned(words[i + 1]).value_or(0);
      if (i == kSteal) {
        totals.steal_ticks = ticks;
      } else {
        (i == kIdle || i == kIoWait ? idle : busy) += ticks;
      }
    }
    totals.busy_ticks = busy;
    totals.idle_ticks = idle;
    break;
  }
  totals.context_switches = Keyed(stat, "ctxt");
  totals.processes = Keyed(stat, "processes");
  totals.oom_kills = Keyed(files_.ReadTrimmedOrEmpty("/proc/vmstat"), "oom_kill");
  if (const auto cpu = system_files::ParsePressure(files_.ReadTrimmedOrEmpty("/proc/pressure/cpu"))) {
    totals.cpu_some_ns = cpu->some_ns;
  }
  if (const auto memory = system_files::ParsePressure(files_.ReadTrimmedOrEmpty("/proc/pressure/memory"))) {
    totals.memory_some_ns = memory->some_ns;
    totals.memory_full_ns = memory->full_ns;
  }
  if (const auto io = system_files::ParsePressure(files_.ReadTrimmedOrEmpty("/proc/pressure/io"))) {
    totals.io_some_ns = io->some_ns;
  }
  return totals;
}

HostLoadInterval HostLoad::Difference() const {
  const Totals end = Read();
  HostLoadInterval interval;
  interval.duration_ns = end.at_ns - begin_.at_ns;
  const Number busy = Less(end.busy_ticks, begin_.busy_ticks);
  const Number idle = Less(end.idle_ticks, begin_.idle_ticks);
  const Number stolen = Less(end.steal_ticks, begin_.steal_ticks);
  const std::uint64_t ticks = busy.value_or(0) + idle.value_or(0) + stolen.value_or(0);
  interval.cpu_busy = Fraction(busy, ticks);
  interval.steal = Fraction(stolen, ticks);
  interval.psi_cpu_some = Fraction(Less(end.cpu_some_ns, begin_.cpu_some_ns), interval.duration_ns);
  interval.psi_memory_some = Fraction(Less(end.memory_some_ns, begin_.memory_some_ns), interval.duration_ns);
  interval.psi_memory_full = Fraction(Less(end.memory_full_ns, begin_.memory_full_ns), interval.duration_ns);
  interval.psi_io_some = Fraction(Less(end.io_some_ns, begin_.io_some_ns), interval.duration_ns);
  interval.context_switches = Less(end.context_switches, begin_.context_switches);
  interval.processes_started = Less(end.processes, begin_.processes);
  interval.oom_kills = Less(end.oom_kills, begin_.oom_kills);
  interval.mem_available_bytes = system_files::MeminfoBytes(files_.ReadTrimmedOrEmpty("/proc/meminfo"), "MemAvailable");
  interval.descriptors_left = DescriptorsLeft(files_);
  interval.threads_left = ThreadsLeft(files_);
  return interval;
}

nlohmann::json ToJson(const HostLoadInterval& interval) {
  return {{"cpu_busy", OrNull(interval.cpu_busy)},
          {"steal", OrNull(interval.steal)},
          {"psi_cpu_some", OrNull(interval.psi_cpu_some)},
          {"psi_memory_some", OrNull(interval.psi_memory_some)},
          {"psi_memory_full", OrNull(interval.psi_memory_full)},
          {"psi_io_some", OrNull(interval.psi_io_some)},
          {"run_queue_wait", nullptr},
          {"mem_available_bytes", OrNull(interval.mem_available_bytes)},
          {"budget_memory_left_bytes", nullptr},
          {"budget_throttled", nullptr},
          {"oom_kills", OrNull(interval.oom_kills)},
          {"descriptors_left", OrNull(interval.descriptors_left)},
          {"threads_left", OrNull(interval.threads_left)}};
}

}  // namespace nestbench::tenancy
