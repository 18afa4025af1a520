// Peak of fused multiply-add: twelve independent accumulators, enough to fill two units of four to six cycles' latency.
// Operation 0: AVX2 (4 doubles each), operation 1: AVX-512 (8 doubles each). Unit: GFLOP/s (operations are
// floating-point operations, a multiply-add counts two), higher is better. One iteration is one multiply-add in each
// accumulator. No parameters, no arena.
//
// Checked exactly: factors and sums are integers below 2^53, so each lane must hold start + iterations * a * b.
#include "nestbench/payload/cpu_features.h"
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

constexpr std::uint64_t kAccumulators = 12;
constexpr std::uint64_t kMaxLanes = 8;
constexpr std::uint64_t kMaxFactor = 16;
constexpr std::uint64_t kMaxIterations = 1ULL << 44;  // times kMaxFactor^2 stays below 2^53

struct State {
  alignas(64) double lanes[kAccumulators * kMaxLanes];
  alignas(64) double a[kMaxLanes];
  alignas(64) double b[kMaxLanes];
};

constinit State g_state{};

std::uint64_t Lanes(const Args& args) { return args.operation == 0 ? 4 : 8; }

std::uint64_t Start(const Args& args, std::uint64_t lane) { return Mix(args.seed + lane) & 0xFFFF; }
std::uint64_t FactorA(const Args& args) { return 1 + Mix(args.seed ^ 0xA) % (kMaxFactor - 1); }
std::uint64_t FactorB(const Args& args) { return 1 + Mix(args.seed ^ 0xB) % (kMaxFactor - 1); }

// Twelve registers 0 to 11 of the kind R ("ymm" or "zmm") are loaded, go `left` times through acc += a * b, and are
// stored.
#define NESTBENCH_KERNEL(R)                                                                                        \
  asm volatile(                                                                                                    \
      ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n"                                                             \
      "vmovapd 64*\\i(%[lanes]), %%" R                                                                             \
      "\\i\n"                                                                                                      \
      ".endr\n"                                                                                                    \
      "vmovapd (%[a]), %%" R                                                                                       \
      "12\n"                                                                                                       \
      "vmovapd (%[b]), %%" R                                                                                       \
      "13\n"                                                                                                       \
      ".p2align 6\n"                                                                                               \
      "1:\n"                                                                                                       \
      ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n"                                                             \
      "vfmadd231pd %%" R "12, %%" R "13, %%" R                                                                     \
      "\\i\n"                                                                                                      \
      ".endr\n"                                                                                                    \
      "dec %[left]\n"                                                                                              \
      "jnz 1b\n"                                                                                                   \
      ".irp i, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11\n"                                                             \
      "vmovapd %%" R                                                                                               \
      "\\i, 64*\\i(%[lanes])\n"                                                                                    \
      ".endr\n"                                                                                                    \
      "vzeroupper\n"                                                                                               \
      : [left] "+r"(left)                                                                                          \
      : [lanes] "r"(g_state.lanes), [a] "r"(g_state.a), [b] "r"(g_state.b)                                         \
      : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", \
        "xmm13", "cc", "memory")

}  // namespace

void SetUp(const Args& args, Result& result) {
  if (args.operation > 1) return result.Fail(Status::kBadRequest, "cpu_fma: operation must be 0 (avx2) or 1 (avx512)");
  if (!HasAvx2Fma()) return result.Fail(Status::kUnsupported, "this CPU or system has no AVX2 and FMA");
  if (args.operation == 1 && !HasAvx512()) result.Fail(Status::kUnsupported, "this CPU or system has no AVX-512");
}

void Run(const Args& args, Result& result) {
  if (args.iterations > kMaxIterations) return result.Fail(Status::kBadRequest, "cpu_fma: more than 2^44 iterations");
  // An accumulator has 64 bytes whatever the operation, so that both use the same offsets.
  for (std::uint64_t lane = 0; lane < kAccumulators * kMaxLanes; ++lane) {
    g_state.lanes[lane] = static_cast<double>(Start(args, lane));
  }
  for (std::uint64_t lane = 0; lane < kMaxLanes; ++lane) {
    g_state.a[lane] = static_cast<double>(FactorA(args));
    g_state.b[lane] = static_cast<double>(FactorB(args));
  }
  std::uint64_t left = args.iterations;
  if (args.operation == 0) {
    result.Begin();
    NESTBENCH_KERNEL("ymm");
    result.End();
  } else {
    result.Begin();
    NESTBENCH_KERNEL("zmm");
    result.End();
  }
  result.SetOperations(args.iterations * kAccumulators * Lanes(args) * 2);
  result.SetChecksum(static_cast<std::uint64_t>(g_state.lanes[0]) + Mix(args.seed));
}

void Verify(const Args& args, Result& result) {
  const std::uint64_t added = args.iterations * FactorA(args) * FactorB(args);
  for (std::uint64_t lane = 0; lane < kAccumulators * kMaxLanes; ++lane) {
    const std::uint64_t steps = lane % kMaxLanes < Lanes(args) ? added : 0;
    if (static_cast<std::uint64_t>(g_state.lanes[lane]) != Start(args, lane) + steps) {
      result.Fail(Status::kWrongResult, "cpu_fma: a lane is not start + iterations * a * b");
    }
  }
  result.SetChecksum(static_cast<std::uint64_t>(g_state.lanes[0]) + Mix(args.seed));
}

}  // namespace nestbench::payload
