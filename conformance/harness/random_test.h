// Fixture of conditions that try what nobody thought of: seeded, bounded by rounds and by time, what was seen counted.
// NESTBENCH_SEED replays one; the seed is in the evidence.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <random>
#include <string>

#include "box_test.h"

namespace nestbench::conformance {

class RandomTest : public BoxTest {
 protected:
  static constexpr auto kBudget = std::chrono::seconds(2);

  void SetUp() override {
    BoxTest::SetUp();
    const char* given = std::getenv("NESTBENCH_SEED");
    const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 0) : 0x6E65'7374;
    random_.seed(seed);
    Evidence("seed", static_cast<long long>(seed));
    end_ = std::chrono::steady_clock::now() + kBudget;
  }
  void TearDown() override {
    if (IsSkipped()) return;
    for (const auto& [name, count] : seen_) Evidence(name, count);
    Evidence("rounds", rounds_);
    ExpectAHealthyGuestRuns();
  }

  bool Again(int rounds) { return rounds_ < rounds && std::chrono::steady_clock::now() < end_ && (++rounds_, true); }
  std::uint64_t Next() { return random_(); }
  std::uint64_t Below(std::uint64_t bound) { return random_() % bound; }
  void Fill(void* place, std::size_t bytes) {
    auto* at = static_cast<std::uint8_t*>(place);
    for (std::size_t i = 0; i < bytes; ++i) at[i] = static_cast<std::uint8_t>(random_());
  }

  int rounds_ = 0;
  std::map<std::string, long long> seen_;

 private:
  std::mt19937_64 random_;
  std::chrono::steady_clock::time_point end_;
};

}  // namespace nestbench::conformance
