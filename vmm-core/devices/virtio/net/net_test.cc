#include "devices/virtio/net/net.h"

#include <gtest/gtest.h>

#include <deque>
#include <mutex>

#include "devices/virtio/core/test_driver.h"
#include "devices/virtio/net/offload.h"
#include "devices/virtio/net/switch.h"
#include "devices/virtio/net/tap.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::uint64_t kSendAt = TestDriver::kDataBase;
constexpr std::uint64_t kReceiveAt = TestDriver::kDataBase + 0x10'0000;
constexpr std::size_t kReceive = 0;
constexpr std::size_t kSend = 1;
constexpr std::size_t kControl = 2;
constexpr std::uint64_t kPlain = TestDriver::kDefaultFeatures;
constexpr std::uint64_t kMergeable = kPlain | Feature(VIRTIO_NET_F_MRG_RXBUF);

// A wire whose other end is the test.
class TestWire final : public NetPort {
 public:
  TestWire() : event_(CreateEventFd().value()) {}
  [[nodiscard]] std::uint64_t offloads() const override { return 0; }
  [[nodiscard]] std::uint16_t pairs() const override { return 2; }
  Result<void> Configure(std::uint64_t /*features*/) override { return {}; }
  [[nodiscard]] int receive_fd(std::uint16_t pair) const override { return pair == 0 ? event_.get() : other_.get(); }
  [[nodiscard]] bool Send(std::uint16_t /*pair*/, std::span<const iovec> frame) override {
    std::vector<std::byte> bytes(kFrameMaxBytes);
    bytes.resize(CopyOut(frame, 0, bytes));
    const std::scoped_lock lock(mutex_);
    sent_.push_back(std::move(bytes));
    return true;
  }
  [[nodiscard]] std::size_t Receive(std::uint16_t pair, std::span<std::byte> frame) override {
    const std::scoped_lock lock(mutex_);
    std::deque<std::vector<std::byte>>& waiting = waiting_[pair];
    if (waiting.empty()) return 0;
    const std::size_t size = waiting.front().size();
    std::memcpy(frame.data(), waiting.front().data(), size);
    waiting.pop_front();
    return size;
  }

  void Arrive(std::size_t frame_bytes, std::byte value, std::uint16_t pair = 0) {
    std::vector<std::byte> frame(kFrameHeaderBytes + frame_bytes, value);
    std::fill_n(frame.begin(), kFrameHeaderBytes, std::byte{0});
    const std::scoped_lock lock(mutex_);
    waiting_[pair].push_back(std::move(frame));
    RingEventFd(receive_fd(pair));
  }
  [[nodiscard]] bool IsEmpty() {
    const std::scoped_lock lock(mutex_);
    return waiting_[0].empty() && waiting_[1].empty();
  }
  [[nodiscard]] std::size_t sent() {
    const std::scoped_lock lock(mutex_);
    return sent_.size();
  }

 private:
  UniqueFd event_;
  UniqueFd other_ = CreateEventFd().value();
  std::mutex mutex_;
  std::array<std::deque<std::vector<std::byte>>, 2> waiting_;
  std::vector<std::vector<std::byte>> sent_;
};

class NetTest : public testing::Test {
 protected:
  explicit NetTest(const NetOptions& options = {}) {
    auto wire = std::make_unique<TestWire>();
    wire_ = wire.get();
    net_ = std::move(Net::Create(std::move(wire), options).value());
    driver_ = std::make_unique<TestDriver>(*net_);
  }
  ~NetTest() override { driver_.reset(); }

  TestWire* wire_ = nullptr;
  std::unique_ptr<Net> net_;
  std::unique_ptr<TestDriver> driver_;
};

TEST_F(NetTest, Sends) {
  driver_->Start(kPlain);
  for (std::uint32_t i = 0; i < 100; ++i) {
    driver_->Offer(kSend, {{kSendAt, kFrameHeaderBytes, false}, {kSendAt + 64, 60 + i, false}}, i);
    ASSERT_TRUE(driver_->Await(kSend).came);
  }
  EXPECT_EQ(wire_->sent(), 100U);
  EXPECT_EQ(net_->counters().sent_frames, 100U);
  EXPECT_EQ(net_->counters().sent_bytes, 100U * 60 + 99 * 50);
}

