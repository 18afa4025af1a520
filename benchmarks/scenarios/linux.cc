#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string>
#include <system_error>
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

constexpr std::string_view kScenario = "linux";
constexpr std::string_view kBare = "bare";
constexpr std::string_view kVm = "vm";
constexpr auto kBareLimit = 60s;
constexpr auto kBootLimit = 300s;  // under an emulator; the boot command itself notices a guest that says nothing
constexpr int kSamples = 11;
constexpr int kBatchUs = 2000;

// How the time until the guest's shell is divided; each ends with what is named here.
struct BootPart {
  std::string_view name;
  std::string_view end;  // of a line of the guest's console; empty: the first entry of the first vCPU
};
constexpr BootPart kBootParts[] = {{"vmm", ""}, {"kernel", "guest: init after "}, {"init", "guest: up after "}};
constexpr std::string_view kCostLine = "guest: cost ";

// A measurement of one substrate, and what this round says about it.
struct Figure {
  result::Measurement measurement;
  std::string operation;  // of nestbench-linux-costs; or the part of the boot
  bool is_boot = false;
  bool announced = false;
  bool ended = false;  // by a status that is not ok
};

// What one run of the program or of the guest measured, by operation or by part.
struct Answer {
  result::Status status = result::Status::kOk;
  std::string reason;
  std::map<std::string, result::Round, std::less<>> costs;
  std::map<std::string, double, std::less<>> parts_ns;
};

// "syscall/call=read": a workload and at most one parameter.
std::optional<result::IdParts> PartsOf(std::string_view name, std::string_view substrate) {
  result::IdParts parts;
  parts.scenario = kScenario;
  parts.substrate = substrate;
  const std::size_t slash = name.find('/');
  parts.workload = name.substr(0, slash);
  if (slash != std::string_view::npos) {
    const std::string_view parameter = name.substr(slash + 1);
    const std::size_t equals = parameter.find('=');
    if (equals == std::string_view::npos) return std::nullopt;
    parts.params.emplace(parameter.substr(0, equals), std::string(parameter.substr(equals + 1)));
  }
  return parts;
}

bool AddFigure(std::string_view name, std::string_view substrate, bool is_boot, const RunContext& context,
               std::vector<Figure>& figures) {
  const auto parts = PartsOf(is_boot ? fmt::format("boot/part={}", name) : std::string(name), substrate);
  if (!parts) return false;
  auto id = result::MakeId(*parts);
  if (!id) return false;
  if (!context.selects(*id)) return true;
  Figure figure;
  figure.measurement.id = std::move(*id);
  figure.measurement.scenario = parts->scenario;
  figure.measurement.workload = parts->workload;
  figure.measurement.substrate = parts->substrate;
  figure.measurement.params = parts->params;
  figure.measurement.unit = is_boot ? "ms" : "ns/op";
  figure.measurement.direction = result::Direction::kLower;
  figure.operation = name;
  figure.is_boot = is_boot;
  figures.push_back(std::move(figure));
  return true;
}

vmm::Result<std::vector<Figure>> SelectFigures(const RunContext& context) {
  std::vector<Figure> figures;
  for (const BootPart& part : kBootParts) AddFigure(part.name, kVm, true, context, figures);
  auto listed = ForEachListed(context.installation.linux_costs_program, "list operations", [&](const json& entry) {
    const std::string name = TextAt(entry, "name");
    return AddFigure(name, kBare, false, context, figures) && AddFigure(name, kVm, false, context, figures);
  });
  if (!listed) return Fail(std::move(listed.error()));
  return figures;
}

// A line of nestbench-linux-costs. Nothing when it is not one: a guest may write what it wants.
void TakeCost(std::string_view line, Answer& answer) {
  const json said = json::parse(line, nullptr, false);
  const std::string name = TextAt(said, "name");
  if (name.empty() || !said.contains("samples") || !said["samples"].is_array() || !said.contains("iterations") ||
      !said["iterations"].is_number_unsigned()) {
    return;
  }
  result::Round round;
  round.iterations = said["iterations"];
  for (const json& sample : said["samples"]) {
    if (!sample.is_number()) return;
    round.samples.push_back(sample.get<double>());
  }
  if (!round.samples.empty() && round.iterations != 0) answer.costs.insert_or_assign(name, std::move(round));
}

result::Status StatusOf(const ChildOutcome& child) {
  if (child.timed_out) return result::Status::kTimeout;
  return child.signal != 0 ? result::Status::kCrashed : result::Status::kError;
}

vmm::Result<Answer> RunBare(const RunContext& context) {
  auto child = RunChild(context.installation.linux_costs_program, {fmt::to_string(kSamples), fmt::to_string(kBatchUs)},
                        "", kBareLimit);
  if (!child) return Fail(std::move(child.error()));
  Answer answer;
  if (child->exit_code != 0) {
    answer.status = StatusOf(*child);
    answer.reason = child->Describe();
  }
  std::istringstream lines(child->output);
  for (std::string line; std::getline(lines, line);) TakeCost(line, answer);
  return answer;
}

