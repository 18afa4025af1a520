// What a network workload does, apart from how messages reach the wire: the payload io_net runs it over a virtio-net
// driver in a guest; sockets run it in a host process, as the peer of a guest or as its twin. Same messages, same
// order, same checks.
//
// Parameters: [0] bytes of a frame, [1] frames that may be under way without acknowledgement, [2] ticks of the time
// stamp counter to look for messages before it sleeps, [3] ms without progress after which frames count as lost and are
// sent again, [4] ms after which it gives up, [5] ticks in a ms, [6] what [2] is for the peer.
// Arena: a latency table (abi/latency_table.h), a NetTable, then room for the engine.
//
// A message is the payload of one datagram. Frames are delivered in order (a receiver drops what comes behind a gap and
// the sender goes back there); acknowledged is what was delivered and checked: each message carries a checksum of its
// number and its data, each acknowledgement the sum of all checksums so far. What is wrong ends the work.
//
// Freestanding.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestbench/abi/latency_table.h"
#include "nestbench/payload/datagram.h"
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"
#include "nestbench/payload/ticks.h"

namespace nestbench::payload {

enum class NetOperation : std::uint64_t {
  kPingPong = 0,  // one message, and on as soon as it has come back; the latency of each round trip
  kStream = 1,    // as many as the window allows
  kPackets = 2,   // the same; by convention with the shortest frames
  kReceive = 3,   // kStream the other way: asks its peer for so many
  kEcho = 4,      // the peer's part of kPingPong
  kSink = 5,      // the peer's part of kStream and kPackets
  kSource = 6,    // the peer's part of kReceive
};
inline constexpr std::uint64_t kNetOperationCount = 7;
constexpr bool IsOfPeer(NetOperation operation) { return operation >= NetOperation::kEcho; }
constexpr NetOperation PeerOf(NetOperation operation) {
  if (operation == NetOperation::kPingPong) return NetOperation::kEcho;
  return operation == NetOperation::kReceive ? NetOperation::kSource : NetOperation::kSink;
}
constexpr Station StationOf(NetOperation operation) {
  return IsOfPeer(operation) ? Station::kPeer : Station::kMeasured;
}

inline constexpr std::uint64_t kNetMaxWindow = 128;
inline constexpr std::uint64_t kNetMaxIterations = 1ULL << 31;

// What a batch leaves beside the latencies. Hostile, as they are.
struct NetTable {
  std::uint64_t resent;  // frames that were sent again; of kReceive, those that came again
};
inline constexpr std::uint64_t kNetTableOffset = abi::kLatencyTableBytes;
inline constexpr std::uint64_t kNetEngineOffset = kNetTableOffset + abi::kPageBytes;
inline constexpr std::uint64_t kNetEngineBytes = 1064960;
inline constexpr std::uint64_t kNetArenaBytes = kNetEngineOffset + kNetEngineBytes;

struct NetMessageHeader {
  std::uint32_t number;          // of this message in its batch; of an acknowledgement: the first that is missing; of a
                                 // request: how many messages are asked for
  std::uint32_t kind_and_batch;  // kind in the upper 8 bits; the batch's number, from 1
  std::uint64_t checksum;        // of an acknowledgement: the sum of those of the messages before `number`
};
enum class NetMessageKind : std::uint32_t { kPing = 1, kPong = 2, kData = 3, kAcknowledgement = 4, kRequest = 5 };
inline constexpr std::uint32_t kNetBatchMask = 0x00FF'FFFF;
inline constexpr std::uint32_t kNetMessageMinBytes = kFrameMinBytes - kDatagramHeaderBytes;
static_assert(sizeof(NetMessageHeader) <= kNetMessageMinBytes);

struct NetMessage {
  const std::byte* bytes = nullptr;
  std::uint32_t size_bytes = 0;
};

// Engine:
//   std::byte* Reserve()                     room for a message to send, or null while there is none
//   void Send(bytes)                         what was reserved last; it need not leave before Publish
//   void Publish()                           let all leave
//   std::uint32_t buffers(), std::byte* BufferAt(i)   all that Reserve may return, to be filled beforehand
//   bool Receive(NetMessage&)                one that came, if any; never waits. Until Release it is the caller's
//   void Release()
//   void Sleep(limit_ms)                     until one may have come, or there is room; 0: as long as it takes
//   bool stopping()                          the peer is to end
//   const char* problem()                    null, or why the engine cannot go on
template <typename Engine>
class NetWork {
 public:
  // Checks the request. The engine is started by the caller.
  static void Check(const Args& args, Result& result) {
    if (args.operation >= kNetOperationCount) return result.Fail(Status::kBadRequest, "io_net: unknown operation");
    if (args.parameters[0] < kFrameMinBytes || args.parameters[0] > kFrameMaxBytes) {
      return result.Fail(Status::kBadRequest, "io_net: parameters[0] (bytes of a frame) must be 64 to 1514");
    }
    if (args.parameters[1] == 0 || args.parameters[1] > kNetMaxWindow) {
      return result.Fail(Status::kBadRequest, "io_net: parameters[1] (frames under way) must be 1 to 128");
    }
    constexpr std::uint64_t kMaxMs = 1'000'000;
    if (args.parameters[3] == 0 || args.parameters[3] > kMaxMs || args.parameters[4] == 0 ||
        args.parameters[4] > kMaxMs || args.parameters[5] == 0) {
      return result.Fail(Status::kBadRequest, "io_net: parameters[3] and [4] must be 1 to 10^6 ms, [5] above 0");
    }
    if (args.arena_bytes < kNetArenaBytes) {
      return result.Fail(Status::kBadRequest, "io_net: the arena is smaller than needed");
    }
  }

