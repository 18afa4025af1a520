// CPUID, leaf 0: leaves a guest under VMX and SVM, and is emulated for user space where CPUID faulting is on. Unit: ns
// per instruction, lower is better. One operation (0); no parameters, no arena.
//
// Checked: every execution returns the same. The checksum is of the request only, as the leaf may differ in a guest.
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

constinit std::uint32_t g_difference = 0;

}  // namespace

void SetUp(const Args& args, Result& result) {
  if (args.operation != 0) result.Fail(Status::kBadRequest, "cpu_cpuid: operation must be 0");
}

void Run(const Args& args, Result& result) {
  std::uint32_t first = 0;
  asm volatile("cpuid" : "+a"(first) : : "rbx", "rcx", "rdx");
  std::uint32_t difference = 0;
  std::uint64_t left = args.iterations;
  result.Begin();
  asm volatile(
      "1: xor %%eax, %%eax\n"
      "xor %%ecx, %%ecx\n"
      "cpuid\n"
      "xor %[first], %%eax\n"
      "or %%eax, %[difference]\n"
      "dec %[left]\n"
      "jnz 1b\n"
      : [left] "+r"(left), [difference] "+r"(difference)
      : [first] "r"(first)
      : "rax", "rbx", "rcx", "rdx", "cc");
  result.End();
  g_difference = difference;
  result.SetOperations(args.iterations);
  result.SetChecksum(Combine(args.seed, args.iterations));
}

void Verify(const Args& args, Result& result) {
  if (g_difference != 0) result.Fail(Status::kWrongResult, "cpu_cpuid: leaf 0 changed between two executions");
  result.SetChecksum(Combine(args.seed, args.iterations));
}

}  // namespace nestbench::payload
