// The tree's own part: groups in it, readings of all of it, and its end. How it comes to be: cgroup_create.cc.
#include <unistd.h>

#include <algorithm>
#include <set>
#include <utility>

#include <fmt/format.h>

#include "cgroup_state.h"

namespace nestbench::tenancy {

using vmm::Fail;

namespace {

constexpr std::size_t kMostNameBytes = 100;

bool IsGroupName(std::string_view name) {
  if (name.empty() || name.size() > kMostNameBytes || name == kShared || name.front() == '.') return false;
  return std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ||
           c == '.';
  });
}

std::string SharedFolder(const CgroupHierarchyInUse& hierarchy) {
  return hierarchy.is_v2 ? hierarchy.run_folder + "/" + std::string(kShared) : hierarchy.run_folder;
}

}  // namespace

const CgroupHierarchyInUse* CgroupState::For(CgroupController controller) const {
  for (const CgroupHierarchyInUse& hierarchy : hierarchies) {
    if (hierarchy.Serves(controller)) return &hierarchy;
  }
  return nullptr;
}

CgroupTree::CgroupTree(CgroupTree&& other) noexcept = default;

CgroupTree& CgroupTree::operator=(CgroupTree&& other) noexcept {
  if (this != &other) {
    (void)Remove();
    state_ = std::move(other.state_);
  }
  return *this;
}

CgroupTree::~CgroupTree() { (void)Remove(); }

Result<Cgroup> CgroupTree::CreateGroup(std::string_view name, const CgroupLimits& limits) {
  if (!IsGroupName(name)) {
    return Fail(Error::InvalidArgument("create cgroup", fmt::format("`{}` is no name for a group", name)));
  }
  if (auto checked = CheckLimits(limits); !checked) return Fail(std::move(checked.error()));
  if (state_ == nullptr) return Fail(Error::InvalidArgument("create cgroup", "the groups of this run were removed"));
  std::vector<std::string> made;
  const auto undo = [&](Error error) {
    for (const std::string& folder : made) (void)state_->files->RemoveFolder(folder);
    return Fail(std::move(error));
  };
  for (const CgroupHierarchyInUse& hierarchy : state_->hierarchies) {
    const std::string folder = fmt::format("{}/{}", hierarchy.run_folder, name);
    if (auto folder_made = state_->files->MakeFolder(folder); !folder_made) return undo(std::move(folder_made.error()));
    made.push_back(folder);
    CgroupLimits within = limits;
    // v1 refuses a quota beyond that of the group above.
    if (!hierarchy.is_v2 && within.cpus && state_->budget.cpus)
      within.cpus = std::min(*within.cpus, *state_->budget.cpus);
    if (auto set = WriteLimits(*state_->files, hierarchy, folder, within); !set) return undo(std::move(set.error()));
  }
  return Cgroup(state_, std::string(name));
}

Result<> CgroupTree::Add(int pid) const {
  if (state_ == nullptr) return {};
  for (const CgroupHierarchyInUse& hierarchy : state_->hierarchies) {
    const std::string folder = SharedFolder(hierarchy);
    if (auto added = state_->files->Write(folder + "/cgroup.procs", std::to_string(pid)); !added) return added;
  }
  return {};
}

std::vector<std::string> CgroupTree::EntryFiles() const {
  std::vector<std::string> paths;
  if (state_ == nullptr) return paths;
  for (const CgroupHierarchyInUse& hierarchy : state_->hierarchies) {
    paths.push_back(SharedFolder(hierarchy) + (hierarchy.is_v2 ? "/cgroup.procs" : "/tasks"));
  }
  return paths;
}

std::optional<std::uint64_t> CgroupTree::OomKills() const {
  const CgroupHierarchyInUse* memory = state_ == nullptr ? nullptr : state_->For(CgroupController::kMemory);
  if (memory == nullptr) return std::nullopt;
  auto total = ReadOomKills(*state_->files, memory->is_v2, memory->run_folder);
  if (memory->is_v2 || !total) return total;
  for (const std::string& name : state_->files->Subfolders(memory->run_folder)) {
    *total += ReadOomKills(*state_->files, false, memory->run_folder + "/" + name).value_or(0);
  }
  return *total + state_->removed_oom_kills;
}

