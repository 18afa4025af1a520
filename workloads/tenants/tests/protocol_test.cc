#include "nestbench/tenants/protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <vector>

namespace nestbench::tenants {
namespace {

using ::testing::HasSubstr;

constexpr MessageType kAllTypes[] = {
    MessageType::kSpawn,     MessageType::kStart,       MessageType::kSetLoad, MessageType::kReport,
    MessageType::kInject,    MessageType::kStop,        MessageType::kSpawned, MessageType::kReady,
    MessageType::kHeartbeat, MessageType::kWindow,      MessageType::kTotals,  MessageType::kHistogram,
    MessageType::kFault,     MessageType::kLoadRefused, MessageType::kEnded,   MessageType::kLog};

// A message with a body of zeroes but for what its words need.
std::vector<std::byte> Whole(MessageType type) {
  std::vector<std::byte> bytes(sizeof(MessageHeader) + BodyBytes(type));
  const MessageHeader header = {kMessageMagic, kMessageVersion, type, static_cast<std::uint32_t>(bytes.size()), 0};
  std::memcpy(bytes.data(), &header, sizeof(header));
  const auto one = [&bytes](std::size_t offset) { bytes[sizeof(MessageHeader) + offset] = std::byte{1}; };
  if (type == MessageType::kHeartbeat) one(offsetof(Heartbeat, state));
  if (type == MessageType::kFault || type == MessageType::kLoadRefused) one(offsetof(Fault, fault_class));
  return bytes;
}

std::string Refusal(const std::vector<std::byte>& bytes) {
  auto checked = CheckMessage(bytes);
  return checked ? "" : checked.error().ToString();
}

TEST(CheckMessage, TakesEveryTypeWhole) {
  for (const MessageType type : kAllTypes) {
    auto checked = CheckMessage(Whole(type));
    ASSERT_TRUE(checked) << ToString(type) << ": " << checked.error().ToString();
    EXPECT_EQ(*checked, type);
    EXPECT_NE(ToString(type), "unknown");
  }
}

TEST(CheckMessage, RefusesEveryOtherSize) {
  for (const MessageType type : kAllTypes) {
    std::vector<std::byte> bytes = Whole(type);
    const std::vector<std::byte> shorter(bytes.begin(), bytes.end() - 1);
    EXPECT_THAT(Refusal(shorter), HasSubstr("bytes"));
    bytes.push_back(std::byte{});
    EXPECT_THAT(Refusal(bytes), HasSubstr("bytes"));
  }
  EXPECT_THAT(Refusal({}), HasSubstr("0 bytes"));
}

TEST(CheckMessage, RefusesAForeignHeader) {
  const auto with = [](std::size_t offset) {
    std::vector<std::byte> bytes = Whole(MessageType::kWindow);
    bytes[offset] ^= std::byte{0x40};
    return Refusal(bytes);
  };
  EXPECT_THAT(with(offsetof(MessageHeader, magic)), HasSubstr("magic"));
  EXPECT_THAT(with(offsetof(MessageHeader, version)), HasSubstr("version"));
  EXPECT_THAT(with(offsetof(MessageHeader, type)), HasSubstr("type"));
  EXPECT_THAT(with(offsetof(MessageHeader, bytes)), HasSubstr("says"));
}

template <typename Body>
std::string WithBody(MessageType type, const Body& body) {
  std::vector<std::byte> bytes = Whole(type);
  std::memcpy(bytes.data() + sizeof(MessageHeader), &body, sizeof(body));
  return Refusal(bytes);
}

TEST(CheckMessage, RefusesWordsOutOfTheirRange) {
  Spawn spawn = {};
  spawn.kind = static_cast<TenantKind>(kTenantKinds);
  EXPECT_THAT(WithBody(MessageType::kSpawn, spawn), HasSubstr("kind"));
  spawn.kind = TenantKind::kVm;
  spawn.image = kMaxImages;
  EXPECT_THAT(WithBody(MessageType::kSpawn, spawn), HasSubstr("image"));
  Load load = {};
  load.activity = static_cast<Activity>(kActivities);
  EXPECT_THAT(WithBody(MessageType::kSetLoad, load), HasSubstr("activity"));
  load = {};
  load.intensity_percent = 101;
  EXPECT_THAT(WithBody(MessageType::kSetLoad, load), HasSubstr("100 %"));
  EXPECT_THAT(WithBody(MessageType::kHeartbeat, Heartbeat{}), HasSubstr("state"));
  HistogramPart part = {};
  part.count = kHistogramEntries + 1;
  EXPECT_THAT(WithBody(MessageType::kHistogram, part), HasSubstr("entries"));
}

TEST(CheckMessage, RefusesTextWithoutAnEnd) {
  Fault fault = {};
  fault.fault_class = FaultClass::kHang;
  std::memset(fault.cause, 'a', sizeof(fault.cause));
  EXPECT_THAT(WithBody(MessageType::kFault, fault), HasSubstr("without an end"));
  Log log = {};
  std::memset(log.text, 'a', sizeof(log.text));
  EXPECT_THAT(WithBody(MessageType::kLog, log), HasSubstr("without an end"));
}

TEST(CheckMessage, SurvivesGarbage) {
  std::mt19937 random(11);
  for (int i = 0; i < 20'000; ++i) {
    std::vector<std::byte> bytes = Whole(kAllTypes[random() % std::size(kAllTypes)]);
    for (int changes = 0; changes < 4; ++changes) bytes[random() % bytes.size()] = static_cast<std::byte>(random());
    auto checked = CheckMessage(bytes);
    if (checked) {
      EXPECT_EQ(bytes.size(), sizeof(MessageHeader) + BodyBytes(*checked));
    }
  }
}

}  // namespace
}  // namespace nestbench::tenants
