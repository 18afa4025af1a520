#include "parse.h"

#include <algorithm>
#include <charconv>
#include <utility>

namespace nestbench::probe {

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace(" \t\r\n\0", 5);
  const auto first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const auto end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) return parts;
    text.remove_prefix(end + 1);
  }
}

std::vector<std::string_view> SplitWords(std::string_view text) {
  std::vector<std::string_view> words;
  for (const std::string_view line : Split(text, '\n')) {
    for (const std::string_view part : Split(line, ' ')) {
      if (const std::string_view word = Trim(part); !word.empty()) words.push_back(word);
    }
  }
  return words;
}

std::vector<std::string_view> SplitLines(std::string_view text) {
  std::vector<std::string_view> lines = Split(text, '\n');
  if (!lines.empty() && lines.back().empty()) lines.pop_back();
  return lines;
}

std::optional<std::uint64_t> ParseUnsigned(std::string_view text, int base) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (text.empty() || error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

Result<CpuInfo> ParseCpuInfo(std::string_view text) {
  CpuInfo cpu;
  for (const std::string_view line : SplitLines(text)) {
    if (Trim(line).empty()) {
      if (!cpu.vendor.empty()) break;  // end of the first processor
      continue;
    }
    const auto colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    const std::string_view key = Trim(line.substr(0, colon));
    const std::string_view value = Trim(line.substr(colon + 1));
    const auto number = [value] { return static_cast<std::uint32_t>(ParseUnsigned(value).value_or(0)); };
    if (key == "vendor_id") cpu.vendor = value;
    if (key == "model name") cpu.model_name = value;
    if (key == "cpu family") cpu.family = number();
    if (key == "model") cpu.model = number();
    if (key == "stepping") cpu.stepping = number();
    if (key == "microcode") cpu.microcode = value;
    if (key == "flags") {
      for (const std::string_view flag : SplitWords(value)) cpu.flags.emplace_back(flag);
    }
  }
  if (cpu.vendor.empty()) return vmm::Fail(Error::Malformed("/proc/cpuinfo", "no vendor_id: not an x86 processor"));
  return cpu;
}

std::string BracketedWord(std::string_view text) {
  const auto open = text.find('[');
  const auto close = text.find(']', open == std::string_view::npos ? 0 : open);
  if (open == std::string_view::npos || close == std::string_view::npos) return {};
  return std::string(text.substr(open + 1, close - open - 1));
}

std::optional<std::uint32_t> CountCpuList(std::string_view text) {
  constexpr std::uint64_t kMaxCpus = 1 << 20;
  std::uint64_t count = 0;
  for (const std::string_view range : Split(Trim(text), ',')) {
    const auto dash = range.find('-');
    const auto first = ParseUnsigned(range.substr(0, dash));
    const auto last = dash == std::string_view::npos ? first : ParseUnsigned(range.substr(dash + 1));
    if (!first || !last || *last < *first || *last >= kMaxCpus) return std::nullopt;
    count += *last - *first + 1;
  }
  return static_cast<std::uint32_t>(count);
}

std::optional<std::uint64_t> MeminfoBytes(std::string_view text, std::string_view key) {
  for (const std::string_view line : SplitLines(text)) {
    const std::vector<std::string_view> words = SplitWords(line);
    if (words.size() != 3 || words[2] != "kB" || words[0].substr(0, words[0].size() - 1) != key) continue;
    const auto kib = ParseUnsigned(words[1]);
    if (!kib || *kib > (UINT64_MAX >> 10)) return std::nullopt;
    return *kib << 10;
  }
  return std::nullopt;
}

std::optional<std::uint64_t> ParseEffectiveCapabilities(std::string_view status) {
  for (const std::string_view line : SplitLines(status)) {
    if (line.starts_with("CapEff:")) return ParseUnsigned(Trim(line.substr(7)), 16);
  }
  return std::nullopt;
}

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

}  // namespace nestbench::probe
