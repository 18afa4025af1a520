// How much is measured: the three profiles, and what a run was asked for.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "nestbench/abi/mailbox.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/workloads/catalogue.h"

namespace nestbench::scenarios {

// The numbers of a profile.
struct Effort {
  std::uint32_t rounds;   // of two processes for each substrate
  std::uint32_t samples;  // of each process
  std::uint32_t max_warmup_batches;
  std::chrono::nanoseconds batch_target;     // see DESIGN.md, "Time": not below 30 ms
  std::uint32_t micro_rounds;                // processes of nestbench_micro
  std::uint32_t micro_repetitions;           // in each
  std::chrono::milliseconds micro_min_time;  // of each repetition

  // No round starts that would end after these, but kMinimumRounds are always measured. 0: no limit.
  std::chrono::seconds budget;        // of the overhead scenario
  std::chrono::seconds micro_budget;  // of nestbench_micro's
  std::chrono::seconds io_budget;     // of the io scenario
};
inline constexpr std::uint32_t kMinimumRounds = 3;  // fewer say next to nothing about the spread between rounds

// "quick" (at most 60 s of measuring), "standard" (about 10 min), "full". Empty for any other word.
std::optional<workloads::Profile> ParseProfile(std::string_view name);
std::string_view ToString(workloads::Profile profile);
Effort EffortOf(workloads::Profile profile);

// Where the programs and images of this installation or build are.
struct Installation {
  std::filesystem::path guest_program;
  std::filesystem::path tenant_program;
  std::filesystem::path micro_program;
  std::filesystem::path density_floor_program;
  std::filesystem::path conformance_program;
  std::filesystem::path costs_program;
  std::filesystem::path linux_costs_program;
  std::filesystem::path images;   // folder of *.elf
  std::filesystem::path reports;  // folder that holds the package nestbench_reports
  std::filesystem::path policy;   // the default gate policy

  // From the place of this program: a build tree or an installed prefix. kSystem naming what is missing.
  static vmm::Result<Installation> Find();
};

// The CPU that everything measured is pinned to: the last one this process may use, the farthest from where the
// kernel and the supervisor do most of their work.
vmm::Result<int> ChooseCpu();

}  // namespace nestbench::scenarios