// The timeline that the boot command wrote: when which line of the console came.
void ReadTimeline(const std::filesystem::path& path, Answer& answer) {
  std::ifstream file(path);
  double before_ns = 0;
  std::size_t part = 0;
  for (std::string text; std::getline(file, text);) {
    const json entry = json::parse(text, nullptr, false);
    if (!entry.is_object() || !entry.contains("ns") || !entry["ns"].is_number()) continue;
    const double at_ns = entry["ns"].get<double>();
    const std::string line = TextAt(entry, "line");
    if (line.starts_with(kCostLine)) TakeCost(std::string_view(line).substr(kCostLine.size()), answer);
    if (part == std::size(kBootParts)) continue;
    const std::string_view end = kBootParts[part].end;
    if (end.empty() ? TextAt(entry, "event") == "entered" : line.starts_with(end)) {
      answer.parts_ns.emplace(kBootParts[part].name, at_ns - before_ns);
      before_ns = at_ns;
      ++part;
    }
  }
}

vmm::Result<Answer> RunGuest(const RunContext& context, const std::filesystem::path& timeline) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Fail(vmm::Error::System("readlink", error.value(), "/proc/self/exe"));
  auto child = RunChild(
      self,
      {"boot", "--kernel", context.linux_guest.kernel, "--initrd", context.linux_guest.initramfs, "--timeline",
       timeline.string(), "--append", fmt::format("quiet task=costs samples={} batch_us={}", kSamples, kBatchUs)},
      "", kBootLimit);
  if (!child) return Fail(std::move(child.error()));
  Answer answer;
  ReadTimeline(timeline, answer);
  std::filesystem::remove(timeline, error);
  constexpr int kUnsupportedHere = 5;
  if (child->exit_code == kUnsupportedHere) {
    answer.status = result::Status::kUnsupported;
    constexpr std::string_view kMark = "unsupported: ";
    const std::size_t at = child->error_text.find(kMark);
    answer.reason = at == std::string::npos ? child->Describe() : child->error_text.substr(at + kMark.size());
    answer.reason.resize(std::min(answer.reason.size(), answer.reason.find('\n')));
  } else if (child->exit_code != 0) {
    answer.status = StatusOf(*child);
    answer.reason = child->Describe();
  }
  return answer;
}

// What this run said about the figure, into the journal. A figure that once was not ok is not measured again.
result::Result<void> Add(const Answer& answer, std::uint32_t round, std::uint32_t order, result::Arm arm,
                         Figure& figure, result::Journal& journal) {
  result::Round record;
  result::Status status = answer.status;
  std::string reason = answer.reason;
  if (figure.is_boot) {
    if (const auto found = answer.parts_ns.find(figure.operation); found != answer.parts_ns.end()) {
      record.samples = {found->second / 1e6};
      record.iterations = 1;
    }
  } else if (const auto found = answer.costs.find(figure.operation); found != answer.costs.end()) {
    record = found->second;
  }
  if (status == result::Status::kOk && record.samples.empty()) {
    status = result::Status::kError;
    reason = "it said nothing about this";
  }
  if (!figure.announced) {
    figure.announced = true;
    figure.measurement.status = status;
    figure.measurement.reason = reason;
    if (auto added = journal.AddMeasurement(figure.measurement); !added) return added;
  } else if (status != result::Status::kOk) {
    if (auto set = journal.SetStatus(figure.measurement.id, status, reason); !set) return set;
  }
  if (status != result::Status::kOk) {
    figure.ended = true;
    return {};
  }
  record.round = round;
  record.order = order;
  record.arm = arm;
  return journal.AddRound(figure.measurement.id, record);
}

}  // namespace

result::Result<void> RunLinux(const RunContext& context, result::Journal& journal) {
  auto figures = SelectFigures(context);
  if (!figures) return Fail(std::move(figures.error()));
  const std::uint32_t rounds = context.rounds.value_or(kMinimumRounds);
  const std::filesystem::path timeline = journal.folder() / "linux-timeline.jsonl";
  // ABBA, so that a drift of the host is shared.
  constexpr std::string_view kOrder[] = {kBare, kVm, kVm, kBare};
  Progress progress(std::string(kScenario), std::size_t{rounds} * std::size(kOrder), context.quiet);
  for (std::uint32_t round = 0; round < rounds; ++round) {
    for (std::uint32_t order = 0; order < std::size(kOrder); ++order) {
      if (StopSignal() != 0) return {};
      const std::string_view substrate = kOrder[order];
      progress.Step(fmt::format("{}/{}", kScenario, substrate));
      const auto wanted = [substrate](const Figure& figure) {
        return figure.measurement.substrate == substrate && !figure.ended;
      };
      if (std::ranges::none_of(*figures, wanted)) continue;
      auto answer = substrate == kBare ? RunBare(context) : RunGuest(context, timeline);
      if (!answer) return Fail(std::move(answer.error()));
      if (StopSignal() != 0) return {};
      const auto arm = order < std::size(kOrder) / 2 ? result::Arm::kA : result::Arm::kB;
      for (Figure& figure : *figures) {
        if (!wanted(figure)) continue;
        if (auto added = Add(*answer, round, order, arm, figure, journal); !added) return added;
      }
    }
  }
  return {};
}

vmm::Result<std::vector<std::string>> LinuxIds(const RunContext& context) {
  auto figures = SelectFigures(context);
  if (!figures) return Fail(std::move(figures.error()));
  std::vector<std::string> ids;
  for (const Figure& figure : *figures) ids.push_back(figure.measurement.id);
  return ids;
}

}  // namespace nestbench::scenarios
