// Conversion of the parts of a result document to and from JSON. Reading takes hostile input: a wrong type, a missing
// key, an unknown word or a number out of range is ErrorKind::kMalformed that names the key. No exception leaves.
//
// Unknown keys are ignored on reading, so that a document of a later minor change can still be read.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "nestbench/result/types.h"

namespace nestbench::result {

nlohmann::json ToJson(const Params& params);
nlohmann::json ToJson(const Round& round);
nlohmann::json ToJson(const Measurement& measurement);
nlohmann::json ToJson(const Experiment& experiment);  // without `records`
nlohmann::json ToJson(const Finding& finding);
nlohmann::json ToJson(const Capability& capability);
nlohmann::json ToJson(const RunInfo& run);

Result<Round> RoundFromJson(const nlohmann::json& value);
Result<Measurement> MeasurementFromJson(const nlohmann::json& value);
Result<Experiment> ExperimentFromJson(const nlohmann::json& value);
Result<Finding> FindingFromJson(const nlohmann::json& value);
Result<Capability> CapabilityFromJson(const nlohmann::json& value);
Result<RunInfo> RunInfoFromJson(const nlohmann::json& value);

// The first number in `value` that JSON cannot hold (NaN, infinity), as its JSON pointer ("/latency_ns/p99"); empty
// when there is none. Dump() would write it as null, which means "the kernel does not tell".
std::optional<std::string> FindNotFinite(const nlohmann::json& value);

// 64 lower-case hex digits.
bool IsSha256(std::string_view text);

// A reason is needed exactly when the status is not ok; white space is none.
bool FitsStatus(Status status, std::string_view reason);

// Parses one JSON text. kMalformed for anything but one complete value, and for nesting deeper than 64 levels.
// `what` names the input in the message.
Result<nlohmann::json> ParseJson(std::string_view text, std::string_view what);

// JSON text; bytes that are not UTF-8 (a crashed child's standard error, for one) become U+FFFD instead of an error.
// `indent` -1: one line without a line end.
std::string Dump(const nlohmann::json& value, int indent = -1);

}  // namespace nestbench::result
