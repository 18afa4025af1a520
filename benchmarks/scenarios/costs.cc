#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "listing.h"
#include "nestbench/result/id.h"
#include "nestbench/result/journal.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/scenarios/progress.h"
#include "nestbench/scenarios/run_context.h"

namespace nestbench::scenarios {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

constexpr auto kRoundLimit = 60s;  // the program itself gives up on an operation that hangs after a second
constexpr std::string_view kScenario = "costs";
constexpr std::string_view kSubstrate = "vm";

struct CostOperation {
  std::string name;
  std::string id;  // costs/cpuid/vm
};

vmm::Result<std::vector<CostOperation>> SelectOperations(const RunContext& context) {
  std::vector<CostOperation> operations;
  auto listed = ForEachListed(context.installation.costs_program, "list operations", [&](const json& entry) {
    std::string name = TextAt(entry, "name");
    auto id = result::MakeId(kScenario, name, {}, kSubstrate);
    if (!id) return false;
    if (context.selects(*id)) operations.push_back({std::move(name), std::move(*id)});
    return true;
  });
  if (!listed) return Fail(std::move(listed.error()));
  return operations;
}

// What a child said, or why it said nothing. Never trusted to be what it should.
struct Answer {
  result::Status status = result::Status::kError;
  std::string reason;
  std::string unit;
  result::Round round;
};

Answer Understand(const ChildOutcome& child) {
  Answer answer;
  answer.reason = child.Describe();
  if (child.timed_out) answer.status = result::Status::kTimeout;
  if (child.signal != 0) answer.status = result::Status::kCrashed;
  if (child.exit_code != 0) return answer;
  const json said = json::parse(child.output, nullptr, false);
  const std::string status = TextAt(said, "status");
  if (status == "unsupported") {
    answer.status = result::Status::kUnsupported;
    answer.reason = TextAt(said, "reason");
    if (answer.reason.empty()) answer.reason = "no reason was given";
    return answer;
  }
  answer.reason = "its answer is not understood";
  if (status != "ok" || !said.contains("samples") || !said["samples"].is_array()) return answer;
  for (const json& sample : said["samples"]) {
    if (!sample.is_number()) return answer;
    answer.round.samples.push_back(sample.get<double>());
  }
  answer.unit = TextAt(said, "unit");
  if (const auto found = said.find("iterations"); found != said.end() && found->is_number_unsigned()) {
    answer.round.iterations = *found;
  }
  if (answer.unit.empty() || answer.round.samples.empty() || answer.round.iterations == 0) return answer;
  answer.status = result::Status::kOk;
  answer.reason.clear();
  return answer;
}

result::Result<void> Announce(result::Journal& journal, const CostOperation& operation, const Answer& answer) {
  result::Measurement measurement;
  measurement.id = operation.id;
  measurement.scenario = kScenario;
  measurement.workload = operation.name;
  measurement.substrate = kSubstrate;
  measurement.unit = answer.unit.empty() ? "ns/op" : answer.unit;
  measurement.direction = result::Direction::kLower;
  measurement.status = answer.status;
  measurement.reason = answer.reason;
  return journal.AddMeasurement(measurement);
}

}  // namespace

result::Result<void> RunCosts(const RunContext& context, result::Journal& journal) {
  auto operations = SelectOperations(context);
  if (!operations) return Fail(std::move(operations.error()));
  const std::uint32_t rounds = context.rounds.value_or(kMinimumRounds);
  Progress progress(std::string(kScenario), operations->size() * rounds, context.quiet);
  // Round by round, so that what disturbs the host for a while disturbs each operation once.
  std::set<std::string> ended;
  for (std::uint32_t round = 0; round < rounds; ++round) {
    for (const CostOperation& operation : *operations) {
      if (StopSignal() != 0) return {};
      progress.Step(operation.id);
      if (ended.contains(operation.id)) continue;
      auto child = RunChild(context.installation.costs_program, {"--run", operation.name}, "", kRoundLimit);
      if (!child) return Fail(std::move(child.error()));
      if (child->interrupted) return {};
      Answer answer = Understand(*child);
      if (round == 0) {
        if (auto added = Announce(journal, operation, answer); !added) return added;
      } else if (answer.status != result::Status::kOk) {
        if (auto set = journal.SetStatus(operation.id, answer.status, answer.reason); !set) return set;
      }
      if (answer.status != result::Status::kOk) {
        ended.insert(operation.id);
        continue;
      }
      answer.round.round = round;
      if (auto added = journal.AddRound(operation.id, answer.round); !added) return added;
    }
  }
  return {};
}

vmm::Result<std::vector<std::string>> CostsIds(const RunContext& context) {
  auto operations = SelectOperations(context);
  if (!operations) return Fail(std::move(operations.error()));
  std::vector<std::string> ids;
  for (const CostOperation& operation : *operations) ids.push_back(operation.id);
  return ids;
}

}  // namespace nestbench::scenarios
