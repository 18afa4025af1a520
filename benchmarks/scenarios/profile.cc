#include "nestbench/scenarios/profile.h"

#include <fmt/format.h>
#include <sched.h>

#include <cerrno>
#include <system_error>
#include <utility>
#include <vector>

namespace nestbench::scenarios {

using namespace std::chrono_literals;
using workloads::Profile;

std::optional<Profile> ParseProfile(std::string_view name) {
  for (const Profile profile : {Profile::kQuick, Profile::kStandard, Profile::kFull}) {
    if (name == ToString(profile)) return profile;
  }
  return std::nullopt;
}

std::string_view ToString(Profile profile) {
  switch (profile) {
    case Profile::kQuick:
      return "quick";
    case Profile::kStandard:
      return "standard";
    case Profile::kFull:
      break;
  }
  return "full";
}

Effort EffortOf(Profile profile) {
  switch (profile) {
    case Profile::kQuick:
      return {.rounds = 5,
              .samples = 2,
              .max_warmup_batches = 2,
              .batch_target = 30ms,
              .micro_rounds = 5,
              .micro_repetitions = 2,
              .micro_min_time = 5ms,
              .budget = 45s,
              .micro_budget = 13s,
              .io_budget = 15s};
    case Profile::kStandard:
      return {.rounds = 8,
              .samples = 4,
              .max_warmup_batches = 6,
              .batch_target = 40ms,
              .micro_rounds = 5,
              .micro_repetitions = 9,
              .micro_min_time = 20ms,
              .budget = 450s,
              .micro_budget = 140s,
              .io_budget = 300s};
    case Profile::kFull:
      break;
  }
  return {.rounds = 20,
          .samples = 8,
          .max_warmup_batches = 12,
          .batch_target = 50ms,
          .micro_rounds = 10,
          .micro_repetitions = 15,
          .micro_min_time = 50ms,
          .budget = 0s,
          .micro_budget = 0s,
          .io_budget = 0s};
}

vmm::Result<Installation> Installation::Find() {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (error) return Fail(vmm::Error::System("readlink", error.value(), "/proc/self/exe"));
  const auto bin = self.parent_path();
  const auto prefix = bin.parent_path();
  // A build tree: <source>/build/<preset>/bin/nestbench, with the sources three folders up.
  const auto source = prefix.parent_path().parent_path();
  const std::vector<Installation> candidates = {
      {bin / "nestbench-guest", bin / "nestbench-tenant", bin / "nestbench_micro", bin / "nestbench_density_floor",
       bin / "nestbench-conformance", bin / "nestbench-costs", bin / "nestbench-linux-costs", prefix / "images",
       source / "reports", source / "ci/gate.toml"},
      {prefix / "libexec/nestbench/nestbench-guest", prefix / "libexec/nestbench/nestbench-tenant",
       prefix / "libexec/nestbench/nestbench_micro", prefix / "libexec/nestbench/nestbench_density_floor",
       prefix / "libexec/nestbench/nestbench-conformance", prefix / "libexec/nestbench/nestbench-costs",
       prefix / "libexec/nestbench/nestbench-linux-costs", prefix / "libexec/nestbench/images",
       prefix / "share/nestbench/reports", prefix / "share/nestbench/ci/gate.toml"},
  };
  for (const Installation& candidate : candidates) {
    if (std::filesystem::exists(candidate.guest_program, error)) return candidate;
  }
  return Fail(
      vmm::Error::System("find nestbench-guest", ENOENT,
                         fmt::format("neither {} nor {}; build or install again", candidates[0].guest_program.string(),
                                     candidates[1].guest_program.string())));
}

vmm::Result<int> ChooseCpu() {
  cpu_set_t set;
  if (::sched_getaffinity(0, sizeof(set), &set) != 0) return Fail(vmm::Error::System("sched_getaffinity", errno));
  for (int cpu = CPU_SETSIZE - 1; cpu >= 0; --cpu) {
    if (CPU_ISSET(static_cast<unsigned>(cpu), &set)) return cpu;
  }
  return Fail(vmm::Error::System("sched_getaffinity", EINVAL, "no CPU is allowed"));
}

}  // namespace nestbench::scenarios
