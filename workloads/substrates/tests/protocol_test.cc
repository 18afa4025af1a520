// Requests and answers of the guest process: they survive the way, and what is no request or answer is refused by name.
#include "nestbench/substrates/protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "nestbench/payload/net_work.h"

namespace nestbench::substrates {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr const char* kDigest = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

Request SampleRequest() {
  Request request;
  request.substrate = SubstrateKind::kVm;
  request.image = "/some/where/image \"quoted\" \xC3\xA9.elf";
  request.operation = 3;
  request.parameters = {1, 2, 3, 4, 5, 6, 7, std::numeric_limits<std::uint64_t>::max()};
  request.seed = std::numeric_limits<std::uint64_t>::max();
  request.arena_bytes = 4096;
  request.host_page_bytes = abi::kLargePageBytes;
  request.guest_page_bytes = abi::kPageBytes;
  request.reset_arena = true;
  request.cpu = 1;
  request.iterations = 12;
  request.batch_target_ns = 5;
  request.samples = 9;
  request.max_warmup_batches = 4;
  request.deadline_ns = 1'000'000'000;
  request.tsc_hz = 2.596e9;
  request.doorbell = abi::Doorbell::kMmio;
  request.disk = {.kind = DiskKind::kDirect,
                  .path = "/some/disk",
                  .size_bytes = 8192,
                  .doorbell_exits = true,
                  .polling = true,
                  .io_cpu = 2};
  return request;
}

Request SampleNetworkRequest() {
  Request request = SampleRequest();
  request.arena_bytes = payload::kNetArenaBytes;
  request.disk = {};
  request.network = {.peer = NetPeer::kGuest,
                     .doorbell_exits = true,
                     .polling = true,
                     .bytes_per_s = 10'000'000,
                     .io_cpu = 2,
                     .peer_cpu = 3};
  return request;
}

Answer SampleAnswer() {
  Answer answer;
  answer.status = AnswerStatus::kOk;
  answer.image_sha256 = kDigest;
  answer.iterations = 1000;
  answer.warmup_batches = 2;
  answer.voided = 1;
  answer.call_overhead_ns = 26'600.5;
  answer.clock_disagreement_max = 0.004;
  answer.counters = {1, 2, 3, 4};
  answer.huge_page_bytes = 5;
  answer.process_cpu_ns = 7;
  answer.exits = 6;
  answer.resent = 7;
  answer.latencies = {100, 1.5, 2.5, 3.5, 4.5};
  answer.checksum = std::numeric_limits<std::uint64_t>::max();  // more than a JSON reader's double holds
  answer.samples = {{1.5, 2.5, 1000, 0}, {1e9, 1e9 + 0.25, 1000, 64}};
  return answer;
}

template <typename Parse>
void ExpectRefused(const json& object, Parse parse, const std::string& key, const std::string& how) {
  const auto parsed = parse(object.dump());
  ASSERT_FALSE(parsed.has_value()) << key << ' ' << how;
  EXPECT_EQ(parsed.error().kind, vmm::ErrorKind::kMalformed) << how;
  EXPECT_THAT(parsed.error().ToString(), HasSubstr("`" + key + "`")) << how;
}

// Whatever the type of a key, most of these are not it.
const std::vector<json> kWrongValues = {nullptr,           true, -1, 1.5, "text", json::array(), json::object(),
                                        json::array({"x"})};

bool IsRightType(const json& right, const json& wrong) {
  if (right.is_number_unsigned()) return wrong.is_number_unsigned();
  if (right.is_number()) return wrong.is_number();
  if (right.is_array()) return wrong.is_array() && wrong.empty();
  return right.type() == wrong.type();
}

template <typename Parse>
void RefusesEachKeyMissingWrongRepeatedAndAnUnknownOne(const json& good, Parse parse) {
  ASSERT_TRUE(parse(good.dump()).has_value()) << parse(good.dump()).error().ToString();
  for (const auto& [key, value] : good.items()) {
    json spoiled = good;
    spoiled.erase(key);
    ExpectRefused(spoiled, parse, key, "missing");
    for (const json& wrong : kWrongValues) {
      if (IsRightType(value, wrong)) continue;
      if (key.ends_with("cpu") && wrong == -1) continue;
      spoiled = good;
      spoiled[key] = wrong;
      ExpectRefused(spoiled, parse, key, "is " + wrong.dump());
    }
    const std::string text = good.dump();
    const auto repeated = parse("{\"" + key + "\":" + value.dump() + "," + text.substr(1));
    ASSERT_FALSE(repeated.has_value()) << key;
    EXPECT_THAT(repeated.error().ToString(), HasSubstr("`" + key + "` is there twice"));
  }
  json more = good;
  more["sample"] = 1;
  ExpectRefused(more, parse, "sample", "unknown");
  more = good;
  more["\x1B[2J" + std::string(1000, 'x')] = 1;
  const auto parsed = parse(more.dump());
  ASSERT_FALSE(parsed.has_value());
  EXPECT_LT(parsed.error().ToString().size(), 200U);
  EXPECT_EQ(parsed.error().ToString().find('\x1B'), std::string::npos);
}

template <typename Parse>
void RefusesEveryTextThatIsNoObject(const json& good, Parse parse) {
  const std::string text = good.dump();
  for (std::size_t bytes = 0; bytes < text.size(); ++bytes) {
    ASSERT_FALSE(parse(text.substr(0, bytes)).has_value()) << bytes;
  }
  EXPECT_TRUE(parse(text + "\n").has_value());
  EXPECT_FALSE(parse(text + text).has_value());
  for (const char* other : {"", "\n", "null", "[]", "1", "\"x\"", "{}", "{", "nan", "\xFF\xFE", "{\"a\":\xFF}"}) {
    EXPECT_FALSE(parse(other).has_value()) << other;
  }
  EXPECT_FALSE(parse(std::string(1, '\0') + text).has_value());
  constexpr std::size_t kDepth = 1'000'000;
  EXPECT_FALSE(parse(std::string(kDepth, '[')).has_value());
  EXPECT_FALSE(parse(std::string(kDepth, '[') + std::string(kDepth, ']')).has_value());
  json nested = good;
  nested["reason"] = nested["image"] = json();
  std::string deep = nested.dump();
  deep.replace(deep.find("null"), 4, std::string(kDepth, '[') + std::string(kDepth, ']'));
  EXPECT_FALSE(parse(deep).has_value());
}

TEST(RequestTest, SurvivesTheWay) {
  const Request sent = SampleRequest();
  const auto got = ParseRequest(ToJson(sent).dump());
  ASSERT_TRUE(got.has_value()) << got.error().ToString();
  EXPECT_EQ(ToJson(*got), ToJson(sent));
  EXPECT_EQ(got->image, sent.image);
  EXPECT_EQ(got->parameters, sent.parameters);
  EXPECT_EQ(got->seed, sent.seed);
  EXPECT_EQ(got->doorbell, sent.doorbell);
  EXPECT_EQ(got->disk.kind, sent.disk.kind);
  EXPECT_EQ(got->disk.path, sent.disk.path);
  EXPECT_EQ(got->tsc_hz, sent.tsc_hz);
}

TEST(RequestTest, RefusesEachKeyMissingWrongOrRepeated) {
  RefusesEachKeyMissingWrongRepeatedAndAnUnknownOne(ToJson(SampleRequest()), ParseRequest);
}

TEST(RequestTest, RefusesEveryTextThatIsNoObject) {
  RefusesEveryTextThatIsNoObject(ToJson(SampleRequest()), ParseRequest);
}

TEST(RequestTest, RefusesValuesOutOfRange) {
  const std::vector<std::pair<std::string, json>> cases = {
      {"protocol", 0},
      {"protocol", 1},
      {"protocol", 1'000'000'000'000},
      {"substrate", "zone"},
      {"substrate", ""},
      {"parameters", json::array({1, 2, 3, 4, 5, 6, 7})},
      {"parameters", json::array({1, 2, 3, 4, 5, 6, 7, 8, 9})},
      {"parameters", json::array({1, 2, 3, 4, 5, 6, 7, -1})},
      {"parameters", json::array({1, 2, 3, 4, 5, 6, 7, 1e300})},
      {"operation", json::parse("18446744073709551616")},
      {"seed", json::parse("1e99")},
      {"arena_bytes", abi::kArenaMaxBytes + 1},
      {"host_page_bytes", 0},
      {"host_page_bytes", 4095},
      {"guest_page_bytes", 1 << 30},
      {"cpu", -2},
      {"cpu", 2'000'000'000},
      {"cpu", std::numeric_limits<std::int64_t>::min()},
      {"cpu", std::numeric_limits<std::uint64_t>::max()},
      {"samples", 0},
      {"samples", 1'000'001},
      {"samples", 1ULL << 32},
      {"max_warmup_batches", 1ULL << 32},
      {"deadline_ns", 0},
      {"deadline_ns", 86'400'000'000'001ULL},
      {"deadline_ns", std::numeric_limits<std::uint64_t>::max()},
      {"tsc_hz", 0},
      {"tsc_hz", -2.5e9},
      {"tsc_hz", 1e13},
      {"doorbell", "bell"},
      {"disk", "tape"},
      {"disk_bytes", 0},
      {"disk_bytes", 4097},
      {"disk_bytes", 1ULL << 41},
      {"io_cpu", -2},
      {"latencies", true},     // in an arena without room for them
      {"doorbell", "return"},  // of a guest: there is nowhere to return to
  };
  for (const auto& [key, value] : cases) {
    json spoiled = ToJson(SampleRequest());
    spoiled[key] = value;
    ExpectRefused(spoiled, ParseRequest, key, "is " + value.dump());
  }
  json spoiled = ToJson(SampleRequest());
  spoiled["iterations"] = spoiled["batch_target_ns"] = 0;
  ExpectRefused(spoiled, ParseRequest, "batch_target_ns", "is 0 and so are the iterations");
}

TEST(RequestTest, OfANetworkSurvivesTheWay) {
  const Request sent = SampleNetworkRequest();
  const auto got = ParseRequest(ToJson(sent).dump());
  ASSERT_TRUE(got.has_value()) << got.error().ToString();
  EXPECT_EQ(ToJson(*got), ToJson(sent));
  EXPECT_EQ(got->network.peer, NetPeer::kGuest);
  EXPECT_EQ(got->network.peer_cpu, 3);
}

TEST(RequestTest, RefusesNetworksThatAreNone) {
  RefusesEachKeyMissingWrongRepeatedAndAnUnknownOne(ToJson(SampleNetworkRequest()), ParseRequest);
  const std::vector<std::pair<std::string, json>> cases = {
      {"net_peer", "zone"},
      {"net_io_cpu", -2},
      {"net_peer_cpu", 2'000'000'000},
  };
  for (const auto& [key, value] : cases) {
    json spoiled = ToJson(SampleNetworkRequest());
    spoiled[key] = value;
    ExpectRefused(spoiled, ParseRequest, key, "is " + value.dump());
  }
  json with_disk = ToJson(SampleNetworkRequest());
  with_disk["disk"] = "ram";
  with_disk["disk_bytes"] = 1 << 20;
  ExpectRefused(with_disk, ParseRequest, "net_peer", "and a disk");
  json too_small = ToJson(SampleNetworkRequest());
  too_small["arena_bytes"] = payload::kNetArenaBytes - 1;
  ExpectRefused(too_small, ParseRequest, "net_peer", "in a small arena");
}

TEST(RequestTest, LetsAProcessReturn) {
  Request request = SampleRequest();
  request.substrate = SubstrateKind::kBare;
  request.doorbell = abi::Doorbell::kReturn;
  EXPECT_TRUE(ParseRequest(ToJson(request).dump()).has_value());
}

TEST(AnswerTest, SurvivesTheWay) {
  const Answer sent = SampleAnswer();
  const auto got = ParseAnswer(ToJson(sent).dump());
  ASSERT_TRUE(got.has_value()) << got.error().ToString();
  EXPECT_EQ(ToJson(*got), ToJson(sent));
  EXPECT_EQ(got->checksum, sent.checksum);
  ASSERT_EQ(got->samples.size(), 2U);
  EXPECT_EQ(got->samples[1].outside_ns, 1e9 + 0.25);
  EXPECT_EQ(got->counters.migrations, 4U);
}

TEST(AnswerTest, SurvivesWithEveryStatus) {
  for (const AnswerStatus status : {AnswerStatus::kUnsupported, AnswerStatus::kFailed, AnswerStatus::kError,
                                    AnswerStatus::kCrashed, AnswerStatus::kTimeout}) {
    Answer sent;  // nothing was measured, not even the image was read
    sent.status = status;
    sent.reason = "line one\nline two";
    const auto got = ParseAnswer(ToJson(sent).dump());
    ASSERT_TRUE(got.has_value()) << got.error().ToString();
    EXPECT_EQ(got->status, status);
    EXPECT_EQ(got->reason, sent.reason);
  }
}

TEST(AnswerTest, RefusesEachKeyMissingWrongOrRepeated) {
  RefusesEachKeyMissingWrongRepeatedAndAnUnknownOne(ToJson(SampleAnswer()), ParseAnswer);
}

TEST(AnswerTest, RefusesEveryTextThatIsNoObject) {
  RefusesEveryTextThatIsNoObject(ToJson(SampleAnswer()), ParseAnswer);
}

TEST(AnswerTest, RefusesWhatNoMeasurementGives) {
  const std::vector<std::pair<std::string, json>> cases = {
      {"status", "fine"},
      {"reason", "but it went well"},
      {"image_sha256", ""},
      {"image_sha256", "abc"},
      {"image_sha256", std::string(64, 'G')},
      {"iterations", 0},
      {"clock_disagreement_max", -0.1},
      {"checksum", ""},
      {"checksum", "12x"},
      {"checksum", "-1"},
      {"checksum", "18446744073709551616"},
      {"inside_ns", json::array({1.0})},
      {"inside_ns", json::array({1.0, 0.0})},
      {"inside_ns", json::array({1.0, -2.0})},
      {"inside_ns", json::array({1.0, nullptr})},
      {"operations", json::array({1000, 0})},
      {"operations", json::array({1000, 1e300})},
      {"bytes", json::array({0, -1})},
  };
  for (const auto& [key, value] : cases) {
    json spoiled = ToJson(SampleAnswer());
    spoiled[key] = value;
    ExpectRefused(spoiled, ParseAnswer, key, "is " + value.dump());
  }
  json empty = ToJson(SampleAnswer());
  for (const char* key : {"inside_ns", "outside_ns", "operations", "bytes"}) empty[key] = json::array();
  ExpectRefused(empty, ParseAnswer, "inside_ns", "is empty and status is ok");
  json silent = ToJson(SampleAnswer());
  silent["status"] = "crashed";
  ExpectRefused(silent, ParseAnswer, "reason", "is empty and status is not ok");
}

}  // namespace
}  // namespace nestbench::substrates
