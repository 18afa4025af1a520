// The part of the isolation scenario that asks who did it: hidden schedules of aggression among eight guests, and what
// the detector says of them. Private to the scenarios.
#pragma once

#include "experiment.h"

namespace nestbench::scenarios {

result::Result<void> RunAttribution(const RunContext& context, result::Journal& journal);

// Empty when the filter leaves it out.
std::vector<std::string> AttributionIds(const RunContext& context);

}  // namespace nestbench::scenarios
