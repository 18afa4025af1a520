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

// Twelve registers R0..R11 (R is "ymm" or "zmm") are loaded, go `left` times through acc += a * b, and are stored.
#define NESTBENCH_LOAD(R, n, offset) "vmovapd " #offset "(%[lanes]), %%" R #n "\n"
#define NESTBENCH_STORE(R, n, offset) "vmovapd %%" R #n ", " #offset "(%[lanes])\n"
#define NESTBENCH_FMA(R, n) "vfmadd231pd %%" R "12, %%" R "13, %%" R #n "\n"
#define NESTBENCH_ALL_FMA(R)                                                                               \
  NESTBENCH_FMA(R, 0)                                                                                      \
  NESTBENCH_FMA(R, 1) NESTBENCH_FMA(R, 2) NESTBENCH_FMA(R, 3) NESTBENCH_FMA(R, 4) NESTBENCH_FMA(R, 5)      \
      NESTBENCH_FMA(R, 6) NESTBENCH_FMA(R, 7) NESTBENCH_FMA(R, 8) NESTBENCH_FMA(R, 9) NESTBENCH_FMA(R, 10) \
          NESTBENCH_FMA(R, 11)
#define NESTBENCH_KERNEL(R, MOVE) \
  asm volatile(MOVE(R, 0, 0x000) MOVE(R, 1, 0x040) MOVE(R, 2, 0x080) MOVE(R, 3, 0x0C0) MOVE(R, 4, 0x100)    \
                   MOVE(R, 5, 0x140) MOVE(R, 6, 0x180) MOVE(R, 7, 0x1C0) MOVE(R, 8, 0x200) MOVE(R, 9, 0x240) \
                       MOVE(R, 10, 0x280) MOVE(R, 11, 0x2C0) "vmovapd (%[a]), %%" R "12\n"                  \
               "vmovapd (%[b]), %%" R "13\n"                                                                \
               ".p2align 6\n"                                                                               \
               "1:\n" NESTBENCH_ALL_FMA(R)                                                                  \
               "dec %[left]\n"                                                                              \
               "jnz 1b\n"                                                                                   \
               NESTBENCH_STORE(R, 0, 0x000) NESTBENCH_STORE(R, 1, 0x040) NESTBENCH_STORE(R, 2, 0x080)       \
               NESTBENCH_STORE(R, 3, 0x0C0) NESTBENCH_STORE(R, 4, 0x100) NESTBENCH_STORE(R, 5, 0x140)       \
               NESTBENCH_STORE(R, 6, 0x180) NESTBENCH_STORE(R, 7, 0x1C0) NESTBENCH_STORE(R, 8, 0x200)       \
               NESTBENCH_STORE(R, 9, 0x240) NESTBENCH_STORE(R, 10, 0x280) NESTBENCH_STORE(R, 11, 0x2C0)     \
               "vzeroupper\n"                                                                               \
               : [left] "+r"(left)                                                                          \
               : [lanes] "r"(g_state.lanes), [a] "r"(g_state.a), [b] "r"(g_state.b)                         \
               : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",   \
                 "xmm11", "xmm12", "xmm13", "cc", "memory")

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
    NESTBENCH_KERNEL("ymm", NESTBENCH_LOAD);
    result.End();
  } else {
    result.Begin();
    NESTBENCH_KERNEL("zmm", NESTBENCH_LOAD);
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
