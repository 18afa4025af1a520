#include "devices/virtio/balloon/balloon.h"

#include <gtest/gtest.h>
#include <linux/virtio_balloon.h>

#include "devices/virtio/core/test_driver.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::uint64_t kData = TestDriver::kDataBase;
constexpr std::uint64_t kGiven = TestDriver::kDataBase + 0x10'0000;

class BalloonTest : public testing::Test {
 protected:
  std::uint64_t WordAt(std::uint64_t address) {
    return driver_.memory().Read<std::uint64_t>(abi::GuestPhysAddr(address)).value_or(1);
  }
  void OfferPages(std::size_t queue, std::vector<std::uint32_t> pages) {
    std::memcpy(driver_.Host(kData), pages.data(), pages.size() * 4);
    driver_.Offer(queue, {{kData, static_cast<std::uint32_t>(pages.size() * 4), false}});
  }

  std::unique_ptr<Balloon> balloon_ = std::move(Balloon::Create().value());
  TestDriver driver_{*balloon_};
};

TEST_F(BalloonTest, GivesPagesBackToTheHost) {
  driver_.Start();
  std::memset(driver_.Host(kGiven), 0x11, 3 * 4096);
  OfferPages(0, {static_cast<std::uint32_t>(kGiven >> 12), static_cast<std::uint32_t>(kGiven >> 12) + 2});
  ASSERT_TRUE(driver_.Await(0).came);
  EXPECT_EQ(WordAt(kGiven), 0U);
  EXPECT_EQ(WordAt(kGiven + 4096), 0x1111'1111'1111'1111U);
  EXPECT_EQ(WordAt(kGiven + 8192), 0U);
  EXPECT_EQ(balloon_->counters().inflated_pages, 2U);
  OfferPages(1, {static_cast<std::uint32_t>(kGiven >> 12)});
  ASSERT_TRUE(driver_.Await(1).came);
  EXPECT_EQ(balloon_->counters().deflated_pages, 1U);
}

TEST_F(BalloonTest, BreaksOnAPageThatIsNotTheGuests) {
  driver_.Start();
  OfferPages(0, {0xFFFF'FFFF});
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kBadRequest));
}

TEST_F(BalloonTest, BreaksOnAPageThatTheGuestMayNotWrite) {
  driver_.Start();
  *driver_.Host(TestDriver::kReadOnlyBase) = std::byte{0x33};
  OfferPages(0, {static_cast<std::uint32_t>(TestDriver::kReadOnlyBase >> 12)});
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kBadRequest));
  EXPECT_EQ(*driver_.Host(TestDriver::kReadOnlyBase), std::byte{0x33});
}

TEST_F(BalloonTest, BreaksOnMorePagesThanARequestMayHave) {
  driver_.Start();
  OfferPages(1, std::vector<std::uint32_t>(Balloon::kRequestMaxPages));
  ASSERT_TRUE(driver_.Await(1).came);
  OfferPages(1, std::vector<std::uint32_t>(Balloon::kRequestMaxPages + 1));
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kBadRequest));
}

TEST_F(BalloonTest, TellsItsTargetAndHearsTheActualSize) {
  driver_.Start();
  balloon_->SetTarget(1000);
  EXPECT_NE(driver_.Read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG, 0U);
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_CONFIG), 1000U);
  driver_.Write(VIRTIO_MMIO_CONFIG + 4, 900);
  EXPECT_EQ(balloon_->actual_pages(), 900U);
}

TEST_F(BalloonTest, TakesReportedFreeMemory) {
  // Without statistics the queue of reports is the third.
  driver_.Start(TestDriver::kDefaultFeatures | Feature(VIRTIO_BALLOON_F_REPORTING));
  std::memset(driver_.Host(kGiven), 0x22, 0x20000);
  driver_.Offer(2, {{kGiven, 0x10000, true}});
  ASSERT_TRUE(driver_.Await(2).came);
  EXPECT_EQ(WordAt(kGiven + 0xFFF8), 0U);
  EXPECT_EQ(WordAt(kGiven + 0x10000), 0x2222'2222'2222'2222U);
  EXPECT_EQ(balloon_->counters().reported_bytes, 0x10000U);
  driver_.Offer(2, {{kGiven + 0x10000 + 8, 4096, true}});  // not whole pages: kept
  ASSERT_TRUE(driver_.Await(2).came);
  EXPECT_EQ(balloon_->counters().kept_bytes, 4096U);
}

TEST_F(BalloonTest, AsksForStatistics) {
  driver_.Start(TestDriver::kDefaultFeatures | Feature(VIRTIO_BALLOON_F_STATS_VQ));
  const auto offer = [&](std::uint64_t value) {
    const virtio_balloon_stat stat{VIRTIO_BALLOON_S_MEMFREE, value};
    std::memcpy(driver_.Host(kData), &stat, sizeof(stat));
    driver_.Offer(2, {{kData, sizeof(stat), false}});
  };
  offer(111);
  ASSERT_TRUE(Eventually([&] { return balloon_->counters().statistics_received == 1; }));
  balloon_->RequestStatistics();
  ASSERT_TRUE(driver_.Await(2).came);
  offer(222);
  ASSERT_TRUE(Eventually([&] { return balloon_->counters().statistics_received == 2; }));
  EXPECT_EQ(balloon_->statistics().at(VIRTIO_BALLOON_S_MEMFREE), 222U);
}

}  // namespace
}  // namespace nestbench::vmm::virtio
