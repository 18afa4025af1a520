// Random updates: table[r mod size] ^= r for the pseudo-random sequence of the HPC Challenge benchmark RandomAccess (a
// shift register with the polynomial x^63 + x^2 + x + 1, here one stream that starts from the seed). Unit: M updates/s,
// higher is better. One operation (0). parameters[0]: table size in bytes, a power of two from 4096 up to the arena.
// Arena: the table.
//
// Checked as RandomAccess does: applying the same updates again must restore the table, here without a single error, as
// there is but one thread.
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

constexpr std::uint64_t kPolynomial = 7;

// Batches of one length undo each other in pairs, so what the table lacks is the set of lengths with an odd count.
// Batches of many lengths (a calibration) are few.
struct Pending {
  static constexpr std::uint64_t kMax = 64;
  std::uint64_t iterations[kMax];
  std::uint64_t count;

  void Toggle(std::uint64_t length) {
    for (std::uint64_t i = 0; i < count; ++i) {
      if (iterations[i] != length) continue;
      iterations[i] = iterations[--count];
      return;
    }
    iterations[count++] = length;
  }
};

constinit Pending g_pending{};
constinit std::uint64_t g_end = 0;

std::uint64_t* Table(const Args& args) { return reinterpret_cast<std::uint64_t*>(args.arena); }

std::uint64_t Start(const Args& args) { return Mix(args.seed) | 1; }

[[gnu::always_inline]] inline std::uint64_t Update(std::uint64_t* table, std::uint64_t mask, std::uint64_t random,
                                                   std::uint64_t updates) {
  for (std::uint64_t i = updates; i != 0; --i) {
    random = (random << 1) ^ (static_cast<std::uint64_t>(static_cast<std::int64_t>(random) >> 63) & kPolynomial);
    table[random & mask] ^= random;
    Opaque(random);
  }
  return random;
}

std::uint64_t Checksum(const Args& args) { return Combine(Combine(args.seed, args.iterations), g_end); }

}  // namespace

void SetUp(const Args& args, Result& result) {
  const std::uint64_t bytes = args.parameters[0];
  if (args.operation != 0) return result.Fail(Status::kBadRequest, "memory_gups: operation must be 0");
  if (bytes < abi::kPageBytes || (bytes & (bytes - 1)) != 0 || bytes > args.arena_bytes) {
    return result.Fail(Status::kBadRequest,
                       "memory_gups: parameters[0] (table) must be a power of two, 4096 up to the arena");
  }
  for (std::uint64_t i = 0; i < bytes / 8; ++i) Table(args)[i] = i;
  g_pending.count = 0;
}

void Run(const Args& args, Result& result) {
  std::uint64_t* const table = Table(args);
  const std::uint64_t mask = args.parameters[0] / 8 - 1;
  if (g_pending.count == Pending::kMax) {
    return result.Fail(Status::kBadRequest, "memory_gups: batches of more than 64 lengths before a check");
  }
  const std::uint64_t start = Start(args);
  result.Begin();
  const std::uint64_t end = Update(table, mask, start, args.iterations);
  result.End();
  g_pending.Toggle(args.iterations);
  g_end = end;
  result.SetOperations(args.iterations);
  result.SetChecksum(Checksum(args));
}

void Verify(const Args& args, Result& result) {
  std::uint64_t* const table = Table(args);
  const std::uint64_t words = args.parameters[0] / 8;
  for (std::uint64_t i = 0; i < g_pending.count; ++i) Update(table, words - 1, Start(args), g_pending.iterations[i]);
  g_pending.count = 0;
  std::uint64_t wrong = 0;
  for (std::uint64_t i = 0; i < words; ++i) wrong |= table[i] ^ i;
  if (wrong != 0) result.Fail(Status::kWrongResult, "memory_gups: the updates applied again do not restore the table");
  result.SetChecksum(Checksum(args));
}

}  // namespace nestbench::payload
