// Transport and queue, with the simplest device behind them (virtio-rng), and every lie that a driver can tell.
#include <gtest/gtest.h>

#include "devices/virtio/core/test_driver.h"
#include "devices/virtio/rng/rng.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::uint64_t kData = TestDriver::kDataBase;

class CoreTest : public testing::Test {
 protected:
  vring_desc* Descriptors() { return reinterpret_cast<vring_desc*>(driver_.Host(TestDriver::QueueBase(0))); }
  std::uint16_t* Available(std::size_t index) {
    return reinterpret_cast<std::uint16_t*>(
               driver_.Host(TestDriver::QueueBase(0) + drivers::Virtqueue::DriverAreaOffset(kSize))) +
           index;
  }
  // Makes descriptor 0 the head of the only request, whatever is in the table, and rings.
  void Ring(std::uint16_t head = 0, std::uint16_t index = 1) {
    *Available(2) = head;
    std::atomic_ref(*Available(1)).store(index, std::memory_order_release);
    driver_.Write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
  }

  // The same for another driver.
  static void RingOnce(TestDriver& driver) {
    auto* index = reinterpret_cast<std::uint16_t*>(
        driver.Host(TestDriver::QueueBase(0) + drivers::Virtqueue::DriverAreaOffset(kSize) + 2));
    std::atomic_ref(*index).store(1, std::memory_order_release);
    driver.Write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
  }

  static constexpr std::uint16_t kSize = 64;
  Rng rng_;
  TestDriver driver_{rng_};
};

TEST_F(CoreTest, IntroducesItself) {
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_MAGIC_VALUE), 0x7472'6976U);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_VERSION), 2U);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_DEVICE_ID), 4U);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_QUEUE_NUM_MAX), 64U);
  driver_.Write(VIRTIO_MMIO_QUEUE_SEL, 1);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_QUEUE_NUM_MAX), 0U);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_SHM_LEN_LOW), 0xFFFF'FFFFU);
}

TEST_F(CoreTest, RefusesOtherWidthsAndPlaces) {
  std::array<std::byte, 8> data{};
  for (const std::size_t width : {1U, 2U, 8U}) {
    EXPECT_EQ(driver_.transport().Read(0, std::span(data).first(width)), AccessStatus::kBadWidth);
    EXPECT_EQ(driver_.transport().Write(VIRTIO_MMIO_STATUS, std::span(data).first(width)), AccessStatus::kBadWidth);
  }
  EXPECT_EQ(driver_.transport().Read(0x18, std::span(data).first(4)), AccessStatus::kBadOffset);
  EXPECT_EQ(driver_.TryWrite(VIRTIO_MMIO_MAGIC_VALUE, 1), AccessStatus::kReadOnly);
  EXPECT_EQ(driver_.TryWrite(VIRTIO_MMIO_QUEUE_NOTIFY, 1), AccessStatus::kBadOffset);
}

TEST_F(CoreTest, DoesNotAgreeToFeaturesThatItDidNotOffer) {
  driver_.Write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
  driver_.Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
  driver_.Write(VIRTIO_MMIO_DRIVER_FEATURES, 1 | 1U << 31);
  driver_.Write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_STATUS), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
}

TEST_F(CoreTest, DoesNotAgreeToFeaturesAboveTheSixtyFour) {
  driver_.Write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
  driver_.Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
  driver_.Write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
  driver_.Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 2);
  driver_.Write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
  driver_.Write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_STATUS), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
}

TEST_F(CoreTest, DoesNotAgreeToADriverOfTheOldKind) {
  driver_.Write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
  driver_.Write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_STATUS), VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
}

TEST_F(CoreTest, FillsBuffersInOrderAndInterrupts) {
  driver_.Start();
  driver_.queue(0).WantInterrupts(true);
  for (std::uint32_t i = 0; i < 200; ++i) {
    std::memset(driver_.Host(kData), 0, 128);
    driver_.Offer(0, {{kData, 64, true}, {kData + 64, 64, true}}, i);
    const auto done = driver_.Await(0);
    ASSERT_TRUE(done.came);
    EXPECT_EQ(done.cookie, i);
    EXPECT_EQ(done.written_bytes, 128U);
    EXPECT_NE(driver_.memory().Read<std::uint64_t>(abi::GuestPhysAddr(kData + 120)).value_or(0), 0U);
  }
  EXPECT_TRUE(Eventually([&] { return driver_.irq().level(); }));
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_INTERRUPT_STATUS), 1U);
  driver_.Write(VIRTIO_MMIO_INTERRUPT_ACK, 1);
  EXPECT_FALSE(driver_.irq().level());
}

