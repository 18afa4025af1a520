// The parts of a result document as plain structs. What each means and which values it may have: DESIGN.md, "Result
// document". The structs hold raw samples only: every statistic is the report's.
#pragma once

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "nestbench/vmm/base/error.h"

namespace nestbench::result {

using vmm::Error;
using vmm::Result;

inline constexpr std::string_view kSchema = "nestbench.result/1";

enum class Status : std::uint8_t { kOk, kUnsupported, kFailed, kError, kCrashed, kTimeout };
enum class Direction : std::uint8_t { kLower, kHigher };  // which is better
enum class Arm : std::uint8_t { kA, kB };                 // first or second process of one substrate within a round
enum class Severity : std::uint8_t { kInfo, kWarning, kError };

// The words of the document: "ok", "lower", "a", "warning", ...
std::string_view ToString(Status status);
std::string_view ToString(Direction direction);
std::string_view ToString(Arm arm);
std::string_view ToString(Severity severity);
std::optional<Status> ParseStatus(std::string_view text);
std::optional<Direction> ParseDirection(std::string_view text);
std::optional<Arm> ParseArm(std::string_view text);
std::optional<Severity> ParseSeverity(std::string_view text);

// A workload's parameters, by name. An integer keeps its type in the document: {"working_set_bytes": 16384}.
using ParamValue = std::variant<std::int64_t, std::string>;
using Params = std::map<std::string, ParamValue, std::less<>>;

// What one process (one arm of one round) measured.
struct Round {
  std::uint32_t round = 0;  // number of the round within the measurement, from 0
  std::uint32_t order = 0;  // position of this process within its round, from 0
  Arm arm = Arm::kA;
  std::vector<double> samples;   // in the measurement's unit, one for each kept batch; finite
  std::uint64_t iterations = 0;  // operations in one batch
  std::uint64_t voided = 0;      // samples left out because the two clocks disagreed
  std::uint64_t steal_ns = 0;
  std::uint64_t run_queue_wait_ns = 0;
  std::uint64_t context_switches = 0;
  std::uint64_t migrations = 0;
  std::uint64_t warmup_batches = 0;
  double clock_disagreement_max = 0;  // fraction: 0.005 is 0.5 %
  std::uint64_t huge_page_bytes = 0;  // of the arena that huge pages really backed
  std::uint64_t exits = 0;            // of the VM; 0 where there is none
  std::uint64_t nested_runs = 0;      // entries of L2 by a hypervisor in the guest; 0 where there is none
};

// One workload with one set of parameters on one substrate.
struct Measurement {
  std::string id;  // MakeId(scenario, workload, params, substrate): see id.h
  std::string scenario;
  std::string workload;
  std::string substrate;  // "bare", "vm", "floor", ...
  Params params;
  std::string unit;  // "ns/op", "GB/s", ...
  Direction direction = Direction::kLower;
  Status status = Status::kOk;
  std::string reason;        // empty exactly when status is kOk
  std::string image;         // payload image by name; empty where none is run
  std::string image_sha256;  // 64 lower-case hex digits; empty where none is run
  std::vector<Round> rounds;
  std::optional<std::string> floor_id;  // the measurement that this one is to be divided by
};

// What many tenants did, step by step. Its records follow one by one (Journal::AddRecord); which kinds there are and
// what each holds: DESIGN.md, "Density, isolation, containment". The report's schema is strict about them.
struct Experiment {
  std::string id;  // MakeId(scenario, workload, {}, substrate): "density/steady/vm"
  std::string scenario;
  std::string workload;
  std::string substrate;
  nlohmann::json setup = nlohmann::json::object();  // what was asked for: rate, limits, budgets
};

// What the probe or a scenario concluded.
struct Finding {
  std::string id;  // stable, kebab-case: "supervisor-emulated"
  Severity severity = Severity::kInfo;
  std::string text;
  std::string evidence;  // what was seen that supports the text
};

// Whether something can run on this host.
struct Capability {
  std::string scenario;
  std::string workload;
  bool runnable = false;
  std::string reason;  // why not; empty when runnable
  std::string remedy;  // what would change it; empty when runnable or when nothing would
};

struct RunInfo {
  std::string id;
  std::string started;  // RFC 3339, UTC: "2026-01-31T12:00:00Z"
  std::string profile;
  std::uint64_t seed = 0;
  std::vector<std::string> arguments;
  double duration_s = 0;
  bool interrupted = false;
  bool recovered = false;
};

}  // namespace nestbench::result
