// The detector on traces whose truth is known: eight guests on two CPUs, one of four on each a heavy one.
#include "nestbench/attribution/detector.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>

namespace nestbench::attribution {
namespace {

constexpr std::uint64_t kWindowNs = 200'000'000;
constexpr int kGuests = 8;

struct Episode {
  int guest;
  int begin;  // windows
  int end;
};

struct Trace {
  std::uint64_t seed = 1;
  int windows = 60;
  std::optional<Episode> episode;
  std::optional<Episode> steal;     // the host takes CPU time from all; `guest` is not used
  std::optional<Episode> finishes;  // a guest that needs less for a while
};

// A fair share of a CPU for everyone who wants more: what the scheduler gives.
std::vector<double> Share(std::vector<double> demand, double capacity) {
  std::vector<double> given(demand.size(), 0.0);
  for (int round = 0; round < 8; ++round) {
    double left = capacity;
    int wanting = 0;
    for (std::size_t i = 0; i < demand.size(); ++i) {
      left -= given[i];
      wanting += demand[i] > given[i] + 1e-9 ? 1 : 0;
    }
    if (wanting == 0 || left < 1e-9) break;
    for (std::size_t i = 0; i < demand.size(); ++i) given[i] += std::min(demand[i] - given[i], left / wanting);
  }
  return given;
}

std::vector<std::vector<Detection>> Replay(const Trace& trace) {
  std::mt19937_64 random(trace.seed);
  std::normal_distribution<double> noise(1, 0.08);
  Detector detector;
  std::vector<std::vector<Detection>> all;
  const auto inside = [](const std::optional<Episode>& episode, int window) {
    return episode && window >= episode->begin && window < episode->end;
  };
  for (int at = 0; at < trace.windows; ++at) {
    Window window{.at_ns = static_cast<std::uint64_t>(at + 1) * kWindowNs, .duration_ns = kWindowNs, .guests = {}};
    for (int cpu = 0; cpu < 2; ++cpu) {
      std::vector<double> demand;
      for (int i = 0; i < kGuests / 2; ++i) {
        const int guest = cpu * kGuests / 2 + i;
        double wanted = (i == 0 ? 0.5 : 0.1) * noise(random);
        if (inside(trace.episode, at) && trace.episode->guest == guest) wanted = 1;
        if (inside(trace.finishes, at) && trace.finishes->guest == guest) wanted = 0.02;
        demand.push_back(wanted);
      }
      const std::vector<double> given = Share(demand, inside(trace.steal, at) ? 0.5 : 1.0);
      for (int i = 0; i < kGuests / 2; ++i) {
        const double waits = std::max(0.0, demand[static_cast<std::size_t>(i)] - given[static_cast<std::size_t>(i)]) +
                             0.01 * std::abs(noise(random));
        window.guests.push_back({.guest = static_cast<std::uint64_t>(cpu * kGuests / 2 + i),
                                 .cpu = cpu,
                                 .cpu_ns = static_cast<std::uint64_t>(given[static_cast<std::size_t>(i)] * kWindowNs),
                                 .run_queue_wait_ns = static_cast<std::uint64_t>(waits * kWindowNs),
                                 .exits = std::nullopt});
      }
    }
    all.push_back(detector.Observe(window));
  }
  return all;
}

TEST(Detector, NamesTheGuestThatTookTheCpuAndItsVictim) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const int guest = static_cast<int>(seed % 8) / 4 * 4 + 1 + static_cast<int>(seed % 3);  // a light one
    const auto found =
        Replay({.seed = seed, .windows = 60, .episode = Episode{guest, 30, 45}, .steal = {}, .finishes = {}});
    for (int at = 0; at < 60; ++at) {
      const auto& detections = found[static_cast<std::size_t>(at)];
      if (at < 30 || at >= 46) {
        EXPECT_TRUE(detections.empty()) << "seed " << seed << ", window " << at;
      }
      for (const Detection& detection : detections) EXPECT_EQ(detection.guest, static_cast<std::uint64_t>(guest));
    }
    const auto first = std::ranges::find_if(found, [](const auto& detections) { return !detections.empty(); });
    ASSERT_NE(first, found.end()) << "seed " << seed;
    EXPECT_LE(first - found.begin(), 35) << "seed " << seed;
    EXPECT_EQ(first->at(0).victims.at(0), static_cast<std::uint64_t>(guest / 4 * 4)) << "the heavy one";
    EXPECT_GT(first->at(0).score, 0.5);
    EXPECT_NE(first->at(0).cause.find("CPU time rose"), std::string::npos);
  }
}

TEST(Detector, SaysNothingInQuiet) {
  for (std::uint64_t seed = 1; seed <= 50; ++seed) {
    for (const auto& detections : Replay({.seed = seed, .windows = 200, .episode = {}, .steal = {}, .finishes = {}})) {
      EXPECT_TRUE(detections.empty()) << "seed " << seed;
    }
  }
}

TEST(Detector, DoesNotBlameAGuestForWhatTheHostTakes) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    for (const auto& detections :
         Replay({.seed = seed, .windows = 60, .episode = {}, .steal = Episode{0, 20, 40}, .finishes = {}})) {
      EXPECT_TRUE(detections.empty()) << "seed " << seed;
    }
  }
}

TEST(Detector, DoesNotTakeAGuestThatWantsLessForAVictim) {
  for (const auto& detections :
       Replay({.seed = 3, .windows = 60, .episode = {}, .steal = {}, .finishes = Episode{0, 20, 40}})) {
    EXPECT_TRUE(detections.empty());
  }
}

TEST(Detector, TakesGuestsThatComeAndGo) {
  Detector detector;
  Window window{.at_ns = kWindowNs, .duration_ns = kWindowNs, .guests = {}};
  EXPECT_TRUE(detector.Observe(window).empty());
  window.guests.push_back({.guest = 1, .cpu = -1, .cpu_ns = kWindowNs, .run_queue_wait_ns = 0, .exits = 5});
  EXPECT_TRUE(detector.Observe(window).empty()) << "a guest without a past is not accused";
  window.duration_ns = 0;
  EXPECT_TRUE(detector.Observe(window).empty());
}

}  // namespace
}  // namespace nestbench::attribution
