#include "nestbench/result/json.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "sample_run.h"

namespace nestbench::result {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

TEST(ResultJson, RoundTripsEveryPart) {
  Measurement measurement = SampleMeasurement("vm");
  measurement.floor_id = "exits/pio/floor";
  measurement.rounds = {SampleRound(0, 1, Arm::kB)};
  measurement.rounds[0].steal_ns = std::numeric_limits<std::uint64_t>::max();
  const auto measured = MeasurementFromJson(ToJson(measurement));
  ASSERT_TRUE(measured) << measured.error().ToString();
  EXPECT_EQ(ToJson(*measured), ToJson(measurement));
  EXPECT_EQ(measured->rounds[0].steal_ns, std::numeric_limits<std::uint64_t>::max());

  const Finding finding{.id = "x", .severity = Severity::kWarning, .text = "t", .evidence = "e"};
  EXPECT_EQ(ToJson(FindingFromJson(ToJson(finding)).value()), ToJson(finding));
  const Experiment experiment = SampleExperiment();
  EXPECT_EQ(ToJson(ExperimentFromJson(ToJson(experiment)).value()), ToJson(experiment));
  const Capability capability = SampleHeader().capability[1];
  EXPECT_EQ(ToJson(CapabilityFromJson(ToJson(capability)).value()), ToJson(capability));
  const RunInfo run = SampleHeader().run;
  EXPECT_EQ(ToJson(RunInfoFromJson(ToJson(run)).value()), ToJson(run));
}

TEST(ResultJson, NamesTheMissingKey) {
  const json whole = ToJson(SampleMeasurement("vm"));
  for (const auto& [key, value] : whole.items()) {
    json broken = whole;
    broken.erase(key);
    const auto parsed = MeasurementFromJson(broken);
    ASSERT_FALSE(parsed) << key;
    EXPECT_THAT(parsed.error().ToString(), HasSubstr("`" + key + "` is missing"));
  }
}

TEST(ResultJson, RefusesEveryKeyOfTheWrongType) {
  const json whole = ToJson(SampleRound(0, 0, Arm::kA));
  for (const auto& [key, value] : whole.items()) {
    for (const json& wrong : {json(-1), json(nullptr), json("x"), json::object(), json(1e300)}) {
      if (wrong.is_number_float() && key == "clock_disagreement_max") continue;  // a number, if an odd one
      json broken = whole;
      broken[key] = wrong;
      EXPECT_FALSE(RoundFromJson(broken)) << key << " = " << wrong;
    }
  }
}

TEST(ResultJson, RefusesASampleThatIsNotFinite) {
  Round round = SampleRound(0, 0, Arm::kA);
  round.samples.push_back(std::numeric_limits<double>::quiet_NaN());
  const auto text = Dump(ToJson(round));
  const auto parsed = RoundFromJson(ParseJson(text, "test").value());
  ASSERT_FALSE(parsed);
  EXPECT_THAT(parsed.error().ToString(), HasSubstr("samples[3]"));
}

TEST(ResultJson, FindsTheNumberThatJsonCannotHold) {
  const double infinite = std::numeric_limits<double>::infinity();
  EXPECT_EQ(FindNotFinite({{"a", {1, 2.5, {{"b", infinite}}}}}), "/a/2/b");
  EXPECT_EQ(FindNotFinite(json(-infinite)), "");
  EXPECT_FALSE(FindNotFinite({{"a", nullptr}, {"b", {1, 1e308}}}));
}

TEST(ResultJson, RefusesAnExperimentThatIsNotOne) {
  const json whole = ToJson(SampleExperiment());
  for (const auto& [key, value] : whole.items()) {
    for (const json& wrong : {json(1), json(nullptr), json::array()}) {
      json broken = whole;
      broken[key] = wrong;
      EXPECT_FALSE(ExperimentFromJson(broken)) << key << " = " << wrong;
    }
    json broken = whole;
    broken.erase(key);
    EXPECT_FALSE(ExperimentFromJson(broken)) << key;
  }
}

TEST(ResultJson, RefusesASampleThatNoMachineGives) {
  for (const double sample : {1e19, -1e19, 1e-19}) {
    Round round = SampleRound(0, 0, Arm::kA);
    round.samples = {sample};
    EXPECT_FALSE(RoundFromJson(ToJson(round))) << sample;
  }
  Round zero = SampleRound(0, 0, Arm::kA);
  zero.samples = {0};
  EXPECT_TRUE(RoundFromJson(ToJson(zero)));
}

TEST(ResultJson, WantsAReasonExactlyForWhatIsNotOk) {
  json ok_with_reason = ToJson(SampleMeasurement("vm"));
  ok_with_reason["reason"] = "why";
  EXPECT_FALSE(MeasurementFromJson(ok_with_reason));
  json failed_without = ToJson(SampleMeasurement("vm"));
  failed_without["status"] = "failed";
  EXPECT_FALSE(MeasurementFromJson(failed_without));
  failed_without["reason"] = " \n";
  EXPECT_FALSE(MeasurementFromJson(failed_without));
}

TEST(ResultJson, RefusesTextThatIsNestedTooDeepToBeWrittenAgain) {
  const std::string deep = std::string(200000, '[') + std::string(200000, ']');
  const auto parsed = ParseJson(deep, "test");
  ASSERT_FALSE(parsed);
  EXPECT_THAT(parsed.error().ToString(), HasSubstr("nested deeper"));
  EXPECT_TRUE(
      ParseJson(R"(["[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["])", "test"));
}

TEST(ResultJson, RefusesGarbage) {
  for (const std::string& text : {std::string(), std::string("{"), std::string("nul"), std::string("1 2"),
                                  std::string("\xFF\xFE"), std::string("\0\0\0", 3), std::string("{\"a\":1}}")}) {
    EXPECT_FALSE(ParseJson(text, "test")) << text;
  }
}

TEST(ResultJson, WritesBytesThatAreNotUtf8AsReplacementCharacters) {
  const std::string text = Dump(json{{"evidence",
                                      "core\xFF"
                                      "dump"}});
  EXPECT_EQ(text,
            "{\"evidence\":\"core\xEF\xBF\xBD"
            "dump\"}");
}

}  // namespace
}  // namespace nestbench::result
