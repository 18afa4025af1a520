#include "nestbench/result/id.h"

#include <gtest/gtest.h>

namespace nestbench::result {
namespace {

TEST(MeasurementId, SortsParametersByName) {
  const auto id = MakeId("overhead", "memory_chase", {{"z", std::int64_t{2}}, {"backing", std::string("4k")}}, "vm");
  ASSERT_TRUE(id) << id.error().ToString();
  EXPECT_EQ(*id, "overhead/memory_chase/backing=4k,z=2/vm");
}

TEST(MeasurementId, HasNoEmptyParameterPart) {
  EXPECT_EQ(MakeId("exits", "pio", {}, "floor").value(), "exits/pio/floor");
}

TEST(MeasurementId, IsTakenApartIntoWhatItWasMadeOf) {
  const IdParts parts{.scenario = "overhead",
                      .workload = "memory_chase",
                      .params = {{"a", std::int64_t{-5}}, {"b", std::string("007")}, {"c", std::string("1e+5")}},
                      .substrate = "bare"};
  const auto id = MakeId(parts);
  ASSERT_TRUE(id);
  const auto again = ParseId(*id);
  ASSERT_TRUE(again) << again.error().ToString();
  EXPECT_EQ(*again, parts);
}

TEST(MeasurementId, PairsByAllButTheSubstrate) {
  EXPECT_EQ(PairingKey("overhead/x/n=1/vm").value(), PairingKey("overhead/x/n=1/bare").value());
  EXPECT_NE(PairingKey("overhead/x/n=1/vm").value(), PairingKey("overhead/x/n=2/vm").value());
}

class MalformedId : public ::testing::TestWithParam<const char*> {};

TEST_P(MalformedId, IsRefusedWithAReason) {
  const auto parsed = ParseId(GetParam());
  ASSERT_FALSE(parsed) << GetParam();
  EXPECT_EQ(parsed.error().kind, vmm::ErrorKind::kMalformed);
  EXPECT_FALSE(parsed.error().detail.empty());
}

INSTANTIATE_TEST_SUITE_P(Grammar, MalformedId,
                         ::testing::Values("", "a", "a/b", "/b/c", "a//c", "a/b/", "a/b/c=1", "a/b/c=1/d/e", "a/b/c/d",
                                           "a/b/=1/d", "a/b/c=/d", "a/b/c=$x/d", "a/b/c=1,c=2/d", "a/b/d=1,c=2/e",
                                           "A/b/c", "a/b c/d", "a/b/c=x y/d", "a/b/c=$x/d", "1a/b/c", "a/b/\n"));

TEST(MeasurementId, RefusesPartsThatBreakTheGrammar) {
  EXPECT_FALSE(MakeId("over/head", "x", {}, "vm"));
  EXPECT_FALSE(MakeId("overhead", "", {}, "vm"));
  EXPECT_FALSE(MakeId("overhead", "x", {{"k", std::string("a,b")}}, "vm"));
  EXPECT_FALSE(MakeId("overhead", "x", {{"k", std::string(600, 'a')}}, "vm"));
}

}  // namespace
}  // namespace nestbench::result