  // `batch`: another one for each Run, from 1, of the side that is measured.
  NetWork(const Args& args, Engine& engine, std::uint32_t batch)
      : operation_(static_cast<NetOperation>(args.operation)),
        size_bytes_(static_cast<std::uint32_t>(args.parameters[0]) - kDatagramHeaderBytes),
        window_(static_cast<std::uint32_t>(args.parameters[1])),
        spin_ticks_(args.parameters[2]),
        resend_ticks_(args.parameters[3] * args.parameters[5]),
        give_up_ticks_(args.parameters[4] * args.parameters[5]),
        sleep_ms_(static_cast<std::uint32_t>(args.parameters[3])),
        seed_(args.seed),
        batch_(batch & kNetBatchMask),
        latencies_(reinterpret_cast<abi::LatencyTable*>(args.arena)),
        table_(reinterpret_cast<NetTable*>(args.arena + kNetTableOffset)),
        engine_(engine) {
    for (std::uint32_t i = 0; i < sizeof(data_); i += 8) {
      const std::uint64_t word = Mix(seed_ + i);
      __builtin_memcpy(data_ + i, &word, sizeof(word));
    }
    data_sum_ = SumOf(data_, DataBytes());
  }

  // Fills the buffers of the engine: what a message carries behind its header is the same for all of a request.
  void Prepare() {
    for (std::uint32_t i = 0; i < engine_.buffers(); ++i) {
      __builtin_memcpy(engine_.BufferAt(i) + sizeof(NetMessageHeader), data_, DataBytes());
    }
  }

  // A peer runs until its engine is told to stop, or something is wrong.
  void Run(std::uint64_t iterations, Result& result) {
    if (iterations > kNetMaxIterations) return result.Fail(Status::kBadRequest, "io_net: more than 2^31 messages");
    result.Begin();
    switch (operation_) {
      case NetOperation::kPingPong:
        PingPong(static_cast<std::uint32_t>(iterations), result);
        break;
      case NetOperation::kStream:
      case NetOperation::kPackets:
        Stream(static_cast<std::uint32_t>(iterations), result);
        break;
      case NetOperation::kReceive:
        Fetch(static_cast<std::uint32_t>(iterations), result);
        break;
      case NetOperation::kEcho:
        Echo(result);
        break;
      case NetOperation::kSink:
        Sink(result);
        break;
      case NetOperation::kSource:
        Source(result);
        break;
    }
    result.End();
    result.SetOperations(iterations);
    result.SetBytes(iterations * size_bytes_);
    result.SetChecksum(Combine(Combine(seed_, static_cast<std::uint64_t>(operation_)), sum_));
  }

