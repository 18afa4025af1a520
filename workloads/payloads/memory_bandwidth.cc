// Sequential bandwidth with 32-byte AVX2 accesses. Unit: GB/s, higher is better; bytes are counted as McCalpin's STREAM
// does ("STREAM: Sustainable Memory Bandwidth in High Performance Computers", section "Counting Bytes and FLOPS"): what
// the program asks for, without the reads that a cache makes before it writes. One iteration is one pass over the
// arrays.
//   operation   one pass                              counted bytes per element of 8 bytes
//   0 read      sum += a                              8
//   1 write     a = constant of the pass              8
//   2 copy      b = a                                16
//   3 triad     c = a + 3 b                          24
//   4 write_nt, 5 copy_nt, 6 triad_nt: the same with non-temporal stores, then SFENCE
// parameters[0]: working set in bytes, shared by the arrays in equal parts, 4096 or more. Arena: the working set and
// 8192 bytes. STREAM wants arrays of four times the last-level cache; smaller working sets measure that cache, too.
//
// Checked: the sum, or every element of the array that was written.
#include "nestbench/payload/cpu_features.h"
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

enum Operation : std::uint64_t { kRead, kWrite, kCopy, kTriad, kWriteNt, kCopyNt, kTriadNt, kOperationCount };

constexpr std::uint64_t kStepBytes = 128;          // of one array in one step of a loop
constexpr std::uint64_t kArrayOffsetBytes = 1088;  // arrays begin at different offsets in a page: no false store-load
                                                   // conflicts of addresses that are equal modulo 4096
constexpr std::uint64_t kSlackBytes = 8192;
constexpr std::uint64_t kSampled = 64;  // elements in the checksum

static_assert(2 * kArrayOffsetBytes + 64 <= kSlackBytes && kArrayOffsetBytes % 64 == 0);

std::uint64_t ArrayCount(std::uint64_t operation) {
  if (operation == kTriad || operation == kTriadNt) return 3;
  return operation == kCopy || operation == kCopyNt ? 2 : 1;
}

std::uint64_t ArrayBytes(const Args& args) {
  return args.parameters[0] / ArrayCount(args.operation) / kStepBytes * kStepBytes;
}

template <typename T>
T* Array(const Args& args, std::uint64_t index) {
  return reinterpret_cast<T*>(args.arena + index * (ArrayBytes(args) + kArrayOffsetBytes));
}

template <typename T>
T* Written(const Args& args) {
  return Array<T>(args, ArrayCount(args.operation) - 1);
}

std::uint64_t WrittenBy(std::uint64_t pass, std::uint64_t seed) { return Mix(seed) + pass; }

constinit std::uint64_t g_sum = 0;           // of the last Run with kRead
constinit std::uint64_t g_expected_sum = 0;  // of one pass

