// SplitMix64: random numbers from a seed, and the mixing function that checksums use. Freestanding.
//
// Source: Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014.
#pragma once

#include <cstdint>

namespace nestbench::payload {

// A bijection of 64-bit numbers in which each input bit changes half of the output's.
constexpr std::uint64_t Mix(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

class Random {
 public:
  constexpr explicit Random(std::uint64_t seed) : state_(seed) {}

  constexpr std::uint64_t Next() { return Mix(state_ += 0x9E3779B97F4A7C15ULL); }

  // Uniform in [0, bound) up to a bias of bound / 2^32, for bounds below 2^32. bound must not be 0.
  constexpr std::uint64_t Below(std::uint64_t bound) { return ((Next() >> 32) * bound) >> 32; }

 private:
  std::uint64_t state_;
};

// Joins two numbers into one that depends on both and on their order.
constexpr std::uint64_t Combine(std::uint64_t a, std::uint64_t b) {
  return Mix(a + 0x9E3779B97F4A7C15ULL) ^ b * 0x2545F4914F6CDD1DULL;
}

}  // namespace nestbench::payload
