// Sort of 64-bit keys that are random by seed: quicksort with the median of three, insertion sort for short runs.
// Unit: M keys/s, higher is better. One iteration copies the unsorted keys into place and sorts them; the copy is part
// of the time (one to two percent of it), because an unsorted array is needed for every iteration. One operation (0).
// parameters[0]: number of keys, 2 to 2^24. Arena: two arrays of that many 8-byte keys.
//
// Checked: ascending, and sum and xor of all keys as before.
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

using Key = std::uint64_t;

constexpr std::uint64_t kMaxKeys = 1ULL << 24;
constexpr std::int64_t kShortRun = 24;
constexpr std::uint64_t kSampled = 64;  // keys in the checksum

struct Part {
  Key* low;
  Key* high;  // inclusive, so that the pivot's neighbours are named by plain pointers
};

void Swap(Key& a, Key& b) {
  const Key t = a;
  a = b;
  b = t;
}

void InsertionSort(Key* low, Key* high) {
  for (Key* next = low + 1; next <= high; ++next) {
    const Key key = *next;
    Key* to = next;
    for (; to > low && to[-1] > key; --to) *to = to[-1];
    *to = key;
  }
}

// Hoare's partition around the median of first, middle and last; returns the last of the lower part.
Key* Partition(Key* low, Key* high) {
  Key* middle = low + (high - low) / 2;
  if (*middle < *low) Swap(*middle, *low);
  if (*high < *low) Swap(*high, *low);
  if (*high < *middle) Swap(*high, *middle);
  const Key pivot = *middle;
  Key* left = low;
  Key* right = high;
  for (;;) {
    do ++left;
    while (*left < pivot);
    do --right;
    while (*right > pivot);
    if (left >= right) return right;
    Swap(*left, *right);
  }
}

// The longer part waits on the stack: it holds at most log2(keys) parts.
void Sort(Key* keys, std::uint64_t count) {
  Part stack[64];
  int depth = 0;
  Part run{keys, keys + count - 1};
  for (;;) {
    while (run.high - run.low >= kShortRun) {
      Key* split = Partition(run.low, run.high);
      const Part lower{run.low, split};
      const Part upper{split + 1, run.high};
      const bool lower_is_longer = lower.high - lower.low > upper.high - upper.low;
      stack[depth++] = lower_is_longer ? lower : upper;
      run = lower_is_longer ? upper : lower;
    }
    InsertionSort(run.low, run.high);
    if (depth == 0) return;
    run = stack[--depth];
  }
}

Key* Unsorted(const Args& args) { return reinterpret_cast<Key*>(args.arena); }
Key* Sorted(const Args& args) { return Unsorted(args) + args.parameters[0]; }

std::uint64_t Checksum(const Args& args) {
  const std::uint64_t count = args.parameters[0];
  std::uint64_t sum = Combine(args.seed, args.iterations);
  for (std::uint64_t i = 0; i < kSampled; ++i) sum = sum * 31 + Sorted(args)[i * (count - 1) / (kSampled - 1)];
  return sum;
}

}  // namespace

void SetUp(const Args& args, Result& result) {
  const std::uint64_t count = args.parameters[0];
  if (args.operation != 0) return result.Fail(Status::kBadRequest, "cpu_sort: operation must be 0");
  if (count < 2 || count > kMaxKeys) {
    return result.Fail(Status::kBadRequest, "cpu_sort: parameters[0] (keys) must be 2 to 2^24");
  }
  if (args.arena_bytes / sizeof(Key) / 2 < count) {
    return result.Fail(Status::kBadRequest, "cpu_sort: the arena must hold the keys twice");
  }
  Random random(args.seed);
  for (std::uint64_t i = 0; i < count; ++i) Unsorted(args)[i] = random.Next();
}

void Run(const Args& args, Result& result) {
  const std::uint64_t count = args.parameters[0];
  result.Begin();
  for (std::uint64_t i = args.iterations; i != 0; --i) {
    __builtin_memcpy(Sorted(args), Unsorted(args), count * sizeof(Key));
    Sort(Sorted(args), count);
    asm volatile("" : : : "memory");
  }
  result.End();
  result.SetOperations(args.iterations * count);
  result.SetChecksum(Checksum(args));
}

void Verify(const Args& args, Result& result) {
  const std::uint64_t count = args.parameters[0];
  const Key* before = Unsorted(args);
  const Key* after = Sorted(args);
  std::uint64_t sum_difference = 0;
  std::uint64_t xor_difference = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    sum_difference += after[i] - before[i];
    xor_difference ^= after[i] ^ before[i];
    if (i != 0 && after[i - 1] > after[i]) result.Fail(Status::kWrongResult, "cpu_sort: keys out of order");
  }
  if (sum_difference != 0 || xor_difference != 0) {
    result.Fail(Status::kWrongResult, "cpu_sort: the sorted keys are not the unsorted ones");
  }
  result.SetChecksum(Checksum(args));
}

}  // namespace nestbench::payload
