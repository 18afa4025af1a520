// Placements on machines that hwloc makes up, and on this one.
#include "nestbench/tenancy/placement.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

namespace nestbench::tenancy {
namespace {

using ::testing::HasSubstr;

std::map<std::string, Placement> ByName(const std::string& synthetic) {
  std::map<std::string, Placement> placements;
  for (Placement& placement : FindPlacements(synthetic)) placements.emplace(placement.name, placement);
  return placements;
}

// CPUs are numbered in order: package, cache, core, thread.
TEST(PlacementTest, AServerHasAllFour) {
  const auto placements = ByName("package:2 l3:2 core:2 pu:2");  // 16 CPUs, four to a cache
  ASSERT_EQ(placements.size(), 4U);
  for (const auto& [name, placement] : placements) {
    EXPECT_EQ(placement.unsupported, "") << name;
    EXPECT_GE(placement.victim_cpu, 0) << name;
    EXPECT_GE(placement.aggressor_cpu, 0) << name;
  }
  const auto core = [](int cpu) { return cpu / 2; };
  const auto cache = [](int cpu) { return cpu / 4; };
  const Placement& same_cpu = placements.at("same_cpu");
  EXPECT_EQ(same_cpu.victim_cpu, same_cpu.aggressor_cpu);
  const Placement& sibling = placements.at("sibling");
  EXPECT_NE(sibling.victim_cpu, sibling.aggressor_cpu);
  EXPECT_EQ(core(sibling.victim_cpu), core(sibling.aggressor_cpu));
  const Placement& same_cache = placements.at("same_cache");
  EXPECT_NE(core(same_cache.victim_cpu), core(same_cache.aggressor_cpu));
  EXPECT_EQ(cache(same_cache.victim_cpu), cache(same_cache.aggressor_cpu));
  const Placement& other_cache = placements.at("other_cache");
  EXPECT_NE(cache(other_cache.victim_cpu), cache(other_cache.aggressor_cpu));
}

TEST(PlacementTest, SaysWhatASmallMachineLacks) {
  const auto placements = ByName("package:1 l3:1 core:2 pu:1");
  EXPECT_EQ(placements.at("same_cpu").unsupported, "");
  EXPECT_EQ(placements.at("same_cache").unsupported, "");
  EXPECT_THAT(placements.at("sibling").unsupported, HasSubstr("no core has two threads"));
  EXPECT_EQ(placements.at("sibling").victim_cpu, -1);
  EXPECT_THAT(placements.at("other_cache").unsupported, HasSubstr("share one last-level cache"));
}

TEST(PlacementTest, TwoThreadsOfOneCoreAreNotTwoCores) {
  const auto placements = ByName("package:1 l3:1 core:1 pu:2");
  EXPECT_EQ(placements.at("sibling").unsupported, "");
  EXPECT_NE(placements.at("same_cache").unsupported, "");
}

TEST(PlacementTest, OneCpuCanOnlyTakeTurns) {
  for (const auto& [name, placement] : ByName("package:1 l3:1 core:1 pu:1")) {
    EXPECT_EQ(placement.unsupported.empty(), name == "same_cpu") << name;
  }
}

TEST(PlacementTest, WithoutADescriptionThatHoldsNothingIsClaimed) {
  for (const auto& [name, placement] : ByName("no topology")) {
    EXPECT_NE(placement.unsupported, "") << name;
    EXPECT_EQ(placement.victim_cpu, -1) << name;
  }
}

TEST(PlacementTest, ThisMachineHasACpuToShare) {
  const auto placements = ByName("");
  EXPECT_EQ(placements.at("same_cpu").unsupported, "");
  EXPECT_GE(placements.at("same_cpu").victim_cpu, 0);
}

}  // namespace
}  // namespace nestbench::tenancy
