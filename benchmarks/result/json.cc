#include "nestbench/result/json.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <utility>

namespace nestbench::result {
namespace {

using nlohmann::json;

// What no clock and no machine can give: such a sample is a fault of the program that wrote it.
constexpr double kMaxSample = 1e18;
constexpr double kMinSample = 1e-18;  // smallest that is not zero

// Reads the keys of one object. The first thing that is wrong is kept; every later read is then void, so a reader can
// ask for all keys and look at the error once.
class Reader {
 public:
  Reader(const json& object, std::string_view what) : object_(object), what_(what) {
    if (!object.is_object()) SetError("is not an object");
  }

  void String(const char* key, std::string& value) {
    if (const json* found = Get(key)) {
      if (found->is_string()) {
        value = found->get_ref<const std::string&>();
      } else {
        SetError(fmt::format("`{}` is not a string", key));
      }
    }
  }

  template <typename Integer>
  void Unsigned(const char* key, Integer& value) {
    const json* found = Get(key);
    if (found == nullptr) return;
    if (!found->is_number_integer() || (!found->is_number_unsigned() && found->get<std::int64_t>() < 0) ||
        found->get<std::uint64_t>() > std::numeric_limits<Integer>::max()) {
      SetError(fmt::format("`{}` is not a whole number from 0 to {}", key, std::numeric_limits<Integer>::max()));
      return;
    }
    value = static_cast<Integer>(found->get<std::uint64_t>());
  }

  void Number(const char* key, double& value) {
    if (const json* found = Get(key)) {
      if (IsFinite(*found)) {
        value = found->get<double>();
      } else {
        SetError(fmt::format("`{}` is not a finite number", key));
      }
    }
  }

  void Bool(const char* key, bool& value) {
    if (const json* found = Get(key)) {
      if (found->is_boolean()) {
        value = found->get<bool>();
      } else {
        SetError(fmt::format("`{}` is not true or false", key));
      }
    }
  }

  template <typename Enum, typename Parse>
  void Word(const char* key, Enum& value, Parse parse) {
    std::string text;
    String(key, text);
    if (error_) return;
    if (const auto parsed = parse(text)) {
      value = *parsed;
    } else {
      SetError(fmt::format("`{}` is the unknown word `{}`", key, text.substr(0, 40)));
    }
  }

  // The value of a key that must be there and be an array; nullptr, with the error kept, when it is not.
  const json* Array(const char* key) {
    const json* found = Get(key);
    if (found != nullptr && !found->is_array()) {
      SetError(fmt::format("`{}` is not an array", key));
      return nullptr;
    }
    return found;
  }

  const json* Get(const char* key) {
    if (error_) return nullptr;
    const auto found = object_.find(key);
    if (found == object_.end()) {
      SetError(fmt::format("`{}` is missing", key));
      return nullptr;
    }
    return &*found;
  }

  void SetError(std::string detail) {
    if (!error_) error_ = Error::Malformed(what_, std::move(detail));
  }

  [[nodiscard]] const std::optional<Error>& error() const { return error_; }

  static bool IsFinite(const json& value) { return value.is_number() && std::isfinite(value.get<double>()); }

