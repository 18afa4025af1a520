#include "devices/virtio/console/console.h"

#include <gtest/gtest.h>

#include <string>

#include "devices/virtio/core/test_driver.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::uint64_t kData = TestDriver::kDataBase;
constexpr std::size_t kToGuest = 0;
constexpr std::size_t kFromGuest = 1;

class Screen final : public ByteSink {
 public:
  void Put(std::span<const std::byte> bytes) override {
    const std::scoped_lock lock(mutex_);
    text_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  [[nodiscard]] std::string text() {
    const std::scoped_lock lock(mutex_);
    return text_;
  }

 private:
  std::mutex mutex_;
  std::string text_;
};

class ConsoleTest : public testing::Test {
 protected:
  Screen screen_;
  std::unique_ptr<Console> console_ = std::move(Console::Create(screen_, {132, 50}).value());
  TestDriver driver_{*console_};
};

TEST_F(ConsoleTest, PrintsWhatTheGuestWrites) {
  driver_.Start();
  std::memcpy(driver_.Host(kData), "hello, world", 12);
  driver_.Offer(kFromGuest, {{kData, 5, false}, {kData + 5, 7, false}});
  ASSERT_TRUE(driver_.Await(kFromGuest).came);
  EXPECT_EQ(screen_.text(), "hello, world");
}

TEST_F(ConsoleTest, PrintsAllOfALongRequest) {
  driver_.Start();
  constexpr std::uint32_t kBytes = 200'000;
  std::memset(driver_.Host(kData), 'x', kBytes);
  *driver_.Host(kData + kBytes - 1) = std::byte{'!'};
  driver_.Offer(kFromGuest, {{kData, kBytes, false}});
  ASSERT_TRUE(driver_.Await(kFromGuest).came);
  EXPECT_EQ(screen_.text(), std::string(kBytes - 1, 'x') + "!");
}

TEST_F(ConsoleTest, BreaksOnARequestWithoutEnd) {
  driver_.Start();
  driver_.Offer(kFromGuest, {{kData, Console::kOutputMaxBytes, false}, {kData, 1, false}});
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kBadRequest));
}

TEST_F(ConsoleTest, GivesInputInPiecesThatFit) {
  EXPECT_EQ(console_->Push(std::as_bytes(std::span("abcdef", 6))), 6U);  // before there is a driver
  driver_.Start();
  std::string read;
  while (read.size() < 6) {
    driver_.Offer(kToGuest, {{kData, 4, true}});
    const auto done = driver_.Await(kToGuest);
    ASSERT_TRUE(done.came);
    read.append(reinterpret_cast<const char*>(driver_.Host(kData)), done.written_bytes);
  }
  EXPECT_EQ(read, "abcdef");
}

TEST_F(ConsoleTest, TakesNoMoreInputThanItHasRoomFor) {
  const std::vector<std::byte> much(Console::kInputMaxBytes + 10);
  EXPECT_EQ(console_->Push(much), Console::kInputMaxBytes);
  EXPECT_EQ(console_->Push(much), 0U);
}

TEST_F(ConsoleTest, TellsItsSizeAndTakesEmergencyWrites) {
  EXPECT_EQ(driver_.Read(VIRTIO_MMIO_CONFIG), 132U | 50U << 16);
  driver_.Write(VIRTIO_MMIO_CONFIG + 8, '!');
  EXPECT_EQ(screen_.text(), "!");
}

TEST_F(ConsoleTest, BreaksOnAWritableBufferToPrint) {
  driver_.Start();
  driver_.Offer(kFromGuest, {{kData, 5, true}});
  EXPECT_TRUE(driver_.BrokeWith(QueueFault::kBadRequest));
}

}  // namespace
}  // namespace nestbench::vmm::virtio