TEST_F(NetTest, ReceivesIntoOneBuffer) {
  driver_->Start(kPlain);
  wire_->Arrive(100, std::byte{7});  // before there is a buffer: it waits
  driver_->Offer(kReceive, {{kReceiveAt, 2048, true}}, 5);
  const auto done = driver_->Await(kReceive);
  ASSERT_TRUE(done.came);
  EXPECT_EQ(done.written_bytes, kFrameHeaderBytes + 100);
  EXPECT_EQ(*driver_->Host(kReceiveAt + 111), std::byte{7});
  EXPECT_EQ(driver_->memory().Read<std::uint16_t>(abi::GuestPhysAddr(kReceiveAt + 10)).value_or(0), 1U);
}

TEST_F(NetTest, DropsWhatOneBufferCannotHold) {
  driver_->Start(kPlain);
  driver_->Offer(kReceive, {{kReceiveAt, 64, true}}, 1);
  wire_->Arrive(1000, std::byte{7});
  const auto done = driver_->Await(kReceive);
  ASSERT_TRUE(done.came);
  EXPECT_EQ(done.written_bytes, 0U);
  EXPECT_EQ(net_->counters().dropped_frames, 1U);
}

TEST_F(NetTest, SpreadsAFrameOverMergeableBuffers) {
  driver_->Start(kMergeable);
  wire_->Arrive(5000, std::byte{9});
  for (std::uint32_t i = 0; i < 3; ++i) driver_->Offer(kReceive, {{kReceiveAt + i * 2048ULL, 2048, true}}, i);
  std::uint32_t bytes = 0;
  for (std::uint32_t i = 0; i < 3; ++i) {
    const auto done = driver_->Await(kReceive);
    ASSERT_TRUE(done.came);
    EXPECT_EQ(done.cookie, i);
    bytes += done.written_bytes;
  }
  EXPECT_EQ(bytes, kFrameHeaderBytes + 5000);
  EXPECT_EQ(driver_->memory().Read<std::uint16_t>(abi::GuestPhysAddr(kReceiveAt + 10)).value_or(0), 3U);
  EXPECT_EQ(*driver_->Host(kReceiveAt + kFrameHeaderBytes + 4999), std::byte{9});
}

// A driver with one pair on a wire with two: the wire does not know and uses both.
TEST_F(NetTest, GivesFramesOfUnusedPairsToTheOnesInUse) {
  driver_->Start(kPlain);
  wire_->Arrive(100, std::byte{3}, 1);
  driver_->Offer(kReceive, {{kReceiveAt, 2048, true}});
  EXPECT_EQ(driver_->Await(kReceive).written_bytes, kFrameHeaderBytes + 100);
  EXPECT_EQ(*driver_->Host(kReceiveAt + 111), std::byte{3});
}

// Buffers that wait for the rest of a frame are those of their own queue, whatever arrives for another.
TEST_F(NetTest, KeepsTheBuffersOfItsPairsApart) {
  driver_->Start(kMergeable | Feature(VIRTIO_NET_F_CTRL_VQ) | Feature(VIRTIO_NET_F_MQ));
  std::memcpy(driver_->Host(kSendAt), "\4\0\2\0", 4);
  driver_->Offer(4, {{kSendAt, 4, false}, {kReceiveAt, 1, true}});
  ASSERT_TRUE(driver_->Await(4).came);
  ASSERT_EQ(*driver_->Host(kReceiveAt), std::byte{VIRTIO_NET_OK});
  driver_->Offer(0, {{kReceiveAt, 2048, true}}, 1);
  wire_->Arrive(3000, std::byte{5}, 0);  // takes the buffer and waits for another
  ASSERT_TRUE(Eventually([&] { return wire_->IsEmpty(); }));
  driver_->Offer(2, {{kReceiveAt + 0x4000, 2048, true}}, 2);
  wire_->Arrive(100, std::byte{6}, 1);
  const auto second = driver_->Await(2);
  ASSERT_TRUE(second.came);
  EXPECT_EQ(second.written_bytes, kFrameHeaderBytes + 100);
  EXPECT_EQ(*driver_->Host(kReceiveAt + 0x4000 + 111), std::byte{6});
  driver_->Offer(0, {{kReceiveAt + 0x1000, 2048, true}}, 3);
  EXPECT_EQ(driver_->Await(0).written_bytes, 2048U);
  EXPECT_EQ(driver_->Await(0).written_bytes, kFrameHeaderBytes + 3000 - 2048);
}