 private:
  const json& object_;
  std::string what_;
  std::optional<Error> error_;
};

void ReadParams(Reader& reader, Params& params) {
  const json* found = reader.Get("params");
  if (found == nullptr) return;
  if (!found->is_object()) return reader.SetError("`params` is not an object");
  for (const auto& [key, value] : found->items()) {
    if (value.is_string()) {
      params.emplace(key, value.get<std::string>());
    } else if (value.is_number_integer() && (!value.is_number_unsigned() || value.get<std::uint64_t>() <= INT64_MAX)) {
      params.emplace(key, value.get<std::int64_t>());
    } else {
      return reader.SetError(fmt::format("`params.{}` is neither a string nor a 64-bit integer", key));
    }
  }
}

bool IsPlausibleSample(const json& sample) {
  if (!Reader::IsFinite(sample)) return false;
  const double size = std::abs(sample.get<double>());
  return size == 0 || (size >= kMinSample && size <= kMaxSample);
}

template <typename T>
Result<T> Finish(const Reader& reader, T value) {
  if (reader.error()) return vmm::Fail(*reader.error());
  return value;
}

}  // namespace

bool IsSha256(std::string_view text) {
  return text.size() == 64 &&
         std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool FitsStatus(Status status, std::string_view reason) {
  return (status == Status::kOk) == (reason.find_first_not_of(" \t\r\n") == std::string_view::npos);
}

json ToJson(const Params& params) {
  json object = json::object();
  for (const auto& [key, value] : params) {
    std::visit([&object, &key](const auto& typed) { object[key] = typed; }, value);
  }
  return object;
}

json ToJson(const Round& round) {
  json object = {{"round", round.round},
                 {"order", round.order},
                 {"arm", ToString(round.arm)},
                 {"samples", round.samples},
                 {"iterations", round.iterations},
                 {"voided", round.voided},
                 {"steal_ns", round.steal_ns},
                 {"run_queue_wait_ns", round.run_queue_wait_ns},
                 {"context_switches", round.context_switches},
                 {"migrations", round.migrations},
                 {"warmup_batches", round.warmup_batches},
                 {"clock_disagreement_max", round.clock_disagreement_max},
                 {"huge_page_bytes", round.huge_page_bytes},
                 {"exits", round.exits}};
  if (round.nested_runs != 0) object["nested_runs"] = round.nested_runs;
  return object;
}

json ToJson(const Measurement& measurement) {
  json rounds = json::array();
  for (const Round& round : measurement.rounds) rounds.push_back(ToJson(round));
  return {{"id", measurement.id},
          {"scenario", measurement.scenario},
          {"workload", measurement.workload},
          {"substrate", measurement.substrate},
          {"params", ToJson(measurement.params)},
          {"unit", measurement.unit},
          {"direction", ToString(measurement.direction)},
          {"status", ToString(measurement.status)},
          {"reason", measurement.reason},
          {"image", measurement.image},
          {"image_sha256", measurement.image_sha256},
          {"rounds", std::move(rounds)},
          {"floor_id", measurement.floor_id ? json(*measurement.floor_id) : json(nullptr)}};
}

json ToJson(const Experiment& experiment) {
  return {{"id", experiment.id},
          {"scenario", experiment.scenario},
          {"workload", experiment.workload},
          {"substrate", experiment.substrate},
          {"setup", experiment.setup}};
}

json ToJson(const Finding& finding) {
  return {{"id", finding.id},
          {"severity", ToString(finding.severity)},
          {"text", finding.text},
          {"evidence", finding.evidence}};
}

json ToJson(const Capability& capability) {
  return {{"scenario", capability.scenario},
          {"workload", capability.workload},
          {"runnable", capability.runnable},
          {"reason", capability.reason},
          {"remedy", capability.remedy}};
}

json ToJson(const RunInfo& run) {
  return {{"id", run.id},
          {"started", run.started},
          {"profile", run.profile},
          {"seed", run.seed},
          {"arguments", run.arguments},
          {"duration_s", run.duration_s},
          {"interrupted", run.interrupted},
          {"recovered", run.recovered}};
}

Result<Round> RoundFromJson(const json& value) {
  Round round;
  Reader reader(value, "round");
  reader.Unsigned("round", round.round);
  reader.Unsigned("order", round.order);
  reader.Word("arm", round.arm, ParseArm);
  if (const json* samples = reader.Array("samples")) {
    for (const json& sample : *samples) {
      if (!IsPlausibleSample(sample)) {
        reader.SetError(fmt::format("`samples[{}]` is not a finite, plausible number", round.samples.size()));
        break;
      }
      round.samples.push_back(sample.get<double>());
    }
  }
  reader.Unsigned("iterations", round.iterations);
  reader.Unsigned("voided", round.voided);
  reader.Unsigned("steal_ns", round.steal_ns);
  reader.Unsigned("run_queue_wait_ns", round.run_queue_wait_ns);
  reader.Unsigned("context_switches", round.context_switches);
  reader.Unsigned("migrations", round.migrations);
  reader.Unsigned("warmup_batches", round.warmup_batches);
  reader.Number("clock_disagreement_max", round.clock_disagreement_max);
  if (round.clock_disagreement_max < 0) reader.SetError("`clock_disagreement_max` is below zero");
  reader.Unsigned("huge_page_bytes", round.huge_page_bytes);
  reader.Unsigned("exits", round.exits);
  if (value.contains("nested_runs")) reader.Unsigned("nested_runs", round.nested_runs);
  return Finish(reader, std::move(round));
}

Result<Measurement> MeasurementFromJson(const json& value) {
  Measurement measurement;
  Reader reader(value, "measurement");
  reader.String("id", measurement.id);
  reader.String("scenario", measurement.scenario);
  reader.String("workload", measurement.workload);
  reader.String("substrate", measurement.substrate);
  ReadParams(reader, measurement.params);
  reader.String("unit", measurement.unit);
  if (measurement.unit.empty()) reader.SetError("`unit` is empty");
  reader.Word("direction", measurement.direction, ParseDirection);
  reader.Word("status", measurement.status, ParseStatus);
  reader.String("reason", measurement.reason);
  reader.String("image", measurement.image);
  reader.String("image_sha256", measurement.image_sha256);
  if (!measurement.image_sha256.empty() && !IsSha256(measurement.image_sha256)) {
    reader.SetError("`image_sha256` is neither empty nor 64 lower-case hex digits");
  }
  if (const json* rounds = reader.Array("rounds")) {
    for (const json& round : *rounds) {
      auto parsed = RoundFromJson(round);
      if (!parsed) return vmm::Fail(std::move(parsed.error()));
      measurement.rounds.push_back(std::move(*parsed));
    }
  }
  if (const json* floor = reader.Get("floor_id"); floor != nullptr && !floor->is_null()) {
    reader.String("floor_id", measurement.floor_id.emplace());
  }
  if (!FitsStatus(measurement.status, measurement.reason)) {
    reader.SetError("`reason` must be empty exactly when `status` is ok");
  }
  return Finish(reader, std::move(measurement));
}

Result<Experiment> ExperimentFromJson(const json& value) {
  Experiment experiment;
  Reader reader(value, "experiment");
  reader.String("id", experiment.id);
  reader.String("scenario", experiment.scenario);
  reader.String("workload", experiment.workload);
  reader.String("substrate", experiment.substrate);
  if (const json* setup = reader.Get("setup")) {
    if (!setup->is_object()) reader.SetError("`setup` is not an object");
    experiment.setup = *setup;
  }
  return Finish(reader, std::move(experiment));
}

Result<Finding> FindingFromJson(const json& value) {
  Finding finding;
  Reader reader(value, "finding");
  reader.String("id", finding.id);
  reader.Word("severity", finding.severity, ParseSeverity);
  reader.String("text", finding.text);
  reader.String("evidence", finding.evidence);
  return Finish(reader, std::move(finding));
}

Result<Capability> CapabilityFromJson(const json& value) {
  Capability capability;
  Reader reader(value, "capability");
  reader.String("scenario", capability.scenario);
  reader.String("workload", capability.workload);
  reader.Bool("runnable", capability.runnable);
  reader.String("reason", capability.reason);
  reader.String("remedy", capability.remedy);
  return Finish(reader, std::move(capability));
}

Result<RunInfo> RunInfoFromJson(const json& value) {
  RunInfo run;
  Reader reader(value, "run");
  reader.String("id", run.id);
  reader.String("started", run.started);
  reader.String("profile", run.profile);
  reader.Unsigned("seed", run.seed);
  if (const json* arguments = reader.Array("arguments")) {
    for (const json& argument : *arguments) {
      if (!argument.is_string()) {
        reader.SetError("`arguments` holds something that is not a string");
        break;
      }
      run.arguments.push_back(argument.get<std::string>());
    }
  }
  reader.Number("duration_s", run.duration_s);
  if (run.duration_s < 0) reader.SetError("`duration_s` is below zero");
  reader.Bool("interrupted", run.interrupted);
  reader.Bool("recovered", run.recovered);
  return Finish(reader, std::move(run));
}

}  // namespace nestbench::result