TEST_F(CoreTest, InterruptsOnlyADriverThatAskedForIt) {
  for (const std::uint64_t features : {std::uint64_t{TestDriver::kDefaultFeatures}, std::uint64_t{0}}) {
    driver_.Start(features);
    driver_.queue(0).WantInterrupts(false);
    const int rises = driver_.irq().rises();
    for (std::uint32_t i = 0; i < 20; ++i) {
      driver_.Offer(0, {{kData, 64, true}}, i);
      ASSERT_TRUE(driver_.Await(0).came);
    }
    // The interrupt of a request comes after the request; with a reset the device has nothing more to say.
    driver_.Write(VIRTIO_MMIO_STATUS, 0);
    EXPECT_EQ(driver_.irq().rises(), rises) << features;
  }
}

// The 16 bits of every index and event wrap around; whoever is asleep is still woken each time.
TEST_F(CoreTest, GoesOnWhenTheIndicesWrapAround) {
  for (const std::uint64_t features : {std::uint64_t{TestDriver::kDefaultFeatures}, std::uint64_t{0}}) {
    driver_.Start(features, 4);
    std::uint32_t done = 0;
    std::uint32_t written_bytes = 0;
    std::uint32_t cookie = 0;
    std::uint32_t offered = 0;
    while (done < 70'000) {
      while (offered < 70'000 && driver_.queue(0).free_count() != 0) driver_.Offer(0, {{kData, 8, true}}, offered++);
      ASSERT_TRUE(
          Eventually([&] { return driver_.queue(0).Take(cookie, written_bytes) == drivers::Virtqueue::Taken::kOne; }));
      ASSERT_EQ(cookie, done++);
    }
  }
}

TEST_F(CoreTest, ServesADriverWithoutEventIndexAndIndirectTables) {
  driver_.Start(0);
  for (std::uint32_t i = 0; i < 100; ++i) {
    driver_.Offer(0, {{kData, 64, true}}, i);
    const auto done = driver_.Await(0);
    ASSERT_TRUE(done.came);
    EXPECT_EQ(done.cookie, i);
  }
}

TEST_F(CoreTest, FollowsAnIndirectTable) {
  driver_.Start();
  auto* table = reinterpret_cast<vring_desc*>(driver_.Host(kData));
  table[0] = {kData + 0x1000, 32, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1};
  table[1] = {kData + 0x2000, 32, VRING_DESC_F_WRITE, 0};
  Descriptors()[0] = {kData, 32, VRING_DESC_F_INDIRECT, 0};
  Ring();
  auto* used = driver_.Host(TestDriver::QueueBase(0) + drivers::Virtqueue::DeviceAreaOffset(kSize));
  ASSERT_TRUE(Eventually([&] { return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(used + 2)).load() == 1; }));
  std::uint32_t written = 0;
  std::memcpy(&written, used + 8, sizeof(written));
  EXPECT_EQ(written, 64U);
}

TEST_F(CoreTest, ResetInTheMiddleStopsItAndItStartsAgain) {
  for (int i = 0; i < 50; ++i) {
    driver_.Start();
    for (std::uint32_t k = 0; k < 20; ++k) driver_.Offer(0, {{kData, 4096, true}}, k);
  }
  EXPECT_EQ(driver_.transport().counters().resets, 50U);
  driver_.Write(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_STATUS), 0U);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_QUEUE_READY), 0U);
  driver_.Start();
  driver_.Offer(0, {{kData, 16, true}}, 7);
  EXPECT_EQ(driver_.Await(0).cookie, 7U);
}

TEST_F(CoreTest, ABrokenDeviceWorksAgainAfterAReset) {
  driver_.Start();
  Ring(kSize);
  ASSERT_TRUE(driver_.BrokeWith(QueueFault::kHeadOutOfRange));
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_CONFIG);
  driver_.Start();
  EXPECT_FALSE(driver_.transport().needs_reset());
  driver_.Offer(0, {{kData, 16, true}}, 3);
  EXPECT_EQ(driver_.Await(0).cookie, 3U);
}

