#include "nestbench/result/types.h"

#include <array>
#include <utility>

namespace nestbench::result {
namespace {

template <typename Enum, std::size_t kCount>
using Words = std::array<std::pair<Enum, std::string_view>, kCount>;

constexpr Words<Status, 6> kStatusWords{{{Status::kOk, "ok"},
                                         {Status::kUnsupported, "unsupported"},
                                         {Status::kFailed, "failed"},
                                         {Status::kError, "error"},
                                         {Status::kCrashed, "crashed"},
                                         {Status::kTimeout, "timeout"}}};
constexpr Words<Direction, 2> kDirectionWords{{{Direction::kLower, "lower"}, {Direction::kHigher, "higher"}}};
constexpr Words<Arm, 2> kArmWords{{{Arm::kA, "a"}, {Arm::kB, "b"}}};
constexpr Words<Severity, 3> kSeverityWords{
    {{Severity::kInfo, "info"}, {Severity::kWarning, "warning"}, {Severity::kError, "error"}}};

template <typename Enum, std::size_t kCount>
std::string_view WordOf(const Words<Enum, kCount>& words, Enum value) {
  for (const auto& [candidate, word] : words) {
    if (candidate == value) return word;
  }
  return "invalid";  // only a cast from a number outside the enumeration gets here; no reader accepts this word
}

template <typename Enum, std::size_t kCount>
std::optional<Enum> ValueOf(const Words<Enum, kCount>& words, std::string_view text) {
  for (const auto& [value, word] : words) {
    if (word == text) return value;
  }
  return std::nullopt;
}

}  // namespace

std::string_view ToString(Status status) { return WordOf(kStatusWords, status); }
std::string_view ToString(Direction direction) { return WordOf(kDirectionWords, direction); }
std::string_view ToString(Arm arm) { return WordOf(kArmWords, arm); }
std::string_view ToString(Severity severity) { return WordOf(kSeverityWords, severity); }
std::optional<Status> ParseStatus(std::string_view text) { return ValueOf(kStatusWords, text); }
std::optional<Direction> ParseDirection(std::string_view text) { return ValueOf(kDirectionWords, text); }
std::optional<Arm> ParseArm(std::string_view text) { return ValueOf(kArmWords, text); }
std::optional<Severity> ParseSeverity(std::string_view text) { return ValueOf(kSeverityWords, text); }

}  // namespace nestbench::result
