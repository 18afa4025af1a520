// What follows from the report: findings in words, and for each workload whether it can run here.
#pragma once

#include <span>
#include <vector>

#include "nestbench/probe/probe.h"

namespace nestbench::probe {

// An item that could not be found out is a finding too: with the reason, as `probe-<item>-unavailable`.
std::vector<result::Finding> DeriveFindings(const HostReport& report);

std::vector<result::Capability> AssessCapability(const HostReport& report, std::span<const Subject> subjects);

}  // namespace nestbench::probe
