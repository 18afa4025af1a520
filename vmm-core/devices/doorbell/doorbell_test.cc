#include "devices/doorbell/doorbell.h"

#include <gtest/gtest.h>

#include <array>
#include <thread>
#include <vector>

#include "nestbench/abi/layout.h"
#include "nestbench/vmm/bus/bus.h"

namespace nestbench::vmm {
namespace {

constexpr std::array<std::byte, 16> kBytes{};

std::span<const std::byte> Bytes(std::size_t count) { return std::span(kBytes).first(count); }

class CountingListener final : public RingListener {
 public:
  void OnRing() override { ++rings; }
  std::uint64_t rings = 0;
};

TEST(DoorbellTest, CountsAndReportsEveryRing) {
  CountingListener listener;
  Doorbell doorbell(&listener);
  EXPECT_EQ(doorbell.rings(), 0U);
  for (int i = 0; i < 3; ++i) EXPECT_EQ(doorbell.Write(0, Bytes(4)), AccessStatus::kOk);
  EXPECT_EQ(doorbell.rings(), 3U);
  EXPECT_EQ(listener.rings, 3U);
}

TEST(DoorbellTest, CountsWithoutAListener) {
  Doorbell doorbell;
  EXPECT_EQ(doorbell.Write(0, Bytes(4)), AccessStatus::kOk);
  EXPECT_EQ(doorbell.rings(), 1U);
}

TEST(DoorbellTest, RefusesEveryWidthButFourAndDoesNotRing) {
  CountingListener listener;
  Doorbell doorbell(&listener);
  for (const std::size_t width : {0U, 1U, 2U, 3U, 5U, 8U, 16U}) {
    EXPECT_EQ(doorbell.Write(0, Bytes(width)), AccessStatus::kBadWidth) << width;
  }
  EXPECT_EQ(doorbell.rings(), 0U);
  EXPECT_EQ(listener.rings, 0U);
}

TEST(DoorbellTest, RefusesEveryOffsetButZeroAndDoesNotRing) {
  Doorbell doorbell;
  for (const std::uint64_t offset : {std::uint64_t{1}, std::uint64_t{4}, std::uint64_t{0xFFC}, ~std::uint64_t{0}}) {
    EXPECT_EQ(doorbell.Write(offset, Bytes(4)), AccessStatus::kBadOffset) << offset;
  }
  EXPECT_EQ(doorbell.rings(), 0U);
}

TEST(DoorbellTest, ReadsAsAllOnesBecauseItIsWriteOnly) {
  Doorbell doorbell;
  std::array<std::byte, 4> data{};
  EXPECT_EQ(doorbell.Read(0, data), AccessStatus::kWriteOnly);
  for (const std::byte byte : data) EXPECT_EQ(byte, std::byte{0xFF});
  EXPECT_EQ(doorbell.Read(4, data), AccessStatus::kBadOffset);
  EXPECT_EQ(doorbell.rings(), 0U);
}

TEST(DoorbellTest, StandsOnThePortAndTheMmioBusAtOnce) {
  Doorbell doorbell;
  PortBus ports;
  MmioBus mmio;
  ASSERT_TRUE(ports.Add(PortAddr(abi::kDoorbellPort), Doorbell::kSizeBytes, doorbell, "doorbell"));
  ASSERT_TRUE(mmio.Add(abi::GuestPhysAddr(abi::kDoorbellPage), Doorbell::kSizeBytes, doorbell, "doorbell"));
  EXPECT_EQ(ports.Write(PortAddr(abi::kDoorbellPort), Bytes(4)), AccessStatus::kOk);
  EXPECT_EQ(mmio.Write(abi::GuestPhysAddr(abi::kDoorbellPage), Bytes(4)), AccessStatus::kOk);
  EXPECT_EQ(mmio.Write(abi::GuestPhysAddr(abi::kDoorbellPage), Bytes(8)), AccessStatus::kUnclaimed);
  EXPECT_EQ(doorbell.rings(), 2U);
}

TEST(DoorbellTest, LosesNoRingWhenManyThreadsRingAtOnce) {
  constexpr std::size_t kThreads = 4;
  constexpr std::uint64_t kRingsPerThread = 1000;
  Doorbell doorbell;
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&doorbell] {
      for (std::uint64_t ring = 0; ring < kRingsPerThread; ++ring)
        EXPECT_EQ(doorbell.Write(0, Bytes(4)), AccessStatus::kOk);
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(doorbell.rings(), kThreads * kRingsPerThread);
}

}  // namespace
}  // namespace nestbench::vmm
