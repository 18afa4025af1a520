#include "devices/virtio/rng/rng.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "devices/virtio/core/test_driver.h"

namespace nestbench::vmm::virtio {
namespace {

TEST(RngTest, FillsUpTo64KiB) {
  Rng rng;
  TestDriver driver(rng);
  driver.Start();
  driver.Offer(0, {{TestDriver::kDataBase, 0x20000, true}});
  EXPECT_EQ(driver.Await(0).written_bytes, 0x10000U);
  EXPECT_EQ(rng.bytes_given(), 0x10000U);
  // All 256 values are among 65,536 random bytes, but for one time in 10^109.
  std::array<int, 256> seen{};
  for (std::size_t i = 0; i < 0x10000; ++i) {
    ++seen[std::to_integer<std::size_t>(*driver.Host(TestDriver::kDataBase + i))];
  }
  EXPECT_EQ(std::ranges::count(seen, 0), 0);
  EXPECT_EQ(*driver.Host(TestDriver::kDataBase + 0x10000), std::byte{0});
}

TEST(RngTest, HasNoConfigurationSpace) {
  Rng rng;
  TestDriver driver(rng);
  std::array<std::byte, 4> data{};
  EXPECT_EQ(driver.transport().Read(VIRTIO_MMIO_CONFIG, data), AccessStatus::kBadOffset);
  EXPECT_EQ(driver.transport().Write(VIRTIO_MMIO_CONFIG, data), AccessStatus::kReadOnly);
}

}  // namespace
}  // namespace nestbench::vmm::virtio