std::uint64_t ReadPasses(const Args& args) {
  const std::uint64_t bytes = ArrayBytes(args);
  alignas(32) std::uint64_t lanes[4];
  for (std::uint64_t& lane : lanes) lane = 0;
  asm volatile(
      "vpxor %%xmm0, %%xmm0, %%xmm0\n"
      "vpxor %%xmm1, %%xmm1, %%xmm1\n"
      "vpxor %%xmm2, %%xmm2, %%xmm2\n"
      "vpxor %%xmm3, %%xmm3, %%xmm3\n"
      "mov %[passes], %%rcx\n"
      "2: mov %[a], %%rax\n"
      "lea (%[a], %[bytes]), %%rdx\n"
      ".p2align 6\n"
      "1: vpaddq (%%rax), %%ymm0, %%ymm0\n"
      "vpaddq 32(%%rax), %%ymm1, %%ymm1\n"
      "vpaddq 64(%%rax), %%ymm2, %%ymm2\n"
      "vpaddq 96(%%rax), %%ymm3, %%ymm3\n"
      "add $128, %%rax\n"
      "cmp %%rdx, %%rax\n"
      "jne 1b\n"
      "dec %%rcx\n"
      "jnz 2b\n"
      "vpaddq %%ymm1, %%ymm0, %%ymm0\n"
      "vpaddq %%ymm3, %%ymm2, %%ymm2\n"
      "vpaddq %%ymm2, %%ymm0, %%ymm0\n"
      "vmovdqa %%ymm0, (%[lanes])\n"
      "vzeroupper\n"
      :
      : [a] "r"(Array<std::byte>(args, 0)), [bytes] "r"(bytes), [passes] "r"(args.iterations), [lanes] "r"(lanes)
      : "rax", "rcx", "rdx", "xmm0", "xmm1", "xmm2", "xmm3", "cc", "memory");
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

// STORE: the instruction that writes 32 bytes. FENCE: what makes non-temporal stores visible.
#define NESTBENCH_WRITE(STORE, FENCE)                                                                     \
  asm volatile(                                                                                           \
      "vmovq %[value], %%xmm0\n"                                                                          \
      "vpbroadcastq %%xmm0, %%ymm0\n"                                                                     \
      "vpcmpeqd %%ymm1, %%ymm1, %%ymm1\n" /* -1 in each lane: a pass's constant is that before plus 1 */  \
      "mov %[passes], %%rcx\n"                                                                            \
      "2: mov %[a], %%rax\n"                                                                              \
      "lea (%[a], %[bytes]), %%rdx\n"                                                                     \
      "vpsubq %%ymm1, %%ymm0, %%ymm0\n"                                                                   \
      ".p2align 6\n"                                                                                      \
      "1: " STORE " %%ymm0, (%%rax)\n" STORE " %%ymm0, 32(%%rax)\n" STORE " %%ymm0, 64(%%rax)\n" STORE    \
      " %%ymm0, 96(%%rax)\n"                                                                              \
      "add $128, %%rax\n"                                                                                 \
      "cmp %%rdx, %%rax\n"                                                                                \
      "jne 1b\n"                                                                                          \
      "dec %%rcx\n"                                                                                       \
      "jnz 2b\n" FENCE "vzeroupper\n"                                                                     \
      :                                                                                                   \
      : [a] "r"(Array<std::byte>(args, 0)), [bytes] "r"(ArrayBytes(args)), [passes] "r"(args.iterations), \
        [value] "r"(WrittenBy(0, args.seed))                                                              \
      : "rax", "rcx", "rdx", "xmm0", "xmm1", "cc", "memory")

#define NESTBENCH_COPY(STORE, FENCE)                                                                           \
  asm volatile(                                                                                                \
      "mov %[passes], %%rcx\n"                                                                                 \
      "2: mov %[a], %%rax\n"                                                                                   \
      "mov %[b], %%rsi\n"                                                                                      \
      "lea (%[a], %[bytes]), %%rdx\n"                                                                          \
      ".p2align 6\n"                                                                                           \
      "1: vmovdqa (%%rax), %%ymm0\n"                                                                           \
      "vmovdqa 32(%%rax), %%ymm1\n"                                                                            \
      "vmovdqa 64(%%rax), %%ymm2\n"                                                                            \
      "vmovdqa 96(%%rax), %%ymm3\n" STORE " %%ymm0, (%%rsi)\n" STORE " %%ymm1, 32(%%rsi)\n" STORE              \
      " %%ymm2, 64(%%rsi)\n" STORE                                                                             \
      " %%ymm3, 96(%%rsi)\n"                                                                                   \
      "add $128, %%rsi\n"                                                                                      \
      "add $128, %%rax\n"                                                                                      \
      "cmp %%rdx, %%rax\n"                                                                                     \
      "jne 1b\n"                                                                                               \
      "dec %%rcx\n"                                                                                            \
      "jnz 2b\n" FENCE "vzeroupper\n"                                                                          \
      :                                                                                                        \
      : [a] "r"(Array<std::byte>(args, 0)), [b] "r"(Array<std::byte>(args, 1)), [bytes] "r"(ArrayBytes(args)), \
        [passes] "r"(args.iterations)                                                                          \
      : "rax", "rcx", "rdx", "rsi", "xmm0", "xmm1", "xmm2", "xmm3", "cc", "memory")

#define NESTBENCH_TRIAD(STORE, FENCE)                                                                               \
  asm volatile(                                                                                                     \
      "vmovq %[three], %%xmm4\n"                                                                                    \
      "vpbroadcastq %%xmm4, %%ymm4\n"                                                                               \
      "mov %[passes], %%rcx\n"                                                                                      \
      "2: mov %[a], %%rax\n"                                                                                        \
      "mov %[b], %%rsi\n"                                                                                           \
      "mov %[c], %%rdi\n"                                                                                           \
      "lea (%[a], %[bytes]), %%rdx\n"                                                                               \
      ".p2align 6\n"                                                                                                \
      "1: vmovapd (%%rsi), %%ymm0\n"                                                                                \
      "vmovapd 32(%%rsi), %%ymm1\n"                                                                                 \
      "vmovapd 64(%%rsi), %%ymm2\n"                                                                                 \
      "vmovapd 96(%%rsi), %%ymm3\n"                                                                                 \
      "vfmadd213pd (%%rax), %%ymm4, %%ymm0\n" /* ymm0 = ymm4 * ymm0 + memory */                                     \
      "vfmadd213pd 32(%%rax), %%ymm4, %%ymm1\n"                                                                     \
      "vfmadd213pd 64(%%rax), %%ymm4, %%ymm2\n"                                                                     \
      "vfmadd213pd 96(%%rax), %%ymm4, %%ymm3\n" STORE " %%ymm0, (%%rdi)\n" STORE " %%ymm1, 32(%%rdi)\n" STORE       \
      " %%ymm2, 64(%%rdi)\n" STORE                                                                                  \
      " %%ymm3, 96(%%rdi)\n"                                                                                        \
      "add $128, %%rsi\n"                                                                                           \
      "add $128, %%rdi\n"                                                                                           \
      "add $128, %%rax\n"                                                                                           \
      "cmp %%rdx, %%rax\n"                                                                                          \
      "jne 1b\n"                                                                                                    \
      "dec %%rcx\n"                                                                                                 \
      "jnz 2b\n" FENCE "vzeroupper\n"                                                                               \
      :                                                                                                             \
      : [a] "r"(Array<std::byte>(args, 0)), [b] "r"(Array<std::byte>(args, 1)), [c] "r"(Array<std::byte>(args, 2)), \
        [bytes] "r"(ArrayBytes(args)), [passes] "r"(args.iterations), [three] "r"(3.0)                              \
      : "rax", "rcx", "rdx", "rsi", "rdi", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "cc", "memory")

// A value of the arrays that are read; a small integer, so that doubles are exact.
std::uint64_t Source(std::uint64_t index, std::uint64_t array, std::uint64_t seed) {
  return (index * 0x9E3779B97F4A7C15ULL + array + Mix(seed)) >> 40;
}

std::uint64_t SampleIndex(const Args& args, std::uint64_t sample) {
  return sample * (ArrayBytes(args) / 8 - 1) / (kSampled - 1);
}

std::uint64_t Checksum(const Args& args) {
  std::uint64_t sum = Combine(args.seed, args.iterations);
  if (args.operation == kRead) return Combine(sum, g_sum);
  for (std::uint64_t i = 0; i < kSampled; ++i) {
    sum = sum * 31 + Written<volatile std::uint64_t>(args)[SampleIndex(args, i)];
  }
  return sum;
}

bool IsWrittenRight(const Args& args) {
  const std::uint64_t elements = ArrayBytes(args) / 8;
  std::uint64_t wrong = 0;
  for (std::uint64_t i = 0; i < elements; ++i) {
    switch (args.operation) {
      case kWrite:
      case kWriteNt:
        wrong |= Array<std::uint64_t>(args, 0)[i] ^ WrittenBy(args.iterations, args.seed);
        break;
      case kCopy:
      case kCopyNt:
        wrong |= Array<std::uint64_t>(args, 1)[i] ^ Source(i, 0, args.seed);
        break;
      default: {
        const std::uint64_t expected = Source(i, 0, args.seed) + 3 * Source(i, 1, args.seed);
        wrong |= static_cast<std::uint64_t>(Array<double>(args, 2)[i] != static_cast<double>(expected));
      }
    }
  }
  return wrong == 0;
}

}  // namespace

