// Parsers of the text that the kernel shows in /proc and /sys. Pure; whatever does not parse is left out or empty.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/probe/probe.h"

namespace nestbench::probe {

std::string_view Trim(std::string_view text);
std::vector<std::string_view> SplitWords(std::string_view text);
std::vector<std::string_view> SplitLines(std::string_view text);
std::vector<std::string_view> Split(std::string_view text, char separator);
// What these return points into the text: a temporary would be gone, in a range-based for before its first turn.
template <std::same_as<std::string> Temporary>
void SplitWords(Temporary&& text) = delete;
template <std::same_as<std::string> Temporary>
void SplitLines(Temporary&& text) = delete;
template <std::same_as<std::string> Temporary>
void Split(Temporary&& text, char separator) = delete;
std::optional<std::uint64_t> ParseUnsigned(std::string_view text, int base = 10);  // the whole text, nothing else

// First processor of /proc/cpuinfo. kMalformed without vendor_id.
Result<CpuInfo> ParseCpuInfo(std::string_view text);

// "always [madvise] never" -> "madvise"; empty when nothing is in brackets.
std::string BracketedWord(std::string_view text);

// "0-3,8,10-11" -> 7. Empty for anything else.
std::optional<std::uint32_t> CountCpuList(std::string_view text);

// "MemTotal:  16384 kB" of /proc/meminfo, in bytes.
std::optional<std::uint64_t> MeminfoBytes(std::string_view text, std::string_view key);

// Bits of "CapEff:" in /proc/self/status.
std::optional<std::uint64_t> ParseEffectiveCapabilities(std::string_view status);

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

}  // namespace nestbench::probe
