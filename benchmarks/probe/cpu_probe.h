// What instructions tell: CPUID's answers and price, how fast plain code runs, and the frequency of the TSC.
#pragma once

#include <chrono>
#include <cstdint>

#include "nestbench/probe/probe.h"

namespace nestbench::probe {

HypervisorCpuid ReadHypervisorCpuid();

// Fills add_ns, x87_multiply_ns, is_emulated and emulated_reason. `cpuid`: for the emulators that name themselves.
void MeasureInstructionSpeed(const HypervisorCpuid& cpuid, ClockInfo& clock);

// TSC ticks per second against CLOCK_MONOTONIC_RAW over `duration`. kMalformed when the TSC does not advance.
Result<std::uint64_t> CalibrateTscHz(std::chrono::nanoseconds duration);

// Whether time is a count of instructions: each takes as long as any other.
bool CountsInstructions(double add_ns, double x87_multiply_ns);

// Verdict on measured speeds, apart so that it can be tested. Empty: hardware.
std::string EmulationEvidence(const std::vector<std::string>& signatures, double add_ns, double x87_multiply_ns);

// ns per instruction of the loop that execution.cc runs in a guest: `lea; dec; jnz`.
double HostLoopNsPerInstruction();

}  // namespace nestbench::probe