void SetUp(const Args& args, Result& result) {
  const std::uint64_t working_set = args.parameters[0];
  if (args.operation >= kOperationCount) {
    return result.Fail(Status::kBadRequest, "memory_bandwidth: operation must be 0 to 6");
  }
  if (working_set < abi::kPageBytes || args.arena_bytes < kSlackBytes || working_set > args.arena_bytes - kSlackBytes) {
    return result.Fail(Status::kBadRequest,
                       "memory_bandwidth: parameters[0] (working set) must be 4096 to the arena less 8192 bytes");
  }
  if (!HasAvx2Fma()) return result.Fail(Status::kUnsupported, "this CPU or system has no AVX2 and FMA");
  const bool is_double = ArrayCount(args.operation) == 3;
  g_expected_sum = 0;
  for (std::uint64_t array = 0; array < ArrayCount(args.operation); ++array) {
    for (std::uint64_t i = 0; i < ArrayBytes(args) / 8; ++i) {
      const std::uint64_t value = Source(i, array, args.seed);
      if (is_double) {
        Array<double>(args, array)[i] = static_cast<double>(value);
      } else {
        Array<std::uint64_t>(args, array)[i] = value;
      }
      g_expected_sum += value;
    }
  }
}

void Run(const Args& args, Result& result) {
  // What an earlier batch left must not pass for the result of this one.
  if (args.operation != kRead) {
    for (std::uint64_t i = 0; i < kSampled; ++i) Written<std::uint64_t>(args)[SampleIndex(args, i)] = 0;
  }
  result.Begin();
  switch (args.operation) {
    case kRead:
      g_sum = ReadPasses(args);
      break;
    case kWrite:
      NESTBENCH_WRITE("vmovdqa", "");
      break;
    case kCopy:
      NESTBENCH_COPY("vmovdqa", "");
      break;
    case kTriad:
      NESTBENCH_TRIAD("vmovapd", "");
      break;
    case kWriteNt:
      NESTBENCH_WRITE("vmovntdq", "sfence\n");
      break;
    case kCopyNt:
      NESTBENCH_COPY("vmovntdq", "sfence\n");
      break;
    default:
      NESTBENCH_TRIAD("vmovntpd", "sfence\n");
  }
  result.End();
  result.SetOperations(args.iterations);
  result.SetBytes(args.iterations * ArrayBytes(args) * ArrayCount(args.operation));
  result.SetChecksum(Checksum(args));
}

void Verify(const Args& args, Result& result) {
  if (args.operation == kRead) {
    if (g_sum != args.iterations * g_expected_sum) {
      result.Fail(Status::kWrongResult, "memory_bandwidth: the sum is not that of what was stored");
    }
  } else if (!IsWrittenRight(args)) {
    result.Fail(Status::kWrongResult, "memory_bandwidth: an element that was written has another value");
  }
  result.SetChecksum(Checksum(args));
}

}  // namespace nestbench::payload
