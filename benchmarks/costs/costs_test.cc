// The costs program as its callers see it: one line of JSON for each operation, whatever the host can do, and an end.
#include <gtest/gtest.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "guest_code.h"
#include "nestbench/vmm/machine/flat_machine.h"
#include "operations.h"

namespace nestbench::costs {
namespace {

// Exit code and everything that the program says.
std::pair<int, std::string> RunCosts(const std::string& flags) {
  FILE* pipe = ::popen((std::string(NESTBENCH_COSTS) + " " + flags + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return {-1, "popen failed"};
  std::string text;
  char buffer[512];
  while (::fgets(buffer, sizeof(buffer), pipe) != nullptr) text += buffer;
  const int status = ::pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text};
}

TEST(OperationsTest, EachHasItsOwnName) {
  std::set<std::string_view> names;
  for (const Operation& operation : Operations()) EXPECT_TRUE(names.insert(operation.name).second) << operation.name;
}

TEST(OperationsTest, EachFitsItsMachine) {
  for (const Operation& operation : Operations()) {
    SCOPED_TRACE(operation.name);
    EXPECT_LE(operation.handler.size(), vmm::kFlatStubBytes);
    EXPECT_EQ(operation.handler.empty(), operation.handled_vector == -1);
    EXPECT_LE(GuestCode(operation).size(), vmm::kFlatCodeMaxBytes);
    if (operation.has_second_vcpu) {
      EXPECT_TRUE(operation.apic == Apic::kX2apic && operation.has_small_pages);
    }
    if (operation.measures_itself) {
      EXPECT_LE(operation.least_passes, kMostValues);
    }
  }
}

TEST(CostsTest, ListsEachOperation) {
  const auto [code, text] = RunCosts("--list");
  ASSERT_EQ(code, 0) << text;
  EXPECT_EQ(std::ranges::count(text, '\n'), std::ssize(Operations()));
}

TEST(CostsTest, AnUnknownOperationIsAWrongArgument) { EXPECT_EQ(RunCosts("--run no_such").first, 2); }

class EachOperationTest : public ::testing::TestWithParam<std::string_view> {};

INSTANTIATE_TEST_SUITE_P(Operations, EachOperationTest, ::testing::ValuesIn([] {
                           std::vector<std::string_view> names;
                           for (const Operation& operation : Operations()) names.push_back(operation.name);
                           return names;
                         }()),
                         [](const auto& info) { return std::string(info.param); });

TEST_P(EachOperationTest, IsMeasuredOrSaysWhyNot) {
  if (::access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << "no usable /dev/kvm";
  const auto [code, text] = RunCosts("--run " + std::string(GetParam()));
  ASSERT_EQ(code, 0) << text;
  const auto said = nlohmann::json::parse(text, nullptr, false);
  ASSERT_TRUE(said.is_object()) << text;
  if (said.at("status") == "unsupported") {
    EXPECT_FALSE(said.at("reason").get<std::string>().empty());
    GTEST_SKIP() << said.at("reason");
  }
  EXPECT_EQ(said.at("status"), "ok");
  EXPECT_EQ(said.at("unit"), "ns/op");
  EXPECT_GE(said.at("samples").size(), 40U);
}

}  // namespace
}  // namespace nestbench::costs