// Where the controller looks at edges, a cause that is still there after an acknowledgement needs one of its own.
TEST_F(CoreTest, AnInterruptThatCameMeanwhileIsRaisedAgain) {
  driver_.Start();
  driver_.queue(0).WantInterrupts(true);
  driver_.Offer(0, {{kData, 16, true}});
  ASSERT_TRUE(driver_.Await(0).came);
  ASSERT_TRUE(Eventually([&] { return driver_.Read(VIRTIO_MMIO_INTERRUPT_STATUS) == VIRTIO_MMIO_INT_VRING; }));
  *Available(3) = kSize;
  Ring(0, 2);
  ASSERT_TRUE(driver_.BrokeWith(QueueFault::kHeadOutOfRange));
  const int rises = driver_.irq().rises();
  driver_.Write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
  EXPECT_EQ(driver_.irq().rises(), rises + 1);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
}

TEST_F(CoreTest, RefusesChangesToAReadyQueue) {
  driver_.Start();
  driver_.Write(VIRTIO_MMIO_QUEUE_SEL, 0);
  EXPECT_EQ(driver_.TryWrite(VIRTIO_MMIO_QUEUE_NUM, 8), AccessStatus::kReadOnly);
  EXPECT_EQ(driver_.TryWrite(VIRTIO_MMIO_QUEUE_DESC_LOW, 0), AccessStatus::kReadOnly);
  EXPECT_EQ(driver_.TryWrite(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE), AccessStatus::kReadOnly);
}

TEST_F(CoreTest, AQueueCanBeTakenBackUntilTheDeviceRuns) {
  driver_.Write(VIRTIO_MMIO_QUEUE_SEL, 0);
  driver_.Write(VIRTIO_MMIO_QUEUE_NUM, 8);
  driver_.Write(VIRTIO_MMIO_QUEUE_READY, 1);
  EXPECT_EQ(driver_.TryWrite(VIRTIO_MMIO_QUEUE_NUM, 16), AccessStatus::kReadOnly);
  driver_.Write(VIRTIO_MMIO_QUEUE_READY, 0);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_QUEUE_READY), 0U);
  driver_.Write(VIRTIO_MMIO_QUEUE_NUM, 16);
}

TEST_F(CoreTest, BreaksOnALoop) {
  driver_.Start();
  Descriptors()[0] = {kData, 16, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1};
  Descriptors()[1] = {kData, 16, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 0};
  Ring();
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kChainTooLong));
}

TEST_F(CoreTest, BreaksOnAChainThatIsTooLongOnlyWithItsIndirectTable) {
  driver_.Start();
  auto* table = reinterpret_cast<vring_desc*>(driver_.Host(kData));
  for (std::uint16_t i = 0; i < kSize; ++i) {
    const bool last = i + 1 == kSize;
    table[i] = {kData + 0x1000, 16, static_cast<std::uint16_t>(VRING_DESC_F_WRITE | (last ? 0 : VRING_DESC_F_NEXT)),
                static_cast<std::uint16_t>(i + 1)};
  }
  Descriptors()[0] = {kData + 0x1000, 16, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1};
  Descriptors()[1] = {kData, kSize * sizeof(vring_desc), VRING_DESC_F_INDIRECT, 0};
  Ring();
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kChainTooLong));
}

TEST_F(CoreTest, BreaksOnAnIndexThatJumps) {
  driver_.Start();
  Ring(0, kSize + 1);
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kIndexJumped));
}

TEST_F(CoreTest, BreaksOnANextThatDoesNotExist) {
  driver_.Start();
  Descriptors()[0] = {kData, 16, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, kSize};
  Ring();
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kNextOutOfRange));
}

TEST_F(CoreTest, BreaksOnABufferOutsideMemory) {
  constexpr std::uint64_t kEnd = TestDriver::kMemoryBase + TestDriver::kMemoryBytes;
  for (const vring_desc& bad :
       {vring_desc{kEnd - 8, 16, VRING_DESC_F_WRITE, 0}, vring_desc{kEnd, 1, VRING_DESC_F_WRITE, 0},
        vring_desc{~0ULL - 3, 16, VRING_DESC_F_WRITE, 0},
        vring_desc{TestDriver::kReadOnlyBase, 16, VRING_DESC_F_WRITE, 0}}) {
    Rng rng;
    TestDriver driver(rng);
    driver.Start();
    std::memcpy(driver.Host(TestDriver::QueueBase(0)), &bad, sizeof(bad));
    RingOnce(driver);
    EXPECT_TRUE(driver.BrokeWith(QueueFault::kBufferOutsideMemory)) << bad.addr;
  }
}