 private:
  [[nodiscard]] std::uint32_t DataBytes() const {
    return size_bytes_ - static_cast<std::uint32_t>(sizeof(NetMessageHeader));
  }
  static std::uint64_t SumOf(const std::byte* data, std::uint32_t size_bytes) {
    std::uint64_t sum = 0;
    std::uint32_t at = 0;
    for (; at + 8 <= size_bytes; at += 8) {
      std::uint64_t word = 0;
      __builtin_memcpy(&word, data + at, sizeof(word));
      sum += word;
    }
    std::uint64_t rest = 0;
    for (; at < size_bytes; ++at) rest = rest << 8 | static_cast<std::uint64_t>(data[at]);
    return sum + rest;
  }
  [[nodiscard]] std::uint64_t ChecksumOf(std::uint32_t number, std::uint64_t data_sum) const {
    return Mix(seed_ + number) + data_sum;
  }

  // False while there is no room.
  bool SendMessage(NetMessageKind kind, std::uint32_t number, std::uint32_t batch, std::uint64_t checksum,
                   std::uint32_t size_bytes) {
    std::byte* const place = engine_.Reserve();
    if (place == nullptr) return false;
    const NetMessageHeader header = {number, static_cast<std::uint32_t>(kind) << 24 | batch, checksum};
    __builtin_memcpy(place, &header, sizeof(header));
    engine_.Send(size_bytes);
    return true;
  }
  bool SendNumbered(NetMessageKind kind, std::uint32_t number) {
    return SendMessage(kind, number, batch_, ChecksumOf(number, data_sum_), size_bytes_);
  }

  struct Received {
    NetMessageKind kind;
    NetMessageHeader header;
    std::uint32_t batch;
    const std::byte* bytes;
    std::uint32_t size_bytes;
  };
  // The next message that is one of this protocol. To be released.
  bool Receive(Received& received) {
    NetMessage message;
    while (engine_.Receive(message)) {
      if (message.size_bytes >= sizeof(NetMessageHeader)) {
        __builtin_memcpy(&received.header, message.bytes, sizeof(received.header));
        received.kind = static_cast<NetMessageKind>(received.header.kind_and_batch >> 24);
        received.batch = received.header.kind_and_batch & kNetBatchMask;
        received.bytes = message.bytes;
        received.size_bytes = message.size_bytes;
        return true;
      }
      engine_.Release();
    }
    return false;
  }
  // Whether size, number and data of a message with data are what its sender put there.
  [[nodiscard]] bool IsIntact(const Received& received) const {
    return received.size_bytes == size_bytes_ &&
           received.header.checksum ==
               ChecksumOf(received.header.number, SumOf(received.bytes + sizeof(NetMessageHeader), DataBytes()));
  }

  // The next few messages with data, as far as the window allows; in parts, so that the device works on the first while
  // the next are written. False when there was none to send, or no room.
  bool SendPart(std::uint32_t& next, std::uint32_t acknowledged, std::uint32_t total) {
    const std::uint32_t first = next;
    while (next - first < kPartFrames && next < total && next - acknowledged < window_ &&
           SendNumbered(NetMessageKind::kData, next)) {
      ++next;
    }
    if (next != first) engine_.Publish();
    return next != first;
  }
  // Whether a message acknowledges something that was not yet; what its receiver summed up must be what was sent.
  bool TakeAcknowledgement(const Received& received, std::uint32_t next, std::uint32_t& acknowledged, Result& result) {
    const std::uint32_t number = received.header.number;
    if (received.kind != NetMessageKind::kAcknowledgement || received.batch != batch_ ||
        number - acknowledged - 1 >= next - acknowledged) {
      return false;
    }
    for (; acknowledged < number; ++acknowledged) sum_ += ChecksumOf(acknowledged, data_sum_);
    if (sum_ != received.header.checksum) {
      result.Fail(Status::kWrongResult, "io_net: what was acknowledged is not what was sent");
    }
    return true;
  }

  // Waits a little: looks on for some time after the last progress, then sleeps.
  void Idle(std::uint64_t now, std::uint32_t limit_ms) {
    if (idle_since_ == 0) idle_since_ = now;
    if (now - idle_since_ >= spin_ticks_) {
      engine_.Sleep(limit_ms);
      idle_since_ = 0;
    } else {
      asm volatile("pause");
    }
  }
  [[nodiscard]] bool Ended(Result& result) {
    if (const char* problem = engine_.problem()) result.Fail(Status::kWrongResult, problem);
    return !result.ok() || engine_.stopping();
  }

