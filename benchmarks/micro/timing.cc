#include "timing.h"

#include <exception>
#include <utility>

namespace nestbench::micro {

benchmark::internal::Benchmark* Register(const std::string& id, Timer timer,
                                         std::function<void(benchmark::State&)> body) {
  const auto guarded = [body = std::move(body)](benchmark::State& state) {
    try {
      body(state);
    } catch (const Unsupported& reason) {
      state.SkipWithError(("unsupported: " + std::string(reason.what())).c_str());
    } catch (const std::exception& error) {
      state.SkipWithError(error.what());
    }
  };
  auto* registered = benchmark::RegisterBenchmark(id.c_str(), guarded)->Unit(benchmark::kNanosecond);
  return timer == Timer::kManual ? registered->UseManualTime() : registered->UseRealTime();
}

}  // namespace nestbench::micro