TEST_F(CoreTest, BreaksOnABufferThatTheGuestMayNotWrite) {
  driver_.Start();
  *driver_.Host(TestDriver::kReadOnlyBase) = std::byte{0x33};
  Descriptors()[0] = {TestDriver::kReadOnlyBase, 16, VRING_DESC_F_WRITE, 0};
  Ring();
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kBufferOutsideMemory));
  EXPECT_EQ(*driver_.Host(TestDriver::kReadOnlyBase), std::byte{0x33});
}

TEST_F(CoreTest, BreaksOnAReadableBufferAfterAWritableOne) {
  driver_.Start();
  Descriptors()[0] = {kData, 16, VRING_DESC_F_WRITE | VRING_DESC_F_NEXT, 1};
  Descriptors()[1] = {kData, 16, 0, 0};
  Ring();
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kReadableAfterWritable));
}

TEST_F(CoreTest, BreaksOnEveryBadIndirectTable) {
  const vring_desc nested{kData, 16, VRING_DESC_F_INDIRECT, 0};
  const vring_desc odd{kData, 17, VRING_DESC_F_INDIRECT, 0};
  const vring_desc empty{kData, 0, VRING_DESC_F_INDIRECT, 0};
  const vring_desc longer{kData, (kSize + 1) * 16, VRING_DESC_F_INDIRECT, 0};
  const vring_desc goes_on{kData, 16, VRING_DESC_F_INDIRECT | VRING_DESC_F_NEXT, 1};
  for (const vring_desc& bad : {nested, odd, empty, longer, goes_on}) {
    Rng rng;
    TestDriver driver(rng);
    driver.Start();
    std::memcpy(driver.Host(kData), &nested, sizeof(nested));
    std::memcpy(driver.Host(TestDriver::QueueBase(0)), &bad, sizeof(bad));
    RingOnce(driver);
    EXPECT_TRUE(driver.BrokeWith(QueueFault::kBadIndirectTable)) << bad.len;
  }
}

TEST_F(CoreTest, BreaksOnAnIndirectTableThatWasNotAgreedOn) {
  driver_.Start(0);
  Descriptors()[0] = {kData, 16, VRING_DESC_F_INDIRECT, 0};
  Ring();
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kBadIndirectTable));
}

TEST_F(CoreTest, BreaksOnARequestThatTheDeviceHasNoUseFor) {
  driver_.Start();
  driver_.Offer(0, {{kData, 16, false}});
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kBadRequest));
}

TEST_F(CoreTest, ABadLayoutBreaksItAtTheStart) {
  struct Case {
    std::uint32_t size;
    std::uint64_t descriptors;
    QueueFault fault;
    std::uint64_t used = kData + 0x2000;
  };
  for (const Case& bad : {Case{3, kData, QueueFault::kBadSize}, Case{0, kData, QueueFault::kBadSize},
                          Case{128, kData, QueueFault::kBadSize}, Case{64, kData + 8, QueueFault::kUnalignedRing},
                          Case{64, 0x7000'0000, QueueFault::kRingOutsideMemory},
                          Case{64, kData, QueueFault::kRingOutsideMemory, TestDriver::kReadOnlyBase}}) {
    Rng rng;
    TestDriver driver(rng);
    driver.Write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    driver.Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
    driver.Write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
    driver.Write(VIRTIO_MMIO_STATUS, 11);
    driver.Write(VIRTIO_MMIO_QUEUE_SEL, 0);
    driver.Write(VIRTIO_MMIO_QUEUE_NUM, bad.size);
    driver.Write(VIRTIO_MMIO_QUEUE_DESC_LOW, static_cast<std::uint32_t>(bad.descriptors));
    driver.Write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, static_cast<std::uint32_t>(kData + 0x1000));
    driver.Write(VIRTIO_MMIO_QUEUE_USED_LOW, static_cast<std::uint32_t>(bad.used));
    driver.Write(VIRTIO_MMIO_QUEUE_READY, 1);
    driver.Write(VIRTIO_MMIO_STATUS, 15);
    EXPECT_TRUE(driver.BrokeWith(bad.fault)) << ToString(bad.fault);
    EXPECT_FALSE(driver.transport().active());
  }
}

}  // namespace
}  // namespace nestbench::vmm::virtio
