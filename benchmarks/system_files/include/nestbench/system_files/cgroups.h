// Where the cgroups of this process are. Pure parsers of /proc/self/mountinfo and /proc/self/cgroup.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nestbench::system_files {

// One line of /proc/self/mountinfo. Source: proc(5), "/proc/pid/mountinfo".
struct Mount {
  std::string root;         // inside the file system
  std::string mount_point;  // octal escapes (\040) decoded
  std::string type;
  std::string super_options;
};
std::vector<Mount> ParseMountInfo(std::string_view text);

// One line of /proc/self/cgroup: "4:memory:/user.slice". Source: cgroups(7).
struct CgroupMembership {
  std::vector<std::string> controllers;  // empty: cgroup v2; "name=systemd" for a named v1 hierarchy
  std::string path;
};
std::vector<CgroupMembership> ParseSelfCgroup(std::string_view text);

// Where this process's own group of one hierarchy lies in the file system.
struct CgroupHierarchy {
  bool is_v2 = false;
  std::vector<std::string> controllers;  // of v1: those of the mount; of v2: empty, read cgroup.controllers
  std::string folder;
};
struct CgroupView {
  std::string layout;  // "v1", "v2", "hybrid", "none"
  std::vector<CgroupHierarchy> hierarchies;
};
CgroupView FindCgroups(const std::vector<Mount>& mounts, const std::vector<CgroupMembership>& memberships);

}  // namespace nestbench::system_files
