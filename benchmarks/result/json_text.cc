// JSON values to and from text, and what of a value the text cannot hold.
#include <fmt/format.h>

#include <cmath>
#include <optional>
#include <string>

#include "nestbench/result/json.h"

namespace nestbench::result {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 64;

// Nesting is checked on the text: a deep value would exhaust the stack when it is written again.
bool IsTooDeep(std::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

// At depths that no record has the value is left to ParseJson, which refuses the text of it.
std::optional<json::json_pointer> FindNotFiniteBelow(const json& value, const json::json_pointer& here, int depth) {
  if (value.is_number_float() && !std::isfinite(value.get<double>())) return here;
  if (!value.is_structured() || depth > kMaxDepth) return std::nullopt;
  for (const auto& [key, child] : value.items()) {
    if (auto found = FindNotFiniteBelow(child, here / key, depth + 1)) return found;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> FindNotFinite(const json& value) {
  const auto found = FindNotFiniteBelow(value, json::json_pointer(), 0);
  return found ? std::optional(found->to_string()) : std::nullopt;
}

Result<json> ParseJson(std::string_view text, std::string_view what) {
  if (IsTooDeep(text)) {
    return vmm::Fail(Error::Malformed(what, fmt::format("JSON is nested deeper than {} levels", kMaxDepth)));
  }
  try {
    return json::parse(text);
  } catch (const json::exception& exception) {
    // "[json.exception.parse_error.101] parse error at line 1, column 5: ...": the tag says nothing to a reader.
    std::string_view reason = exception.what();
    if (const auto end = reason.find("] "); end != std::string_view::npos) reason.remove_prefix(end + 2);
    return vmm::Fail(Error::Malformed(what, fmt::format("not JSON: {}", reason.substr(0, 200))));
  }
}

std::string Dump(const json& value, int indent) {
  return value.dump(indent, ' ', false, json::error_handler_t::replace);
}

}  // namespace nestbench::result
