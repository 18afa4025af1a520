// What a CgroupTree and its groups share: where they are and which hierarchy serves what. Private to cgroup*.cc.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cgroup_files.h"
#include "nestbench/system_files/cgroups.h"
#include "nestbench/tenancy/cgroup.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::tenancy {

inline constexpr std::string_view kRunPrefix = "nestbench-";
inline constexpr std::string_view kSupervisorSuffix = "-supervisor";
inline constexpr std::string_view kShared = "shared";  // v2: the leaf for processes of the run's own group

struct CgroupHierarchyInUse {
  bool is_v2 = false;
  std::vector<CgroupController> serves;
  std::string own_folder;  // where this process was when the tree was made
  std::string run_folder;
  vmm::UniqueFd lock;  // of run_folder
  // v2: what was done to this process's own group, to be undone.
  std::vector<std::string> enabled;  // controllers for the groups below it
  std::string supervisor_folder;     // where this process moved; empty when it did not have to
  vmm::UniqueFd supervisor_lock;

  [[nodiscard]] bool Serves(CgroupController controller) const {
    return std::ranges::find(serves, controller) != serves.end();
  }
};

struct CgroupState {
  std::shared_ptr<const CgroupFiles> files;
  std::string run_id;
  std::string layout = "none";
  std::vector<CgroupHierarchyInUse> hierarchies;
  std::vector<std::string> missing;
  CgroupLimits budget;
  std::uint64_t removed_oom_kills = 0;  // of groups that are gone; v1 does not add them up
  pid_t owner = -1;                     // a forked child must not clean up after its parent

  [[nodiscard]] const CgroupHierarchyInUse* For(CgroupController controller) const;
  // Undoes what was done in one hierarchy, or in all. The first error; goes on after it.
  Result<> RemoveHierarchy(CgroupHierarchyInUse& hierarchy, std::chrono::nanoseconds limit) const;
  Result<> RemoveAll(std::chrono::nanoseconds limit);
};

// "20261123T071453Z-0a1b2c", as result::NewRunId() makes it: nobody else's group is called so.
bool IsRunId(std::string_view text);

// Sets limits on one group of one hierarchy, as far as it serves them.
Result<> WriteLimits(const CgroupFiles& files, const CgroupHierarchyInUse& hierarchy, const std::string& folder,
                     const CgroupLimits& limits);
Result<> CheckLimits(const CgroupLimits& limits);

// Makes `folder` and locks it. EEXIST when another process has it.
Result<vmm::UniqueFd> MakeLockedFolder(const CgroupFiles& files, const std::string& folder);

// What the kernel counts for one group.
std::optional<std::uint64_t> ReadOomKills(const CgroupFiles& files, bool is_v2, const std::string& folder);
std::optional<std::uint64_t> ReadMemoryUsage(const CgroupFiles& files, bool is_v2, const std::string& folder);
std::optional<std::uint64_t> ReadKernelMemory(const CgroupFiles& files, bool is_v2, const std::string& folder);
std::optional<std::uint64_t> ReadCpuUsage(const CgroupFiles& files, bool is_v2, const std::string& folder);
std::optional<std::uint64_t> ReadThrottled(const CgroupFiles& files, bool is_v2, const std::string& folder);

}  // namespace nestbench::tenancy
