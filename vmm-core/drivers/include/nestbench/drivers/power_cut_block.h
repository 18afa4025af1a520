// Blocks for the power-cut test: each says where it belongs and which write it is, and every byte of it follows from
// those two, so that a torn or misplaced one is seen. Freestanding: a guest can write them too.
//
// Write number `generation` (from 1) goes to one slot of 4 KiB, and so many writes in a row to as many different slots
// as there are: what is under way at one time never overlaps.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nestbench::power_cut {

inline constexpr std::size_t kBlockBytes = 4096;
inline constexpr std::uint64_t kMagic = 0x7475'4372'6577'6F50;  // "PowerCut" in memory
inline constexpr std::size_t kBlockWords = kBlockBytes / sizeof(std::uint64_t);
inline constexpr std::uint64_t kStride = 0x9E37'79B9;  // odd, so that it meets each of 2^n slots once

// `slots`: a power of two.
constexpr std::uint64_t SlotOf(std::uint64_t generation, std::uint64_t slots) {
  return generation * kStride & (slots - 1);
}

// Word `index` of the block: magic, slot, generation, then noise (Vigna's SplitMix64).
constexpr std::uint64_t WordOf(std::uint64_t slot, std::uint64_t generation, std::size_t index) {
  if (index == 0) return kMagic;
  if (index == 1) return slot;
  if (index == 2) return generation;
  std::uint64_t x = generation * kBlockWords + index + (slot << 48);
  x += 0x9E37'79B9'7F4A'7C15;
  x = (x ^ x >> 30) * 0xBF58'476D'1CE4'E5B9;
  x = (x ^ x >> 27) * 0x94D0'49BB'1331'11EB;
  return x ^ x >> 31;
}

// `block`: kBlockBytes, aligned to 8.
inline void FillBlock(std::uint64_t* block, std::uint64_t slot, std::uint64_t generation) {
  for (std::size_t i = 0; i < kBlockWords; ++i) block[i] = WordOf(slot, generation, i);
}

}  // namespace nestbench::power_cut
