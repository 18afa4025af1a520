// Blocked multiplication of two square matrices of doubles with AVX2 and FMA: B is packed into panels of eight columns,
// then blocks of four by eight elements of C are held in registers. Unit: GFLOP/s (2 n^3 operations for each product,
// packing not counted), higher is better. One iteration is one product. One operation (0).
// parameters[0]: n, a multiple of 8 from 8 to 1024. Arena: 4 n^2 doubles (A, B, C, packed B).
//
// Checked as by Freivalds ("Probabilistic machines can use less running time", IFIP 1977): C r = A (B r) for random
// vectors r. All numbers are small integers, so that the comparison is exact.
#include "nestbench/payload/cpu_features.h"
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

using Vector [[gnu::vector_size(32), gnu::aligned(8)]] = double;  // four doubles at any address of a double

constexpr std::uint64_t kMaxN = 1024;
constexpr std::uint64_t kRows = 4;
constexpr std::uint64_t kColumns = 8;

struct Matrices {
  double* a;
  double* b;
  double* c;
  double* packed;
};

Matrices Place(const Args& args) {
  const std::uint64_t elements = args.parameters[0] * args.parameters[0];
  auto* base = reinterpret_cast<double*>(args.arena);
  return {base, base + elements, base + 2 * elements, base + 3 * elements};
}

// Panel p holds columns [8p, 8p + 8) of B, row after row.
void Pack(const Matrices& m, std::uint64_t n) {
  double* to = m.packed;
  for (std::uint64_t column = 0; column < n; column += kColumns) {
    for (std::uint64_t row = 0; row < n; ++row, to += kColumns) {
      for (std::uint64_t i = 0; i < kColumns; ++i) to[i] = m.b[row * n + column + i];
    }
  }
}

[[gnu::target("avx2,fma"), gnu::noinline]] void MultiplyPacked(const Matrices& m, std::uint64_t n) {
  for (std::uint64_t column = 0; column < n; column += kColumns) {
    const double* panel = m.packed + column * n;
    for (std::uint64_t row = 0; row < n; row += kRows) {
      Vector sums[kRows][2] = {};
      const double* a = m.a + row * n;
      for (std::uint64_t k = 0; k < n; ++k) {
        const Vector left = *reinterpret_cast<const Vector*>(panel + k * kColumns);
        const Vector right = *reinterpret_cast<const Vector*>(panel + k * kColumns + 4);
        for (std::uint64_t i = 0; i < kRows; ++i) {
          const double factor = a[i * n + k];
          const Vector factors = {factor, factor, factor, factor};
          sums[i][0] = __builtin_ia32_vfmaddpd256(factors, left, sums[i][0]);
          sums[i][1] = __builtin_ia32_vfmaddpd256(factors, right, sums[i][1]);
        }
      }
      for (std::uint64_t i = 0; i < kRows; ++i) {
        double* c = m.c + (row + i) * n + column;
        *reinterpret_cast<Vector*>(c) = sums[i][0];
        *reinterpret_cast<Vector*>(c + 4) = sums[i][1];
      }
    }
  }
}

double SmallInteger(Random& random) { return static_cast<double>(random.Below(17)) - 8; }

// The first row and the diagonal: cheap enough to be taken after every batch.
std::uint64_t Checksum(const Args& args) {
  const Matrices m = Place(args);
  const std::uint64_t n = args.parameters[0];
  std::uint64_t sum = Combine(args.seed, args.iterations);
  for (std::uint64_t i = 0; i < n; ++i) {
    sum = sum * 31 + static_cast<std::uint64_t>(static_cast<std::int64_t>(m.c[i]));
    sum = sum * 31 + static_cast<std::uint64_t>(static_cast<std::int64_t>(m.c[i * n + i]));
  }
  return sum;
}

constinit double g_r[kMaxN]{};
constinit double g_br[kMaxN]{};

}  // namespace

void SetUp(const Args& args, Result& result) {
  const std::uint64_t n = args.parameters[0];
  if (args.operation != 0) return result.Fail(Status::kBadRequest, "cpu_matmul: operation must be 0");
  if (n == 0 || n > kMaxN || n % kColumns != 0) {
    return result.Fail(Status::kBadRequest, "cpu_matmul: parameters[0] (n) must be a multiple of 8 up to 1024");
  }
  if (args.arena_bytes < 4 * n * n * sizeof(double)) {
    return result.Fail(Status::kBadRequest, "cpu_matmul: the arena must hold 4 n^2 doubles");
  }
  if (!HasAvx2Fma()) return result.Fail(Status::kUnsupported, "this CPU or system has no AVX2 and FMA");
  const Matrices m = Place(args);
  Random random(args.seed);
  for (std::uint64_t i = 0; i < n * n; ++i) {
    m.a[i] = SmallInteger(random);
    m.b[i] = SmallInteger(random);
    m.c[i] = 0;
    m.packed[i] = 0;
  }
}

void Run(const Args& args, Result& result) {
  const Matrices m = Place(args);
  const std::uint64_t n = args.parameters[0];
  result.Begin();
  for (std::uint64_t i = args.iterations; i != 0; --i) {
    Pack(m, n);
    MultiplyPacked(m, n);
    asm volatile("" : : : "memory");
  }
  result.End();
  result.SetOperations(args.iterations * 2 * n * n * n);
  result.SetChecksum(Checksum(args));
}

void Verify(const Args& args, Result& result) {
  const Matrices m = Place(args);
  const std::uint64_t n = args.parameters[0];
  Random random(~args.seed);
  for (int round = 0; round < 2; ++round) {
    for (std::uint64_t i = 0; i < n; ++i) g_r[i] = SmallInteger(random);
    for (std::uint64_t row = 0; row < n; ++row) {
      g_br[row] = 0;
      for (std::uint64_t i = 0; i < n; ++i) g_br[row] += m.b[row * n + i] * g_r[i];
    }
    for (std::uint64_t row = 0; row < n; ++row) {
      double left = 0;
      double right = 0;
      for (std::uint64_t i = 0; i < n; ++i) {
        left += m.c[row * n + i] * g_r[i];
        right += m.a[row * n + i] * g_br[i];
      }
      if (left != right) result.Fail(Status::kWrongResult, "cpu_matmul: C r is not A (B r)");
    }
  }
  result.SetChecksum(Checksum(args));
}

}  // namespace nestbench::payload
