// Two parts of the containment scenario that are not one fault in one tenant. Private to the scenarios.
#pragma once

#include <string_view>

#include "experiment.h"

namespace nestbench::scenarios {

// A second supervisor with guests of its own is killed with SIGKILL while those of `experiment` serve: its guests must
// end with it, and the groups that it leaves are removed as at the next start.
result::Result<void> RunSupervisorLoss(const RunContext& context, result::Journal& journal,
                                       TenantExperiment& experiment, TenantSubstrate substrate);

inline constexpr std::string_view kSoakId = "containment/soak/vm";
bool IsSoakSelected(const RunContext& context);

// Random faults among fifty guests for as long as was asked: nothing but the faulty one may be lost.
result::Result<void> RunSoak(const RunContext& context, result::Journal& journal);

}  // namespace nestbench::scenarios
