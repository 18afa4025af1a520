#include "nestbench/result/document.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "nestbench/result/json.h"
#include "sample_run.h"

namespace nestbench::result {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

json HeaderRecord() {
  json capability = json::array();
  for (const Capability& entry : SampleHeader().capability) capability.push_back(ToJson(entry));
  return {{"type", "header"},        {"schema", kSchema},       {"context", json::object()},
          {"host", json::object()},  {"build", json::object()}, {"run", ToJson(SampleHeader().run)},
          {"capability", capability}};
}

json MeasurementRecord(const Measurement& measurement) {
  return {{"type", "measurement"}, {"measurement", ToJson(measurement)}};
}

void ExpectRefused(DocumentBuilder& builder, const json& record, const std::string& why) {
  const auto before = builder.Build(false);
  const auto applied = builder.Apply(record);
  ASSERT_FALSE(applied) << record;
  EXPECT_EQ(applied.error().kind, vmm::ErrorKind::kMalformed);
  EXPECT_THAT(applied.error().ToString(), HasSubstr(why));
  const auto after = builder.Build(false);
  ASSERT_EQ(before.has_value(), after.has_value());
  if (before) {
    EXPECT_EQ(*before, *after) << "a refused record left a trace";
  }
}

TEST(DocumentBuilder, RefusesRecordsThatDoNotFit) {
  DocumentBuilder builder;
  ExpectRefused(builder, json(1), "not an object");
  ExpectRefused(builder, json::object(), "no `type`");
  ExpectRefused(builder, {{"type", "end"}, {"duration_s", 1}, {"interrupted", false}}, "before the header");
  json other_schema = HeaderRecord();
  other_schema["schema"] = "nestbench.result/99";
  ExpectRefused(builder, other_schema, "nestbench.result/99");
  ASSERT_TRUE(builder.Apply(HeaderRecord()));
  ExpectRefused(builder, HeaderRecord(), "second header");
  ExpectRefused(builder, {{"type", "surprise"}}, "unknown type");
  const Measurement vm = SampleMeasurement("vm");
  ExpectRefused(builder, {{"type", "round"}, {"id", vm.id}, {"round", ToJson(SampleRound(0, 0, Arm::kA))}},
                "not announced");
  ASSERT_TRUE(builder.Apply(MeasurementRecord(vm)));
  ExpectRefused(builder, MeasurementRecord(vm), "twice");
  const json round = {{"type", "round"}, {"id", vm.id}, {"round", ToJson(SampleRound(0, 0, Arm::kA))}};
  ASSERT_TRUE(builder.Apply(round));
  ExpectRefused(builder, round, "two processes");
  ExpectRefused(builder, {{"type", "image"}, {"name", "i"}, {"sha256", "abc"}}, "SHA-256");
  Measurement lying = SampleMeasurement("bare");
  lying.workload = "other";
  ExpectRefused(builder, MeasurementRecord(lying), "does not agree");
  ExpectRefused(builder, {{"type", "status"}, {"id", vm.id}, {"status", "fine"}, {"reason", "x"}}, "unknown status");
  ExpectRefused(builder, {{"type", "status"}, {"id", vm.id}, {"status", "failed"}, {"reason", ""}}, "reason");
  ASSERT_TRUE(builder.Apply({{"type", "image"}, {"name", "i"}, {"sha256", kDigest}}));
  ExpectRefused(builder, {{"type", "image"}, {"name", "i"}, {"sha256", std::string(64, 'b')}}, "changed during");
  ASSERT_TRUE(builder.Apply({{"type", "end"}, {"duration_s", 1.5}, {"interrupted", true}}));
  ExpectRefused(builder, {{"type", "image"}, {"name", "j"}, {"sha256", kDigest}}, "after the end");
}

TEST(DocumentBuilder, RefusesExperimentsThatDoNotFit) {
  DocumentBuilder builder;
  ASSERT_TRUE(builder.Apply(HeaderRecord()));
  EXPECT_EQ(builder.Build(false).value()["nestbench"]["experiments"], json::array());
  const json whole = {{"type", "experiment"}, {"experiment", ToJson(SampleExperiment())}};
  const std::string id = SampleExperiment().id;
  const json first = {{"type", "record"}, {"id", id}, {"record", SampleRecord()}};
  ExpectRefused(builder, first, "not announced");
  ExpectRefused(builder, {{"type", "experiment"}}, "without the object");
  json lying = whole;
  lying["experiment"]["substrate"] = "bare";
  ExpectRefused(builder, lying, "is not the scenario");
  json with_params = whole;
  with_params["experiment"]["id"] = "containment/soak/guests=50/vm";
  ExpectRefused(builder, with_params, "is not the scenario");
  json no_id = whole;
  no_id["experiment"]["id"] = "containment/../vm";
  ExpectRefused(builder, no_id, "must be of a-z");
  json with_records = whole;
  with_records["experiment"]["records"] = json::array();
  ExpectRefused(builder, with_records, "with records");
  ASSERT_TRUE(builder.Apply(whole));
  ExpectRefused(builder, whole, "twice");
  ASSERT_TRUE(builder.Apply(first));
  for (const json& record : {json(1), json::array(), json::object(), json{{"kind", ""}}, json{{"kind", 7}}}) {
    ExpectRefused(builder, {{"type", "record"}, {"id", id}, {"record", record}},
                  record.is_object() ? "kind" : "object");
  }
  ExpectRefused(builder, {{"type", "record"}, {"record", SampleRecord()}}, "without `id`");
  ExpectRefused(builder, {{"type", "record"}, {"id", 1}, {"record", SampleRecord()}}, "without `id`");
  ExpectRefused(builder, {{"type", "round"}, {"id", id}, {"round", ToJson(SampleRound(0, 0, Arm::kA))}},
                "not announced");
  EXPECT_EQ(builder.Build(false).value()["nestbench"]["experiments"][0]["records"], json::array({SampleRecord()}));
}

TEST(DocumentBuilder, DoesNotCallOkWhatWasNeverMeasured) {
  DocumentBuilder builder;
  ASSERT_TRUE(builder.Apply(HeaderRecord()));
  ASSERT_TRUE(builder.Apply(MeasurementRecord(SampleMeasurement("vm"))));
  const json document = builder.Build(false).value();
  EXPECT_EQ(document["nestbench"]["measurements"][0]["status"], "error");
  EXPECT_THAT(document["nestbench"]["measurements"][0]["reason"].get<std::string>(),
              HasSubstr("before the first round"));
}

TEST(DocumentBuilder, DoesNotCallOkWhatHasNoSample) {
  DocumentBuilder builder;
  const Measurement vm = SampleMeasurement("vm");
  Round round = SampleRound(0, 0, Arm::kA);
  round.samples.clear();
  ASSERT_TRUE(builder.Apply(HeaderRecord()));
  ASSERT_TRUE(builder.Apply(MeasurementRecord(vm)));
  ASSERT_TRUE(builder.Apply({{"type", "round"}, {"id", vm.id}, {"round", ToJson(round)}}));
  EXPECT_EQ(builder.Build(false).value()["nestbench"]["measurements"][0]["status"], "error");
}

TEST(DocumentBuilder, NamesNoFloorThatIsNotThere) {
  DocumentBuilder builder;
  Measurement vm = SampleMeasurement("vm");
  vm.floor_id = SampleMeasurement("floor").id;
  ASSERT_TRUE(builder.Apply(HeaderRecord()));
  ASSERT_TRUE(builder.Apply(MeasurementRecord(vm)));
  EXPECT_TRUE(builder.Build(false).value()["nestbench"]["measurements"][0]["floor_id"].is_null());
  ASSERT_TRUE(builder.Apply(MeasurementRecord(SampleMeasurement("floor"))));
  EXPECT_EQ(builder.Build(false).value()["nestbench"]["measurements"][0]["floor_id"], *vm.floor_id);
}

TEST(DocumentBuilder, RefusesTwoImagesForOneWorkload) {
  DocumentBuilder builder;
  Measurement bare = SampleMeasurement("bare");
  bare.image_sha256 = std::string(64, 'b');
  ASSERT_TRUE(builder.Apply(HeaderRecord()));
  ASSERT_TRUE(builder.Apply(MeasurementRecord(SampleMeasurement("vm"))));
  ExpectRefused(builder, MeasurementRecord(bare), "another image");
}

TEST(DocumentBuilder, TakesTheLastStatus) {
  DocumentBuilder builder;
  const Measurement vm = SampleMeasurement("vm");
  ASSERT_TRUE(builder.Apply(HeaderRecord()));
  ASSERT_TRUE(builder.Apply(MeasurementRecord(vm)));
  ASSERT_TRUE(builder.Apply({{"type", "status"}, {"id", vm.id}, {"status", "crashed"}, {"reason", "signal 9"}}));
  EXPECT_EQ(builder.Build(false).value()["nestbench"]["measurements"][0]["reason"], "signal 9");
}

TEST(GoogleBenchmarks, TellTheMedianTimeOfEachProcess) {
  Measurement measurement = SampleMeasurement("vm");
  measurement.rounds = {SampleRound(0, 0, Arm::kA), SampleRound(0, 1, Arm::kB)};
  measurement.rounds[1].samples = {4, 2};
  const json benchmarks = GoogleBenchmarks({measurement});
  ASSERT_EQ(benchmarks.size(), 2U);
  EXPECT_EQ(benchmarks[0]["name"], measurement.id);
  EXPECT_EQ(benchmarks[0]["real_time"], 1.25);
  EXPECT_EQ(benchmarks[1]["cpu_time"], 3.0);
  EXPECT_EQ(benchmarks[1]["repetition_index"], 1);
  EXPECT_EQ(benchmarks[1]["repetitions"], 2);
  EXPECT_EQ(benchmarks[1]["time_unit"], "ns");
}

TEST(GoogleBenchmarks, LeaveOutWhatIsNeitherATimeNorARate) {
  Measurement measurement = SampleMeasurement("vm");
  measurement.rounds = {SampleRound(0, 0, Arm::kA)};
  measurement.unit = "bytes";
  EXPECT_TRUE(GoogleBenchmarks({measurement}).empty());
  measurement.unit = "guests/s";
  EXPECT_EQ(GoogleBenchmarks({measurement})[0]["real_time"], 1e9 / 1.25);
}

TEST(GoogleBenchmarks, LeaveOutAProcessWithoutSamples) {
  Measurement measurement = SampleMeasurement("vm");
  measurement.rounds = {SampleRound(0, 0, Arm::kA)};
  measurement.rounds[0].samples.clear();
  EXPECT_TRUE(GoogleBenchmarks({measurement}).empty());
}

TEST(NsPerOperation, KnowsTimesAndRates) {
  EXPECT_DOUBLE_EQ(NsPerOperation("ns/load", 2.5).value(), 2.5);
  EXPECT_DOUBLE_EQ(NsPerOperation("us/vm", 2.5).value(), 2500);
  EXPECT_DOUBLE_EQ(NsPerOperation("ms/vm", 1).value(), 1e6);
  EXPECT_DOUBLE_EQ(NsPerOperation("s/vm", 1).value(), 1e9);
  EXPECT_DOUBLE_EQ(NsPerOperation("GB/s", 10).value(), 0.1);
  EXPECT_DOUBLE_EQ(NsPerOperation("GFLOP/s", 100).value(), 0.01);
  EXPECT_DOUBLE_EQ(NsPerOperation("M/s", 50).value(), 20);
  EXPECT_DOUBLE_EQ(NsPerOperation("MiB/s", 1).value(), 1e9 / (1 << 20));
  EXPECT_DOUBLE_EQ(NsPerOperation("op/s", 1e9).value(), 1);
  EXPECT_DOUBLE_EQ(NsPerOperation("guests/s", 500).value(), 2e6);
  EXPECT_DOUBLE_EQ(NsPerOperation("ns", 2.5).value(), 2.5);
  EXPECT_DOUBLE_EQ(NsPerOperation("ms", 2.5).value(), 2.5e6);
  EXPECT_FALSE(NsPerOperation("bytes", 1));
  EXPECT_FALSE(NsPerOperation("nsx", 1));
  EXPECT_FALSE(NsPerOperation("guests/s", 0));
  EXPECT_FALSE(NsPerOperation("%", 1));
  EXPECT_FALSE(NsPerOperation("/s", 1));
  EXPECT_FALSE(NsPerOperation("ns/", 1));
  EXPECT_FALSE(NsPerOperation("GB/s", 0));
  EXPECT_FALSE(NsPerOperation("ns/op", std::nan("")));
}

TEST(Context, HasGoogleBenchmarksKeys) {
  const json context = MakeContext("nestbench");
  for (const char* key : {"date", "host_name", "executable", "num_cpus", "mhz_per_cpu", "cpu_scaling_enabled", "caches",
                          "load_avg", "library_build_type"}) {
    EXPECT_TRUE(context.contains(key)) << key;
  }
  EXPECT_GE(context["num_cpus"].get<int>(), 1);
  EXPECT_THAT(context["date"].get<std::string>(),
              ::testing::MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}[+-][0-9]{2}:[0-9]{2}"));
}

}  // namespace
}  // namespace nestbench::result
