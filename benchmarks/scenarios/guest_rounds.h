// What the scenarios share that run nestbench-guest in rounds of alternating substrates. Private to this folder.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "nestbench/result/types.h"
#include "nestbench/substrates/protocol.h"

namespace nestbench::scenarios {

// The order of a round's processes, as indices into its subjects with the arm of each: ABBA, or BAAB when reversed.
inline std::vector<std::pair<std::size_t, result::Arm>> OrderOfRound(std::vector<std::size_t> subjects, bool reversed) {
  if (reversed) std::ranges::reverse(subjects);
  std::vector<std::pair<std::size_t, result::Arm>> order;
  for (const std::size_t subject : subjects) order.emplace_back(subject, result::Arm::kA);
  std::ranges::reverse(subjects);
  for (const std::size_t subject : subjects) order.emplace_back(subject, result::Arm::kB);
  return order;
}

// The statuses of an answer and of the document are the same words.
inline result::Status ToStatus(substrates::AnswerStatus status) {
  return result::ParseStatus(substrates::ToString(status)).value_or(result::Status::kError);
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
