// The text that the kernel shows in /proc and /sys, taken apart. Pure; whatever does not parse is left out or empty.
#pragma once

#include <concepts>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace nestbench::system_files {

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

// "MemTotal:  16384 kB" of /proc/meminfo, in bytes.
std::optional<std::uint64_t> MeminfoBytes(std::string_view text, std::string_view key);

// Pages in the per-CPU free lists of all zones (/proc/zoneinfo, "pagesets", "count:").
std::optional<std::uint64_t> PerCpuListPages(std::string_view zoneinfo);

// The number after `key` in lines of "key number" (/proc/vmstat, cgroup stat files): whole words only.
std::optional<std::uint64_t> KeyedNumber(std::string_view text, std::string_view key);

// /proc/pressure/* and a v2 group's *.pressure: time that some, or all, tasks stood still. Source: kernel document "PSI
// - Pressure Stall Information". `full_ns` is empty where the kernel has no such line (cpu, before 5.13).
struct Pressure {
  std::uint64_t some_ns = 0;
  std::optional<std::uint64_t> full_ns;
};
std::optional<Pressure> ParsePressure(std::string_view text);

}  // namespace nestbench::system_files
