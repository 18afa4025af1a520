// Guests that go wrong: each fault many times on the real /dev/kvm, judged by evidence, with a healthy guest of the
// same process beside it.
#include "nestbench/substrates/guest_faults.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <ostream>
#include <string>
#include <vector>

#include "nestbench/substrates/mailbox_reader.h"
#include "nestbench/vmm/loader/loaded_file.h"

namespace nestbench::substrates {

// For the test's name in messages: without it GoogleTest prints the bytes.
static void PrintTo(const GuestFaultInfo& info, std::ostream* out) { *out << info.name; }

namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr int kTries = 20;
constexpr std::chrono::nanoseconds kLimit = 100ms;  // of guests that never answer
constexpr std::chrono::nanoseconds kLongLimit = 10s;

abi::MailboxRequest Request(std::uint64_t sequence, std::uint64_t iterations) {
  abi::MailboxRequest request = {};
  request.magic = abi::kMailboxMagic;
  request.version = abi::kMailboxVersion;
  request.command = abi::Command::kRun;
  request.doorbell = abi::Doorbell::kPort;
  request.sequence = sequence;
  request.iterations = iterations;
  request.seed = sequence;
  return request;
}

class GuestFaultTest : public ::testing::TestWithParam<GuestFaultInfo> {
 protected:
  void SetUp() override {
    auto healthy = CreateFlat(FlatMode::kSupervisor64, {});
    if (!healthy && healthy.error().kind == vmm::ErrorKind::kUnsupported) GTEST_SKIP() << healthy.error().ToString();
    ASSERT_TRUE(healthy.has_value()) << healthy.error().ToString();
    healthy_ = std::move(*healthy);
    limit_ = GetParam().expected_end == CallEnd::kTimedOut ? kLimit : kLongLimit;
    if (auto able = TryGuestFault(GetParam().fault, {}, limit_); !able) {
      if (able.error().kind == vmm::ErrorKind::kUnsupported &&
          able.error().ToString().find("KVM could not go on") != std::string::npos) {
        GTEST_SKIP() << able.error().ToString();
      }
      FAIL() << able.error().ToString();
    }
  }

  void ExpectHealthy() {
    const abi::MailboxRequest request = Request(++sequence_, 50);
    auto outcome = healthy_->Call(request, kLongLimit);
    ASSERT_TRUE(outcome.has_value()) << outcome.error().ToString();
    auto reply = ReadReply(healthy_->mailbox(), request);
    ASSERT_TRUE(reply.has_value()) << reply.error().ToString();
    EXPECT_EQ(reply->checksum, FlatChecksum(request.seed, 50));
    const GuestVerdict verdict = ClassifyGuestFault(*outcome, nullptr);
    EXPECT_EQ(verdict.fault_class, GuestFaultClass::kNone) << verdict.words;
    EXPECT_TRUE(verdict.words.empty());
  }

