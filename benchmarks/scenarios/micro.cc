// The scenarios `exits`, `lifecycle` and `hotpath`: the registrations of nestbench_micro, each round in two fresh
// processes (arm a and arm b), every repetition kept.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "nestbench/result/id.h"
#include "nestbench/result/json.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/scenarios/progress.h"
#include "nestbench/scenarios/run_context.h"
#include "nestbench/vmm/digest/sha256.h"
#include "nestbench/vmm/loader/loaded_file.h"
#include "round_budget.h"

namespace nestbench::scenarios {
namespace {

using nlohmann::json;

constexpr std::chrono::seconds kListLimit{20};
constexpr std::string_view kUnsupportedPrefix = "unsupported: ";
constexpr std::string_view kFloor = "floor";
constexpr std::string_view kBare = "bare";
constexpr std::string_view kExits = "exits";
constexpr std::string_view kExitsImage = "exits";

// Google Benchmark appends to a name how it was run ("/manual_time", "/iterations:3"); an id ends in its substrate.
std::string IdOfName(std::string name) {
  constexpr std::string_view kSuffixes[] = {"/manual_time", "/real_time", "/process_time"};
  for (bool cut = true; cut;) {
    cut = false;
    const std::size_t last = name.find_last_of('/');
    if (last == std::string::npos) break;
    const std::string_view part = std::string_view(name).substr(last);
    const bool is_suffix = std::ranges::find(kSuffixes, part) != std::end(kSuffixes);
    if (is_suffix || part.find(':') != std::string_view::npos) {
      name.resize(last);
      cut = true;
    }
  }
  return name;
}

// A regular expression that matches exactly one of `names`.
std::string ExactFilter(const std::vector<std::string>& names) {
  std::string filter = "^(";
  for (const std::string& name : names) {
    if (filter.size() > 2) filter += '|';
    for (const char c : name) {
      if (std::string_view(".+*?()[]{}|^$\\").find(c) != std::string_view::npos) filter += '\\';
      filter += c;
    }
  }
  return filter + ")$";
}

std::vector<std::string> CommonArguments(const RunContext& context) {
  return {fmt::format("--images={}", context.installation.images.string()), fmt::format("--cpu={}", context.cpu)};
}

bool IsNested(std::string_view id) { return id.ends_with("/nested") || id.ends_with("/nested_shadow"); }

// The quick profile has time for what leaves the guest, not for what the library does in user space.
bool Includes(const RunContext& context, std::string_view id) {
  if (IsNested(id) && !context.nested) return false;
  return context.profile != workloads::Profile::kQuick || !id.starts_with("hotpath/");
}

// The registered names, by id, in the order of registration.
vmm::Result<std::vector<std::pair<std::string, std::string>>> ListNames(const RunContext& context) {
  auto arguments = CommonArguments(context);
  arguments.emplace_back("--benchmark_list_tests=true");
  auto child = RunChild(context.installation.micro_program, arguments, "", kListLimit);
  if (!child) return Fail(std::move(child.error()));
  if (child->exit_code != 0) return Fail(Error::Malformed("list nestbench_micro", child->Describe()));
  std::vector<std::pair<std::string, std::string>> names;
  std::istringstream lines(child->output);
  for (std::string line; std::getline(lines, line);) {
    std::string id = IdOfName(line);
    if (result::ParseId(id) && context.selects(id) && Includes(context, id)) names.emplace_back(std::move(id), line);
  }
  return names;
}

double ToNs(double value, const std::string& unit) {
  if (unit == "us") return value * 1e3;
  if (unit == "ms") return value * 1e6;
  if (unit == "s") return value * 1e9;
  return value;
}

// Google Benchmark writes its counters as numbers with a point.
std::uint64_t CounterOf(const json& entry, const char* name) {
  const double value = entry.value(name, 0.0);
  return value > 0 && value < 1e15 ? static_cast<std::uint64_t>(value) : 0;
}

class MicroRun {
 public:
  MicroRun(const RunContext& context, result::Journal& journal) : context_(context), journal_(journal) {}

  result::Result<void> Run() {
    auto names = ListNames(context_);
    if (!names) return Fail(std::move(names.error()));
    if (names->empty()) return {};
    if (auto announced = Announce(*names); !announced) return announced;
    Progress progress("exits", 2ULL * context_.effort.micro_rounds, context_.quiet);
    RoundBudget rounds(context_.effort.micro_rounds, context_.effort.micro_budget);
    while (rounds.Next()) {
      for (const result::Arm arm : {result::Arm::kA, result::Arm::kB}) {
        progress.Step(fmt::format("round {}", rounds.current() + 1));
        if (auto done = RunProcess(rounds.current(), arm); !done) return done;
        if (StopSignal() != 0) return {};
      }
      if (auto synced = journal_.Sync(); !synced) return synced;
    }
    return rounds.Report(journal_, "exits");
  }

 private:
  result::Result<void> Announce(const std::vector<std::pair<std::string, std::string>>& names) {
    std::set<std::string> ids;
    for (const auto& [id, name] : names) ids.insert(id);
    auto digest = ImageDigest();
    if (!digest) return Fail(std::move(digest.error()));
    for (const auto& [id, name] : names) {
      auto parts = result::ParseId(id);
      if (!parts) return Fail(std::move(parts.error()));
      result::Measurement measurement;
      measurement.id = id;
      measurement.scenario = parts->scenario;
      measurement.workload = parts->workload;
      measurement.substrate = parts->substrate;
      measurement.params = parts->params;
      measurement.unit = "ns/op";
      if (!digest->empty() && measurement.scenario == kExits && measurement.substrate != kBare) {
        measurement.image = kExitsImage;
        measurement.image_sha256 = *digest;
      }
      parts->substrate = kFloor;
      if (auto floor = result::MakeId(*parts); floor && !IsNested(id) && *floor != id && ids.contains(*floor)) {
        measurement.floor_id = *floor;
      }
      const bool needs_kvm = measurement.substrate != kBare && measurement.scenario != "hotpath";
      if (needs_kvm && !context_.vm_unsupported.empty()) {
        measurement.status = result::Status::kUnsupported;
        measurement.reason = context_.vm_unsupported;
      } else {
        active_.emplace(id, name);
      }
      if (auto added = journal_.AddMeasurement(measurement); !added) return added;
    }
    return {};
  }

