// First touch: one write in each 4 KiB page of an arena that is fresh zero memory (the host's `reset_arena`), in
// ascending order. In a guest this is the guest's page fault where it has one, the hypervisor's, and the host's. Unit:
// ns per 4 KiB page, lower is better, whatever the page size of the backing. One iteration is one page. One operation
// (0); no parameters. Arena: 4096 bytes for each iteration.
//
// The write adds to the page's first word, so that a page which was not fresh shows: checked for some pages after every
// batch, for all by Verify.
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

constexpr std::uint64_t kSampled = 64;  // pages looked at after every batch

std::uint64_t Added(const Args& args) { return Mix(args.seed) | 1; }

std::uint64_t WordOfPage(const Args& args, std::uint64_t page) {
  return *reinterpret_cast<const volatile std::uint64_t*>(args.arena + page * abi::kPageBytes);
}

void CheckPage(const Args& args, std::uint64_t page, Result& result) {
  if (WordOfPage(args, page) != Added(args)) {
    result.Fail(Status::kWrongResult, "memory_first_touch: the arena was not fresh zero memory before the batch");
  }
}

}  // namespace

void SetUp(const Args& args, Result& result) {
  if (args.operation != 0) return result.Fail(Status::kBadRequest, "memory_first_touch: operation must be 0");
  if (args.arena_bytes < abi::kPageBytes) {
    result.Fail(Status::kBadRequest, "memory_first_touch: the arena must hold a page");
  }
}

void Run(const Args& args, Result& result) {
  if (args.iterations > args.arena_bytes / abi::kPageBytes) {
    return result.Fail(Status::kBadRequest, "memory_first_touch: more iterations than the arena has pages");
  }
  const std::uint64_t added = Added(args);
  std::byte* page = args.arena;
  std::uint64_t left = args.iterations;
  result.Begin();
  asm volatile(
      "1: add %[added], (%[page])\n"
      "add $4096, %[page]\n"
      "dec %[left]\n"
      "jnz 1b\n"
      : [page] "+r"(page), [left] "+r"(left)
      : [added] "r"(added)
      : "cc", "memory");
  result.End();
  for (std::uint64_t i = 0; i < kSampled; ++i) CheckPage(args, i * (args.iterations - 1) / (kSampled - 1), result);
  result.SetOperations(args.iterations);
  result.SetBytes(args.iterations * abi::kPageBytes);
  result.SetChecksum(Combine(added, args.iterations));
}

void Verify(const Args& args, Result& result) {
  for (std::uint64_t page = 0; page < args.iterations; ++page) CheckPage(args, page, result);
  result.SetChecksum(Combine(Added(args), args.iterations));
}

}  // namespace nestbench::payload
