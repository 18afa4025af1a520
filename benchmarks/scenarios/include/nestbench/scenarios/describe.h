// What the id of a measurement or experiment stands for, in a few words.
#pragma once

#include <string_view>

#include "nestbench/scenarios/run_context.h"

namespace nestbench::scenarios {

struct Description {
  std::string_view unit;
  std::string_view summary;
};

// Of an id that OverheadIds(), ExitsIds(), DensityIds(), IsolationIds() or ContainmentIds() gave; empty for any other.
Description Describe(std::string_view id);

}  // namespace nestbench::scenarios
