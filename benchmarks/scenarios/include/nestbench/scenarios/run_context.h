// What every scenario of one run shares.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "nestbench/abi/mailbox.h"
#include "nestbench/result/journal.h"
#include "nestbench/scenarios/profile.h"

namespace nestbench::scenarios {

struct RunContext {
  Installation installation;
  workloads::Profile profile = workloads::Profile::kQuick;
  Effort effort{};
  std::function<bool(std::string_view id)> selects;  // --filter
  std::uint64_t seed = 0;
  int cpu = -1;
  double tsc_hz = 0;
  abi::Doorbell doorbell = abi::Doorbell::kPort;
  std::string vm_unsupported;  // why no guest can run here; empty when one can
  bool quiet = false;
};

// A scenario: announces every selected measurement in the journal, measures, and adds rounds as they finish. Returns
// early, with what is finished, once StopSignal() is set. An error is one of the journal's (disk full, ...): what goes
// wrong with a measurement is its status.
using Scenario = result::Result<void>(const RunContext& context, result::Journal& journal);

// The same payload as a process and as a guest, in ABBA order. Ids `overhead/...`.
Scenario RunOverhead;

// The registrations of nestbench_micro, in processes of its own. Ids `exits/...`, `lifecycle/...`, `hotpath/...`.
Scenario RunExits;

// The ids that each would measure here, in order.
std::vector<std::string> OverheadIds(const RunContext& context);
vmm::Result<std::vector<std::string>> ExitsIds(const RunContext& context);

}  // namespace nestbench::scenarios
