// Dependent loads of one cache line in each page, in random order: with more pages than the TLBs hold, each load waits
// for a page walk (in a guest a walk of two dimensions). The lines are spread over the cache's sets and fit into the
// second level. Unit: ns per access, lower is better. One operation (0). parameters[0]: pages, 2 to 2^20.
// parameters[1]: stride in bytes, a power of two from 4096 to 1 GiB; the page size of the backing, or a larger one.
// Arena: pages times stride.
//
// Checked: the walk ends where its number of steps leads.
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random_cycle.h"

namespace nestbench::payload {
namespace {

constexpr std::uint64_t kMaxPages = 1ULL << 20;
constexpr std::uint64_t kMaxStrideBytes = 1ULL << 30;

constinit RandomCycle g_cycle;

}  // namespace

void SetUp(const Args& args, Result& result) {
  const std::uint64_t pages = args.parameters[0];
  const std::uint64_t stride = args.parameters[1];
  if (args.operation != 0) return result.Fail(Status::kBadRequest, "memory_tlb: operation must be 0");
  if (pages < 2 || pages > kMaxPages) {
    return result.Fail(Status::kBadRequest, "memory_tlb: parameters[0] (pages) must be 2 to 2^20");
  }
  if (stride < abi::kPageBytes || stride > kMaxStrideBytes || (stride & (stride - 1)) != 0) {
    return result.Fail(Status::kBadRequest, "memory_tlb: parameters[1] (stride) must be a power of two, 4096 to 2^30");
  }
  if (args.arena_bytes / stride < pages) {
    return result.Fail(Status::kBadRequest, "memory_tlb: the arena must hold pages times stride bytes");
  }
  g_cycle.Build(args.arena, pages, stride, args.seed);
}

void Run(const Args& args, Result& result) {
  g_cycle.Walk(args.iterations, result);
  result.SetOperations(args.iterations);
  result.SetChecksum(Combine(g_cycle.Checksum(), args.iterations));
}

void Verify(const Args& args, Result& result) {
  if (!g_cycle.IsRight(args.iterations)) {
    result.Fail(Status::kWrongResult, "memory_tlb: the walk did not end where its steps lead");
  }
  result.SetChecksum(Combine(g_cycle.Checksum(), args.iterations));
}

}  // namespace nestbench::payload
