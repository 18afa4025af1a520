#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <utility>
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

constexpr auto kConditionLimit = 20s;  // each stops a guest that spins long before
constexpr std::size_t kMaxReasonBytes = 2000;
constexpr std::string_view kScenario = "conformance";
constexpr std::string_view kSubstrate = "vm";

struct Condition {
  std::string id;  // kvm_api/MemorySlots.RefuseOverlap: what the program knows it by
  std::string area;
  std::string test;
  std::string source;

  [[nodiscard]] std::string FullId() const { return fmt::format("{}/{}", kScenario, id); }
};

vmm::Result<std::vector<Condition>> AllConditions(const RunContext& context) {
  std::vector<Condition> conditions;
  constexpr std::string_view kOperation = "list conditions";
  auto listed = ForEachListed(context.installation.conformance_program, kOperation, [&conditions](const json& entry) {
    Condition condition{.id = TextAt(entry, "id"), .area = TextAt(entry, "area"), .test = {}, .source = {}};
    if (condition.id.empty() || condition.area.empty() || !condition.id.starts_with(condition.area + "/")) return false;
    condition.test = condition.id.substr(condition.area.size() + 1);
    condition.source = TextAt(entry, "source");
    conditions.push_back(std::move(condition));
    return true;
  });
  if (!listed) return Fail(std::move(listed.error()));
  if (conditions.empty()) return Fail(Error::System(kOperation, EIO, listed->Describe()));
  return conditions;
}

// Those of the filter, and of them the shard's: every count-th, so that long areas are shared out.
vmm::Result<std::vector<Condition>> SelectConditions(const RunContext& context) {
  auto all = AllConditions(context);
  if (!all) return all;
  std::erase_if(*all, [&](const Condition& condition) { return !context.selects(condition.FullId()); });
  std::vector<Condition> mine;
  for (std::size_t i = 0; i < all->size(); ++i) {
    if (i % context.conformance.shards == context.conformance.shard) mine.push_back(std::move((*all)[i]));
  }
  return mine;
}

// What came of one, as a record. Whatever the child does, there is one.
json RecordOf(const Condition& condition, const ChildOutcome& child, std::chrono::nanoseconds took) {
  json record = {{"kind", "condition"},        {"test", condition.test},     {"source", condition.source},
                 {"outcome", "error"},         {"reason", child.Describe()}, {"evidence", json::object()},
                 {"duration_ns", took.count()}};
  if (child.timed_out) {
    record["outcome"] = "timeout";
    record["reason"] = fmt::format("no answer within {} s", kConditionLimit.count());
    return record;
  }
  if (child.signal != 0) {
    record["outcome"] = "crash";
    return record;
  }
  const json said = json::parse(child.output, nullptr, false);
  const std::string outcome = TextAt(said, "outcome");
  if (child.exit_code != 0 || (outcome != "pass" && outcome != "fail" && outcome != "skip")) return record;
  std::string reason;
  if (const auto messages = said.find("messages"); messages != said.end() && messages->is_array()) {
    for (const json& message : *messages) {
      if (message.is_string()) reason += (reason.empty() ? "" : "\n") + message.get<std::string>();
    }
  }
  if (const auto evidence = said.find("evidence"); evidence != said.end() && evidence->is_object()) {
    for (const auto& [key, value] : evidence->items()) {
      if (value.is_string()) record["evidence"][key] = value;
    }
  }
  record["outcome"] = outcome;
  record["reason"] = outcome == "pass" ? ""
                     : reason.empty()  ? "no reason was given"
                                       : reason.substr(0, kMaxReasonBytes);
  return record;
}

}  // namespace

result::Result<void> RunConformance(const RunContext& context, result::Journal& journal) {
  auto conditions = SelectConditions(context);
  if (!conditions) return Fail(std::move(conditions.error()));
  Progress progress("conform", conditions->size(), context.quiet);
  std::set<std::string> announced;
  for (const Condition& condition : *conditions) {
    if (StopSignal() != 0) return {};
    progress.Step(condition.id);
    auto experiment = result::MakeId(kScenario, condition.area, {}, kSubstrate);
    if (!experiment) return Fail(std::move(experiment.error()));
    if (announced.insert(*experiment).second) {
      auto added =
          journal.AddExperiment({.id = *experiment,
                                 .scenario = std::string(kScenario),
                                 .workload = condition.area,
                                 .substrate = std::string(kSubstrate),
                                 .setup = {{"deadline_ns", std::chrono::nanoseconds(kConditionLimit).count()}}});
      if (!added) return added;
    }
    const auto begin = std::chrono::steady_clock::now();
    auto child = RunChild(context.installation.conformance_program, {"--run", condition.id}, "", kConditionLimit);
    if (!child) return Fail(std::move(child.error()));
    if (child->interrupted) return {};
    const auto took = std::chrono::steady_clock::now() - begin;
    if (auto added = journal.AddRecord(*experiment, RecordOf(condition, *child, took)); !added) return added;
  }
  return {};
}

vmm::Result<std::vector<std::string>> ConformanceIds(const RunContext& context) {
  auto conditions = SelectConditions(context);
  if (!conditions) return Fail(std::move(conditions.error()));
  std::vector<std::string> ids;
  for (const Condition& condition : *conditions) ids.push_back(condition.FullId());
  return ids;
}

vmm::Result<std::vector<ConditionInfo>> ListConditions(const RunContext& context) {
  auto conditions = SelectConditions(context);
  if (!conditions) return Fail(std::move(conditions.error()));
  std::vector<ConditionInfo> infos;
  for (const Condition& condition : *conditions) infos.push_back({condition.FullId(), condition.source});
  return infos;
}

}  // namespace nestbench::scenarios
