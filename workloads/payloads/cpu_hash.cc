// Lookups in an open-addressing hash table with linear probing, half full; half of the keys looked up are present. Each
// key follows from the value found before, so that lookups do not overlap. Unit: ns per lookup, lower is better.
// One operation (0). parameters[0]: slots, a power of two from 2^10 to 2^24. Arena: 16 bytes for each slot.
//
// Checked by the same walk without the table: which keys are present, and their values, follow from their numbers.
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

constexpr std::uint64_t kMinSlots = 1ULL << 10;
constexpr std::uint64_t kMaxSlots = 1ULL << 24;

struct Slot {
  std::uint64_t key;  // 0: empty
  std::uint64_t value;
};

constinit std::uint64_t g_end = 0;

// Mix is a bijection that maps 0 to 0, so keys are distinct and none is 0.
std::uint64_t KeyOf(std::uint64_t number) { return Mix(number + 1); }
std::uint64_t ValueOf(std::uint64_t number, std::uint64_t seed) { return Combine(number, seed); }

// Numbers below `slots` are looked up; those below half of it are in the table.
std::uint64_t NumberOf(std::uint64_t state, std::uint64_t slots) { return (state >> 20) & (slots - 1); }
std::uint64_t NextState(std::uint64_t state, std::uint64_t found) {
  return (state ^ found) * 0xD1342543DE82EF95ULL + 0x9E3779B97F4A7C15ULL;
}

std::uint64_t Find(const Slot* table, std::uint64_t mask, std::uint64_t key) {
  for (std::uint64_t slot = key & mask;; slot = (slot + 1) & mask) {
    if (table[slot].key == key) return table[slot].value;
    if (table[slot].key == 0) return 0;
  }
}

}  // namespace

void SetUp(const Args& args, Result& result) {
  const std::uint64_t slots = args.parameters[0];
  if (args.operation != 0) return result.Fail(Status::kBadRequest, "cpu_hash: operation must be 0");
  if (slots < kMinSlots || slots > kMaxSlots || (slots & (slots - 1)) != 0) {
    return result.Fail(Status::kBadRequest, "cpu_hash: parameters[0] (slots) must be a power of two, 2^10 to 2^24");
  }
  if (args.arena_bytes < slots * sizeof(Slot)) {
    return result.Fail(Status::kBadRequest, "cpu_hash: the arena must hold 16 bytes for each slot");
  }
  auto* table = reinterpret_cast<Slot*>(args.arena);
  for (std::uint64_t i = 0; i < slots; ++i) table[i] = {};
  for (std::uint64_t number = 0; number < slots / 2; ++number) {
    std::uint64_t slot = KeyOf(number) & (slots - 1);
    while (table[slot].key != 0) slot = (slot + 1) & (slots - 1);
    table[slot] = {KeyOf(number), ValueOf(number, args.seed)};
  }
}

void Run(const Args& args, Result& result) {
  const auto* table = reinterpret_cast<const Slot*>(args.arena);
  const std::uint64_t slots = args.parameters[0];
  std::uint64_t state = Mix(args.seed);
  result.Begin();
  for (std::uint64_t i = args.iterations; i != 0; --i) {
    state = NextState(state, Find(table, slots - 1, KeyOf(NumberOf(state, slots))));
    Opaque(state);
  }
  result.End();
  g_end = state;
  result.SetOperations(args.iterations);
  result.SetChecksum(state);
}

void Verify(const Args& args, Result& result) {
  const std::uint64_t slots = args.parameters[0];
  std::uint64_t state = Mix(args.seed);
  for (std::uint64_t i = args.iterations; i != 0; --i) {
    const std::uint64_t number = NumberOf(state, slots);
    state = NextState(state, number < slots / 2 ? ValueOf(number, args.seed) : 0);
    Opaque(state);
  }
  if (state != g_end) result.Fail(Status::kWrongResult, "cpu_hash: a lookup found another value than was stored");
  result.SetChecksum(state);
}

}  // namespace nestbench::payload
