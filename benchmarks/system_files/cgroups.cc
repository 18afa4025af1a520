#include "nestbench/system_files/cgroups.h"

#include <algorithm>
#include <utility>

#include "nestbench/system_files/text.h"

namespace nestbench::system_files {
namespace {

// "\040" is a space: proc(5) escapes space, tab, newline and backslash so.
std::string DecodeOctal(std::string_view text) {
  const auto is_octal = [](char c) { return c >= '0' && c <= '7'; };
  std::string decoded;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && is_octal(text[i + 1]) && is_octal(text[i + 2]) &&
        is_octal(text[i + 3])) {
      decoded += static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0'));
      i += 3;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

}  // namespace

std::vector<Mount> ParseMountInfo(std::string_view text) {
  // id parent major:minor root mount_point options [optional fields...] - type source super_options
  constexpr std::size_t kFixedFields = 6;
  std::vector<Mount> mounts;
  for (const std::string_view line : SplitLines(text)) {
    const std::vector<std::string_view> words = SplitWords(line);
    if (words.size() < kFixedFields) continue;
    const auto dash = std::find(words.begin() + kFixedFields, words.end(), "-");
    if (words.end() - dash < 4) continue;
    mounts.push_back({.root = DecodeOctal(words[3]),
                      .mount_point = DecodeOctal(words[4]),
                      .type = std::string(dash[1]),
                      .super_options = std::string(dash[3])});
  }
  return mounts;
}

std::vector<CgroupMembership> ParseSelfCgroup(std::string_view text) {
  std::vector<CgroupMembership> memberships;
  for (const std::string_view line : SplitLines(text)) {
    // Only the first two colons separate: a path may hold more.
    const auto first = line.find(':');
    const auto second = first == std::string_view::npos ? first : line.find(':', first + 1);
    if (second == std::string_view::npos || !ParseUnsigned(line.substr(0, first))) continue;
    CgroupMembership membership;
    const std::string_view controllers = line.substr(first + 1, second - first - 1);
    if (!controllers.empty()) {
      for (const std::string_view name : Split(controllers, ',')) membership.controllers.emplace_back(name);
    }
    membership.path = line.substr(second + 1);
    if (!membership.path.starts_with('/')) continue;
    memberships.push_back(std::move(membership));
  }
  return memberships;
}

namespace {

// The folder of group `path` in a mount: the mount may show only a part of the hierarchy (its `root`).
std::string FolderOf(const Mount& mount, const std::string& path) {
  std::string_view below = path;
  if (mount.root != "/" && (path == mount.root || path.starts_with(mount.root + "/"))) {
    below.remove_prefix(mount.root.size());
  } else if (mount.root != "/") {
    below = {};  // outside of what this mount shows: its top is the nearest that can be seen
  }
  std::string folder = mount.mount_point + std::string(below);
  while (folder.size() > 1 && folder.back() == '/') folder.pop_back();
  return folder;
}

}  // namespace

CgroupView FindCgroups(const std::vector<Mount>& mounts, const std::vector<CgroupMembership>& memberships) {
  CgroupView view;
  bool has_v1 = false;
  bool has_v2 = false;
  for (const CgroupMembership& membership : memberships) {
    const bool is_v2 = membership.controllers.empty();
    const auto mount = std::ranges::find_if(mounts, [&](const Mount& candidate) {
      if (is_v2) return candidate.type == "cgroup2";
      const auto options = Split(candidate.super_options, ',');
      return candidate.type == "cgroup" && std::ranges::find(options, membership.controllers.front()) != options.end();
    });
    if (mount == mounts.end()) continue;  // a hierarchy that is not mounted cannot be used
    CgroupHierarchy hierarchy{.is_v2 = is_v2, .controllers = {}, .folder = FolderOf(*mount, membership.path)};
    for (const std::string& controller : membership.controllers) {
      if (!controller.starts_with("name=")) hierarchy.controllers.push_back(controller);
    }
    // A named hierarchy (systemd's) has no controllers: it is no resource to use.
    if (!is_v2 && hierarchy.controllers.empty()) continue;
    (is_v2 ? has_v2 : has_v1) = true;
    view.hierarchies.push_back(std::move(hierarchy));
  }
  view.layout = has_v1 && has_v2 ? "hybrid" : has_v1 ? "v1" : has_v2 ? "v2" : "none";
  return view;
}

}  // namespace nestbench::system_files