  // Of the image that every exit is measured with, noted in the journal; empty when it cannot be read: nestbench_micro
  // will say so for each of its benchmarks.
  result::Result<std::string> ImageDigest() {
    const auto path = context_.installation.images / (std::string(kExitsImage) + ".elf");
    auto image = vmm::LoadedFile::Read(path.string(), vmm::kMaxImageFileBytes);
    if (!image) return std::string();
    auto digest = vmm::Sha256Hex(image->bytes());
    if (!digest) return Fail(std::move(digest.error()));
    if (auto added = journal_.AddImage(kExitsImage, *digest); !added) return Fail(std::move(added.error()));
    return *digest;
  }

  result::Result<void> RunProcess(std::uint32_t round, result::Arm arm) {
    if (active_.empty()) return {};
    std::vector<std::string> names;
    for (const auto& [id, name] : active_) names.push_back(name);
    auto arguments = CommonArguments(context_);
    const Effort& effort = context_.effort;
    const double min_time_s = std::chrono::duration<double>(effort.micro_min_time).count();
    arguments.push_back(fmt::format("--benchmark_filter={}", ExactFilter(names)));
    arguments.push_back(fmt::format("--benchmark_repetitions={}", effort.micro_repetitions));
    arguments.push_back(fmt::format("--benchmark_min_time={}", min_time_s));
    arguments.emplace_back("--benchmark_enable_random_interleaving=true");
    arguments.emplace_back("--benchmark_format=json");
    // Finding the iteration count takes a few times the minimum; creating a VM for each repetition some more.
    const std::chrono::duration<double> limit(60 + 20.0 * static_cast<double>(names.size()) * effort.micro_repetitions *
                                                       min_time_s);
    auto child = RunChild(context_.installation.micro_program, arguments, "",
                          std::chrono::duration_cast<std::chrono::nanoseconds>(limit));
    if (!child) return GiveUpAll(result::Status::kError, child.error().ToString());
    if (child->interrupted) return {};
    if (child->timed_out) return GiveUpAll(result::Status::kTimeout, child->Describe());
    if (child->exit_code != 0) return GiveUpAll(result::Status::kCrashed, child->Describe());
    auto document = result::ParseJson(child->output, "output of nestbench_micro");
    if (!document) return GiveUpAll(result::Status::kError, document.error().ToString());
    return Record(*document, round, arm);
  }

  result::Result<void> Record(const json& document, std::uint32_t round, result::Arm arm) {
    std::map<std::string, result::Round> rounds;
    const auto benchmarks = document.find("benchmarks");
    if (benchmarks == document.end() || !benchmarks->is_array()) {
      return GiveUpAll(result::Status::kError, "nestbench_micro printed no list of benchmarks");
    }
    for (const json& entry : *benchmarks) {
      if (!entry.is_object() || entry.value("run_type", "") != "iteration") continue;
      const std::string id = IdOfName(entry.value("run_name", ""));
      if (!active_.contains(id)) continue;
      if (entry.value("error_occurred", false)) {
        std::string message = entry.value("error_message", "no message");
        const bool unsupported = message.starts_with(kUnsupportedPrefix);
        if (unsupported) message.erase(0, kUnsupportedPrefix.size());
        active_.erase(id);
        rounds.erase(id);
        if (auto set =
                journal_.SetStatus(id, unsupported ? result::Status::kUnsupported : result::Status::kError, message);
            !set) {
          return set;
        }
        continue;
      }
      result::Round& record = rounds[id];
      record.round = round;
      record.order = arm == result::Arm::kA ? 0 : 1;
      record.arm = arm;
      record.iterations = entry.value("iterations", std::uint64_t{0});
      record.exits += CounterOf(entry, "exits");
      record.nested_runs += CounterOf(entry, "nested_runs");
      record.samples.push_back(ToNs(entry.value("real_time", 0.0), entry.value("time_unit", "ns")));
    }
    for (const auto& [id, record] : rounds) {
      if (auto added = journal_.AddRound(id, record); !added) return added;
    }
    return {};
  }

  result::Result<void> GiveUpAll(result::Status status, const std::string& reason) {
    for (const auto& [id, name] : active_) {
      if (auto set = journal_.SetStatus(id, status, reason); !set) return set;
    }
    active_.clear();
    return {};
  }

  const RunContext& context_;
  result::Journal& journal_;
  std::map<std::string, std::string> active_;  // id -> registered name
};

}  // namespace

result::Result<void> RunExits(const RunContext& context, result::Journal& journal) {
  return MicroRun(context, journal).Run();
}

vmm::Result<std::vector<std::string>> ExitsIds(const RunContext& context) {
  auto names = ListNames(context);
  if (!names) return Fail(std::move(names.error()));
  std::vector<std::string> ids;
  ids.reserve(names->size());
  for (auto& [id, name] : *names) ids.push_back(std::move(id));
  return ids;
}

}  // namespace nestbench::scenarios