  void PingPong(std::uint32_t iterations, Result& result) {
    for (std::uint32_t number = 0; number < iterations; ++number) {
      const std::uint64_t began = ReadTicks();
      bool sent = SendNumbered(NetMessageKind::kPing, number);
      engine_.Publish();
      std::uint64_t sent_at = began;
      bool answered = false;
      while (!answered) {
        Received received;
        while (!answered && Receive(received)) {
          if (received.kind == NetMessageKind::kPong && received.batch == batch_ && received.header.number == number) {
            if (!IsIntact(received)) return result.Fail(Status::kWrongResult, "io_net: a frame came back changed");
            answered = true;
          }
          engine_.Release();
        }
        if (answered) break;
        if (Ended(result)) return;
        const std::uint64_t now = ReadTicks();
        if (now - began >= give_up_ticks_) return result.Fail(Status::kWrongResult, kNoAnswer);
        if (!sent || now - sent_at >= resend_ticks_) {
          if (sent) ++table_->resent;
          sent = SendNumbered(NetMessageKind::kPing, number);
          engine_.Publish();
          sent_at = now;
        }
        Idle(now, sleep_ms_);
      }
      idle_since_ = 0;
      latencies_->Record(ReadTicks() - began);
      sum_ += ChecksumOf(number, data_sum_);
    }
  }

  void Stream(std::uint32_t iterations, Result& result) {
    std::uint32_t next = 0;
    std::uint32_t acknowledged = 0;
    std::uint64_t progressed_at = ReadTicks();
    std::uint64_t sent_at = progressed_at;
    while (acknowledged < iterations) {
      bool worked = SendPart(next, acknowledged, iterations);
      Received received;
      while (Receive(received)) {
        if (TakeAcknowledgement(received, next, acknowledged, result)) {
          if (!result.ok()) return;
          worked = true;
          progressed_at = sent_at = ReadTicks();
        }
        engine_.Release();
      }
      if (worked) {
        idle_since_ = 0;
        continue;
      }
      if (Ended(result)) return;
      const std::uint64_t now = ReadTicks();
      if (now - progressed_at >= give_up_ticks_) return result.Fail(Status::kWrongResult, kNoAnswer);
      if (now - sent_at >= resend_ticks_) {
        table_->resent += next - acknowledged;
        next = acknowledged;
        sent_at = now;
        continue;
      }
      Idle(now, sleep_ms_);
    }
  }

  void Fetch(std::uint32_t iterations, Result& result) {
    std::uint32_t expected = 0;
    bool owes = false;  // an acknowledgement
    bool asked = false;
    std::uint64_t progressed_at = ReadTicks();
    std::uint64_t asked_at = progressed_at;
    while (expected < iterations || owes) {
      Received received;
      bool worked = false;
      for (std::uint32_t count = 0; count < kPartFrames && Receive(received); ++count) {
        if (received.kind == NetMessageKind::kData && received.batch == batch_) {
          owes = worked = true;
          if (received.header.number == expected && expected < iterations) {
            if (!IsIntact(received)) return result.Fail(Status::kWrongResult, "io_net: a frame came that was changed");
            sum_ += received.header.checksum;
            ++expected;
          } else if (received.header.number < expected) {
            ++table_->resent;
          }
        }
        engine_.Release();
      }
      if (owes && SendMessage(NetMessageKind::kAcknowledgement, expected, batch_, sum_, kNetMessageMinBytes)) {
        owes = false;
        engine_.Publish();
      }
      if (worked) {
        progressed_at = ReadTicks();
        idle_since_ = 0;
        continue;
      }
      if (Ended(result)) return;
      const std::uint64_t now = ReadTicks();
      if (now - progressed_at >= give_up_ticks_) return result.Fail(Status::kWrongResult, kNoAnswer);
      if (expected == 0 && (!asked || now - asked_at >= resend_ticks_) &&
          SendMessage(NetMessageKind::kRequest, iterations, batch_, Mix(seed_ + iterations), kNetMessageMinBytes)) {
        engine_.Publish();
        asked = true;
        asked_at = now;
      }
      Idle(now, owes ? 1 : sleep_ms_);
    }
  }

