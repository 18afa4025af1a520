#include "nestbench/result/document.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "nestbench/result/id.h"
#include "nestbench/result/json.h"

namespace nestbench::result {
namespace {

using nlohmann::json;

constexpr std::string_view kUnfinished = "the run ended before the first round of this was finished";
constexpr std::string_view kAllVoid = "no sample was kept: in all of them the two clocks disagreed";

tl::unexpected<Error> Malformed(std::string detail) {
  return vmm::Fail(Error::Malformed("journal record", std::move(detail)));
}

// The value of `key` when it is of `type`; nullptr otherwise.
const json* Member(const json& record, const char* key, json::value_t type) {
  const auto found = record.find(key);
  return found != record.end() && found->type() == type ? &*found : nullptr;
}

const std::string* Text(const json& record, const char* key) {
  const json* found = Member(record, key, json::value_t::string);
  return found != nullptr ? found->get_ptr<const std::string*>() : nullptr;
}

}  // namespace

Result<> DocumentBuilder::Apply(const json& record) {
  if (!record.is_object()) return Malformed("is not an object");
  const std::string* type = Text(record, "type");
  if (type == nullptr) return Malformed("has no `type`");
  if (ended_) return Malformed(fmt::format("`{}` after the end record", *type));
  if (!header_ && *type != "header") return Malformed(fmt::format("`{}` before the header", *type));

  Result<> applied;
  if (*type == "header") {
    applied = ApplyHeader(record);
  } else if (*type == "measurement") {
    applied = ApplyMeasurement(record);
  } else if (*type == "round") {
    applied = ApplyRound(record);
  } else if (*type == "status") {
    applied = ApplyStatus(record);
  } else if (*type == "experiment") {
    applied = ApplyExperiment(record);
  } else if (*type == "record") {
    applied = ApplyRecord(record);
  } else if (*type == "finding") {
    applied = ApplyFinding(record);
  } else if (*type == "image") {
    applied = ApplyImage(record);
  } else if (*type == "end") {
    applied = ApplyEnd(record);
  } else {
    return Malformed(fmt::format("unknown type `{}`", type->substr(0, 40)));
  }
  if (!applied) return applied;
  if (const auto at = record.find("at_s"); at != record.end() && at->is_number()) last_record_s_ = at->get<double>();
  return {};
}

Result<> DocumentBuilder::ApplyHeader(const json& record) {
  if (header_) return Malformed("a second header");
  const std::string* schema = Text(record, "schema");
  if (schema == nullptr || *schema != kSchema) {
    return Malformed(fmt::format("header is of schema `{}`; this program reads `{}`",
                                 schema != nullptr ? schema->substr(0, 40) : "", kSchema));
  }
  Header header;
  for (const auto& [key, target] :
       {std::pair{"context", &header.context}, std::pair{"host", &header.host}, std::pair{"build", &header.build}}) {
    const json* found = Member(record, key, json::value_t::object);
    if (found == nullptr) return Malformed(fmt::format("header without the object `{}`", key));
    *target = *found;
  }
  const json* run = Member(record, "run", json::value_t::object);
  if (run == nullptr) return Malformed("header without the object `run`");
  auto parsed = RunInfoFromJson(*run);
  if (!parsed) return vmm::Fail(std::move(parsed.error()));
  header.run = std::move(*parsed);
  const json* capability = Member(record, "capability", json::value_t::array);
  if (capability == nullptr) return Malformed("header without the array `capability`");
  for (const json& entry : *capability) {
    auto one = CapabilityFromJson(entry);
    if (!one) return vmm::Fail(std::move(one.error()));
    header.capability.push_back(std::move(*one));
  }
  header_ = std::move(header);
  return {};
}

Result<> DocumentBuilder::ApplyMeasurement(const json& record) {
  const json* value = Member(record, "measurement", json::value_t::object);
  if (value == nullptr) return Malformed("measurement record without the object `measurement`");
  auto measurement = MeasurementFromJson(*value);
  if (!measurement) return vmm::Fail(std::move(measurement.error()));
  if (!measurement->rounds.empty()) return Malformed(fmt::format("`{}` is announced with rounds", measurement->id));
  auto parts = ParseId(measurement->id);
  if (!parts) return vmm::Fail(std::move(parts.error()));
  if (const auto expected =
          MakeId(measurement->scenario, measurement->workload, measurement->params, measurement->substrate);
      !expected || *expected != measurement->id) {
    return Malformed(fmt::format("id `{}` does not agree with its scenario, workload, params and substrate{}",
                                 measurement->id, expected ? fmt::format(" (`{}`)", *expected) : ""));
  }
  // One image for every substrate: a ratio between two images would compare programs, not substrates.
  if (!measurement->image_sha256.empty()) {
    const std::string key = measurement->id.substr(0, measurement->id.rfind('/'));
    const auto [digest, inserted] = digests_.try_emplace(key, measurement->image_sha256);
    if (!inserted && digest->second != measurement->image_sha256) {
      return Malformed(
          fmt::format("`{}` is of another image than the same workload on another substrate", measurement->id));
    }
  }
  if (!index_.try_emplace(measurement->id, measurements_.size()).second) {
    return Malformed(fmt::format("`{}` is announced twice", measurement->id));
  }
  measurements_.push_back(std::move(*measurement));
  return {};
}

Result<Measurement*> DocumentBuilder::Find(const json& record) {
  const std::string* id = Text(record, "id");
  if (id == nullptr) return Malformed("has no `id`");
  const auto found = index_.find(*id);
  if (found == index_.end()) return Malformed(fmt::format("`{}` was not announced", id->substr(0, 200)));
  return &measurements_[found->second];
}

Result<> DocumentBuilder::ApplyRound(const json& record) {
  auto measurement = Find(record);
  if (!measurement) return vmm::Fail(std::move(measurement.error()));
  const json* value = Member(record, "round", json::value_t::object);
  if (value == nullptr) return Malformed("round record without the object `round`");
  auto round = RoundFromJson(*value);
  if (!round) return vmm::Fail(std::move(round.error()));
  for (const Round& other : (*measurement)->rounds) {
    if (other.round == round->round && other.order == round->order) {
      return Malformed(
          fmt::format("`{}` has two processes at round {}, order {}", (*measurement)->id, round->round, round->order));
    }
  }
  (*measurement)->rounds.push_back(std::move(*round));
  return {};
}

Result<> DocumentBuilder::ApplyStatus(const json& record) {
  auto measurement = Find(record);
  if (!measurement) return vmm::Fail(std::move(measurement.error()));
  const std::string* status = Text(record, "status");
  const std::string* reason = Text(record, "reason");
  if (status == nullptr || reason == nullptr) return Malformed("status record without `status` and `reason`");
  const auto parsed = ParseStatus(*status);
  if (!parsed) return Malformed(fmt::format("unknown status `{}`", status->substr(0, 40)));
  if (!FitsStatus(*parsed, *reason)) return Malformed("`reason` must be empty exactly when `status` is ok");
  (*measurement)->status = *parsed;
  (*measurement)->reason = *reason;
  return {};
}

Result<> DocumentBuilder::ApplyExperiment(const json& record) {
  const json* value = Member(record, "experiment", json::value_t::object);
  if (value == nullptr) return Malformed("experiment record without the object `experiment`");
  auto experiment = ExperimentFromJson(*value);
  if (!experiment) return vmm::Fail(std::move(experiment.error()));
  if (value->contains("records")) return Malformed(fmt::format("`{}` is announced with records", experiment->id));
  auto parts = ParseId(experiment->id);
  if (!parts) return vmm::Fail(std::move(parts.error()));
  if (parts->scenario != experiment->scenario || parts->workload != experiment->workload ||
      parts->substrate != experiment->substrate || !parts->params.empty()) {
    return Malformed(
        fmt::format("id `{}` is not the scenario, workload and substrate of its experiment", experiment->id));
  }
  if (!experiment_index_.try_emplace(experiment->id, experiments_.size()).second) {
    return Malformed(fmt::format("experiment `{}` is announced twice", experiment->id));
  }
  experiments_.push_back({.experiment = std::move(*experiment)});
  return {};
}

Result<> DocumentBuilder::ApplyRecord(const json& record) {
  const std::string* id = Text(record, "id");
  if (id == nullptr) return Malformed("record without `id`");
  const auto found = experiment_index_.find(*id);
  if (found == experiment_index_.end()) {
    return Malformed(fmt::format("experiment `{}` was not announced", id->substr(0, 200)));
  }
  const json* value = Member(record, "record", json::value_t::object);
  if (value == nullptr) return Malformed("record without the object `record`");
  if (const std::string* kind = Text(*value, "kind"); kind == nullptr || kind->empty()) {
    return Malformed(fmt::format("record of `{}` without `kind`", id->substr(0, 200)));
  }
  experiments_[found->second].records.push_back(*value);
  return {};
}

Result<> DocumentBuilder::ApplyFinding(const json& record) {
  const json* value = Member(record, "finding", json::value_t::object);
  if (value == nullptr) return Malformed("finding record without the object `finding`");
  auto finding = FindingFromJson(*value);
  if (!finding) return vmm::Fail(std::move(finding.error()));
  findings_.push_back(std::move(*finding));
  return {};
}

Result<> DocumentBuilder::ApplyImage(const json& record) {
  const std::string* name = Text(record, "name");
  const std::string* digest = Text(record, "sha256");
  if (name == nullptr || digest == nullptr) return Malformed("image record without `name` and `sha256`");
  if (!IsSha256(*digest)) return Malformed(fmt::format("image `{}` without a SHA-256", name->substr(0, 200)));
  const auto [found, inserted] = images_.try_emplace(*name, *digest);
  if (!inserted && found->second != *digest) {
    return Malformed(fmt::format("image `{}` changed during the run", name->substr(0, 200)));
  }
  return {};
}

Result<> DocumentBuilder::ApplyEnd(const json& record) {
  const auto duration = record.find("duration_s");
  const json* interrupted = Member(record, "interrupted", json::value_t::boolean);
  if (duration == record.end() || !duration->is_number() || interrupted == nullptr) {
    return Malformed("end record without `duration_s` and `interrupted`");
  }
  header_->run.duration_s = duration->get<double>();
  header_->run.interrupted = interrupted->get<bool>();
  ended_ = true;
  return {};
}

Result<json> DocumentBuilder::Build(bool recovered) const {
  if (!header_)
    return vmm::Fail(Error::Malformed("result document", "the journal has no header: nothing was finished"));
  RunInfo run = header_->run;
  run.recovered = recovered;
  if (!ended_) {
    run.interrupted = true;
    run.duration_s = last_record_s_;
  }
  json measurements = json::array();
  for (const Measurement& measurement : measurements_) {
    json entry = ToJson(measurement);
    // Announced as ok and then never measured: "ok" would be a claim that nothing supports.
    if (measurement.status == Status::kOk &&
        std::ranges::all_of(measurement.rounds, [](const Round& round) { return round.samples.empty(); })) {
      entry["status"] = ToString(Status::kError);
      entry["reason"] = measurement.rounds.empty() ? kUnfinished : kAllVoid;
    }
    // A run that was cut short may never have come to the floor.
    if (measurement.floor_id && !index_.contains(*measurement.floor_id)) entry["floor_id"] = nullptr;
    measurements.push_back(std::move(entry));
  }
  json experiments = json::array();
  for (const auto& [experiment, records] : experiments_) {
    json entry = ToJson(experiment);
    entry["records"] = records;
    experiments.push_back(std::move(entry));
  }
  json findings = json::array();
  for (const Finding& finding : findings_) findings.push_back(ToJson(finding));
  json capability = json::array();
  for (const Capability& entry : header_->capability) capability.push_back(ToJson(entry));
  return json{{"context", header_->context},
              {"benchmarks", GoogleBenchmarks(measurements_)},
              {"nestbench",
               {{"schema", kSchema},
                {"host", header_->host},
                {"build", header_->build},
                {"images", images_},
                {"run", ToJson(run)},
                {"measurements", std::move(measurements)},
                {"experiments", std::move(experiments)},
                {"findings", std::move(findings)},
                {"capability", std::move(capability)}}}};
}

}  // namespace nestbench::result
