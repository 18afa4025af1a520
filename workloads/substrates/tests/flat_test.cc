// Guests of other kinds: each mode on the real /dev/kvm.
#include "nestbench/substrates/flat.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <string>
#include <vector>

#include "nestbench/substrates/mailbox_reader.h"
#include "nestbench/vmm/digest/sha256.h"

namespace nestbench::substrates {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr FlatMode kModes[] = {FlatMode::kReal16, FlatMode::kProtected32, FlatMode::kSupervisor64};

class FlatTest : public ::testing::TestWithParam<FlatMode> {
 protected:
  void SetUp() override {
    auto guest = CreateFlat(GetParam(), {});
    if (!guest && guest.error().kind == vmm::ErrorKind::kUnsupported) GTEST_SKIP() << guest.error().ToString();
    ASSERT_TRUE(guest.has_value()) << guest.error().ToString();
    guest_ = std::move(*guest);
  }

  abi::MailboxRequest Request(abi::Command command, std::uint64_t iterations = 1, std::uint64_t seed = 0) {
    abi::MailboxRequest request = {};
    request.magic = abi::kMailboxMagic;
    request.version = abi::kMailboxVersion;
    request.command = command;
    request.doorbell = guest_->doorbell();
    request.sequence = ++sequence_;
    request.iterations = iterations;
    request.seed = seed;
    return request;
  }

  Result<Reply> Call(const abi::MailboxRequest& request) {
    auto outcome = guest_->Call(request, 10s);
    if (!outcome) return Fail(outcome.error());
    if (outcome->end != CallEnd::kRang) return Fail(Error::Malformed("call", outcome->text));
    EXPECT_GT(outcome->outside_ns, 0U);
    EXPECT_TRUE(outcome->evidence.has_value());
    EXPECT_EQ(outcome->evidence->refused, 0U);
    return ReadReply(guest_->mailbox(), request);
  }

  // The message of a refusal.
  std::string Refusal(const abi::MailboxRequest& request) {
    auto reply = Call(request);
    if (!reply) return reply.error().ToString();
    EXPECT_EQ(reply->status, abi::PayloadStatus::kBadRequest);
    return reply->message;
  }

  std::unique_ptr<Substrate> guest_;
  std::uint64_t sequence_ = 0xFFFF'FFFE;  // soon beyond 32 bits
};

INSTANTIATE_TEST_SUITE_P(Modes, FlatTest, ::testing::ValuesIn(kModes),
                         [](const auto& info) { return std::string(ToString(info.param)); });

TEST_P(FlatTest, DoesTheWorkThatTheHostComputes) {
  ASSERT_TRUE(Call(Request(abi::Command::kNone)).has_value());
  ASSERT_TRUE(Call(Request(abi::Command::kSetUp)).has_value());
  for (const std::uint64_t seed : {0ULL, 1ULL, 0x1234'5678'9ABC'DEF0ULL, ~0ULL}) {
    for (const std::uint32_t iterations : {1U, 2U, 1000U}) {
      auto reply = Call(Request(abi::Command::kRun, iterations, seed));
      ASSERT_TRUE(reply.has_value()) << reply.error().ToString();
      ASSERT_EQ(reply->status, abi::PayloadStatus::kOk) << reply->message;
      EXPECT_EQ(reply->checksum, FlatChecksum(seed, iterations));
      EXPECT_EQ(reply->operations, iterations);
      EXPECT_GT(reply->tsc_ticks, 0U);
    }
  }
}

TEST_P(FlatTest, VerifiesWhatHasRunLast) {
  ASSERT_TRUE(Call(Request(abi::Command::kRun, 100, 7)).has_value());
  auto reply = Call(Request(abi::Command::kVerify, 100, 7));
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->status, abi::PayloadStatus::kOk) << reply->message;
  EXPECT_THAT(Refusal(Request(abi::Command::kVerify, 100, 7)), HasSubstr("not what has run last"));

  // Another seed stands for memory that changed meanwhile.
  ASSERT_TRUE(Call(Request(abi::Command::kRun, 100, 7)).has_value());
  reply = Call(Request(abi::Command::kVerify, 100, 8));
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->status, abi::PayloadStatus::kWrongResult);
}

TEST_P(FlatTest, RefusesRequestsThatItCannotServe) {
  abi::MailboxRequest request = Request(abi::Command::kRun);
  request.magic = 1;
  EXPECT_THAT(Refusal(request), HasSubstr("magic"));
  request = Request(abi::Command::kRun);
  request.version = 99;
  EXPECT_THAT(Refusal(request), HasSubstr("version"));
  request = Request(abi::Command::kRun);
  request.doorbell = abi::Doorbell::kMmio;
  EXPECT_THAT(Refusal(request), HasSubstr("port"));
  EXPECT_THAT(Refusal(Request(abi::Command::kRun, 0)), HasSubstr("iterations"));
  EXPECT_THAT(Refusal(Request(abi::Command::kRun, 1ULL << 32)), HasSubstr("iterations"));
  EXPECT_THAT(Refusal(Request(static_cast<abi::Command>(9))), HasSubstr("unknown command"));
  for (const std::uint64_t operation : {1ULL, 0xFFULL, 1ULL << 32}) {
    request = Request(abi::Command::kRun);
    request.operation = operation;
    EXPECT_THAT(Refusal(request), HasSubstr("unknown operation"));
  }
  // None of them harmed it.
  auto reply = Call(Request(abi::Command::kRun, 3, 4));
  ASSERT_TRUE(reply.has_value());
  EXPECT_EQ(reply->checksum, FlatChecksum(4, 3));
}

TEST_P(FlatTest, CountsItsExitsWhereTheKernelDoes) {
  ASSERT_TRUE(Call(Request(abi::Command::kNone)).has_value());
  if (!guest_->exits()) GTEST_SKIP() << "this kernel has no statistics of vCPUs";
  const std::uint64_t before = *guest_->exits();
  ASSERT_TRUE(Call(Request(abi::Command::kNone)).has_value());
  EXPECT_GT(*guest_->exits(), before);
  EXPECT_GE(guest_->statistics_fd(), 0);
}

TEST_P(FlatTest, LivesBesideGuestsOfTheOtherModes) {
  std::vector<std::unique_ptr<Substrate>> others;
  for (const FlatMode mode : kModes) {
    auto other = CreateFlat(mode, {});
    ASSERT_TRUE(other.has_value()) << other.error().ToString();
    others.push_back(std::move(*other));
  }
  for (std::uint64_t round = 1; round <= 5; ++round) {
    const abi::MailboxRequest request = Request(abi::Command::kRun, 10 * round, round);
    for (auto& other : others) {
      ASSERT_TRUE(other->Call(request, 10s).has_value());
      auto reply = ReadReply(other->mailbox(), request);
      ASSERT_TRUE(reply.has_value());
      EXPECT_EQ(reply->checksum, FlatChecksum(round, static_cast<std::uint32_t>(10 * round)));
    }
  }
}

TEST(FlatImageTest, EachModeHasABinaryOfItsOwnWithADigest) {
  std::vector<std::string> digests;
  for (const FlatMode mode : kModes) {
    EXPECT_GT(FlatImage(mode).size(), 1000U);
    auto digest = vmm::Sha256Hex(FlatImage(mode));
    ASSERT_TRUE(digest.has_value());
    digests.push_back(*digest);
  }
  std::ranges::sort(digests);
  EXPECT_EQ(std::ranges::adjacent_find(digests), digests.end());
}

}  // namespace
}  // namespace nestbench::substrates