TEST_F(NetTest, DropsAFrameThatAllBuffersOfTheQueueCannotHold) {
  driver_->Start(kMergeable, 4);
  for (std::uint32_t i = 0; i < 4; ++i) driver_->Offer(kReceive, {{kReceiveAt + i * 2048ULL, 2048, true}}, i);
  wire_->Arrive(4 * 2048, std::byte{1});
  wire_->Arrive(100, std::byte{2});
  const auto done = driver_->Await(kReceive);
  ASSERT_TRUE(done.came);
  EXPECT_EQ(*driver_->Host(kReceiveAt + kFrameHeaderBytes), std::byte{2});
  EXPECT_EQ(net_->counters().dropped_frames, 1U);
}

TEST_F(NetTest, NothingPassesWhileTheLinkIsDown) {
  driver_->Start(kPlain);
  EXPECT_EQ(driver_->Read(VIRTIO_MMIO_CONFIG + 4) >> 16, 0x0001U);
  const std::uint32_t generation = driver_->Read(VIRTIO_MMIO_CONFIG_GENERATION);
  net_->SetLink(false);
  EXPECT_NE(driver_->Read(VIRTIO_MMIO_CONFIG_GENERATION), generation);
  EXPECT_NE(driver_->Read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_CONFIG, 0U);
  EXPECT_EQ(driver_->Read(VIRTIO_MMIO_CONFIG + 4) >> 16, 0U);
  driver_->Offer(kSend, {{kSendAt, 80, false}});
  ASSERT_TRUE(driver_->Await(kSend).came);
  EXPECT_EQ(wire_->sent(), 0U);
  EXPECT_EQ(net_->counters().dropped_frames, 1U);
  net_->SetLink(true);
  driver_->Offer(kSend, {{kSendAt, 80, false}});
  ASSERT_TRUE(driver_->Await(kSend).came);
  EXPECT_EQ(wire_->sent(), 1U);
}

TEST_F(NetTest, TheControlQueueSetsThePairs) {
  std::size_t control = 4;
  const auto ask = [&](std::uint8_t command_class, std::uint16_t pairs) {
    const std::array<std::uint8_t, 4> command = {command_class, 0, static_cast<std::uint8_t>(pairs),
                                                 static_cast<std::uint8_t>(pairs >> 8)};
    std::memcpy(driver_->Host(kSendAt), command.data(), command.size());
    driver_->Offer(control, {{kSendAt, 4, false}, {kReceiveAt, 1, true}});
    EXPECT_TRUE(driver_->Await(control).came);
    return *driver_->Host(kReceiveAt);
  };
  driver_->Start(kPlain | Feature(VIRTIO_NET_F_CTRL_VQ) | Feature(VIRTIO_NET_F_MQ));
  EXPECT_EQ(ask(VIRTIO_NET_CTRL_MQ, 2), std::byte{VIRTIO_NET_OK});
  EXPECT_EQ(ask(VIRTIO_NET_CTRL_MQ, 0), std::byte{VIRTIO_NET_ERR});
  EXPECT_EQ(ask(VIRTIO_NET_CTRL_MQ, 3), std::byte{VIRTIO_NET_ERR});
  EXPECT_EQ(ask(VIRTIO_NET_CTRL_RX, 1), std::byte{VIRTIO_NET_ERR});
  // Without the feature there is one pair, and where the second would be stands the control queue itself.
  control = kControl;
  driver_->Start(kPlain | Feature(VIRTIO_NET_F_CTRL_VQ));
  EXPECT_EQ(ask(VIRTIO_NET_CTRL_MQ, 2), std::byte{VIRTIO_NET_ERR});
}

