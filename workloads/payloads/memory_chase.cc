// Dependent loads through a random cycle over the working set, in nodes of 64 bytes: the load-to-use latency of
// whichever cache or memory holds it, page walks included. Unit: ns per load, lower is better. One operation (0).
// parameters[0]: working set in bytes, a multiple of 64 from 128 up to the arena. Arena: the working set.
//
// Checked: the walk ends where its number of steps leads.
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random_cycle.h"

namespace nestbench::payload {
namespace {

constinit RandomCycle g_cycle;

}  // namespace

void SetUp(const Args& args, Result& result) {
  constexpr std::uint64_t kNodeBytes = RandomCycle::kNodeBytes;
  const std::uint64_t working_set = args.parameters[0];
  if (args.operation != 0) return result.Fail(Status::kBadRequest, "memory_chase: operation must be 0");
  if (working_set < 2 * kNodeBytes || working_set % kNodeBytes != 0 || working_set > args.arena_bytes) {
    return result.Fail(Status::kBadRequest,
                       "memory_chase: parameters[0] (working set) must be a multiple of 64, 128 up to the arena");
  }
  g_cycle.Build(args.arena, working_set / kNodeBytes, kNodeBytes, args.seed);
}

void Run(const Args& args, Result& result) {
  g_cycle.Walk(args.iterations, result);
  result.SetOperations(args.iterations);
  result.SetChecksum(Combine(g_cycle.Checksum(), args.iterations));
}

void Verify(const Args& args, Result& result) {
  if (!g_cycle.IsRight(args.iterations)) {
    result.Fail(Status::kWrongResult, "memory_chase: the walk did not end where its steps lead");
  }
  result.SetChecksum(Combine(g_cycle.Checksum(), args.iterations));
}

}  // namespace nestbench::payload