std::optional<std::uint64_t> CgroupTree::MemoryUsageBytes() const {
  const CgroupHierarchyInUse* memory = state_ == nullptr ? nullptr : state_->For(CgroupController::kMemory);
  if (memory == nullptr) return std::nullopt;
  return ReadMemoryUsage(*state_->files, memory->is_v2, memory->run_folder);
}

std::optional<std::uint64_t> CgroupTree::KernelMemoryBytes() const {
  const CgroupHierarchyInUse* memory = state_ == nullptr ? nullptr : state_->For(CgroupController::kMemory);
  if (memory == nullptr) return std::nullopt;
  return ReadKernelMemory(*state_->files, memory->is_v2, memory->run_folder);
}

std::optional<std::uint64_t> CgroupTree::ThrottledNs() const {
  const CgroupHierarchyInUse* cpu = state_ == nullptr ? nullptr : state_->For(CgroupController::kCpu);
  if (cpu == nullptr) return std::nullopt;
  return ReadThrottled(*state_->files, cpu->is_v2, cpu->run_folder);
}

CgroupReading CgroupTree::Read() const {
  if (state_ == nullptr) return {};
  CgroupReading reading;
  {
    // A group without a name is the run's; it must not remove anything when it goes.
    Cgroup run(state_, ".");
    reading = run.Read();
    run.state_.reset();
  }
  reading.oom_kills = OomKills();
  return reading;
}

const std::string& CgroupTree::layout() const {
  static const std::string kNone = "none";
  return state_ == nullptr ? kNone : state_->layout;
}

const std::vector<std::string>& CgroupTree::missing() const {
  static const std::vector<std::string> kNothing;
  return state_ == nullptr ? kNothing : state_->missing;
}

bool CgroupTree::Enforces(CgroupController controller) const {
  return state_ != nullptr && state_->For(controller) != nullptr;
}

std::size_t CgroupTree::CountGroups() const {
  if (state_ == nullptr) return 0;
  std::set<std::string> names;
  for (const CgroupHierarchyInUse& hierarchy : state_->hierarchies) {
    for (std::string& name : state_->files->Subfolders(hierarchy.run_folder)) {
      if (name != kShared) names.insert(std::move(name));
    }
  }
  return names.size();
}

Result<> CgroupTree::Remove(std::chrono::nanoseconds limit) {
  if (state_ == nullptr) return {};
  const auto state = std::exchange(state_, nullptr);
  if (state->owner != ::getpid()) return {};  // a forked child's copy
  return state->RemoveAll(limit);
}

Result<> CgroupState::RemoveHierarchy(CgroupHierarchyInUse& hierarchy, std::chrono::nanoseconds limit) const {
  Result<> first;
  const auto keep = [&first](Result<> result) {
    if (first && !result) first = std::move(result);
  };
  keep(KillAndRemove(*files, hierarchy.run_folder, limit));
  hierarchy.lock.Reset();
  for (const std::string& controller : hierarchy.enabled) {
    keep(files->Write(hierarchy.own_folder + "/cgroup.subtree_control", "-" + controller));
  }
  if (hierarchy.supervisor_folder.empty()) return first;
  // Back to where this process came from, and with it whatever it started meanwhile.
  for (const int pid : ProcessesOf(*files, hierarchy.supervisor_folder)) {
    keep(files->Write(hierarchy.own_folder + "/cgroup.procs", std::to_string(pid)));
  }
  keep(files->RemoveFolder(hierarchy.supervisor_folder));
  hierarchy.supervisor_lock.Reset();
  return first;
}

Result<> CgroupState::RemoveAll(std::chrono::nanoseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  Result<> first;
  for (CgroupHierarchyInUse& hierarchy : hierarchies) {
    const auto left =
        std::max(std::chrono::nanoseconds(0), std::chrono::nanoseconds(end - std::chrono::steady_clock::now()));
    auto removed = RemoveHierarchy(hierarchy, left);
    if (first && !removed) first = std::move(removed);
  }
  hierarchies.clear();
  return first;
}

}  // namespace nestbench::tenancy
