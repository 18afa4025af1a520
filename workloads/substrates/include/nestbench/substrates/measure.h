// Measures one request on one substrate: set up, calibrate, warm up, sample.
#pragma once

#include "nestbench/substrates/protocol.h"
#include "nestbench/substrates/substrate.h"

namespace nestbench::substrates {

// Samples whose two clocks differ by more than this fraction are void.
inline constexpr double kClockTolerance = 0.005;

// The whole measurement. What went wrong is in the answer's status and reason; samples taken before that stay in it.
Answer Measure(Substrate& substrate, const Request& request);

}  // namespace nestbench::substrates
