#include "cpu_probe.h"

#include <cpuid.h>
#include <fmt/format.h>
#include <time.h>
#include <x86intrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <string_view>
#include <utility>

#include "nestbench/vmm/base/clock.h"

namespace nestbench::probe {
namespace {

// The least of several times: what interrupts and other guests add only makes a run longer.
template <typename Work>
double LeastNs(int runs, Work work) {
  double least = 1e18;
  for (int run = 0; run < runs; ++run) {
    const std::uint64_t begin = vmm::MonotonicRawNs();
    work();
    least = std::min(least, static_cast<double>(vmm::MonotonicRawNs() - begin));
  }
  return least;
}

// Twelve bytes of signature. KVM's is nine characters and three zero bytes.
std::string SignatureText(std::uint32_t ebx, std::uint32_t ecx, std::uint32_t edx) {
  const std::array<std::uint32_t, 3> registers = {ebx, ecx, edx};
  std::array<char, sizeof(registers)> bytes{};
  std::memcpy(bytes.data(), registers.data(), bytes.size());
  std::string text(bytes.begin(), bytes.end());
  while (!text.empty() && text.back() == '\0') text.pop_back();
  std::ranges::replace_if(
      text, [](char c) { return c < ' ' || c > '~'; }, '.');
  return text;
}

constexpr std::uint32_t kHypervisorLeaf = 0x4000'0000;
constexpr std::uint32_t kLeafStep = 0x100;  // where a second interface (KVM below Hyper-V's) would be
constexpr std::uint32_t kLeafEnd = 0x4001'0000;
constexpr std::uint32_t kHypervisorBit = 1U << 31;

constexpr double kEmulatedAddNs = 3;  // the slowest real clock (800 MHz) needs 1.25
constexpr double kEmulatedMultiplyNs =
    15;  // 5 cycles of hardware; every software emulator computes 80 bits in software
constexpr double kLeastMultiplyInAdds = 2;  // one cycle against 4 and more; where each is one tick, ticks are counted

}  // namespace

HypervisorCpuid ReadHypervisorCpuid() {
  HypervisorCpuid result;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  __cpuid(1, eax, ebx, ecx, edx);
  result.present_bit = (ecx & kHypervisorBit) != 0;

  // One CPUID can be as short as reading the clock twice: batches, less an empty one.
  constexpr int kRuns = 31;
  constexpr int kBatch = 16;
  const double clock_ns = LeastNs(kRuns, [] {});
  const double batch_ns = LeastNs(kRuns, [] {
    for (int i = 0; i < kBatch; ++i) {
      // Not __cpuid(): clang's is not volatile, and an unused answer would be optimized away with the instruction.
      unsigned leaf = 0;
      unsigned subleaf = 0;
      asm volatile("cpuid" : "+a"(leaf), "+c"(subleaf) : : "ebx", "edx");
    }
  });
  result.cpuid_ns = std::max(0.0, batch_ns - clock_ns) / kBatch;

  // Bare metal answers leaves out of range with those of the highest basic leaf: only the bit makes these leaves real.
  if (!result.present_bit) return result;
  for (std::uint32_t leaf = kHypervisorLeaf; leaf < kLeafEnd; leaf += kLeafStep) {
    __cpuid(leaf, eax, ebx, ecx, edx);
    // EAX is the highest leaf of this interface (KVM once left it 0); anything else is no interface.
    if (eax != 0 && (eax < leaf || eax > leaf + kLeafStep)) break;
    std::string signature = SignatureText(ebx, ecx, edx);
    if (signature.empty() || (!result.signatures.empty() && signature == result.signatures.back())) break;
    result.signatures.push_back(std::move(signature));
  }
  return result;
}

bool CountsInstructions(double add_ns, double x87_multiply_ns) {
  return x87_multiply_ns < kLeastMultiplyInAdds * add_ns;
}

std::string EmulationEvidence(const std::vector<std::string>& signatures, double add_ns, double x87_multiply_ns) {
  for (const std::string& signature : signatures) {
    if (signature == "TCGTCGTCGTCG") return "CPUID signature `TCGTCGTCGTCG`: QEMU's software emulator";
  }
  if (add_ns > kEmulatedAddNs) {
    return fmt::format("a dependent add takes {:.1f} ns; the slowest CPU needs 1.3", add_ns);
  }
  if (x87_multiply_ns > kEmulatedMultiplyNs) {
    return fmt::format("a dependent 80-bit multiply takes {:.1f} ns; a CPU needs 1 to 6", x87_multiply_ns);
  }
  if (CountsInstructions(add_ns, x87_multiply_ns)) {
    return fmt::format("a dependent 80-bit multiply takes {:.1f} ns, as an add does: time is a count of instructions",
                       x87_multiply_ns);
  }
  return {};
}

void MeasureInstructionSpeed(const HypervisorCpuid& cpuid, ClockInfo& clock) {
  constexpr int kOperations = 20000;
  constexpr int kRuns = 15;
  const double add = LeastNs(kRuns, [] {
    std::uint64_t value = 1;
    for (int i = 0; i < kOperations; ++i) asm volatile("add %0, %0" : "+r"(value));
  });
  const double multiply = LeastNs(kRuns, [] {
    long double value = 1.0L;
    for (int i = 0; i < kOperations; ++i) asm volatile("fmul %%st(0), %%st(0)" : "+t"(value));
  });
  clock.add_ns = add / kOperations;
  clock.x87_multiply_ns = multiply / kOperations;
  clock.emulated_reason = EmulationEvidence(cpuid.signatures, clock.add_ns, clock.x87_multiply_ns);
  clock.is_emulated = !clock.emulated_reason.empty();
  clock.counts_instructions = CountsInstructions(clock.add_ns, clock.x87_multiply_ns);
}

Result<std::uint64_t> CalibrateTscHz(std::chrono::nanoseconds duration) {
  // A pair of readings is only as good as the time between them: take the tightest of several.
  const auto pair = [] {
    std::uint64_t best_gap = UINT64_MAX;
    std::pair<std::uint64_t, std::uint64_t> best;
    for (int i = 0; i < 20; ++i) {
      const std::uint64_t before = __rdtsc();
      const std::uint64_t now = vmm::MonotonicRawNs();
      const std::uint64_t after = __rdtsc();
      if (after - before < best_gap) {
        best_gap = after - before;
        best = {before + (after - before) / 2, now};
      }
    }
    return best;
  };
  const auto begin = pair();
  timespec rest{.tv_sec = static_cast<time_t>(duration.count() / 1'000'000'000),
                .tv_nsec = static_cast<long>(duration.count() % 1'000'000'000)};
  ::clock_nanosleep(CLOCK_MONOTONIC, 0, &rest, nullptr);
  const auto end = pair();
  if (end.first <= begin.first || end.second <= begin.second) {
    return vmm::Fail(Error::Malformed("calibrate TSC", "the TSC or CLOCK_MONOTONIC_RAW did not advance"));
  }
  const double hz = static_cast<double>(end.first - begin.first) * 1e9 / static_cast<double>(end.second - begin.second);
  return static_cast<std::uint64_t>(std::llround(hz));
}

double HostLoopNsPerInstruction() {
  constexpr std::uint64_t kIterations = 200'000;
  constexpr double kInstructions = 3.0 * kIterations;
  const double least = LeastNs(9, [] {
    std::uint64_t count = kIterations;
    std::uint64_t value = 0;
    asm volatile(
        "1: lea 1(%1), %1\n"
        "dec %0\n"
        "jnz 1b"
        : "+r"(count), "+r"(value)
        :
        : "cc");
  });
  return least / kInstructions;
}

}  // namespace nestbench::probe
