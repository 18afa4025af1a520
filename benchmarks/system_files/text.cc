#include "nestbench/system_files/text.h"

#include <charconv>

namespace nestbench::system_files {

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

std::optional<std::uint64_t> KeyedNumber(std::string_view text, std::string_view key) {
  for (const std::string_view line : SplitLines(text)) {
    const std::vector<std::string_view> words = SplitWords(line);
    if (words.size() == 2 && words[0] == key) return ParseUnsigned(words[1]);
  }
  return std::nullopt;
}

std::optional<std::uint64_t> PerCpuListPages(std::string_view zoneinfo) {
  std::optional<std::uint64_t> pages;
  for (const std::string_view line : SplitLines(zoneinfo)) {
    const std::string_view text = Trim(line);
    if (!text.starts_with("count:")) continue;
    if (const auto count = ParseUnsigned(Trim(text.substr(6)))) pages = pages.value_or(0) + *count;
  }
  return pages;
}

std::optional<Pressure> ParsePressure(std::string_view text) {
  constexpr std::uint64_t kNsPerUs = 1000;
  std::optional<Pressure> pressure;
  for (const std::string_view line : SplitLines(text)) {
    const std::vector<std::string_view> words = SplitWords(line);
    if (words.size() < 2 || !words.back().starts_with("total=")) continue;
    const auto total_us = ParseUnsigned(words.back().substr(6));
    if (!total_us || *total_us > UINT64_MAX / kNsPerUs) continue;
    if (words[0] == "some") {
      if (!pressure) pressure.emplace();
      pressure->some_ns = *total_us * kNsPerUs;
    }
    if (words[0] == "full" && pressure) pressure->full_ns = *total_us * kNsPerUs;
  }
  return pressure;
}

}  // namespace nestbench::system_files
