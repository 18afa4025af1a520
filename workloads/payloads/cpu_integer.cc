// Dependent integer chain: x = rotl((x * M) ^ C, 29), each step waiting for the one before it (multiply, xor and
// rotate: about five cycles). Unit: ns per step, lower is better. One operation (0); no parameters, no arena.
//
// Checked by walking back: the inverse chain must lead from the result to the seed.
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

constexpr std::uint64_t kMultiplier = 0xD1342543DE82EF95ULL;
constexpr std::uint64_t kXor = 0x9E3779B97F4A7C15ULL;
constexpr int kRotate = 29;

// Of an odd number, modulo 2^64, by Newton's iteration: each step doubles the number of right bits.
constexpr std::uint64_t Inverse(std::uint64_t odd) {
  std::uint64_t inverse = odd;
  for (int i = 0; i < 6; ++i) inverse *= 2 - odd * inverse;
  return inverse;
}
static_assert(kMultiplier * Inverse(kMultiplier) == 1);

constinit std::uint64_t g_end = 0;

}  // namespace

void SetUp(const Args& args, Result& result) {
  if (args.operation != 0) result.Fail(Status::kBadRequest, "cpu_integer: operation must be 0");
}

void Run(const Args& args, Result& result) {
  std::uint64_t x = Mix(args.seed);
  result.Begin();
  for (std::uint64_t i = args.iterations; i != 0; --i) {
    x = (x * kMultiplier) ^ kXor;
    x = (x << kRotate) | (x >> (64 - kRotate));
    Opaque(x);
  }
  result.End();
  g_end = x;
  result.SetOperations(args.iterations);
  result.SetChecksum(x);
}

void Verify(const Args& args, Result& result) {
  std::uint64_t x = g_end;
  for (std::uint64_t i = args.iterations; i != 0; --i) {
    x = (x >> kRotate) | (x << (64 - kRotate));
    x = (x ^ kXor) * Inverse(kMultiplier);
    Opaque(x);
  }
  if (x != Mix(args.seed)) result.Fail(Status::kWrongResult, "cpu_integer: walking back does not lead to the seed");
  result.SetChecksum(g_end);
}

}  // namespace nestbench::payload