TEST_F(NetTest, DoesNotAgreeToAFeatureWithoutTheOneThatItNeeds) {
  constexpr std::uint32_t kDriver = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
  driver_->Write(VIRTIO_MMIO_STATUS, kDriver);
  driver_->Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
  driver_->Write(VIRTIO_MMIO_DRIVER_FEATURES, 1);
  driver_->Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
  driver_->Write(VIRTIO_MMIO_DRIVER_FEATURES, 1U << VIRTIO_NET_F_MQ);
  driver_->Write(VIRTIO_MMIO_STATUS, kDriver | VIRTIO_CONFIG_S_FEATURES_OK);
  EXPECT_EQ(driver_->Read(VIRTIO_MMIO_STATUS), kDriver);
  driver_->Write(VIRTIO_MMIO_DRIVER_FEATURES, 1U << VIRTIO_NET_F_MQ | 1U << VIRTIO_NET_F_CTRL_VQ);
  driver_->Write(VIRTIO_MMIO_STATUS, kDriver | VIRTIO_CONFIG_S_FEATURES_OK);
  EXPECT_EQ(driver_->Read(VIRTIO_MMIO_STATUS), kDriver | VIRTIO_CONFIG_S_FEATURES_OK);
}

TEST_F(NetTest, BreaksOnAFrameWithoutHeader) {
  driver_->Start(kPlain);
  driver_->Offer(kSend, {{kSendAt, kFrameHeaderBytes - 1, false}});
  EXPECT_TRUE(driver_->BrokeWith(QueueFault::kBadRequest));
}

TEST_F(NetTest, BreaksOnAReceiveBufferThatIsNone) {
  driver_->Start(kMergeable);
  driver_->Offer(kReceive, {{kReceiveAt, 4, true}});
  wire_->Arrive(100, std::byte{1});
  EXPECT_TRUE(driver_->BrokeWith(QueueFault::kBadRequest));
}

class LimitedNetTest : public NetTest {
 protected:
  LimitedNetTest() : NetTest({.from_guest = {.bytes_per_s = 0, .frames_per_s = 4}}) {}
};

// Not how fast, only that it waits and then goes on. The frames come at once: however slow this machine is, the second
// is there too early.
TEST_F(LimitedNetTest, MakesFramesWaitAndLosesNone) {
  driver_->Start(kPlain);
  const drivers::Buffer frame{kSendAt, 80, false};
  for (std::uint32_t i = 0; i < 3; ++i) ASSERT_TRUE(driver_->queue(kSend).Add(&frame, 1, i));
  driver_->queue(kSend).Publish();
  driver_->Write(VIRTIO_MMIO_QUEUE_NOTIFY, kSend);
  for (std::uint32_t i = 0; i < 3; ++i) ASSERT_TRUE(driver_->Await(kSend).came);
  EXPECT_EQ(wire_->sent(), 3U);
  EXPECT_GT(net_->counters().throttles, 0U);
}

class UnevenNetTest : public NetTest {
 protected:
  UnevenNetTest()
      : NetTest({.to_guest = {.bytes_per_s = 10, .frames_per_s = 0},
                 .from_guest = {.bytes_per_s = 0, .frames_per_s = 1000}}) {}
};

// What was received must wait for minutes; what is sent, for a millisecond.
TEST_F(UnevenNetTest, ALimitOfOneDirectionDoesNotHoldUpTheOther) {
  driver_->Start(kPlain);
  driver_->Offer(kReceive, {{kReceiveAt, 2048, true}});
  wire_->Arrive(1000, std::byte{1});
  ASSERT_TRUE(driver_->Await(kReceive).came);
  for (std::uint32_t i = 0; i < 150; ++i) {
    driver_->Offer(kSend, {{kSendAt, 80, false}}, i);
    ASSERT_TRUE(driver_->Await(kSend).came);
  }
}

// Two guests on one switch.
class SwitchTest : public testing::Test {
 protected:
  struct Guest {
    explicit Guest(Switch& wires) {
      auto made = wires.AddPort();
      port = made->get();
      net = std::move(Net::Create(std::move(*made), {}).value());
      driver = std::make_unique<TestDriver>(*net);
    }
    const NetPort* port;
    std::unique_ptr<Net> net;
    std::unique_ptr<TestDriver> driver;
  };