  void Echo(Result& result) {
    while (!Ended(result)) {
      Received received;
      bool worked = false;
      for (std::uint32_t count = 0; count < kPartFrames && Receive(received); ++count) {
        if (received.kind == NetMessageKind::kPing) {
          if (!IsIntact(received)) result.Fail(Status::kWrongResult, "io_net: the peer got a frame that was changed");
          std::byte* const place = engine_.Reserve();
          if (place != nullptr) {  // else the frame is lost, as on any wire
            __builtin_memcpy(place, received.bytes, received.size_bytes);
            received.header.kind_and_batch = static_cast<std::uint32_t>(NetMessageKind::kPong) << 24 | received.batch;
            __builtin_memcpy(place, &received.header, sizeof(received.header));
            engine_.Send(received.size_bytes);
            worked = true;
          }
        }
        engine_.Release();
      }
      if (worked) {
        engine_.Publish();
        idle_since_ = 0;
      } else {
        Idle(ReadTicks(), 0);
      }
    }
  }

  void Sink(Result& result) {
    std::uint32_t expected = 0;
    std::uint32_t batch = 0;
    bool owes = false;  // an acknowledgement
    while (!Ended(result)) {
      Received received;
      bool worked = false;
      for (std::uint32_t count = 0; count < kPartFrames && Receive(received); ++count) {
        worked = true;
        if (received.kind == NetMessageKind::kData && received.batch > batch) {
          batch = received.batch;
          expected = 0;
          sum_ = 0;
        }
        if (received.kind == NetMessageKind::kData && received.batch == batch) {
          owes = true;
          if (received.header.number == expected) {
            if (!IsIntact(received)) result.Fail(Status::kWrongResult, "io_net: the peer got a frame that was changed");
            sum_ += received.header.checksum;
            ++expected;
          }
        }
        engine_.Release();
      }
      if (owes && SendMessage(NetMessageKind::kAcknowledgement, expected, batch, sum_, kNetMessageMinBytes)) {
        owes = false;
        worked = true;
        engine_.Publish();
      }
      if (worked) {
        idle_since_ = 0;
      } else {
        Idle(ReadTicks(), owes ? 1 : 0);
      }
    }
  }

  void Source(Result& result) {
    batch_ = 0;  // from here on that of the last request
    std::uint32_t total = 0;
    std::uint32_t next = 0;
    std::uint32_t acknowledged = 0;
    std::uint64_t sent_at = 0;
    while (!Ended(result)) {
      bool worked = SendPart(next, acknowledged, total);
      Received received;
      for (std::uint32_t count = 0; count < kPartFrames && Receive(received); ++count) {
        const NetMessageHeader& header = received.header;
        if (received.kind == NetMessageKind::kRequest && received.batch > batch_) {
          if (header.number > kNetMaxIterations || header.checksum != Mix(seed_ + header.number)) {
            result.Fail(Status::kWrongResult, "io_net: the peer got a request that was changed");
          }
          batch_ = received.batch;
          total = header.number;
          next = acknowledged = 0;
          sum_ = 0;
          sent_at = ReadTicks();
          worked = true;
        } else if (TakeAcknowledgement(received, next, acknowledged, result)) {
          sent_at = ReadTicks();
          worked = true;
        }
        engine_.Release();
      }
      if (worked) {
        idle_since_ = 0;
        continue;
      }
      const std::uint64_t now = ReadTicks();
      const bool waits = acknowledged < next;
      if (waits && now - sent_at >= resend_ticks_) {
        next = acknowledged;
        sent_at = now;
        continue;
      }
      Idle(now, waits || next < total ? sleep_ms_ : 0);
    }
  }

  static constexpr const char* kNoAnswer = "io_net: the peer does not answer: frames are lost, or the link is down";
  static constexpr std::uint32_t kPartFrames = 32;

  NetOperation operation_;
  std::uint32_t size_bytes_;  // of a message with data
  std::uint32_t window_;
  std::uint64_t spin_ticks_;
  std::uint64_t resend_ticks_;
  std::uint64_t give_up_ticks_;
  std::uint32_t sleep_ms_;
  std::uint64_t seed_;
  std::uint32_t batch_;
  abi::LatencyTable* latencies_;
  NetTable* table_;
  Engine& engine_;
  std::uint64_t idle_since_ = 0;
  std::uint64_t sum_ = 0;
  std::uint64_t data_sum_ = 0;
  alignas(8) std::byte data_[1504] = {};
};

}  // namespace nestbench::payload
