// What leaves a guest, from CPL3, one kind for each operation of exit_operations.h. Unit: ns per operation, lower is
// better. No parameters, no arena. A host process can do only kCpuid and kRdtsc; the others end it with a signal.
//
// Checked: a load that should fault must not give a value. The checksum is of the request only.
#include "nestbench/payload/exit_operations.h"
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

// What RAX holds before the load that faults; a load that went through would have changed it.
constexpr std::uint64_t kNotLoaded = 0x6E6F'7420'6C6F'6164;

constinit bool g_was_loaded = false;

void OutLoop(std::uint16_t port, std::uint64_t left) {
  asm volatile(
      "1: outl %%eax, %%dx\n"
      "dec %[left]\n"
      "jnz 1b\n"
      : [left] "+r"(left)
      : "a"(0), "d"(port)
      : "cc", "memory");
}

void StoreLoop(std::uint64_t address, std::uint64_t left) {
  asm volatile(
      "1: movl %[value], (%[address])\n"
      "dec %[left]\n"
      "jnz 1b\n"
      : [left] "+r"(left)
      : [address] "r"(address), [value] "r"(0)
      : "cc", "memory");
}

void CpuidLoop(std::uint64_t left) {
  asm volatile(
      "1: xor %%eax, %%eax\n"
      "xor %%ecx, %%ecx\n"
      "cpuid\n"
      "dec %[left]\n"
      "jnz 1b\n"
      : [left] "+r"(left)
      :
      : "rax", "rbx", "rcx", "rdx", "cc");
}

void PageFaultLoop(std::uint64_t left) {
  std::uint64_t value = kNotLoaded;
  asm volatile(
      "1: lea 2f(%%rip), %%rcx\n"  // where the exception stub goes on
      "mov (%[address]), %%rax\n"
      "2: dec %[left]\n"
      "jnz 1b\n"
      : [left] "+r"(left), "+a"(value)
      : [address] "r"(abi::kFaultPage)
      : "rcx", "cc", "memory");
  g_was_loaded = value != kNotLoaded;
}

void RdtscLoop(std::uint64_t left) {
  asm volatile(
      "1: rdtsc\n"
      "dec %[left]\n"
      "jnz 1b\n"
      : [left] "+r"(left)
      :
      : "rax", "rdx", "cc");
}

}  // namespace

void SetUp(const Args& args, Result& result) {
  if (args.operation >= kExitOperationCount) {
    result.Fail(Status::kBadRequest, "exits: the operation is none of exit_operations.h");
  }
  g_was_loaded = false;
}

void Run(const Args& args, Result& result) {
  const std::uint64_t count = args.iterations;
  result.Begin();
  switch (static_cast<ExitOperation>(args.operation)) {
    case ExitOperation::kDoorbellPio:
      OutLoop(abi::kDoorbellPort, count);
      break;
    case ExitOperation::kDoorbellMmio:
      StoreLoop(abi::kDoorbellPage, count);
      break;
    case ExitOperation::kEventPio:
      OutLoop(abi::kEventPort, count);
      break;
    case ExitOperation::kEventMmio:
      StoreLoop(abi::kEventPage, count);
      break;
    case ExitOperation::kCpuid:
      CpuidLoop(count);
      break;
    case ExitOperation::kPageFault:
      PageFaultLoop(count);
      break;
    case ExitOperation::kRdtsc:
      RdtscLoop(count);
      break;
  }
  result.End();
  result.SetOperations(count);
  result.SetChecksum(Combine(Combine(args.seed, args.operation), count));
  if (g_was_loaded) result.Fail(Status::kWrongResult, "exits: the load that should fault went through");
}

void Verify(const Args& args, Result& result) {
  result.SetChecksum(Combine(Combine(args.seed, args.operation), args.iterations));
}

}  // namespace nestbench::payload
