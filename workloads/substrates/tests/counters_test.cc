// The counters against what this thread does to itself.
#include "nestbench/substrates/counters.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <time.h>

#include <fstream>
#include <string>

namespace nestbench::substrates {
namespace {

// Restores the CPUs that this thread may use.
class CountersTest : public testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(::sched_getaffinity(0, sizeof(before_), &before_), 0); }
  void TearDown() override { ::sched_setaffinity(0, sizeof(before_), &before_); }

  cpu_set_t before_ = {};
};

TEST_F(CountersTest, CountASleepAsAContextSwitch) {
  auto reader = CounterReader::Open();
  ASSERT_TRUE(reader.has_value()) << reader.error().ToString();
  reader->Begin();
  const timespec pause = {.tv_sec = 0, .tv_nsec = 1'000'000};
  constexpr std::uint64_t kSleeps = 5;
  for (std::uint64_t i = 0; i < kSleeps; ++i) ::nanosleep(&pause, nullptr);
  EXPECT_GE(reader->End().context_switches, kSleeps);
}

TEST_F(CountersTest, StartAfreshAtEachBegin) {
  auto reader = CounterReader::Open();
  ASSERT_TRUE(reader.has_value());
  reader->Begin();
  const timespec pause = {.tv_sec = 0, .tv_nsec = 1'000'000};
  constexpr std::uint64_t kSleeps = 50;
  for (std::uint64_t i = 0; i < kSleeps; ++i) ::nanosleep(&pause, nullptr);
  const Counters many = reader->End();
  reader->Begin();
  EXPECT_LT(reader->End().context_switches, many.context_switches);
}

TEST_F(CountersTest, CountAMigration) {
  cpu_set_t one = {};
  int cpus[2] = {-1, -1};
  int found = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; ++cpu) {
    if (CPU_ISSET(static_cast<unsigned>(cpu), &before_)) cpus[found++] = cpu;
  }
  if (found < 2) GTEST_SKIP() << "this thread may use one CPU only";
  const auto move = [&one](int cpu) {
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(cpu), &one);
    ASSERT_EQ(::sched_setaffinity(0, sizeof(one), &one), 0);
  };
  auto reader = CounterReader::Open();
  ASSERT_TRUE(reader.has_value());
  move(cpus[0]);
  reader->Begin();
  EXPECT_EQ(reader->End().migrations, 0U);
  reader->Begin();
  move(cpus[1]);
  const Counters passed = reader->End();
  EXPECT_EQ(passed.migrations, 1U);
  EXPECT_EQ(passed.steal_ns, 0U);  // of two CPUs: no difference can be taken
}

TEST_F(CountersTest, CountTheWaitForACpuWhereTheKernelDoes) {
  if (!std::ifstream("/proc/thread-self/schedstat")) GTEST_SKIP() << "a kernel without CONFIG_SCHED_INFO";
  auto reader = CounterReader::Open();
  ASSERT_TRUE(reader.has_value());
  reader->Begin();
  const auto seconds = [] {
    timespec now = {};
    ::clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
  };
  const double begin = seconds();
  while (seconds() < begin + 0.02) ::sched_yield();
  // Whatever the number is, it is a part of the time that passed.
  EXPECT_LE(static_cast<double>(reader->End().run_queue_wait_ns), (seconds() - begin) * 1e9);
}

TEST_F(CountersTest, AddUp) {
  Counters sum = {1, 2, 3, 4};
  sum += {10, 20, 30, 40};
  EXPECT_EQ(sum.steal_ns, 11U);
  EXPECT_EQ(sum.run_queue_wait_ns, 22U);
  EXPECT_EQ(sum.context_switches, 33U);
  EXPECT_EQ(sum.migrations, 44U);
}

}  // namespace
}  // namespace nestbench::substrates
