// nestbench-conformance: the conditions, one at a time. Started by `nestbench conform`, which gives each a process and
// a deadline of its own.
//   nestbench-conformance --list      one JSON object a line: {"id", "area", "suite", "name", "source"}
//   nestbench-conformance --run ID    runs that one; one JSON object: {"outcome", "messages", "evidence"}
// Exit code: 0 whatever the outcome is, 2 for wrong arguments.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "condition.h"

namespace nestbench::conformance {
namespace {

using nlohmann::json;

// One line: messages may hold anything that a guest or a kernel said.
void Print(const json& object) {
  fmt::print("{}\n", object.dump(-1, ' ', true, json::error_handler_t::replace));
  std::fflush(stdout);
}

int List() {
  for (const Condition& condition : Conditions()) {
    Print({{"id", condition.Id()},
           {"area", condition.area},
           {"suite", condition.suite},
           {"name", condition.name},
           {"source", condition.source}});
  }
  return 0;
}

json ResultOf(const ::testing::TestInfo& test) {
  const ::testing::TestResult& result = *test.result();
  std::vector<std::string> messages;
  for (int i = 0; i < result.total_part_count(); ++i) {
    const ::testing::TestPartResult& part = result.GetTestPartResult(i);
    if (!part.passed()) messages.emplace_back(part.message());
  }
  json evidence = json::object();
  for (int i = 0; i < result.test_property_count(); ++i) {
    const ::testing::TestProperty& property = result.GetTestProperty(i);
    evidence[property.key()] = property.value();
  }
  return {{"outcome", result.Failed()    ? "fail"
                      : result.Skipped() ? "skip"
                                         : "pass"},
          {"messages", messages},
          {"evidence", evidence}};
}

int RunOne(std::string_view id) {
  const auto found = std::ranges::find_if(Conditions(), [id](const Condition& c) { return c.Id() == id; });
  if (found == Conditions().end()) {
    fmt::print(stderr, "nestbench-conformance: there is no `{}`\n", id);
    return 2;
  }
  GTEST_FLAG_SET(filter, found->GoogleName());
  ::testing::UnitTest& unit = *::testing::UnitTest::GetInstance();
  delete unit.listeners().Release(unit.listeners().default_result_printer());
  // What it returns is in the results below.
  [[maybe_unused]] const int failed = RUN_ALL_TESTS();
  for (int i = 0; i < unit.total_test_suite_count(); ++i) {
    const ::testing::TestSuite& suite = *unit.GetTestSuite(i);
    for (int j = 0; j < suite.total_test_count(); ++j) {
      if (suite.GetTestInfo(j)->should_run()) Print(ResultOf(*suite.GetTestInfo(j)));
    }
  }
  return 0;
}

int Main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  const std::string_view mode = argc > 1 ? argv[1] : "";
  if (argc == 2 && mode == "--list") return List();
  if (argc == 3 && mode == "--run") return RunOne(argv[2]);
  fmt::print(stderr, "nestbench-conformance is started by nestbench; run `nestbench conform`\n");
  return 2;
}

}  // namespace
}  // namespace nestbench::conformance

int main(int argc, char** argv) { return nestbench::conformance::Main(argc, argv); }