  std::unique_ptr<Substrate> healthy_;
  std::uint64_t sequence_ = 0;
  std::chrono::nanoseconds limit_{0};
};

INSTANTIATE_TEST_SUITE_P(Faults, GuestFaultTest, ::testing::ValuesIn(GuestFaults().begin(), GuestFaults().end()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(GuestFaultTest, IsJudgedRightInEveryTryAndHarmsNobody) {
  for (int seed = 0; seed < kTries; ++seed) {
    auto faulty = CreateFaulty(GetParam().fault, static_cast<std::uint64_t>(seed), {});
    ASSERT_TRUE(faulty.has_value()) << faulty.error().ToString();
    const abi::MailboxRequest request = Request(1, 1);
    const auto begin = std::chrono::steady_clock::now();
    auto outcome = (*faulty)->Call(request, limit_);
    const auto took = std::chrono::steady_clock::now() - begin;
    ASSERT_TRUE(outcome.has_value()) << outcome.error().ToString();
    EXPECT_EQ(outcome->end, GetParam().expected_end) << outcome->text;
    EXPECT_LT(took, 1s);
    auto reply = ReadReply((*faulty)->mailbox(), request);
    const GuestVerdict verdict = ClassifyGuestFault(*outcome, reply ? nullptr : &reply.error());
    EXPECT_TRUE(IsRight(GetParam(), verdict)) << "seed " << seed << ": " << verdict.words << '\n' << outcome->text;
    EXPECT_THAT(verdict.words, HasSubstr(std::string(ToString(verdict.cause))));
    if (outcome->end != CallEnd::kRang) {
      EXPECT_THAT(outcome->text, HasSubstr("rip"));
    }
    if (seed < 2) RecordProperty("seed_" + std::to_string(seed), verdict.words);
    ExpectHealthy();
  }
}

// Without the faults that lose the guest, and without the one that lies for ever.
class SurvivedGuestFaultTest : public GuestFaultTest {};

std::vector<GuestFaultInfo> SurvivedFaults() {
  std::vector<GuestFaultInfo> survived;
  std::ranges::copy_if(GuestFaults(), std::back_inserter(survived), [](const GuestFaultInfo& info) {
    return info.survives && info.fault != GuestFault::kMailboxLies;
  });
  return survived;
}

INSTANTIATE_TEST_SUITE_P(Faults, SurvivedGuestFaultTest, ::testing::ValuesIn(SurvivedFaults()),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(SurvivedGuestFaultTest, AGuestThatSurvivesServesOnWithTheRightResult) {
  auto faulty = CreateFaulty(GetParam().fault, 3, {});
  ASSERT_TRUE(faulty.has_value());
  for (std::uint64_t sequence = 1; sequence <= 3; ++sequence) {
    const abi::MailboxRequest request = Request(sequence, 7);
    auto outcome = (*faulty)->Call(request, kLongLimit);
    ASSERT_TRUE(outcome.has_value());
    ASSERT_EQ(outcome->end, CallEnd::kRang) << outcome->text;
    auto reply = ReadReply((*faulty)->mailbox(), request);
    ASSERT_TRUE(reply.has_value()) << reply.error().ToString();
    EXPECT_EQ(reply->operations, 7U);
    EXPECT_GT(outcome->evidence->refused, 500U);
  }
}

TEST_P(GuestFaultTest, IsFoundByNameAndByNumber) {
  const GuestFaultInfo* by_name = FindGuestFault(GetParam().name);
  ASSERT_NE(by_name, nullptr);
  EXPECT_EQ(by_name->fault, GetParam().fault);
  EXPECT_EQ(FindGuestFault(static_cast<std::uint32_t>(GetParam().fault)), by_name);
}

TEST(GuestFaultsTest, RefusesAFaultThatDoesNotExist) {
  EXPECT_EQ(FindGuestFault(0U), nullptr);
  EXPECT_EQ(FindGuestFault("nothing"), nullptr);
  auto faulty = CreateFaulty(static_cast<GuestFault>(999), 0, {});
  ASSERT_FALSE(faulty.has_value());
  EXPECT_EQ(faulty.error().kind, vmm::ErrorKind::kInvalidArgument);
}

// The 64-bit user payload goes wrong without being told to: judged by the same evidence.
class UserPayloadTest : public ::testing::Test {
 protected:
  // Asks for operation 0 of an image, after setting it up when `set_up` says so.
  static void Run(const std::string& image, const abi::MailboxRequest& request, bool set_up, GuestVerdict& verdict) {
    auto file = vmm::LoadedFile::Read(NESTBENCH_IMAGES_FOLDER "/" + image, 1ULL << 20);
    ASSERT_TRUE(file.has_value()) << file.error().ToString();
    auto guest = CreateVm({.image = file->bytes()});
    if (!guest && guest.error().kind == vmm::ErrorKind::kUnsupported) GTEST_SKIP() << guest.error().ToString();
    ASSERT_TRUE(guest.has_value()) << guest.error().ToString();
    if (set_up) {
      abi::MailboxRequest first = request;
      first.command = abi::Command::kSetUp;
      auto prepared = (*guest)->Call(first, kLongLimit);
      ASSERT_TRUE(prepared.has_value());
      ASSERT_EQ(prepared->end, CallEnd::kRang) << prepared->text;
    }
    auto outcome = (*guest)->Call(request, kLimit);
    ASSERT_TRUE(outcome.has_value()) << outcome.error().ToString();
    ASSERT_TRUE(outcome->evidence.has_value());
    EXPECT_THAT(outcome->text, HasSubstr("rip"));
    verdict = ClassifyGuestFault(*outcome, nullptr);
  }
};

TEST_F(UserPayloadTest, WorkWithoutEndIsASpin) {
  abi::MailboxRequest request = Request(1, 1ULL << 50);
  request.arena_base = abi::kArenaBase;
  GuestVerdict verdict;
  Run("cpu_integer.elf", request, true, verdict);
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_EQ(verdict.fault_class, GuestFaultClass::kHang) << verdict.words;
  EXPECT_TRUE(verdict.cause == GuestCause::kSpin || verdict.cause == GuestCause::kSpinInterruptsOff) << verdict.words;
}

TEST_F(UserPayloadTest, AnArenaThatIsNotThereIsAnException) {
  abi::MailboxRequest request = Request(1, 1);
  request.command = abi::Command::kSetUp;
  request.arena_base = abi::kArenaBase;
  request.arena_bytes = 1ULL << 20;
  request.parameters[0] = 1ULL << 20;
  GuestVerdict verdict;
  Run("memory_gups.elf", request, false, verdict);
  if (IsSkipped() || HasFatalFailure()) return;
  EXPECT_EQ(verdict.fault_class, GuestFaultClass::kGuestFault);
  EXPECT_EQ(verdict.cause, GuestCause::kException) << verdict.words;
  EXPECT_THAT(verdict.words, HasSubstr("vector 14"));
}

// Judgements that no guest here leads to.
TEST(ClassifyTest, WithoutEvidenceATimeoutIsAHangAndACrashIsTheGuestsFault) {
  GuestVerdict verdict = ClassifyGuestFault({.end = CallEnd::kTimedOut, .text = {}}, nullptr);
  EXPECT_EQ(verdict.fault_class, GuestFaultClass::kHang);
  EXPECT_EQ(verdict.cause, GuestCause::kSilent);
  verdict = ClassifyGuestFault({.end = CallEnd::kCrashed, .text = {}}, nullptr);
  EXPECT_EQ(verdict.fault_class, GuestFaultClass::kGuestFault);
  EXPECT_EQ(verdict.cause, GuestCause::kUnknownExit);
}

GuestVerdict OfWatch(const GuestWatch& watch) {
  CallOutcome outcome = {.end = CallEnd::kTimedOut, .text = {}};
  outcome.evidence = CallEvidence{.watch = watch};
  return ClassifyGuestFault(outcome, nullptr);
}

TEST(ClassifyTest, AGuestThatAnswersLateSurvives) {
  const GuestVerdict verdict = OfWatch({.samples = 3, .rang = true});
  EXPECT_EQ(verdict.cause, GuestCause::kSlow);
  EXPECT_TRUE(verdict.survives);
}

TEST(ClassifyTest, AHandlerThatStandsStillIsASpin) {
  const GuestVerdict verdict =
      OfWatch({.samples = 64, .lowest_ip = 0x3000, .highest_ip = 0x3000, .in_exception = 64, .vector = 13});
  EXPECT_EQ(verdict.cause, GuestCause::kSpinInterruptsOff);
}

TEST(ClassifyTest, ASpinThatAcceptsInterruptsIsCalledSo) {
  EXPECT_EQ(OfWatch({.samples = 64, .accepts_interrupts = true}).cause, GuestCause::kSpin);
}

TEST(ClassifyTest, ACrashWhileItWasWatchedIsACrash) {
  CallOutcome outcome = {.end = CallEnd::kTimedOut, .text = {}};
  outcome.evidence = CallEvidence{.crash = GuestCrash{.kind = CrashKind::kTripleFault, .code = CodeAt::kMemory}};
  EXPECT_EQ(ClassifyGuestFault(outcome, nullptr).cause, GuestCause::kTripleFault);
}

}  // namespace
}  // namespace nestbench::substrates
