#include "nestbench/tenants/channel.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <memory>
#include <vector>

namespace nestbench::tenants {
namespace {

class ChannelTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pair = Channel::CreatePair();
    ASSERT_TRUE(pair) << pair.error().ToString();
    ours_ = std::move(pair->first);
    theirs_ = std::move(pair->second);
  }
  Channel ours_;
  Channel theirs_;
  std::unique_ptr<ReceivedMessage> message_ = std::make_unique<ReceivedMessage>();
};

TEST_F(ChannelTest, CarriesAMessageAsItWas) {
  Load load = {};
  load.activity = Activity::kRequests;
  load.iterations = 123;
  ASSERT_TRUE(ours_.Send(MessageType::kSetLoad, load));
  ASSERT_EQ(*theirs_.Receive(*message_), Channel::Outcome::kMessage);
  EXPECT_EQ(message_->type(), MessageType::kSetLoad);
  EXPECT_EQ(message_->As<Load>().iterations, 123U);
  EXPECT_FALSE(message_->TakeDescriptor().valid());
  EXPECT_EQ(*theirs_.Receive(*message_), Channel::Outcome::kNothing);
}

TEST_F(ChannelTest, CarriesADescriptorThatIsClosedOnExec) {
  const vmm::UniqueFd null(::open("/dev/null", O_RDWR));
  ASSERT_TRUE(theirs_.Send(MessageType::kReady, Ready{}, null.get()));
  ASSERT_EQ(*ours_.Receive(*message_), Channel::Outcome::kMessage);
  const vmm::UniqueFd received = message_->TakeDescriptor();
  ASSERT_TRUE(received.valid());
  EXPECT_NE(received.get(), null.get());
  EXPECT_EQ(::fcntl(received.get(), F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
}

TEST_F(ChannelTest, NoticesThatTheOtherEndIsGone) {
  theirs_.Close();
  EXPECT_EQ(*ours_.Receive(*message_), Channel::Outcome::kClosed);
  EXPECT_FALSE(ours_.Send(MessageType::kStop));
  EXPECT_FALSE(SendRaw(ours_.get(), MessageType::kStop, nullptr, 0));
}

TEST_F(ChannelTest, RefusesWhatIsNoMessage) {
  ASSERT_EQ(::send(theirs_.get(), "nonsense", 8, 0), 8);
  auto received = ours_.Receive(*message_);
  ASSERT_FALSE(received);
  EXPECT_EQ(received.error().kind, vmm::ErrorKind::kMalformed);
}

TEST_F(ChannelTest, RefusesAMessageLongerThanAny) {
  const std::vector<char> longer(kMaxMessageBytes + 1);
  ASSERT_EQ(::send(theirs_.get(), longer.data(), longer.size(), 0), static_cast<ssize_t>(longer.size()));
  EXPECT_FALSE(ours_.Receive(*message_));
}

TEST_F(ChannelTest, DoesNotWaitForAReaderThatDoesNotRead) {
  const Heartbeat beat = {.at_ns = 1, .state = TenantState::kIdle, .reserved = 0, .requests = 0, .request_since_ns = 0};
  int sent = 0;
  while (sent < 1'000'000 && SendRaw(theirs_.get(), MessageType::kHeartbeat, &beat, sizeof(beat))) ++sent;
  EXPECT_GT(sent, 10);
  EXPECT_LT(sent, 1'000'000) << "the queue has an end";
}

}  // namespace
}  // namespace nestbench::tenants
