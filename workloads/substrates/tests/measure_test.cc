// The measuring loop on a substrate that is made of numbers: its time is exact, and its payload lies on demand.
#include "nestbench/substrates/measure.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "nestbench/abi/latency_table.h"
#include "nestbench/vmm/memory/memory_region.h"

namespace nestbench::substrates {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr double kTscHz = 1e9;  // one tick is one ns
constexpr std::uint64_t kCallOverheadNs = 500;

class FakeSubstrate final : public Substrate {
 public:
  Result<CallOutcome> Call(const abi::MailboxRequest& request, std::chrono::nanoseconds limit) override {
    commands.push_back(request);
    mailbox_.request = request;
    abi::MailboxReply reply = {};
    reply.sequence = request.sequence;
    reply.status = abi::PayloadStatus::kOk;
    CallOutcome outcome{CallEnd::kRang, {}, kCallOverheadNs};
    if (request.command == abi::Command::kRun) {
      // Two time stamps are never equal, however little lies between them.
      const auto batch_ns = std::max<std::uint64_t>(
          1, static_cast<std::uint64_t>(static_cast<double>(request.iterations) * ns_per_iteration));
      reply.tsc_begin = 1'000'000;
      reply.tsc_end = reply.tsc_begin + batch_ns;
      reply.operations = request.iterations;
      reply.checksum = request.seed;
      outcome.outside_ns += batch_ns;
    }
    if (change) change(request, reply, outcome);
    mailbox_.reply = reply;
    last_limit = limit;
    return outcome;
  }

  [[nodiscard]] std::span<const std::byte> mailbox() const override { return std::as_bytes(std::span(&mailbox_, 1)); }
  [[nodiscard]] const vmm::MemoryRegion* arena() const override { return arena_ ? &*arena_ : nullptr; }
  [[nodiscard]] abi::Doorbell doorbell() const override { return abi::Doorbell::kMmio; }
  [[nodiscard]] std::optional<std::uint64_t> exits() const override { return commands.size(); }

  [[nodiscard]] std::size_t CountOf(abi::Command command) const {
    return static_cast<std::size_t>(
        std::ranges::count_if(commands, [command](const auto& request) { return request.command == command; }));
  }

  double ns_per_iteration = 10;
  std::function<void(const abi::MailboxRequest&, abi::MailboxReply&, CallOutcome&)> change;
  std::vector<abi::MailboxRequest> commands;
  std::chrono::nanoseconds last_limit{};

  // An arena that begins with a latency table.
  abi::LatencyTable& MakeTable() {
    auto region = vmm::MemoryRegion::Create({abi::GuestPhysAddr(abi::kArenaBase), abi::kLatencyTableBytes}, {});
    if (!region) throw std::runtime_error(region.error().ToString());
    arena_.emplace(std::move(*region));
    return *reinterpret_cast<abi::LatencyTable*>(arena_->bytes().data());
  }

