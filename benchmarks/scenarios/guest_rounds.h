// What the scenarios share that run nestbench-guest in rounds of alternating substrates. Private to this folder.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "nestbench/result/journal.h"
#include "nestbench/result/types.h"
#include "nestbench/scenarios/run_context.h"
#include "nestbench/substrates/protocol.h"

namespace nestbench::scenarios {

// Those of a job's subjects for which processes are still started, as indices.
template <typename Job>
std::vector<std::size_t> ActiveSubjects(const Job& job) {
  std::vector<std::size_t> active;
  for (std::size_t i = 0; i < job.subjects.size(); ++i) {
    if (job.subjects[i].active) active.push_back(i);
  }
  return active;
}

// The order of a round's processes, as indices into its subjects with the arm of each: ABBA, or BAAB when reversed.
inline std::vector<std::pair<std::size_t, result::Arm>> OrderOfRound(std::vector<std::size_t> subjects, bool reversed) {
  if (reversed) std::ranges::reverse(subjects);
  std::vector<std::pair<std::size_t, result::Arm>> order;
  for (const std::size_t subject : subjects) order.emplace_back(subject, result::Arm::kA);
  std::ranges::reverse(subjects);
  for (const std::size_t subject : subjects) order.emplace_back(subject, result::Arm::kB);
  return order;
}

// For what a child does besides its batches: start, map, set up a working set of 512 MiB, verify.
inline constexpr std::chrono::seconds kChildSetUpLimit{20};

// What became of one process of nestbench-guest.
struct GuestRun {
  enum class End : std::uint8_t {
    kMeasured,     // `answer` has samples
    kVoid,         // every sample of it was void, which counts for nothing; `reason` says why
    kInterrupted,  // this program was asked to stop
    kGiveUp,       // no further process will do better: `status` and `reason` of the measurement
  };
  End end = End::kGiveUp;
  substrates::Answer answer;
  result::Status status = result::Status::kError;
  std::string reason;
};

// Runs it. `image_sha256`: of the image that it must have run.
GuestRun RunGuest(const RunContext& context, const substrates::Request& request, const std::string& image_sha256);

// The processes of one side of a workload. Those that are void count for nothing; another round may be better.
struct ProcessTally {
  std::uint32_t measured = 0;
  std::uint32_t voided = 0;
  std::string void_reason;

  // What is to be said of the void ones beside the others of measurement `id`; empty when there are none.
  [[nodiscard]] std::optional<result::Finding> FindingOf(const std::string& id) const;
};

// Counts a run. True when it measured something; else all is done for it: what cannot get better was given up by
// `give_up(status, reason)`.
template <typename GiveUp>
result::Result<bool> CountRun(GuestRun& run, ProcessTally& tally, GiveUp give_up) {
  switch (run.end) {
    case GuestRun::End::kMeasured:
      ++tally.measured;
      return true;
    case GuestRun::End::kVoid:
      ++tally.voided;
      tally.void_reason = std::move(run.reason);
      return false;
    case GuestRun::End::kGiveUp:
      if (auto done = give_up(run.status, run.reason); !done) return tl::unexpected(done.error());
      return false;
    case GuestRun::End::kInterrupted:
      break;
  }
  return false;
}

// What no process could measure has failed: `give_up(subject)`. What some could is measured, and a finding says what is
// missing of `id_of(subject)`.
template <typename Jobs, typename IdOf, typename GiveUp>
result::Result<void> SettleVoids(Jobs& jobs, result::Journal& journal, IdOf id_of, GiveUp give_up) {
  for (auto& job : jobs) {
    for (auto& subject : job.subjects) {
      const auto finding = subject.processes.FindingOf(id_of(subject));
      if (!subject.active || !finding) continue;
      auto added = subject.processes.measured == 0 ? give_up(subject) : journal.AddFinding(*finding);
      if (!added) return added;
    }
  }
  return {};
}

// All of a round but its samples.
inline result::Round RoundOf(const substrates::Answer& answer, std::uint32_t round, std::uint32_t order,
                             result::Arm arm) {
  result::Round record;
  record.round = round;
  record.order = order;
  record.arm = arm;
  record.iterations = answer.iterations;
  record.voided = answer.voided;
  record.steal_ns = answer.counters.steal_ns;
  record.run_queue_wait_ns = answer.counters.run_queue_wait_ns;
  record.context_switches = answer.counters.context_switches;
  record.migrations = answer.counters.migrations;
  record.warmup_batches = answer.warmup_batches;
  record.clock_disagreement_max = answer.clock_disagreement_max;
  record.huge_page_bytes = answer.huge_page_bytes;
  record.exits = answer.exits;
  record.nested_runs = answer.nested_runs;
  return record;
}

}  // namespace nestbench::scenarios
