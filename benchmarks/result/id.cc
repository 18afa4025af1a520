#include "nestbench/result/id.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <utility>

namespace nestbench::result {
namespace {

constexpr std::size_t kMaxIdBytes = 512;

bool IsLower(char c) { return c >= 'a' && c <= 'z'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }

bool IsName(std::string_view text) {
  return !text.empty() && IsLower(text.front()) &&
         std::ranges::all_of(text, [](char c) { return IsLower(c) || IsDigit(c) || c == '_' || c == '-'; });
}

bool IsValue(std::string_view text) {
  return !text.empty() && std::ranges::all_of(text, [](char c) {
    return IsLower(c) || IsDigit(c) || (c >= 'A' && c <= 'Z') || c == '_' || c == '-' || c == '.' || c == '+';
  });
}

std::string ValueText(const ParamValue& value) {
  if (const auto* integer = std::get_if<std::int64_t>(&value)) return fmt::format("{}", *integer);
  return std::get<std::string>(value);
}

// "16384" is the integer 16384; "016", "+1", "-0" and anything beyond 64 bits stay text, so that writing the value
// again gives the same characters.
ParamValue ValueFromText(std::string_view text) {
  std::int64_t integer = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), integer);
  if (error == std::errc() && end == text.data() + text.size() && fmt::format("{}", integer) == text) return integer;
  return std::string(text);
}

Error BadPart(std::string_view part, std::string_view text, std::string_view rule) {
  return Error::InvalidArgument("measurement id", fmt::format("{} `{}` must be {}", part, text.substr(0, 60), rule));
}

constexpr std::string_view kNameRule = "of a-z, 0-9, `_` and `-` and start with a letter";
constexpr std::string_view kValueRule = "of A-Z, a-z, 0-9 and `_.+-`, and not empty";

Result<> ParseParams(std::string_view text, Params& params) {
  std::string_view previous;
  while (true) {
    const auto comma = text.find(',');
    const std::string_view pair = text.substr(0, comma);
    const auto equals = pair.find('=');
    if (equals == std::string_view::npos) return vmm::Fail(BadPart("parameter", pair, "key=value"));
    const std::string_view key = pair.substr(0, equals);
    const std::string_view value = pair.substr(equals + 1);
    if (!IsName(key)) return vmm::Fail(BadPart("parameter name", key, kNameRule));
    if (!IsValue(value)) return vmm::Fail(BadPart("parameter value", value, kValueRule));
    if (!params.empty() && key <= previous) {
      return vmm::Fail(BadPart("parameter name", key, fmt::format("after `{}` in byte order", previous)));
    }
    params.emplace(std::string(key), ValueFromText(value));
    previous = key;
    if (comma == std::string_view::npos) return {};
    text.remove_prefix(comma + 1);
  }
}

}  // namespace

Result<std::string> MakeId(const IdParts& parts) {
  return MakeId(parts.scenario, parts.workload, parts.params, parts.substrate);
}

Result<std::string> MakeId(std::string_view scenario, std::string_view workload, const Params& params,
                           std::string_view substrate) {
  if (!IsName(scenario)) return vmm::Fail(BadPart("scenario", scenario, kNameRule));
  if (!IsName(workload)) return vmm::Fail(BadPart("workload", workload, kNameRule));
  if (!IsName(substrate)) return vmm::Fail(BadPart("substrate", substrate, kNameRule));
  std::string id = fmt::format("{}/{}", scenario, workload);
  char separator = '/';
  for (const auto& [key, value] : params) {  // a std::map: sorted
    const std::string text = ValueText(value);
    if (!IsName(key)) return vmm::Fail(BadPart("parameter name", key, kNameRule));
    if (!IsValue(text)) return vmm::Fail(BadPart("parameter value", text, kValueRule));
    id += fmt::format("{}{}={}", separator, key, text);
    separator = ',';
  }
  id += fmt::format("/{}", substrate);
  if (id.size() > kMaxIdBytes) {
    return vmm::Fail(BadPart("id", id, fmt::format("at most {} characters long", kMaxIdBytes)));
  }
  return id;
}

Result<IdParts> ParseId(std::string_view id) {
  const auto malformed = [id](std::string_view why) {
    return vmm::Fail(Error::Malformed("measurement id", fmt::format("`{}`: {}", id.substr(0, 80), why)));
  };
  const auto slashes = std::ranges::count(id, '/');
  if (id.size() > kMaxIdBytes) return malformed(fmt::format("longer than {} characters", kMaxIdBytes));
  if (slashes != 2 && slashes != 3) return malformed("expected scenario/workload[/key=value,...]/substrate");
  const auto first = id.find('/');
  const auto second = id.find('/', first + 1);
  const auto last = id.rfind('/');
  IdParts parts;
  parts.scenario = id.substr(0, first);
  parts.workload = id.substr(first + 1, second - first - 1);
  parts.substrate = id.substr(last + 1);
  for (const std::string& name : {parts.scenario, parts.workload, parts.substrate}) {
    if (!IsName(name)) return malformed(fmt::format("`{}` must be {}", name, kNameRule));
  }
  if (slashes == 3) {
    if (auto parsed = ParseParams(id.substr(second + 1, last - second - 1), parts.params); !parsed) {
      return malformed(parsed.error().detail);
    }
  }
  return parts;
}

Result<std::string> PairingKey(std::string_view id) {
  if (auto parts = ParseId(id); !parts) return vmm::Fail(std::move(parts.error()));
  return std::string(id.substr(0, id.rfind('/')));
}

}  // namespace nestbench::result
