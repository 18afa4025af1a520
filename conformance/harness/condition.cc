#include "condition.h"

#include <fmt/format.h>

#include <algorithm>
#include <tuple>
#include <vector>

namespace nestbench::conformance {
namespace {

std::vector<Condition>& Table() {
  static auto* const kTable = new std::vector<Condition>;
  return *kTable;
}

}  // namespace

std::string Condition::Id() const { return fmt::format("{}/{}.{}", area, suite, name); }
std::string Condition::GoogleName() const { return fmt::format("{}.{}", suite, name); }

std::span<const Condition> Conditions() {
  static const bool kSorted = [] {
    std::ranges::sort(Table(), {}, [](const Condition& c) { return std::tuple(c.area, c.suite, c.name); });
    return true;
  }();
  (void)kSorted;
  return Table();
}

void Evidence(std::string_view key, std::string_view value) {
  ::testing::Test::RecordProperty(std::string(key), std::string(value));
}
void Evidence(std::string_view key, long long value) { Evidence(key, std::to_string(value)); }

bool internal::Register(const Condition& condition) {
  Table().push_back(condition);
  return true;
}

}  // namespace nestbench::conformance
