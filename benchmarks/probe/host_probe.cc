#include "host_probe.h"

#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/perf_event.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <set>
#include <utility>

#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::probe {
namespace {

constexpr const char* kCpuFolder = "/sys/devices/system/cpu";

Result<> TryPerf() {
  perf_event_attr attributes{};
  attributes.type = PERF_TYPE_HARDWARE;
  attributes.size = sizeof(attributes);
  attributes.config = PERF_COUNT_HW_CPU_CYCLES;
  attributes.exclude_kernel = 1;
  attributes.exclude_hv = 1;
  attributes.disabled = 1;
  const vmm::UniqueFd fd(
      static_cast<int>(::syscall(SYS_perf_event_open, &attributes, 0, -1, -1, PERF_FLAG_FD_CLOEXEC)));
  if (!fd.valid()) return vmm::Fail(Error::System("perf_event_open", errno, "CPU cycles of this process"));
  return {};
}

Limit ReadLimit(int resource) {
  rlimit limit{};
  // The resource is one of the kernel's: this cannot fail.
  ::getrlimit(static_cast<__rlimit_resource_t>(resource), &limit);
  const auto value = [](rlim_t raw) { return raw == RLIM_INFINITY ? std::nullopt : std::optional<std::uint64_t>(raw); };
  return {.soft = value(limit.rlim_cur), .hard = value(limit.rlim_max)};
}

}  // namespace

std::string KernelText() {
  utsname name{};
  if (::uname(&name) != 0) return {};
  return fmt::format("{} {} {}", name.sysname, name.release, name.version);
}

Result<std::map<std::string, std::string>> ReadMitigations(const SystemFiles& files) {
  const std::string folder = fmt::format("{}/vulnerabilities", kCpuFolder);
  std::map<std::string, std::string> mitigations;
  for (const std::string& name : files.List(folder)) {
    mitigations[name] = files.ReadTrimmedOrEmpty(fmt::format("{}/{}", folder, name));
  }
  if (mitigations.empty()) {
    return vmm::Fail(Error::Unsupported("mitigations", folder + " is missing or empty (kernel older than 4.15?)"));
  }
  return mitigations;
}

Result<ClockInfo> ReadClockSources(const SystemFiles& files) {
  const std::string folder = "/sys/devices/system/clocksource/clocksource0";
  ClockInfo clock;
  auto source = files.Read(folder + "/current_clocksource");
  if (!source) return vmm::Fail(std::move(source.error()));
  clock.source = Trim(*source);
  const std::string available = files.ReadTrimmedOrEmpty(folder + "/available_clocksource");
  for (const std::string_view name : SplitWords(available)) {
    clock.available.emplace_back(name);
  }
  return clock;
}

Result<Topology> ReadTopology(const SystemFiles& files) {
  Topology topology;
  auto online = files.Read(fmt::format("{}/online", kCpuFolder));
  if (!online) return vmm::Fail(std::move(online.error()));
  const auto cpus = CountCpuList(*online);
  if (!cpus) return vmm::Fail(Error::Malformed("topology", fmt::format("online CPUs are `{}`", Trim(*online))));
  topology.cpus = *cpus;
  cpu_set_t mask;
  CPU_ZERO(&mask);
  topology.usable_cpus =
      ::sched_getaffinity(0, sizeof(mask), &mask) == 0 ? static_cast<std::uint32_t>(CPU_COUNT(&mask)) : *cpus;

  std::set<std::pair<std::string, std::string>> cores;
  std::set<std::string> sockets;
  for (const std::string& name : files.List(kCpuFolder)) {
    if (!name.starts_with("cpu") || !ParseUnsigned(std::string_view(name).substr(3))) continue;
    const std::string folder = fmt::format("{}/{}/topology", kCpuFolder, name);
    const std::string package = files.ReadTrimmedOrEmpty(folder + "/physical_package_id");
    if (package.empty()) continue;  // offline
    sockets.insert(package);
    // Core ids repeat from die to die: the lowest sibling names a core without doubt.
    cores.insert({package, files.ReadTrimmedOrEmpty(folder + "/thread_siblings_list")});
  }
  topology.cores = static_cast<std::uint32_t>(cores.size());
  topology.sockets = static_cast<std::uint32_t>(sockets.size());
  const auto nodes = CountCpuList(files.ReadTrimmedOrEmpty("/sys/devices/system/node/has_memory"));
  topology.numa_nodes = nodes.value_or(1);  // a kernel without NUMA has no such folder
  auto meminfo = files.Read("/proc/meminfo");
  if (!meminfo) return vmm::Fail(std::move(meminfo.error()));
  const auto memory = MeminfoBytes(*meminfo, "MemTotal");
  if (!memory) return vmm::Fail(Error::Malformed("topology", "/proc/meminfo has no MemTotal"));
  topology.memory_bytes = *memory;
  return topology;
}