  static std::array<std::byte, 64> Frame(std::uint8_t to, std::uint8_t from) {
    std::array<std::byte, 64> frame{};
    frame[5] = std::byte{to};
    frame[11] = std::byte{from};
    if (to == 0xFF) std::fill_n(frame.begin(), 6, std::byte{0xFF});
    return frame;
  }
  static void SendFrom(Guest& guest, std::uint8_t to, std::uint8_t from) {
    const auto frame = Frame(to, from);
    std::memset(guest.driver->Host(kSendAt), 0, kFrameHeaderBytes);
    std::memcpy(guest.driver->Host(kSendAt + kFrameHeaderBytes), frame.data(), frame.size());
    guest.driver->Offer(kSend, {{kSendAt, static_cast<std::uint32_t>(kFrameHeaderBytes + frame.size()), false}});
    EXPECT_TRUE(guest.driver->Await(kSend).came);
  }
  static bool Arrived(Guest& guest) {
    guest.driver->Offer(kReceive, {{kReceiveAt, 2048, true}});
    return guest.driver->Await(kReceive).written_bytes == kFrameHeaderBytes + 64;
  }

  Switch switch_;
  Guest a_{switch_};
  Guest b_{switch_};
  Guest c_{switch_};
};

TEST_F(SwitchTest, LearnsWhoIsWhere) {
  for (Guest* guest : {&a_, &b_, &c_}) guest->driver->Start(kPlain);
  SendFrom(a_, 0xFF, 1);  // to all
  EXPECT_TRUE(Arrived(b_));
  EXPECT_TRUE(Arrived(c_));
  SendFrom(b_, 1, 2);  // an answer: only to the one that asked
  EXPECT_TRUE(Arrived(a_));
  SendFrom(a_, 2, 1);
  EXPECT_TRUE(Arrived(b_));
  // The next that the third gets is the next to all: what the two said to each other did not wait before it.
  SendFrom(a_, 0xFF, 1);
  EXPECT_TRUE(Arrived(c_));
  EXPECT_EQ(*c_.driver->Host(kReceiveAt + kFrameHeaderBytes + 5), std::byte{0xFF});
  EXPECT_EQ(switch_.counters(*a_.port).received_frames, 1U);
}

// A guest that makes up addresses fills what is its own, and gets back for each that was not remembered.
TEST_F(SwitchTest, RemembersABoundedNumberOfAddressesOfEachPort) {
  for (Guest* guest : {&a_, &b_, &c_}) guest->driver->Start(kPlain);
  const auto send = [](Guest& guest, std::uint16_t to, std::uint16_t from) {
    std::array<std::uint8_t, kFrameHeaderBytes + 64> frame{};
    frame[kFrameHeaderBytes + 4] = static_cast<std::uint8_t>(to >> 8);
    frame[kFrameHeaderBytes + 5] = static_cast<std::uint8_t>(to);
    frame[kFrameHeaderBytes + 10] = static_cast<std::uint8_t>(from >> 8);
    frame[kFrameHeaderBytes + 11] = static_cast<std::uint8_t>(from);
    std::memcpy(guest.driver->Host(kSendAt), frame.data(), frame.size());
    guest.driver->Offer(kSend, {{kSendAt, frame.size(), false}});
    ASSERT_TRUE(guest.driver->Await(kSend).came);
  };
  // To itself, so that nobody else gets them.
  for (std::uint16_t i = 1; i <= Switch::kPortMaxAddresses; ++i) send(a_, i, i);
  EXPECT_EQ(switch_.counters(*b_.port).received_frames, 0U);
  constexpr std::uint16_t kTooMany = Switch::kPortMaxAddresses + 1;
  send(a_, kTooMany, kTooMany);
  EXPECT_TRUE(Arrived(b_));
  send(b_, kTooMany + 1, kTooMany + 1);  // the others' are their own
  send(c_, kTooMany + 1, 5);
  EXPECT_TRUE(Arrived(b_));
  EXPECT_EQ(switch_.counters(*a_.port).received_frames, 0U);
}

