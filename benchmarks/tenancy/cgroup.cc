#include "nestbench/tenancy/cgroup.h"

#include <unistd.h>

#include <utility>

#include "cgroup_files.h"
#include "cgroup_state.h"
#include "nestbench/system_files/text.h"

namespace nestbench::tenancy {

std::string_view ToString(CgroupController controller) {
  switch (controller) {
    case CgroupController::kCpu:
      return "cpu";
    case CgroupController::kCpuUsage:
      return "cpuacct";
    case CgroupController::kMemory:
      return "memory";
    case CgroupController::kPids:
      return "pids";
    case CgroupController::kPressure:
      break;
  }
  return "pressure";
}

Cgroup::Cgroup(Cgroup&& other) noexcept = default;

Cgroup& Cgroup::operator=(Cgroup&& other) noexcept {
  if (this != &other) {
    (void)Remove();
    state_ = std::move(other.state_);
    name_ = std::move(other.name_);
  }
  return *this;
}

Cgroup::~Cgroup() { (void)Remove(); }

std::string Cgroup::FolderFor(CgroupController controller) const {
  const CgroupHierarchyInUse* hierarchy = state_ == nullptr ? nullptr : state_->For(controller);
  return hierarchy == nullptr ? std::string() : hierarchy->run_folder + "/" + name_;
}

Result<> Cgroup::Add(int pid) const {
  if (state_ == nullptr) return {};
  for (const CgroupHierarchyInUse& hierarchy : state_->hierarchies) {
    auto added = state_->files->Write(hierarchy.run_folder + "/" + name_ + "/cgroup.procs", std::to_string(pid));
    if (!added) return added;
  }
  return {};
}

std::vector<std::string> Cgroup::EntryFiles() const {
  std::vector<std::string> paths;
  if (state_ == nullptr) return paths;
  for (const CgroupHierarchyInUse& hierarchy : state_->hierarchies) {
    paths.push_back(hierarchy.run_folder + "/" + name_ + (hierarchy.is_v2 ? "/cgroup.procs" : "/tasks"));
  }
  return paths;
}

std::optional<std::string> Cgroup::UnifiedFolder() const {
  if (state_ == nullptr || state_->hierarchies.size() != 1 || !state_->hierarchies.front().is_v2) return std::nullopt;
  return state_->files->Below(state_->hierarchies.front().run_folder + "/" + name_).string();
}

template <typename ReadFile>
std::optional<std::uint64_t> Cgroup::ReadFrom(CgroupController controller, ReadFile read) const {
  const std::string folder = FolderFor(controller);
  if (folder.empty()) return std::nullopt;
  return read(*state_->files, state_->For(controller)->is_v2, folder);
}

std::optional<std::uint64_t> Cgroup::OomKills() const { return ReadFrom(CgroupController::kMemory, ReadOomKills); }

std::optional<std::uint64_t> Cgroup::MemoryUsageBytes() const {
  return ReadFrom(CgroupController::kMemory, ReadMemoryUsage);
}

std::optional<std::uint64_t> Cgroup::KernelMemoryBytes() const {
  return ReadFrom(CgroupController::kMemory, ReadKernelMemory);
}

std::optional<std::uint64_t> Cgroup::CpuUsageNs() const { return ReadFrom(CgroupController::kCpuUsage, ReadCpuUsage); }

std::optional<std::uint64_t> Cgroup::ThrottledNs() const { return ReadFrom(CgroupController::kCpu, ReadThrottled); }

CgroupReading Cgroup::Read() const {
  CgroupReading reading;
  reading.memory_bytes = MemoryUsageBytes();
  reading.kernel_memory_bytes = KernelMemoryBytes();
  reading.oom_kills = OomKills();
  reading.cpu_usage_ns = CpuUsageNs();
  reading.throttled_ns = ThrottledNs();
  if (const std::string folder = FolderFor(CgroupController::kMemory); !folder.empty()) {
    const bool is_v2 = state_->For(CgroupController::kMemory)->is_v2;
    reading.memory_peak_bytes =
        state_->files->ReadNumber(folder + (is_v2 ? "/memory.peak" : "/memory.max_usage_in_bytes"));
  }
  if (const std::string folder = FolderFor(CgroupController::kPids); !folder.empty()) {
    reading.pids = state_->files->ReadNumber(folder + "/pids.current");
  }
  if (const std::string folder = FolderFor(CgroupController::kPressure); !folder.empty()) {
    const auto some_ns = [&](const char* file) -> std::optional<std::uint64_t> {
      const auto text = state_->files->Read(folder + file);
      const auto pressure = text ? system_files::ParsePressure(*text) : std::nullopt;
      return pressure ? std::optional(pressure->some_ns) : std::nullopt;
    };
    reading.cpu_pressure_some_ns = some_ns("/cpu.pressure");
    reading.memory_pressure_some_ns = some_ns("/memory.pressure");
    reading.io_pressure_some_ns = some_ns("/io.pressure");
  }
  return reading;
}

std::vector<int> Cgroup::Processes() const {
  std::vector<int> pids;
  if (state_ == nullptr) return pids;
  for (const CgroupHierarchyInUse& hierarchy : state_->hierarchies) {
    for (const int pid : ProcessesOf(*state_->files, hierarchy.run_folder + "/" + name_)) {
      if (std::ranges::find(pids, pid) == pids.end()) pids.push_back(pid);
    }
  }
  return pids;
}

Result<> Cgroup::Kill() const {
  if (state_ == nullptr) return {};
  // A process may have been moved into some of the hierarchies only: each is asked.
  for (const CgroupHierarchyInUse& hierarchy : state_->hierarchies) {
    if (auto killed = KillAll(*state_->files, hierarchy.run_folder + "/" + name_); !killed) return killed;
  }
  return {};
}

Result<> Cgroup::Remove(std::chrono::nanoseconds limit) {
  if (state_ == nullptr) return {};
  if (state_->owner != ::getpid()) {  // a forked child's copy
    state_.reset();
    return {};
  }
  const CgroupHierarchyInUse* memory = state_->For(CgroupController::kMemory);
  const bool counts_apart = memory != nullptr && !memory->is_v2;
  const auto end = std::chrono::steady_clock::now() + limit;
  std::uint64_t oom_kills = 0;
  for (const CgroupHierarchyInUse& hierarchy : state_->hierarchies) {
    const std::string folder = hierarchy.run_folder + "/" + name_;
    if (counts_apart && &hierarchy == memory) {
      oom_kills = ReadOomKills(*state_->files, false, folder).value_or(0);
    }
    const auto left =
        std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(end - std::chrono::steady_clock::now()));
    if (auto removed = KillAndRemove(*state_->files, folder, left); !removed) return removed;
    if (&hierarchy == memory) state_->removed_oom_kills += std::exchange(oom_kills, 0);
  }
  state_.reset();
  return {};
}

}  // namespace nestbench::tenancy
