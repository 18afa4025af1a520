// The scenario `overhead`: what the same work costs as a host process, as a guest, and as a guest of a guest.
//
// A round of a workload is two fresh processes of each substrate on one CPU, in an order and then in its reverse, as
// ABBA or BAAB (drawn from the seed), so that a drift of the machine falls on all sides alike. Rounds are the outer
// loop: those of one workload lie minutes apart and do not share one mood of the machine. All processes of a workload
// run batches of the same length, the one that the first of them calibrated.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "guest_rounds.h"
#include "nestbench/result/id.h"
#include "nestbench/scenarios/child.h"
#include "nestbench/scenarios/progress.h"
#include "nestbench/scenarios/run_context.h"
#include "nestbench/substrates/protocol.h"
#include "nestbench/vmm/digest/sha256.h"
#include "nestbench/vmm/loader/loaded_file.h"
#include "round_budget.h"

namespace nestbench::scenarios {
namespace {

using substrates::Answer;
using substrates::SubstrateKind;
using workloads::Workload;

constexpr std::string_view kScenario = "overhead";
constexpr std::array kSubstrates = {SubstrateKind::kBare, SubstrateKind::kVm, SubstrateKind::kNested,
                                    SubstrateKind::kNestedShadow};

// One substrate of one workload.
struct Subject {
  std::string id;
  SubstrateKind substrate = SubstrateKind::kBare;
  bool active = true;  // false once it failed or cannot run: no further process is started for it
  ProcessTally processes;
};

struct Job {
  const Workload* workload = nullptr;
  std::vector<Subject> subjects;
  std::uint64_t iterations = 0;  // 0 until calibrated
};

bool IsNested(SubstrateKind kind) { return kind == SubstrateKind::kNested || kind == SubstrateKind::kNestedShadow; }

std::vector<Job> SelectJobs(const RunContext& context) {
  std::vector<Job> jobs;
  for (const Workload& workload : workloads::Catalogue()) {
    if (!workloads::Includes(context.profile, workload)) continue;
    Job job;
    job.workload = &workload;
    job.iterations = workload.fixed_iterations;
    for (const SubstrateKind substrate : kSubstrates) {
      if (IsNested(substrate) && !context.nested) continue;
      std::string id = workloads::Id(workload, kScenario, substrates::ToString(substrate));
      if (context.selects(id)) {
        Subject& subject = job.subjects.emplace_back();
        subject.id = std::move(id);
        subject.substrate = substrate;
      }
    }
    if (!job.subjects.empty()) jobs.push_back(std::move(job));
  }
  return jobs;
}

result::Params ToParams(const Workload& workload) {
  result::Params params;
  for (const auto& [key, value] : workload.params) {
    if (const auto* number = std::get_if<std::uint64_t>(&value)) {
      params.emplace(key, static_cast<std::int64_t>(*number));
    } else {
      params.emplace(key, std::get<std::string>(value));
    }
  }
  return params;
}

class OverheadRun {
 public:
  OverheadRun(const RunContext& context, result::Journal& journal)
      : context_(context), journal_(journal), jobs_(SelectJobs(context)), random_(context.seed) {}

  result::Result<void> Run() {
    if (auto announced = Announce(); !announced) return announced;
    std::size_t processes = 0;
    for (const Job& job : jobs_) processes += 2 * ActiveSubjects(job).size();
    Progress progress("overhead", processes * context_.effort.rounds, context_.quiet);
    RoundBudget rounds(context_.effort.rounds, context_.effort.budget);
    while (rounds.Next()) {
      for (Job& job : jobs_) {
        if (auto done = RunRound(job, rounds.current(), progress); !done) return done;
        if (StopSignal() != 0) return {};
      }
      if (auto synced = journal_.Sync(); !synced) return synced;
    }
    if (auto settled = SettleVoids(); !settled) return settled;
    return rounds.Report(journal_, std::string(kScenario));
  }

 private:
  result::Result<void> Announce() {
    std::map<std::string, std::string> digests;
    for (Job& job : jobs_) {
      const Workload& workload = *job.workload;
      std::string image_problem;
      if (!digests.contains(workload.image)) {
        auto digest = Digest(workload.image);
        if (!digest) {
          image_problem = digest.error().ToString();
        } else {
          digests.emplace(workload.image, *digest);
          if (auto added = journal_.AddImage(workload.image, *digest); !added) return added;
        }
      }
      for (Subject& subject : job.subjects) {
        result::Measurement measurement;
        measurement.id = subject.id;
        measurement.scenario = kScenario;
        measurement.workload = workload.name;
        measurement.substrate = substrates::ToString(subject.substrate);
        measurement.params = ToParams(workload);
        measurement.unit = workload.unit;
        measurement.direction =
            workload.direction == workloads::Direction::kLower ? result::Direction::kLower : result::Direction::kHigher;
        measurement.image = workload.image;
        if (!image_problem.empty()) {
          measurement.image.clear();
          measurement.status = result::Status::kError;
          measurement.reason = image_problem;
        } else {
          measurement.image_sha256 = digests.at(workload.image);
          if (subject.substrate != SubstrateKind::kBare && !context_.vm_unsupported.empty()) {
            measurement.status = result::Status::kUnsupported;
            measurement.reason = context_.vm_unsupported;
          }
        }
        subject.active = measurement.status == result::Status::kOk;
        if (auto added = journal_.AddMeasurement(measurement); !added) return added;
      }
    }
    digests_ = std::move(digests);
    return {};
  }