TEST_F(SwitchTest, DropsWhatAPortHasNoRoomFor) {
  a_.driver->Start(kPlain);
  for (std::size_t i = 0; i < Switch::kPortMaxFrames + 10; ++i) SendFrom(a_, 0xFF, 1);
  EXPECT_EQ(switch_.counters(*b_.port).dropped_frames, 10U);
}

// What a sender says of its frames is checked before another guest's kernel acts on it.
TEST_F(SwitchTest, DropsFramesThatAreNotWhatTheirHeaderSays) {
  a_.driver->Start(kPlain | Feature(VIRTIO_NET_F_CSUM) | Feature(VIRTIO_NET_F_HOST_TSO4));
  b_.driver->Start(kPlain | Feature(VIRTIO_NET_F_GUEST_CSUM) | Feature(VIRTIO_NET_F_GUEST_TSO4));
  const auto send = [&](virtio_net_hdr header) {
    const auto frame = Frame(0xFF, 1);
    std::memset(a_.driver->Host(kSendAt), 0xEE, kFrameHeaderBytes);
    std::memcpy(a_.driver->Host(kSendAt), &header, sizeof(header));
    std::memcpy(a_.driver->Host(kSendAt + kFrameHeaderBytes), frame.data(), frame.size());
    a_.driver->Offer(kSend, {{kSendAt, static_cast<std::uint32_t>(kFrameHeaderBytes + frame.size()), false}});
    EXPECT_TRUE(a_.driver->Await(kSend).came);
  };
  constexpr std::uint8_t kSum = VIRTIO_NET_HDR_F_NEEDS_CSUM;
  send({kSum, VIRTIO_NET_HDR_GSO_NONE, 0, 0, 60, 3});       // behind the end
  send({0, VIRTIO_NET_HDR_GSO_TCPV4, 0, 1000, 0, 0});       // without a checksum
  send({kSum, VIRTIO_NET_HDR_GSO_TCPV4, 0, 1000, 34, 16});  // not TCP
  send({kSum, VIRTIO_NET_HDR_GSO_TCPV6, 0, 1000, 34, 16});  // not agreed on
  send({kSum, VIRTIO_NET_HDR_GSO_UDP, 0, 1000, 34, 16});    // not offered
  EXPECT_EQ(a_.net->counters().dropped_frames, 5U);
  // Nor does a guest say that a checksum was verified.
  send({VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_GSO_NONE, 999, 0, 0, 0});
  EXPECT_TRUE(Arrived(b_));
  const std::array<std::byte, 10> nothing{};
  EXPECT_EQ(std::memcmp(b_.driver->Host(kReceiveAt), nothing.data(), nothing.size()), 0);
}

// A TCP segment over IPv4 of `payload` bytes, with the sum of the pseudo header where the checksum goes.
std::vector<std::byte> TcpFrame(std::size_t payload) {
  std::vector<std::byte> frame(14 + 20 + 20 + payload);
  frame[12] = std::byte{8};
  frame[14] = std::byte{0x45};
  frame[16] = static_cast<std::byte>((40 + payload) >> 8);
  frame[17] = static_cast<std::byte>(40 + payload);
  frame[22] = std::byte{64};
  frame[23] = std::byte{6};
  for (std::size_t i = 0; i < 8; ++i) frame[26 + i] = static_cast<std::byte>(10 + i);
  frame[46] = std::byte{0x50};
  frame[47] = std::byte{0x19};  // ACK, PSH, FIN
  for (std::size_t i = 0; i < payload; ++i) frame[54 + i] = static_cast<std::byte>(i * 7);
  return frame;
}

std::uint32_t SumOf(std::span<const std::byte> bytes) {
  std::uint32_t sum = 0;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    sum += std::to_integer<std::uint32_t>(bytes[i]) << (i % 2 == 0 ? 8 : 0);
  }
  while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
  return sum;
}

