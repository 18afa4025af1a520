// Finds the hierarchies that are of use and makes the run's group in each; finds and removes those of dead runs.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <set>
#include <thread>
#include <utility>

#include "cgroup_state.h"
#include "nestbench/system_files/text.h"

namespace nestbench::tenancy {

using namespace std::chrono_literals;
using system_files::CgroupView;
using vmm::Fail;
using vmm::UniqueFd;

namespace {

constexpr auto kStaleLimit = 5s;  // for what is in the group of a dead run to be gone
constexpr int kMostDepth = 32;    // of groups that are searched
constexpr int kLockAttempts = 50;
constexpr std::string_view kRemedy =
    "run as root, or in a group of its own: systemd-run --user --scope -p Delegate=yes nestbench ...";

// The controllers of v2 that must be given to groups below; the others are in every group.
bool IsDelegated(CgroupController controller) {
  return controller == CgroupController::kCpu || controller == CgroupController::kMemory ||
         controller == CgroupController::kPids;
}

std::vector<std::string> Words(const CgroupFiles& files, const std::string& path) {
  std::vector<std::string> words;
  const auto text = files.Read(path);
  if (!text) return words;
  for (const std::string_view word : system_files::SplitWords(*text)) words.emplace_back(word);
  return words;
}

bool Contains(const std::vector<std::string>& words, std::string_view word) {
  return std::ranges::find(words, word) != words.end();
}

CgroupView FindView(const CgroupFiles& files) {
  const auto mounts = files.Read("/proc/self/mountinfo");
  const auto memberships = files.Read("/proc/self/cgroup");
  if (!mounts || !memberships) return {.layout = "none", .hierarchies = {}};
  return system_files::FindCgroups(system_files::ParseMountInfo(*mounts), system_files::ParseSelfCgroup(*memberships));
}

// Which hierarchy serves a controller: v1 where it is there, because it is in use then and v2 cannot have it.
const system_files::CgroupHierarchy* Choose(const CgroupFiles& files, const CgroupView& view,
                                            CgroupController controller) {
  for (const auto& hierarchy : view.hierarchies) {
    if (!hierarchy.is_v2 && Contains(hierarchy.controllers, ToString(controller))) return &hierarchy;
  }
  for (const auto& hierarchy : view.hierarchies) {
    if (!hierarchy.is_v2) continue;
    const bool has = controller == CgroupController::kPressure
                         ? files.Exists(hierarchy.folder + "/cpu.pressure")
                         : controller == CgroupController::kCpuUsage ||
                               Contains(Words(files, hierarchy.folder + "/cgroup.controllers"), ToString(controller));
    if (has) return &hierarchy;
  }
  return nullptr;
}

bool IsFolderOf(const CgroupFiles& files, const UniqueFd& fd, const std::string& folder) {
  struct stat opened = {};
  struct stat named = {};
  return ::fstat(fd.get(), &opened) == 0 && ::stat(files.Below(folder).c_str(), &named) == 0 &&
         opened.st_dev == named.st_dev && opened.st_ino == named.st_ino;
}

// The folder locked; invalid when somebody else has it.
Result<UniqueFd> TryLock(const CgroupFiles& files, const std::string& folder) {
  UniqueFd fd(::open(files.Below(folder).c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  if (!fd.valid()) return Fail(Error::System("open", errno, folder));
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) return fd;
  if (errno == EWOULDBLOCK) return UniqueFd();
  return Fail(Error::System("flock", errno, folder));
}

// Takes a v2 controller from the group above and gives it to groups below `folder`.
Result<> EnableBelow(const CgroupFiles& files, const std::string& folder, std::string_view controller) {
  return files.Write(folder + "/cgroup.subtree_control", fmt::format("+{}", controller));
}

class TreeMaker {
 public:
  explicit TreeMaker(CgroupState& state) : state_(state), files_(*state.files) {}

  // Errors are those of the budget; whatever else goes wrong is in state.missing.
  Result<> Make(const std::vector<CgroupController>& controllers) {
    const CgroupView view = FindView(files_);
    state_.layout = view.layout;
    std::vector<std::pair<const system_files::CgroupHierarchy*, std::vector<CgroupController>>> uses;
    for (const CgroupController controller : controllers) {
      const auto* chosen = Choose(files_, view, controller);
      if (chosen == nullptr) {
        Miss(controller, view.hierarchies.empty() ? "no cgroup hierarchy with this process in it is mounted"
                                                  : "no mounted cgroup hierarchy has it");
        continue;
      }
      const auto known = std::ranges::find_if(uses, [chosen](const auto& use) { return use.first == chosen; });
      if (known == uses.end()) {
        uses.push_back({chosen, {controller}});
      } else if (std::ranges::find(known->second, controller) == known->second.end()) {
        known->second.push_back(controller);
      }
    }
    for (const auto& [found, serves] : uses) {
      if (auto used = Use(*found, serves); !used) return used;
    }
    return {};
  }

 private:
  void Miss(CgroupController controller, std::string_view reason) {
    state_.missing.push_back(fmt::format("{}: {}", ToString(controller), reason));
  }

  Result<> Use(const system_files::CgroupHierarchy& found, const std::vector<CgroupController>& serves) {
    CgroupHierarchyInUse hierarchy;
    hierarchy.is_v2 = found.is_v2;
    hierarchy.own_folder = found.folder;
    hierarchy.run_folder = fmt::format("{}/{}{}", found.folder, kRunPrefix, state_.run_id);
    auto lock = MakeLockedFolder(files_, hierarchy.run_folder);
    if (!lock) {
      // A group that is there already is another run's: nothing of it may be touched, and nothing be shared with it.
      if (lock.error().error_number == EEXIST) return Fail(std::move(lock.error()));
      for (const CgroupController controller : serves) {
        Miss(controller, fmt::format("{}; {}", lock.error().ToString(), kRemedy));
      }
      return {};
    }
    hierarchy.lock = std::move(*lock);
    state_.hierarchies.push_back(std::move(hierarchy));  // from here on RemoveAll() undoes it
    CgroupHierarchyInUse& used = state_.hierarchies.back();
    for (const CgroupController controller : serves) {
      const auto usable = used.is_v2 && IsDelegated(controller) ? Delegate(used, controller) : Result<>();
      if (usable) {
        used.serves.push_back(controller);
      } else {
        Miss(controller, usable.error().ToString());
      }
    }
    if (used.is_v2 && !used.serves.empty()) {
      auto leaf = files_.MakeFolder(used.run_folder + "/" + std::string(kShared));
      if (!leaf) return leaf;
    }
    return WriteLimits(files_, used, used.run_folder, state_.budget);
  }

  // Makes a v2 controller usable in the run's group and in those below it.
  Result<> Delegate(CgroupHierarchyInUse& used, CgroupController controller) {
    const std::string name(ToString(controller));
    if (!Contains(Words(files_, used.own_folder + "/cgroup.subtree_control"), name)) {
      auto enabled = EnableBelow(files_, used.own_folder, name);
      if (!enabled && enabled.error().error_number == EBUSY && used.supervisor_folder.empty()) {
        if (auto moved = MoveToLeaf(used); !moved) return moved;
        enabled = EnableBelow(files_, used.own_folder, name);
        if (!enabled) MoveBack(used);
      }
      if (!enabled && enabled.error().error_number == EBUSY) {
        return Fail(Error::Unsupported(
            "cgroup v2",
            fmt::format("{} other processes are in this process's group {}, so it cannot give `{}` to groups "
                        "below it; {}",
                        ProcessesOf(files_, used.own_folder).size(), used.own_folder, name, kRemedy)));
      }
      if (!enabled)
        return Fail(Error::Unsupported("cgroup v2", fmt::format("{}; {}", enabled.error().ToString(), kRemedy)));
      used.enabled.push_back(name);
    }
    return EnableBelow(files_, used.run_folder, name);
  }

  Result<> MoveToLeaf(CgroupHierarchyInUse& used) {
    const std::string leaf = used.run_folder + std::string(kSupervisorSuffix);
    auto lock = MakeLockedFolder(files_, leaf);
    if (!lock) return Fail(std::move(lock.error()));
    if (auto moved = files_.Write(leaf + "/cgroup.procs", std::to_string(::getpid())); !moved) {
      (void)files_.RemoveFolder(leaf);
      return moved;
    }
    used.supervisor_lock = std::move(*lock);
    used.supervisor_folder = leaf;
    return {};
  }

  void MoveBack(CgroupHierarchyInUse& used) {
    if (!used.enabled.empty()) return;  // the way back is closed while the group gives controllers away
    if (!files_.Write(used.own_folder + "/cgroup.procs", std::to_string(::getpid()))) return;
    (void)files_.RemoveFolder(used.supervisor_folder);
    used.supervisor_lock.Reset();
    used.supervisor_folder.clear();
  }

  CgroupState& state_;
  const CgroupFiles& files_;
};

// The id in the name of a run's group, or of its supervisor's leaf; empty for any other group.
std::string_view RunIdOf(std::string_view name) {
  if (!name.starts_with(kRunPrefix)) return {};
  name.remove_prefix(kRunPrefix.size());
  if (name.ends_with(kSupervisorSuffix)) name.remove_suffix(kSupervisorSuffix.size());
  return IsRunId(name) ? name : std::string_view();
}

bool HoldsThisProcess(const CgroupFiles& files, const std::string& folder) {
  const std::vector<int> pids = ProcessesOf(files, folder);
  if (std::ranges::find(pids, ::getpid()) != pids.end()) return true;
  return std::ranges::any_of(files.Subfolders(folder),
                             [&](const std::string& name) { return HoldsThisProcess(files, folder + "/" + name); });
}

void FindRuns(const CgroupFiles& files, const std::string& folder, int depth, std::vector<std::string>& found) {
  for (const std::string& name : files.Subfolders(folder)) {
    const std::string path = GroupIn(folder, name);
    if (!RunIdOf(name).empty()) {
      found.push_back(path);
    } else if (depth < kMostDepth) {
      FindRuns(files, path, depth + 1, found);
    }
  }
}

}  // namespace

bool IsRunId(std::string_view text) {
  constexpr std::string_view kShape =
      "dddddddd"
      "T"
      "dddddd"
      "Z"
      "-"
      "xxxxxx";
  if (text.size() != kShape.size()) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool is_digit = c >= '0' && c <= '9';
    const bool fits = kShape[i] == 'd'   ? is_digit
                      : kShape[i] == 'x' ? is_digit || (c >= 'a' && c <= 'f')
                                         : c == kShape[i];
    if (!fits) return false;
  }
  return true;
}

// Between mkdir and flock, RemoveStale() of another program may take the new group for a dead run's and remove it: then
// the folder that was locked is no longer the one of that name, and a new one is made.
Result<UniqueFd> MakeLockedFolder(const CgroupFiles& files, const std::string& folder) {
  for (int attempt = 0; attempt < kLockAttempts; ++attempt) {
    if (auto made = files.MakeFolder(folder); !made) return Fail(std::move(made.error()));
    for (; attempt < kLockAttempts; ++attempt) {
      auto lock = TryLock(files, folder);
      if (!lock && lock.error().error_number == ENOENT) break;
      if (!lock) {
        (void)files.RemoveFolder(folder);
        return lock;
      }
      if (lock->valid() && IsFolderOf(files, *lock, folder)) return lock;
      if (lock->valid()) break;
      std::this_thread::sleep_for(1ms);
    }
  }
  return Fail(Error::TimedOut("lock cgroup", folder));
}

Result<CgroupTree> CgroupTree::Create(CgroupTreeOptions options) {
  if (!IsRunId(options.run_id)) {
    return Fail(Error::InvalidArgument("cgroups of a run", fmt::format("`{}` is no run id", options.run_id)));
  }
  if (auto checked = CheckLimits(options.budget); !checked) return Fail(std::move(checked.error()));
  auto state = std::make_shared<CgroupState>();
  state->files = options.files ? std::move(options.files) : std::make_shared<const CgroupFiles>();
  state->run_id = std::move(options.run_id);
  state->budget = options.budget;
  state->owner = ::getpid();
  auto made = TreeMaker(*state).Make(options.controllers);
  // What ended up serving nothing is not kept.
  for (auto it = state->hierarchies.begin(); made && it != state->hierarchies.end();) {
    if (!it->serves.empty()) {
      ++it;
      continue;
    }
    (void)state->RemoveHierarchy(*it, kStaleLimit);
    it = state->hierarchies.erase(it);
  }
  if (!made) {
    (void)state->RemoveAll(kStaleLimit);
    return Fail(std::move(made.error()));
  }
  return CgroupTree(std::move(state));
}

Result<std::size_t> CgroupTree::RemoveStale(std::shared_ptr<const CgroupFiles> files) {
  if (!files) files = std::make_shared<const CgroupFiles>();
  std::set<std::string> mount_points;
  if (const auto mounts = files->Read("/proc/self/mountinfo")) {
    for (const system_files::Mount& mount : system_files::ParseMountInfo(*mounts)) {
      if (mount.type == "cgroup" || mount.type == "cgroup2") mount_points.insert(mount.mount_point);
    }
  }
  std::set<std::string> runs;
  Result<> first;
  for (const std::string& mount_point : mount_points) {
    std::vector<std::string> groups;
    FindRuns(*files, mount_point, 0, groups);
    for (const std::string& group : groups) {
      auto lock = TryLock(*files, group);
      // Gone meanwhile, alive, or above this very process.
      if (!lock || !lock->valid() || HoldsThisProcess(*files, group)) continue;
      runs.emplace(RunIdOf(std::string_view(group).substr(group.rfind('/') + 1)));
      if (auto removed = KillAndRemove(*files, group, kStaleLimit); !removed && first) first = std::move(removed);
    }
  }
  if (!first) return Fail(std::move(first.error()));
  return runs.size();
}

}  // namespace nestbench::tenancy
