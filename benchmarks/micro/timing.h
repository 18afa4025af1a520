// How benchmarks are registered and timed.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>

#include "environment.h"
#include "nestbench/vmm/base/clock.h"

namespace nestbench::micro {

enum class Timer : std::uint8_t {
  kReal,    // Google Benchmark's, around the whole loop
  kManual,  // the body's own: TimeEach
};

// Registers `body` under the id "scenario/workload/substrate", in ns. What it throws becomes the benchmark's error.
benchmark::internal::Benchmark* Register(const std::string& id, Timer timer,
                                         std::function<void(benchmark::State&)> body);

// Runs state.max_iterations operations through `run_batch(count)`, at most `most` at once. The clock runs all through.
template <typename RunBatch>
void InBatches(benchmark::State& state, std::uint64_t most, RunBatch run_batch) {
  auto left = static_cast<std::uint64_t>(state.max_iterations);
  for (;;) {
    const std::uint64_t count = std::min(left, most);
    // The last call finds nothing left to do and stops the clock.
    if (!state.KeepRunningBatch(static_cast<benchmark::IterationCount>(std::max<std::uint64_t>(count, 1)))) return;
    run_batch(count);
    left -= count;
  }
}

// Times `work()` alone (manual time); `prepare()` before and `clean_up()` after it are left out.
template <typename Prepare, typename Work, typename CleanUp>
void TimeEach(benchmark::State& state, Prepare prepare, Work work, CleanUp clean_up) {
  for (auto _ : state) {
    prepare();
    const std::uint64_t begin_ns = vmm::MonotonicRawNs();
    work();
    const std::uint64_t end_ns = vmm::MonotonicRawNs();
    state.SetIterationTime(static_cast<double>(end_ns - begin_ns) * 1e-9);
    clean_up();
  }
}

// The groups of benchmarks. `environment` outlives them.
void RegisterExits(Environment& environment);      // exits.cc
void RegisterLifecycle(Environment& environment);  // lifecycle.cc
void RegisterWakes(Environment& environment);      // wakes.cc
void RegisterHotPath(Environment& environment);    // hotpath.cc

}  // namespace nestbench::micro
