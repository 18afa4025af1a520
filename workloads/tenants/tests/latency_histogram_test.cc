#include "nestbench/tenants/latency_histogram.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace nestbench::tenants {
namespace {

TEST(LatencyHistogram, IsEmptyAtFirst) {
  const LatencyHistogram histogram;
  EXPECT_EQ(histogram.total(), 0U);
  EXPECT_EQ(histogram.Quantile(0.99), 0U);
  EXPECT_TRUE(histogram.counts().empty()) << "an idle tenant pays for no buckets";
}

TEST(LatencyHistogram, PutsEveryValueIntoABucketThatHoldsIt) {
  for (std::uint32_t bit = 0; bit < LatencyHistogram::kTopBit; ++bit) {
    for (const std::int64_t offset : {-1, 0, 1}) {
      const std::uint64_t value = (std::uint64_t{1} << bit) + static_cast<std::uint64_t>(offset);
      if (value > LatencyHistogram::kMaxValue) continue;
      const std::size_t index = LatencyHistogram::IndexOf(value);
      ASSERT_LT(index, LatencyHistogram::kBuckets);
      EXPECT_GE(LatencyHistogram::HighestOf(index), value);
      if (index > 0) {
        EXPECT_LT(LatencyHistogram::HighestOf(index - 1), value);
      }
      EXPECT_LE(static_cast<double>(LatencyHistogram::HighestOf(index) - value), static_cast<double>(value) / 1024);
    }
  }
  EXPECT_EQ(LatencyHistogram::IndexOf(UINT64_MAX), LatencyHistogram::kBuckets - 1);
}

TEST(LatencyHistogram, GivesQuantilesToThreeDigits) {
  std::mt19937_64 random(5);
  std::lognormal_distribution<double> latency(12, 2);
  std::vector<std::uint64_t> values;
  LatencyHistogram histogram;
  for (int i = 0; i < 100'000; ++i) {
    values.push_back(static_cast<std::uint64_t>(latency(random)));
    histogram.Record(values.back());
  }
  std::ranges::sort(values);
  for (const double quantile : {0.001, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const auto rank = static_cast<std::size_t>(std::ceil(quantile * static_cast<double>(values.size()))) - 1;
    const auto exact = static_cast<double>(values[rank]);
    EXPECT_NEAR(static_cast<double>(histogram.Quantile(quantile)), exact, exact / 1000 + 1) << quantile;
  }
  EXPECT_EQ(histogram.Quantile(1), values.back());
}

TEST(LatencyHistogram, MergesAsIfAllWereRecordedInOne) {
  LatencyHistogram all;
  LatencyHistogram first;
  LatencyHistogram second;
  for (std::uint64_t i = 1; i < 100'000; i += 7) {
    all.Record(i * i);
    (i % 2 == 0 ? first : second).Record(i * i);
  }
  first.Merge(second);
  EXPECT_EQ(first.total(), all.total());
  for (const double quantile : {0.1, 0.5, 0.99}) EXPECT_EQ(first.Quantile(quantile), all.Quantile(quantile));
}

TEST(LatencyHistogram, RefusesABucketThatDoesNotExist) {
  LatencyHistogram histogram;
  EXPECT_FALSE(histogram.AddBucket(LatencyHistogram::kBuckets, 1));
  EXPECT_TRUE(histogram.AddBucket(LatencyHistogram::kBuckets - 1, 1));
  EXPECT_EQ(histogram.total(), 1U);
}

TEST(LatencyHistogram, ClearsForTheNextStep) {
  LatencyHistogram histogram;
  histogram.Record(5000);
  histogram.Clear();
  EXPECT_EQ(histogram.total(), 0U);
  EXPECT_EQ(histogram.max(), 0U);
  histogram.Record(10);
  EXPECT_EQ(histogram.Quantile(1), 10U);
}

}  // namespace
}  // namespace nestbench::tenants
