// RDTSC back to back, without fences: the control beside cpu_cpuid, as it does not leave a guest unless the hypervisor
// asks for that. Unit: ns per instruction, lower is better. One operation (0); no parameters, no arena.
//
// Checked: the counter never runs backwards. The checksum is of the request only.
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

constinit std::uint64_t g_differences = 0;

}  // namespace

void SetUp(const Args& args, Result& result) {
  if (args.operation != 0) result.Fail(Status::kBadRequest, "cpu_rdtsc: operation must be 0");
}

void Run(const Args& args, Result& result) {
  std::uint64_t before = 0;
  std::uint64_t differences = 0;  // all of them by OR: the top bit tells whether one was negative
  std::uint64_t left = args.iterations;
  result.Begin();
  asm volatile(
      "1: rdtsc\n"
      "shl $32, %%rdx\n"
      "or %%rdx, %%rax\n"
      "mov %%rax, %%rdx\n"
      "sub %[before], %%rdx\n"
      "or %%rdx, %[differences]\n"
      "mov %%rax, %[before]\n"
      "dec %[left]\n"
      "jnz 1b\n"
      : [left] "+r"(left), [before] "+r"(before), [differences] "+r"(differences)
      :
      : "rax", "rdx", "cc");
  result.End();
  g_differences = differences;
  result.SetOperations(args.iterations);
  result.SetChecksum(Combine(args.seed, args.iterations));
}

void Verify(const Args& args, Result& result) {
  if (g_differences >> 63 != 0) result.Fail(Status::kWrongResult, "cpu_rdtsc: the time stamp counter ran backwards");
  result.SetChecksum(Combine(args.seed, args.iterations));
}

}  // namespace nestbench::payload
