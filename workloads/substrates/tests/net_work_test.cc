// The network work over a wire of this test that loses, repeats, delays and changes what it likes.
#include "nestbench/payload/net_work.h"

#include <gtest/gtest.h>

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "nestbench/payload/datagram.h"

namespace nestbench::payload {
namespace {

constexpr std::uint64_t kTicksPerMs = 1'000'000;  // near enough: only time-outs depend on it

// One direction of a wire.
class Lane {
 public:
  using Frame = std::vector<std::byte>;
  // What becomes of the `index`-th frame: it may be changed, and arrives so many times.
  std::function<int(std::uint64_t index, Frame& frame)> fate = [](std::uint64_t, Frame&) { return 1; };

  void Send(Frame frame) {
    const std::scoped_lock lock(mutex_);
    for (int copies = fate(sent_++, frame); copies > 0; --copies) frames_.push_back(frame);
    changed_.notify_all();
  }
  bool Take(Frame& frame) {
    const std::scoped_lock lock(mutex_);
    if (frames_.empty()) return false;
    frame = std::move(frames_.front());
    frames_.pop_front();
    return true;
  }
  void Wait(std::uint32_t limit_ms) {
    std::unique_lock lock(mutex_);
    const auto ready = [this] { return !frames_.empty() || stopped_; };
    changed_.wait_for(lock, std::chrono::milliseconds(limit_ms == 0 ? 20'000 : limit_ms), ready);
  }
  void Stop() {
    const std::scoped_lock lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }
  bool stopped() const {
    const std::scoped_lock lock(mutex_);
    return stopped_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Frame> frames_;
  std::uint64_t sent_ = 0;
  bool stopped_ = false;
};

class LaneEngine {
 public:
  LaneEngine(Lane& out, Lane& in) : out_(out), in_(in) {}

  std::byte* Reserve() { return buffer_; }
  void Send(std::uint32_t size_bytes) { out_.Send({buffer_, buffer_ + size_bytes}); }
  void Publish() {}
  static constexpr std::uint32_t buffers() { return 1; }
  std::byte* BufferAt(std::uint32_t) { return buffer_; }
  bool Receive(NetMessage& message) {
    if (!in_.Take(frame_)) return false;
    message = {frame_.data(), static_cast<std::uint32_t>(frame_.size())};
    return true;
  }
  void Release() {}
  void Sleep(std::uint32_t limit_ms) { in_.Wait(limit_ms); }
  bool stopping() const { return in_.stopped(); }
  const char* problem() const { return nullptr; }

 private:
  Lane& out_;
  Lane& in_;
  Lane::Frame frame_;
  std::byte buffer_[kFrameMaxBytes] = {};
};

class NetWorkTest : public ::testing::Test {
 protected:
  NetWorkTest() : arena_(kNetArenaBytes), peer_arena_(kNetArenaBytes) {}
  ~NetWorkTest() override { StopPeer(); }

  Args ArgsOf(NetOperation operation, std::vector<std::byte>& arena) const {
    Args args;
    args.operation = static_cast<std::uint64_t>(operation);
    args.iterations = 500;
    args.seed = 42;
    const std::uint64_t parameters[] = {frame_bytes_, 16, 1000, 20, give_up_ms_, kTicksPerMs, 0, 0};
    std::copy(std::begin(parameters), std::end(parameters), args.parameters);
    args.arena = arena.data();
    args.arena_bytes = arena.size();
    return args;
  }

  // Runs an operation against its peer.
  Result RunBatch(NetOperation operation, std::uint32_t batch = 1) {
    if (!peer_.joinable()) {
      const Args args = ArgsOf(PeerOf(operation), peer_arena_);
      peer_ = std::thread([this, args] {
        LaneEngine engine(back_, out_);
        NetWork<LaneEngine> work(args, engine, 0);
        work.Prepare();
        work.Run(1, peer_result_);
      });
    }
    const Args args = ArgsOf(operation, arena_);
    Result result;
    NetWork<LaneEngine>::Check(args, result);
    LaneEngine engine(out_, back_);
    NetWork<LaneEngine> work(args, engine, batch);
    work.Prepare();
    work.Run(args.iterations, result);
    return result;
  }
  void StopPeer() {
    out_.Stop();
    if (peer_.joinable()) peer_.join();
  }
  std::uint64_t resent() const { return reinterpret_cast<const NetTable*>(arena_.data() + kNetTableOffset)->resent; }

  std::uint64_t frame_bytes_ = 200;
  std::uint64_t give_up_ms_ = 20'000;
  Lane out_;
  Lane back_;
  Result peer_result_;

 private:
  std::vector<std::byte> arena_;
  std::vector<std::byte> peer_arena_;
  std::thread peer_;
};

TEST_F(NetWorkTest, DeliversAllInEachBatch) {
  const Result first = RunBatch(NetOperation::kStream, 1);
  const Result second = RunBatch(NetOperation::kStream, 2);
  EXPECT_TRUE(first.ok()) << first.text();
  EXPECT_TRUE(second.ok()) << second.text();
  EXPECT_EQ(first.checksum(), second.checksum());
  EXPECT_EQ(first.operations(), 500U);
  EXPECT_EQ(first.bytes(), 500 * (200 - kDatagramHeaderBytes));
}

TEST_F(NetWorkTest, DeliversAllOverAWireThatLosesAndRepeats) {
  const std::uint64_t expected = [] {
    struct Lossless : NetWorkTest {
      void TestBody() override {}
      std::uint64_t Checksum() { return RunBatch(NetOperation::kStream).checksum(); }
    };
    return Lossless().Checksum();
  }();
  out_.fate = [](std::uint64_t index, Lane::Frame&) { return index % 50 == 7 ? 0 : index % 13 == 3 ? 2 : 1; };
  back_.fate = [](std::uint64_t index, Lane::Frame&) { return index % 5 == 2 ? 0 : 1; };
  const Result result = RunBatch(NetOperation::kStream);
  EXPECT_TRUE(result.ok()) << result.text();
  EXPECT_EQ(result.checksum(), expected);
  EXPECT_GT(resent(), 0U);
}

TEST_F(NetWorkTest, FetchesAllInEachBatch) {
  const Result first = RunBatch(NetOperation::kReceive, 1);
  const Result second = RunBatch(NetOperation::kReceive, 2);
  EXPECT_TRUE(first.ok()) << first.text();
  EXPECT_TRUE(second.ok()) << second.text();
  EXPECT_EQ(first.checksum(), second.checksum());
  EXPECT_EQ(first.bytes(), 500 * (200 - kDatagramHeaderBytes));
  StopPeer();
  EXPECT_TRUE(peer_result_.ok()) << peer_result_.text();
}

TEST_F(NetWorkTest, FetchesAllOverAWireThatLosesAndRepeats) {
  out_.fate = [](std::uint64_t index, Lane::Frame&) { return index % 5 == 0 ? 0 : 1; };  // the first request as well
  back_.fate = [](std::uint64_t index, Lane::Frame&) { return index % 50 == 7 ? 0 : index % 13 == 3 ? 2 : 1; };
  const Result result = RunBatch(NetOperation::kReceive);
  EXPECT_TRUE(result.ok()) << result.text();
  EXPECT_GT(resent(), 0U);
  StopPeer();
  EXPECT_TRUE(peer_result_.ok()) << peer_result_.text();
}

TEST_F(NetWorkTest, AFetchedFrameThatWasChangedFails) {
  back_.fate = [](std::uint64_t index, Lane::Frame& frame) {
    if (index == 100) frame.back() ^= std::byte{1};
    return 1;
  };
  const Result result = RunBatch(NetOperation::kReceive);
  EXPECT_EQ(result.status(), Status::kWrongResult);
  EXPECT_STREQ(result.text(), "io_net: a frame came that was changed");
}

TEST_F(NetWorkTest, ARequestThatWasChangedFailsAtThePeer) {
  out_.fate = [](std::uint64_t index, Lane::Frame& frame) {
    if (index == 0) frame[offsetof(NetMessageHeader, number)] ^= std::byte{1};
    return 1;
  };
  give_up_ms_ = 300;
  EXPECT_EQ(RunBatch(NetOperation::kReceive).status(), Status::kWrongResult) << "nobody sends";
  StopPeer();
  EXPECT_STREQ(peer_result_.text(), "io_net: the peer got a request that was changed");
}

TEST_F(NetWorkTest, PlaysPingPongOverAWireThatLoses) {
  out_.fate = [](std::uint64_t index, Lane::Frame&) { return index % 200 == 7 ? 0 : 1; };
  const Result result = RunBatch(NetOperation::kPingPong);
  EXPECT_TRUE(result.ok()) << result.text();
  EXPECT_GT(resent(), 0U);
}

TEST_F(NetWorkTest, AFrameThatWasChangedFailsAtItsReceiver) {
  out_.fate = [](std::uint64_t index, Lane::Frame& frame) {
    if (index == 100) frame.back() ^= std::byte{1};
    return 1;
  };
  give_up_ms_ = 300;
  const Result result = RunBatch(NetOperation::kStream);
  EXPECT_EQ(result.status(), Status::kWrongResult) << "nobody acknowledges";
  StopPeer();
  EXPECT_EQ(peer_result_.status(), Status::kWrongResult);
  EXPECT_STREQ(peer_result_.text(), "io_net: the peer got a frame that was changed");
}

TEST_F(NetWorkTest, APongThatWasChangedFails) {
  back_.fate = [](std::uint64_t index, Lane::Frame& frame) {
    if (index == 10) frame[sizeof(NetMessageHeader)] ^= std::byte{0x80};
    return 1;
  };
  const Result result = RunBatch(NetOperation::kPingPong);
  EXPECT_EQ(result.status(), Status::kWrongResult);
  EXPECT_STREQ(result.text(), "io_net: a frame came back changed");
}

TEST_F(NetWorkTest, AnAcknowledgementOfSomethingElseFails) {
  back_.fate = [](std::uint64_t, Lane::Frame& frame) {
    frame[offsetof(NetMessageHeader, checksum)] ^= std::byte{1};
    return 1;
  };
  const Result result = RunBatch(NetOperation::kPackets);
  EXPECT_EQ(result.status(), Status::kWrongResult);
}

TEST_F(NetWorkTest, GivesUpOnAPeerThatIsSilent) {
  back_.fate = [](std::uint64_t, Lane::Frame&) { return 0; };
  give_up_ms_ = 100;
  for (const NetOperation operation : {NetOperation::kPingPong, NetOperation::kStream, NetOperation::kReceive}) {
    const Result result = RunBatch(operation);
    EXPECT_EQ(result.status(), Status::kWrongResult);
    EXPECT_NE(std::string_view(result.text()).find("does not answer"), std::string_view::npos);
  }
}

TEST_F(NetWorkTest, IgnoresMessagesThatAreNone) {
  const auto shorten = [](std::uint64_t index, Lane::Frame& frame) {
    if (index % 100 == 5) frame.resize(index % sizeof(NetMessageHeader));
    return 1;
  };
  out_.fate = shorten;
  back_.fate = shorten;
  const Result result = RunBatch(NetOperation::kStream);
  EXPECT_TRUE(result.ok()) << result.text();
}

TEST_F(NetWorkTest, TakesTheShortestAndTheLongestFrame) {
  std::uint32_t batch = 0;
  for (const std::uint64_t frame_bytes : {std::uint64_t{kFrameMinBytes}, std::uint64_t{kFrameMaxBytes}}) {
    struct OfSize : NetWorkTest {
      void TestBody() override {}
      Result Run(std::uint64_t size) {
        frame_bytes_ = size;
        return RunBatch(NetOperation::kStream);
      }
    };
    const Result result = OfSize().Run(frame_bytes);
    EXPECT_TRUE(result.ok()) << frame_bytes << ": " << result.text() << batch;
  }
}

TEST_F(NetWorkTest, RefusesWhatItCannotDo) {
  std::vector<std::byte> arena(kNetArenaBytes);
  const auto refuses = [&](const std::function<void(Args&)>& spoil) {
    Args args = ArgsOf(NetOperation::kStream, arena);
    spoil(args);
    Result result;
    NetWork<LaneEngine>::Check(args, result);
    return result.status() == Status::kBadRequest;
  };
  EXPECT_FALSE(refuses([](Args&) {}));
  EXPECT_TRUE(refuses([](Args& args) { args.operation = kNetOperationCount; }));
  EXPECT_TRUE(refuses([](Args& args) { args.parameters[0] = kFrameMinBytes - 1; }));
  EXPECT_TRUE(refuses([](Args& args) { args.parameters[0] = kFrameMaxBytes + 1; }));
  EXPECT_TRUE(refuses([](Args& args) { args.parameters[1] = 0; }));
  EXPECT_TRUE(refuses([](Args& args) { args.parameters[1] = kNetMaxWindow + 1; }));
  EXPECT_TRUE(refuses([](Args& args) { args.parameters[3] = 0; }));
  EXPECT_TRUE(refuses([](Args& args) { args.parameters[4] = 0; }));
  EXPECT_TRUE(refuses([](Args& args) { args.parameters[5] = 0; }));
  EXPECT_TRUE(refuses([](Args& args) { args.arena_bytes = kNetArenaBytes - 1; }));
}

TEST(DatagramTest, HasAChecksumThatAddsUp) {
  std::byte frame[kFrameMaxBytes] = {};
  DatagramHeader(Station::kMeasured, 1472).CopyTo(frame);
  std::uint32_t sum = 0;  // RFC 1071: with its checksum, a header adds up to all ones
  for (unsigned i = 14; i < 34; i += 2) {
    sum += std::to_integer<std::uint32_t>(frame[i]) << 8 | std::to_integer<std::uint32_t>(frame[i + 1]);
  }
  while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
  EXPECT_EQ(sum, 0xFFFFU);
}

TEST(DatagramTest, IsKnownByTheOtherStationAlone) {
  std::byte frame[kFrameMaxBytes] = {};
  DatagramHeader(Station::kMeasured, 22).CopyTo(frame);
  EXPECT_EQ(DatagramHeader::PayloadBytes(Station::kPeer, frame, 64), 22U);
  EXPECT_EQ(DatagramHeader::PayloadBytes(Station::kPeer, frame, 1514), 22U) << "padded";
  EXPECT_EQ(DatagramHeader::PayloadBytes(Station::kMeasured, frame, 64), 0U);
  EXPECT_EQ(DatagramHeader::PayloadBytes(Station::kPeer, frame, 63), 0U) << "cut off";
  EXPECT_EQ(DatagramHeader::PayloadBytes(Station::kPeer, frame, kDatagramHeaderBytes), 0U);
  for (const unsigned changed : {12U, 14U, 23U, 29U, 37U}) {
    std::byte other[64] = {};
    std::memcpy(other, frame, sizeof(other));
    other[changed] ^= std::byte{0x40};
    EXPECT_EQ(DatagramHeader::PayloadBytes(Station::kPeer, other, 64), 0U) << "byte " << changed;
  }
}

}  // namespace
}  // namespace nestbench::payload
