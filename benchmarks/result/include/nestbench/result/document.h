// Builds the result document from journal records. A run that ends well and `recover` go through this one class, so
// that both give the same document for the same records.
#pragma once

#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/result/types.h"

namespace nestbench::result {

// First record of a journal. `context` is Google Benchmark's (MakeContext); `host` is the probe's (ToJson(HostReport));
// `build` = {version, commit, compiler, flags, type}.
struct Header {
  nlohmann::json context = nlohmann::json::object();
  nlohmann::json host = nlohmann::json::object();
  nlohmann::json build = nlohmann::json::object();
  RunInfo run;
  std::vector<Capability> capability;
};

class DocumentBuilder {
 public:
  // Takes one record. kMalformed when it is not one or does not fit those before it (no header first, a round of a
  // measurement or a record of an experiment that was not announced, anything after the end); the builder is then as it
  // was before the call.
  Result<> Apply(const nlohmann::json& record);

  // The document so far. Without an end record run.interrupted is true and run.duration_s is the time of the last
  // record. A measurement announced as ok without a single sample becomes `error`; a floor_id that was never announced
  // becomes null. kMalformed when there is no header yet.
  [[nodiscard]] Result<nlohmann::json> Build(bool recovered) const;

  [[nodiscard]] bool has_header() const { return header_.has_value(); }
  [[nodiscard]] bool has_ended() const { return ended_; }
  [[nodiscard]] const std::vector<Measurement>& measurements() const { return measurements_; }
  [[nodiscard]] const std::vector<Finding>& findings() const { return findings_; }

 private:
  Result<> ApplyHeader(const nlohmann::json& record);
  Result<> ApplyMeasurement(const nlohmann::json& record);
  Result<> ApplyRound(const nlohmann::json& record);
  Result<> ApplyStatus(const nlohmann::json& record);
  Result<> ApplyExperiment(const nlohmann::json& record);
  Result<> ApplyRecord(const nlohmann::json& record);
  Result<> ApplyFinding(const nlohmann::json& record);
  Result<> ApplyImage(const nlohmann::json& record);
  Result<> ApplyEnd(const nlohmann::json& record);
  Result<Measurement*> Find(const nlohmann::json& record);

  std::optional<Header> header_;
  std::vector<Measurement> measurements_;                  // in the order of their records
  std::map<std::string, std::size_t, std::less<>> index_;  // id -> position in measurements_
  std::map<std::string, std::string> digests_;             // id without its substrate -> image_sha256
  struct ExperimentWithRecords {
    Experiment experiment;
    nlohmann::json records = nlohmann::json::array();
  };
  std::vector<ExperimentWithRecords> experiments_;                    // in the order of their announcement
  std::map<std::string, std::size_t, std::less<>> experiment_index_;  // id -> position in experiments_
  std::vector<Finding> findings_;
  std::map<std::string, std::string> images_;
  double last_record_s_ = 0;
  bool ended_ = false;
};

// ns per operation of one sample in `unit`: "ns/op" and "ns" as they are, "us/op", "ms/op", "s/op" and "us", "ms", "s"
// scaled, a rate ("GB/s", "GFLOP/s", "M/s", "op/s", "guests/s") inverted, where the operation is what the rate counts
// (one byte for GB/s). Empty for any other unit ("bytes"), for a sample that is not finite, and for a rate of zero.
std::optional<double> NsPerOperation(std::string_view unit, double sample);

// The array `benchmarks` as Google Benchmark's compare.py reads it: one entry for each process that kept a sample,
// `real_time` and `cpu_time` = median ns per operation. A unit that is neither a time nor a rate has no entry.
nlohmann::json GoogleBenchmarks(const std::vector<Measurement>& measurements);

// The object `context` of Google Benchmark's JSON for this process and machine: date, host_name, executable, num_cpus,
// mhz_per_cpu, cpu_scaling_enabled, caches, load_avg, library_build_type.
nlohmann::json MakeContext(std::string_view executable);

}  // namespace nestbench::result