 private:
  abi::Mailbox mailbox_ = {};
  std::optional<vmm::MemoryRegion> arena_;
};

Request SampleRequest() {
  Request request;
  request.seed = 42;
  request.operation = 3;
  request.parameters = {11, 22};
  request.batch_target_ns = 10'000'000;
  request.samples = 5;
  request.max_warmup_batches = 10;
  request.deadline_ns = 60'000'000'000;
  request.tsc_hz = kTscHz;
  return request;
}

TEST(MeasureTest, CalibratesToTheTargetTime) {
  for (const double ns_per_iteration : {0.25, 10.0, 27'000.0, 3e6}) {
    FakeSubstrate substrate;
    substrate.ns_per_iteration = ns_per_iteration;
    const Answer answer = Measure(substrate, SampleRequest());
    ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
    const double batch_ns = static_cast<double>(answer.iterations) * ns_per_iteration;
    EXPECT_GT(batch_ns, 0.5 * 10e6) << ns_per_iteration;
    EXPECT_LT(batch_ns, 1.5 * 10e6) << ns_per_iteration;
    for (const Sample& sample : answer.samples) EXPECT_EQ(sample.operations, answer.iterations);
  }
}

TEST(MeasureTest, CalibratesAlthoughABatchIsInterrupted) {
  for (int interrupted = 1; interrupted <= 20; ++interrupted) {
    FakeSubstrate substrate;
    int batch = 0;
    substrate.change = [&batch, interrupted](const auto& command, auto& reply, auto& outcome) {
      if (command.command != abi::Command::kRun || ++batch != interrupted) return;
      reply.tsc_end += 4'000'000;  // the CPU was somebody else's for 4 ms
      outcome.outside_ns += 4'000'000;
    };
    const Answer answer = Measure(substrate, SampleRequest());
    ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
    EXPECT_GT(static_cast<double>(answer.iterations) * substrate.ns_per_iteration, 0.5 * 10e6) << interrupted;
  }
}

TEST(MeasureTest, TakesAtLeastOneIterationHoweverSlowItIs) {
  FakeSubstrate substrate;
  substrate.ns_per_iteration = 1e9;
  const Answer answer = Measure(substrate, SampleRequest());
  ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
  EXPECT_EQ(answer.iterations, 1U);
}

TEST(MeasureTest, DoesNotCalibrateWhenIterationsAreGiven) {
  FakeSubstrate substrate;
  Request request = SampleRequest();
  request.iterations = 12'345;
  const Answer answer = Measure(substrate, request);
  ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
  EXPECT_EQ(answer.iterations, 12'345U);
  for (const auto& command : substrate.commands) {
    if (command.command == abi::Command::kRun) {
      EXPECT_EQ(command.iterations, 12'345U);
    }
  }
}

TEST(MeasureTest, TakesAsManySamplesAsAskedForAndVerifiesOnceAtTheEnd) {
  FakeSubstrate substrate;
  const Answer answer = Measure(substrate, SampleRequest());
  ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
  ASSERT_EQ(answer.samples.size(), 5U);
  EXPECT_EQ(answer.voided, 0U);
  EXPECT_EQ(answer.call_overhead_ns, kCallOverheadNs);
  EXPECT_EQ(answer.checksum, 42U);
  EXPECT_EQ(answer.exits, 5U);  // of the samples only
  EXPECT_EQ(answer.samples[0].inside_ns, answer.samples[0].outside_ns);
  EXPECT_EQ(substrate.CountOf(abi::Command::kSetUp), 1U);
  EXPECT_EQ(substrate.CountOf(abi::Command::kVerify), 1U);
  EXPECT_EQ(substrate.commands.back().command, abi::Command::kVerify);
}

TEST(MeasureTest, LatenciesAreThoseOfTheKeptSamplesAlone) {
  FakeSubstrate substrate;
  abi::LatencyTable& table = substrate.MakeTable();
  Request request = SampleRequest();
  request.latencies = true;
  request.iterations = 1000;
  std::uint64_t runs = 0;
  substrate.change = [&](const auto& command, auto& /*reply*/, CallOutcome& outcome) {
    if (command.command != abi::Command::kRun) return;
    ++runs;
    // Warm-up and void samples are slow; the others take a microsecond, one in a hundred of them ten.
    const bool is_void = runs % 4 == 3;
    if (is_void) outcome.outside_ns *= 2;
    for (int i = 0; i < 1000; ++i) table.Record(is_void || runs < 3 ? 5'000'000 : i % 100 == 0 ? 10'000 : 1000);
  };
  const Answer answer = Measure(substrate, request);
  ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
  ASSERT_GT(answer.voided, 0U);
  EXPECT_EQ(answer.latencies.count, 5000U);
  EXPECT_NEAR(answer.latencies.p50_ns, 1000, 35);
  EXPECT_NEAR(answer.latencies.p99_ns, 1000, 35);
  EXPECT_NEAR(answer.latencies.p999_ns, 10'000, 350);
  EXPECT_EQ(answer.latencies.max_ns, 10'000);
}

TEST(MeasureTest, AsksForWhatTheRequestSays) {
  FakeSubstrate substrate;
  ASSERT_EQ(Measure(substrate, SampleRequest()).status, AnswerStatus::kOk);
  std::uint64_t sequence = 0;
  for (const abi::MailboxRequest& command : substrate.commands) {
    EXPECT_EQ(command.magic, abi::kMailboxMagic);
    EXPECT_EQ(command.version, abi::kMailboxVersion);
    EXPECT_EQ(command.sequence, ++sequence);
    EXPECT_EQ(command.doorbell, abi::Doorbell::kMmio);
    EXPECT_EQ(command.operation, 3U);
    EXPECT_EQ(command.seed, 42U);
    EXPECT_EQ(command.parameters[1], 22U);
    EXPECT_GE(command.iterations, 1U);
  }
}

TEST(MeasureTest, WarmsUpUntilBatchesAgree) {
  FakeSubstrate substrate;
  int batch = 0;
  Request request = SampleRequest();
  request.iterations = 1000;
  substrate.change = [&batch](const auto& command, auto& reply, auto& outcome) {
    if (command.command != abi::Command::kRun || ++batch > 4) return;
    const std::uint64_t slower = 1'000'000ULL >> batch;  // cold: each batch is faster than the one before it
    reply.tsc_end += slower;
    outcome.outside_ns += slower;
  };
  const Answer answer = Measure(substrate, request);
  ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
  EXPECT_GE(answer.warmup_batches, 5U);
  EXPECT_LT(answer.warmup_batches, 10U);
  for (const Sample& sample : answer.samples) EXPECT_EQ(sample.inside_ns, 10'000.0);
}

TEST(MeasureTest, GivesUpWarmingUpWhenBatchesNeverAgree) {
  FakeSubstrate substrate;
  int batch = 0;
  substrate.change = [&batch](const auto& command, auto& reply, auto& outcome) {
    if (command.command != abi::Command::kRun || ++batch % 2 == 0) return;
    reply.tsc_end += 5'000'000;
    outcome.outside_ns += 5'000'000;
  };
  const Answer answer = Measure(substrate, SampleRequest());
  EXPECT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
  EXPECT_EQ(answer.warmup_batches, 10U);
}

TEST(MeasureTest, VoidsASampleOnWhichTheClocksDisagree) {
  FakeSubstrate substrate;
  Request request = SampleRequest();
  request.iterations = 1'000'000;
  request.max_warmup_batches = 0;
  int batch = 0;
  substrate.change = [&batch](const auto& command, auto&, auto& outcome) {
    if (command.command == abi::Command::kRun && ++batch == 2) outcome.outside_ns += 60'000;  // 0.6 %
  };
  const Answer answer = Measure(substrate, request);
  ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
  EXPECT_EQ(answer.voided, 1U);
  EXPECT_EQ(answer.samples.size(), 5U);
  EXPECT_EQ(answer.clock_disagreement_max, 0.0);
}

TEST(MeasureTest, KeepsASampleWithinTheTolerance) {
  FakeSubstrate substrate;
  Request request = SampleRequest();
  request.iterations = 1'000'000;
  substrate.change = [](const auto& command, auto&, auto& outcome) {
    if (command.command == abi::Command::kRun) outcome.outside_ns -= 40'000;  // 0.4 %
  };
  const Answer answer = Measure(substrate, request);
  ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
  EXPECT_EQ(answer.voided, 0U);
  EXPECT_NEAR(answer.clock_disagreement_max, 0.004, 1e-9);
}

TEST(MeasureTest, FailsWhenEverySampleIsVoid) {
  FakeSubstrate substrate;
  substrate.change = [](const auto& command, auto& reply, auto&) {
    if (command.command == abi::Command::kRun) reply.tsc_end = reply.tsc_begin + 1;  // "no time has passed"
  };
  Request request = SampleRequest();
  request.iterations = 1000;
  const Answer answer = Measure(substrate, request);
  EXPECT_EQ(answer.status, AnswerStatus::kFailed);
  EXPECT_THAT(answer.reason, HasSubstr("every sample is void"));
  EXPECT_TRUE(answer.samples.empty());
  EXPECT_EQ(answer.voided, 15U);  // three times the wanted samples, then it gives up
}

TEST(MeasureTest, SurvivesTimesThatAreLies) {
  for (const std::uint64_t ticks : {std::uint64_t{1}, std::uint64_t{1} << 40, ~std::uint64_t{0} - 1'000'000}) {
    FakeSubstrate substrate;
    substrate.change = [ticks](const auto& command, auto& reply, auto&) {
      if (command.command == abi::Command::kRun) reply.tsc_end = reply.tsc_begin + ticks;
    };
    const Answer answer = Measure(substrate, SampleRequest());  // calibrates by these times
    EXPECT_EQ(answer.status, AnswerStatus::kFailed) << ticks;
    EXPECT_GE(answer.iterations, 1U);
    EXPECT_TRUE(answer.samples.empty());
  }
}

struct Lie {
  const char* name;
  AnswerStatus status;
  const char* reason;
  std::function<void(const abi::MailboxRequest&, abi::MailboxReply&, CallOutcome&)> change;
};

class LyingGuestTest : public testing::TestWithParam<Lie> {};

TEST_P(LyingGuestTest, EndsWithAStatusAndAReason) {
  FakeSubstrate substrate;
  substrate.change = GetParam().change;
  Request request = SampleRequest();
  request.iterations = 1000;
  const Answer answer = Measure(substrate, request);
  EXPECT_EQ(answer.status, GetParam().status);
  EXPECT_THAT(answer.reason, HasSubstr(GetParam().reason));
}

bool IsRun(const abi::MailboxRequest& request) { return request.command == abi::Command::kRun; }

INSTANTIATE_TEST_SUITE_P(
    Lies, LyingGuestTest,
    testing::Values(Lie{"SequenceStands", AnswerStatus::kError, "answers command",
                        [](const auto& request, auto& reply, auto&) {
                          if (IsRun(request)) reply.sequence = 1;
                        }},
                    Lie{"NeverAnswers", AnswerStatus::kError, "answers command",
                        [](const auto&, auto& reply, auto&) { reply = {}; }},
                    Lie{"UnknownStatus", AnswerStatus::kError, "status 99",
                        [](const auto&, auto& reply, auto&) { reply.status = static_cast<abi::PayloadStatus>(99); }},
                    Lie{"NotRun", AnswerStatus::kError, "without a message",
                        [](const auto&, auto& reply, auto&) { reply.status = abi::PayloadStatus::kNotRun; }},
                    Lie{"NoTime", AnswerStatus::kError, "time stamps",
                        [](const auto&, auto& reply, auto&) { reply.tsc_end = reply.tsc_begin; }},
                    Lie{"TimeRunsBackwards", AnswerStatus::kError, "time stamps",
                        [](const auto&, auto& reply, auto&) { reply.tsc_end = 0; }},
                    Lie{"LessTimeThanPassed", AnswerStatus::kFailed, "void",
                        [](const auto&, auto& reply, auto&) { reply.tsc_end = reply.tsc_begin + 100; }},
                    Lie{"MoreTimeThanPassed", AnswerStatus::kFailed, "void",
                        [](const auto&, auto& reply, auto&) { reply.tsc_end += 1'000'000; }},
                    Lie{"NoOperations", AnswerStatus::kError, "operations",
                        [](const auto&, auto& reply, auto&) { reply.operations = 0; }},
                    Lie{"TooFewOperations", AnswerStatus::kError, "operations",
                        [](const auto&, auto& reply, auto&) {
                          reply.operations = std::min<std::uint64_t>(reply.operations, 999);
                        }},
                    Lie{"ChangingOperations", AnswerStatus::kFailed, "operations",
                        [](const auto& request, auto& reply, auto&) { reply.operations += request.sequence; }},
                    Lie{"ChangingBytes", AnswerStatus::kFailed, "bytes",
                        [](const auto& request, auto& reply, auto&) { reply.bytes = request.sequence; }},
                    Lie{"ChangingChecksum", AnswerStatus::kFailed, "checksum",
                        [](const auto& request, auto& reply, auto&) { reply.checksum = request.sequence; }}),
    [](const auto& info) { return info.param.name; });

// What a payload says of itself at any of its commands.
TEST(MeasureTest, PassesOnWhatThePayloadSays) {
  struct Case {
    abi::PayloadStatus said;
    AnswerStatus expected;
  };
  for (const Case& one : {Case{abi::PayloadStatus::kWrongResult, AnswerStatus::kFailed},
                          Case{abi::PayloadStatus::kBadRequest, AnswerStatus::kError},
                          Case{abi::PayloadStatus::kUnsupported, AnswerStatus::kUnsupported}}) {
    for (const abi::Command at : {abi::Command::kSetUp, abi::Command::kRun, abi::Command::kVerify}) {
      FakeSubstrate substrate;
      substrate.change = [&one, at](const auto& command, auto& reply, auto&) {
        if (command.command != at) return;
        reply.status = one.said;
        std::strcpy(reply.message, "because\tof this");
      };
      const Answer answer = Measure(substrate, SampleRequest());
      EXPECT_EQ(answer.status, one.expected);
      EXPECT_EQ(answer.reason, "because?of this");
    }
  }
}

TEST(MeasureTest, KeepsTheSamplesOfAMeasurementThatFailsToVerify) {
  FakeSubstrate substrate;
  substrate.change = [](const auto& command, auto& reply, auto&) {
    if (command.command == abi::Command::kVerify) reply.status = abi::PayloadStatus::kWrongResult;
  };
  const Answer answer = Measure(substrate, SampleRequest());
  EXPECT_EQ(answer.status, AnswerStatus::kFailed);
  EXPECT_EQ(answer.samples.size(), 5U);
}

TEST(MeasureTest, ReportsACrashWithItsCause) {
  FakeSubstrate substrate;
  substrate.change = [](const auto& command, auto&, auto& outcome) {
    if (command.command == abi::Command::kRun) outcome = {CallEnd::kCrashed, "guest exception, vector 6", 0};
  };
  const Answer answer = Measure(substrate, SampleRequest());
  EXPECT_EQ(answer.status, AnswerStatus::kCrashed);
  EXPECT_EQ(answer.reason, "guest exception, vector 6");
}

TEST(MeasureTest, ReportsACallThatRunsIntoItsLimit) {
  FakeSubstrate substrate;
  substrate.change = [](const auto& command, auto&, auto& outcome) {
    if (command.command == abi::Command::kRun) outcome.end = CallEnd::kTimedOut;
  };
  const Answer answer = Measure(substrate, SampleRequest());
  EXPECT_EQ(answer.status, AnswerStatus::kTimeout);
  EXPECT_THAT(answer.reason, HasSubstr("60 s"));
}

TEST(MeasureTest, EndsAtTheDeadlineBetweenCalls) {
  FakeSubstrate substrate;
  substrate.change = [](const auto&, auto&, auto&) { std::this_thread::sleep_for(2ms); };
  Request request = SampleRequest();
  request.deadline_ns = 20'000'000;
  const auto begin = std::chrono::steady_clock::now();
  const Answer answer = Measure(substrate, request);
  EXPECT_EQ(answer.status, AnswerStatus::kTimeout);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  EXPECT_LE(substrate.last_limit, 20ms);
  EXPECT_GT(substrate.last_limit, 0ms);
}

}  // namespace
}  // namespace nestbench::substrates