  result::Result<std::string> Digest(const std::string& image) const {
    auto file = vmm::LoadedFile::Read(ImagePath(image), vmm::kMaxImageFileBytes);
    if (!file) return Fail(std::move(file.error()));
    return vmm::Sha256Hex(file->bytes());
  }

  [[nodiscard]] std::string ImagePath(const std::string& image) const {
    return (context_.installation.images / (image + ".elf")).string();
  }

  result::Result<void> RunRound(Job& job, std::uint32_t round, Progress& progress) {
    const auto active = ActiveSubjects(job);
    if (active.empty()) return {};
    const bool reversed = (random_() & 1) != 0;
    std::uint32_t order = 0;
    for (const auto& [index, arm] : OrderOfRound(active, reversed)) {
      Subject& subject = job.subjects[index];
      if (!subject.active) continue;
      progress.Step(subject.id);
      if (auto done = RunProcess(job, subject, round, order++, arm); !done) return done;
      if (StopSignal() != 0) return {};
    }
    return {};
  }

  result::Result<void> RunProcess(Job& job, Subject& subject, std::uint32_t round, std::uint32_t order,
                                  result::Arm arm) {
    GuestRun run = RunGuest(context_, RequestFor(job, subject), digests_.at(job.workload->image));
    const auto measured = CountRun(
        run, subject.processes,
        [this, &subject](result::Status status, const std::string& reason) { return GiveUp(subject, status, reason); });
    if (!measured) return tl::unexpected(measured.error());
    if (!*measured) return {};
    if (job.iterations == 0) job.iterations = run.answer.iterations;
    return journal_.AddRound(subject.id, ToRound(*job.workload, run.answer, round, order, arm));
  }

  [[nodiscard]] substrates::Request RequestFor(const Job& job, const Subject& subject) const {
    const Workload& workload = *job.workload;
    const Effort& effort = context_.effort;
    substrates::Request request;
    request.substrate = subject.substrate;
    request.image = ImagePath(workload.image);
    request.operation = workload.operation;
    std::ranges::copy(workload.parameters, request.parameters.begin());
    request.seed = context_.seed;
    request.arena_bytes = workload.arena_bytes;
    request.host_page_bytes = workload.host_page_bytes;
    request.guest_page_bytes = workload.guest_page_bytes;
    request.reset_arena = workload.reset_arena;
    request.cpu = context_.cpu;
    request.iterations = job.iterations;
    request.batch_target_ns = static_cast<std::uint64_t>(effort.batch_target.count());
    request.samples = effort.samples;
    request.max_warmup_batches = effort.max_warmup_batches;
    // Batches of a guest may take several times those of the process that calibrated; and then there is the set-up.
    constexpr std::uint64_t kSlowest = 16;
    const std::uint64_t batches = effort.max_warmup_batches + 3ULL * effort.samples + 8;
    request.deadline_ns = batches * request.batch_target_ns * kSlowest +
                          static_cast<std::uint64_t>(std::chrono::nanoseconds(kChildSetUpLimit).count());
    request.tsc_hz = context_.tsc_hz;
    request.doorbell = context_.doorbell;
    return request;
  }

  static result::Round ToRound(const Workload& workload, const Answer& answer, std::uint32_t round, std::uint32_t order,
                               result::Arm arm) {
    result::Round record = RoundOf(answer, round, order, arm);
    for (const substrates::Sample& sample : answer.samples) {
      record.samples.push_back(workloads::ToUnit(workload, sample.inside_ns, sample.operations, sample.bytes));
    }
    return record;
  }

  result::Result<void> GiveUp(Subject& subject, result::Status status, const std::string& reason) {
    subject.active = false;
    return journal_.SetStatus(subject.id, status, reason);
  }

  result::Result<void> SettleVoids() {
    return scenarios::SettleVoids(
        jobs_, journal_, [](const Subject& subject) { return subject.id; },
        [this](Subject& subject) { return GiveUp(subject, result::Status::kFailed, subject.processes.void_reason); });
  }

  const RunContext& context_;
  result::Journal& journal_;
  std::vector<Job> jobs_;
  std::map<std::string, std::string> digests_;
  std::mt19937_64 random_;
};

}  // namespace

result::Result<void> RunOverhead(const RunContext& context, result::Journal& journal) {
  return OverheadRun(context, journal).Run();
}

std::vector<std::string> OverheadIds(const RunContext& context) {
  std::vector<std::string> ids;
  for (Job& job : SelectJobs(context)) {
    for (Subject& subject : job.subjects) ids.push_back(std::move(subject.id));
  }
  return ids;
}

}  // namespace nestbench::scenarios
