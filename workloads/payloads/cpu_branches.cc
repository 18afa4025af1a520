// Unpredictable branches: a conditional jump on the top bit of a linear congruential sequence, taken half of the time
// without a pattern. Unit: ns per branch, lower is better; about half the branch predictor's miss penalty plus the four
// cycles of the sequence. One operation (0); no parameters, no arena.
//
// Checked by counting the same sequence again without branches.
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

// Knuth, "The Art of Computer Programming", volume 2, section "The Linear Congruential Method": his MMIX constants.
constexpr std::uint64_t kMultiplier = 6364136223846793005ULL;
constexpr std::uint64_t kIncrement = 1442695040888963407ULL;

struct Outcome {
  std::uint64_t state = 0;
  std::uint64_t taken = 0;
};

constinit Outcome g_outcome;

}  // namespace

void SetUp(const Args& args, Result& result) {
  if (args.operation != 0) result.Fail(Status::kBadRequest, "cpu_branches: operation must be 0");
}

void Run(const Args& args, Result& result) {
  Outcome outcome{Mix(args.seed), 0};
  std::uint64_t left = args.iterations;
  result.Begin();
  asm volatile(
      ".p2align 6\n"
      "1: imul %[multiplier], %[state]\n"
      "add %[increment], %[state]\n"
      "jns 2f\n"  // the measured branch: sign of the sum
      "inc %[taken]\n"
      "2: dec %[left]\n"
      "jnz 1b\n"
      : [state] "+r"(outcome.state), [taken] "+r"(outcome.taken), [left] "+r"(left)
      : [multiplier] "r"(kMultiplier), [increment] "r"(kIncrement)
      : "cc");
  result.End();
  g_outcome = outcome;
  result.SetOperations(args.iterations);
  result.SetChecksum(Combine(outcome.state, outcome.taken));
}

void Verify(const Args& args, Result& result) {
  Outcome expected{Mix(args.seed), 0};
  for (std::uint64_t i = args.iterations; i != 0; --i) {
    expected.state = expected.state * kMultiplier + kIncrement;
    expected.taken += expected.state >> 63;
    Opaque(expected.state);
  }
  if (expected.state != g_outcome.state || expected.taken != g_outcome.taken) {
    result.Fail(Status::kWrongResult, "cpu_branches: another count than that without branches");
  }
  result.SetChecksum(Combine(expected.state, expected.taken));
}

}  // namespace nestbench::payload
