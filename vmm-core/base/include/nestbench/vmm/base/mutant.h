// Faults that are put in on purpose, one at a time, to see that a test notices them: ci/mutants/README.md. Only the
// CMake option NESTBENCH_MUTANTS builds them in; then the environment variable NESTBENCH_MUTANT names the one that is
// alive. Without the option each is the constant `false`, and nothing of it is left in the program. Not for public
// headers: what a user of the library compiles never asks.
#pragma once

#include <string_view>

#ifdef NESTBENCH_MUTANTS
#include <cstdlib>
#endif

namespace nestbench::vmm {

#ifdef NESTBENCH_MUTANTS

// Whether the fault of that name is alive in this process.
[[nodiscard]] inline bool Mutated(std::string_view name) {
  static const char* const alive = std::getenv("NESTBENCH_MUTANT");
  return alive != nullptr && name == alive;
}

#else

// consteval and not constexpr: no call is left in a build without optimisation either.
[[nodiscard]] consteval bool Mutated(std::string_view /*name*/) { return false; }

#endif

}  // namespace nestbench::vmm
