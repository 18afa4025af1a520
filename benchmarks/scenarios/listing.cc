#include "listing.h"

#include <cerrno>
#include <chrono>
#include <sstream>
#include <utility>

namespace nestbench::scenarios {
namespace {

constexpr std::chrono::seconds kListLimit{20};
constexpr std::size_t kShownBytes = 200;  // of a line that is not understood

}  // namespace

std::string TextAt(const nlohmann::json& value, const char* key) {
  const auto found = value.is_object() ? value.find(key) : value.end();
  return value.is_object() && found != value.end() && found->is_string() ? found->get<std::string>() : std::string();
}

vmm::Result<ChildOutcome> ForEachListed(const std::filesystem::path& program, std::string_view operation,
                                        const std::function<bool(const nlohmann::json&)>& take) {
  auto child = RunChild(program, {"--list"}, "", kListLimit);
  if (!child) return child;
  std::istringstream lines(child->output);
  for (std::string line; std::getline(lines, line);) {
    const auto value = nlohmann::json::parse(line, nullptr, false);
    if (value.is_discarded() || !take(value)) {
      return Fail(vmm::Error::Malformed(operation, line.substr(0, kShownBytes)));
    }
  }
  if (child->exit_code != 0) return Fail(vmm::Error::System(operation, EIO, child->Describe()));
  return child;
}

}  // namespace nestbench::scenarios