Result<HugePages> ReadHugePages(const SystemFiles& files) {
  const std::string folder = "/sys/kernel/mm";
  if (!files.Exists(folder))
    return vmm::Fail(Error::Unsupported("huge pages", folder + " is missing: is /sys mounted?"));
  HugePages pages;
  pages.thp = BracketedWord(files.ReadTrimmedOrEmpty(folder + "/transparent_hugepage/enabled"));
  pages.thp_defrag = BracketedWord(files.ReadTrimmedOrEmpty(folder + "/transparent_hugepage/defrag"));
  const auto pool = [&files, &folder](const char* size, const char* file) {
    return ParseUnsigned(files.ReadTrimmedOrEmpty(fmt::format("{}/hugepages/hugepages-{}/{}", folder, size, file)))
        .value_or(0);
  };
  pages.hugetlb_2m_total = pool("2048kB", "nr_hugepages");
  pages.hugetlb_2m_free = pool("2048kB", "free_hugepages");
  pages.hugetlb_1g_total = pool("1048576kB", "nr_hugepages");
  pages.hugetlb_1g_free = pool("1048576kB", "free_hugepages");
  return pages;
}

Result<Rights> ReadRights(const SystemFiles& files) {
  Rights rights;
  rights.user_id = ::geteuid();
  auto status = files.Read("/proc/self/status");
  if (!status) return vmm::Fail(std::move(status.error()));
  const auto effective = ParseEffectiveCapabilities(*status);
  if (!effective) return vmm::Fail(Error::Malformed("rights", "/proc/self/status has no CapEff"));
  constexpr std::array<std::pair<int, const char*>, 7> kCapabilities = {{{CAP_SYS_ADMIN, "CAP_SYS_ADMIN"},
                                                                         {CAP_SYS_NICE, "CAP_SYS_NICE"},
                                                                         {CAP_SYS_RAWIO, "CAP_SYS_RAWIO"},
                                                                         {CAP_SYS_RESOURCE, "CAP_SYS_RESOURCE"},
                                                                         {CAP_IPC_LOCK, "CAP_IPC_LOCK"},
                                                                         {CAP_NET_ADMIN, "CAP_NET_ADMIN"},
                                                                         {CAP_PERFMON, "CAP_PERFMON"}}};
  for (const auto& [bit, name] : kCapabilities) {
    if (((*effective >> bit) & 1) != 0) rights.capabilities.emplace_back(name);
  }
  rights.limits = {{"memlock_bytes", ReadLimit(RLIMIT_MEMLOCK)}, {"open_files", ReadLimit(RLIMIT_NOFILE)},
                   {"processes", ReadLimit(RLIMIT_NPROC)},       {"address_space_bytes", ReadLimit(RLIMIT_AS)},
                   {"file_size_bytes", ReadLimit(RLIMIT_FSIZE)}, {"core_bytes", ReadLimit(RLIMIT_CORE)}};
  if (const auto perf = TryPerf(); perf) {
    rights.perf_hardware = true;
  } else {
    rights.perf_reason = fmt::format("{}; kernel.perf_event_paranoid is {}", perf.error().ToString(),
                                     files.ReadTrimmedOrEmpty("/proc/sys/kernel/perf_event_paranoid"));
  }
  return rights;
}

std::map<std::string, std::string> FindTools(const std::string& path_variable) {
  constexpr std::array<const char*, 10> kTools = {
      "qemu-system-x86_64", "cloud-hypervisor", "firecracker", "crosvm",   "perf",
      "bpftrace",           "taskset",          "numactl",     "cpupower", "python3"};
  std::map<std::string, std::string> tools;
  for (const char* name : kTools) {
    std::string& found = tools[name];
    for (const std::string_view folder : Split(path_variable, ':')) {
      if (folder.empty()) continue;
      const std::string candidate = fmt::format("{}/{}", folder, name);
      if (::access(candidate.c_str(), X_OK) == 0) {
        found = candidate;
        break;
      }
    }
  }
  return tools;
}

}  // namespace nestbench::probe
