// What a tenant may send its supervisor, over a real socket: Receive() takes only messages that are what they say, and
// what the supervisor does with a histogram holds for any part of one.
//
// Input: messages one after the other. Each begins with a byte of flags and two bytes of length. Flag 1: so many bytes
// as they are. Otherwise the low byte of the length is a type, whose header is put before a body of the right size.

#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "nestbench/fuzz/input.h"
#include "nestbench/fuzz/require.h"
#include "nestbench/tenants/channel.h"
#include "nestbench/tenants/latency_histogram.h"
#include "nestbench/tenants/protocol.h"

namespace nestbench::tenants {
namespace {

using fuzz::Require;

constexpr std::uint8_t kAsIs = 1;

std::vector<std::byte> NextMessage(fuzz::Input& input) {
  const auto flags = input.Take<std::uint8_t>();
  const auto length = input.Take<std::uint16_t>();
  if ((flags & kAsIs) != 0) {
    const auto bytes = input.TakeBytes(length);
    return {bytes.begin(), bytes.end()};
  }
  const auto type = static_cast<MessageType>(length & 0xFF);
  std::vector<std::byte> message(sizeof(MessageHeader) + BodyBytes(type));
  const MessageHeader header = {kMessageMagic, kMessageVersion, type, static_cast<std::uint32_t>(message.size()), 0};
  std::memcpy(message.data(), &header, sizeof(header));
  const auto body = input.TakeBytes(message.size() - sizeof(header));
  std::ranges::copy(body, message.begin() + sizeof(header));
  return message;
}

void CheckAccepted(const ReceivedMessage& received, LatencyHistogram& histogram) {
  Require(BodyBytes(received.type()) != 0 || received.type() == MessageType::kStart ||
              received.type() == MessageType::kStop,
          "a type that was accepted is known");
  switch (received.type()) {
    case MessageType::kHistogram: {
      const auto part = received.As<HistogramPart>();
      Require(part.count <= kHistogramEntries, "a part holds as many entries as it says");
      const std::uint64_t before = histogram.total();
      std::uint64_t added = 0;
      for (std::uint32_t i = 0; i < part.count; ++i) {
        if (histogram.AddBucket(part.entries[i].index, part.entries[i].count)) added += part.entries[i].count;
      }
      Require(histogram.total() == before + added, "a bucket that exists counts");
      Require(histogram.Quantile(0.99) <= LatencyHistogram::kMaxValue, "a quantile lies in the range");
      return;
    }
    case MessageType::kFault:
    case MessageType::kLoadRefused: {
      const auto fault = received.As<Fault>();
      Require(std::memchr(fault.cause, 0, sizeof(fault.cause)) != nullptr, "a cause ends");
      Require(std::memchr(fault.evidence, 0, sizeof(fault.evidence)) != nullptr, "evidence ends");
      Require(ToString(fault.fault_class) != "unknown", "a fault is of a class");
      return;
    }
    case MessageType::kLog:
      Require(std::memchr(received.As<Log>().text, 0, sizeof(Log::text)) != nullptr, "a line ends");
      return;
    case MessageType::kSpawn:
      Require(received.As<Spawn>().image < kMaxImages, "an image has a number");
      return;
    case MessageType::kSetLoad:
      Require(received.As<Load>().intensity_percent <= 100, "a share is at most the whole");
      return;
    default:
      return;
  }
}

}  // namespace
}  // namespace nestbench::tenants

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench;
  using namespace nestbench::tenants;
  fuzz::Input input(data, size);
  auto pair = Channel::CreatePair();
  fuzz::Require(pair.has_value(), "a pair of sockets can be had");
  const auto& [ours, theirs] = *pair;
  const auto received = std::make_unique<ReceivedMessage>();
  LatencyHistogram histogram;
  while (!input.empty()) {
    const std::vector<std::byte> message = NextMessage(input);
    if (message.empty()) continue;  // no packet: Receive() would take it for the end
    if (::send(theirs.get(), message.data(), message.size(), MSG_DONTWAIT | MSG_NOSIGNAL) < 0) continue;
    auto outcome = ours.Receive(*received);
    const bool accepted = CheckMessage(message).has_value();
    if (!outcome) {
      fuzz::Require(outcome.error().kind == vmm::ErrorKind::kMalformed, "bad bytes are malformed, nothing else");
      fuzz::Require(!accepted, "a right message is not refused");
      break;  // as the supervisor does
    }
    fuzz::Require(*outcome == Channel::Outcome::kMessage && accepted, "what is received is right");
    CheckAccepted(*received, histogram);
  }
  return 0;
}