TEST(OffloadTest, CutsALongSegmentIntoValidOnes) {
  auto frame = TcpFrame(2500);
  FrameHeader header{};
  header.hdr.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
  header.hdr.gso_size = 1000;
  std::vector<std::size_t> sizes;
  std::uint32_t next_sequence = 0;
  ASSERT_TRUE(SegmentTcp(header, frame, [&](std::span<const std::byte> segment) {
    sizes.push_back(segment.size() - 54);
    EXPECT_EQ(SumOf(segment.subspan(14, 20)), 0xFFFFU);  // RFC 1071: a right header sums to all ones
    const auto tcp_bytes = static_cast<std::uint32_t>(segment.size() - 34);
    const std::uint32_t all = SumOf(segment.subspan(34)) + SumOf(segment.subspan(26, 8)) + 6 + tcp_bytes;
    EXPECT_EQ((all & 0xFFFF) + (all >> 16), 0xFFFFU);
    std::uint32_t sequence = 0;
    for (std::size_t i = 38; i < 42; ++i) sequence = sequence << 8 | std::to_integer<std::uint32_t>(segment[i]);
    EXPECT_EQ(sequence, next_sequence);
    next_sequence += static_cast<std::uint32_t>(segment.size() - 54);
    EXPECT_EQ(segment[54], static_cast<std::byte>(sequence * 7));
    EXPECT_EQ(segment[47], next_sequence == 2500 ? std::byte{0x19} : std::byte{0x10});
    return true;
  }));
  EXPECT_EQ(sizes, (std::vector<std::size_t>{1000, 1000, 500}));
}

// A segment of one byte each is what a hostile driver asks for: 64 Ki of them, while the switch is locked.
TEST(OffloadTest, CutsNoMoreSegmentsThanAreTaken) {
  const auto frame = TcpFrame(60000);
  FrameHeader header{};
  header.hdr.gso_type = VIRTIO_NET_HDR_GSO_TCPV4;
  header.hdr.gso_size = 1;
  int segments = 0;
  EXPECT_TRUE(SegmentTcp(header, frame, [&](std::span<const std::byte> /*segment*/) { return ++segments < 10; }));
  EXPECT_EQ(segments, 10);
}

TEST(OffloadTest, RefusesWhatIsNotWhatItSays) {
  FrameHeader header{};
  header.hdr.gso_size = 1000;
  const auto never = [](std::span<const std::byte> /*segment*/) {
    ADD_FAILURE();
    return true;
  };
  std::vector<std::byte> tiny(20);
  EXPECT_FALSE(SegmentTcp(header, tiny, never));
  auto udp = TcpFrame(100);
  udp[23] = std::byte{17};
  EXPECT_FALSE(SegmentTcp(header, udp, never));
  auto long_header = TcpFrame(10);
  long_header[46] = std::byte{0xF0};
  EXPECT_FALSE(SegmentTcp(header, long_header, never));
  header.hdr.gso_size = 0;
  auto good = TcpFrame(100);
  EXPECT_FALSE(SegmentTcp(header, good, never));
  header.hdr.csum_start = 100;
  header.hdr.csum_offset = 65535;
  EXPECT_FALSE(CompleteChecksum(header, good));
}

TEST(OffloadTest, CompletesAChecksum) {
  auto frame = TcpFrame(101);
  const std::uint32_t pseudo = SumOf(std::span(frame).subspan(26, 8)) + 6 + 121;
  frame[50] = static_cast<std::byte>(pseudo >> 8);
  frame[51] = static_cast<std::byte>(pseudo);
  FrameHeader header{};
  header.hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
  header.hdr.csum_start = 34;
  header.hdr.csum_offset = 16;
  ASSERT_TRUE(CompleteChecksum(header, frame));
  EXPECT_EQ(header.hdr.flags, 0U);
  const std::uint32_t all = SumOf(std::span(frame).subspan(34)) + pseudo;
  EXPECT_EQ((all & 0xFFFF) + (all >> 16), 0xFFFFU);
}

TEST(TapTest, SaysWhyItCannotOpen) {
  EXPECT_EQ(Tap::Open("").error().kind, ErrorKind::kInvalidArgument);
  EXPECT_EQ(Tap::Open("a-name-that-is-too-long").error().kind, ErrorKind::kInvalidArgument);
}

}  // namespace
}  // namespace nestbench::vmm::virtio
