// Each workload of the quick profile on its image, in a child process: results verified, checksums that follow from the
// seed, hostile requests refused.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <iterator>

#include "image_process.h"
#include "nestbench/payload/exit_operations.h"
#include "nestbench/workloads/catalogue.h"

namespace nestbench::payload {
namespace {

using abi::Command;
using abi::PayloadStatus;
using workloads::Workload;

std::string ImagePath(const std::string& image) { return std::string(NESTBENCH_IMAGES_FOLDER) + "/" + image + ".elf"; }

std::vector<Workload> QuickWorkloads() {
  std::vector<Workload> quick;
  std::ranges::copy_if(workloads::Catalogue(), std::back_inserter(quick), [](const Workload& workload) {
    return workloads::Includes(workloads::Profile::kQuick, workload);
  });
  return quick;
}

std::string TestName(const testing::TestParamInfo<Workload>& info) {
  std::string name = workloads::Id(info.param, "overhead", "bare");
  name = name.substr(name.find('/') + 1, name.rfind('/') - name.find('/') - 1);
  std::ranges::replace_if(
      name, [](char c) { return std::isalnum(static_cast<unsigned char>(c)) == 0; }, '_');
  return name;
}

// Few enough to be quick where one iteration is a pass over the arena, a sort or a matrix product.
std::uint64_t Iterations(const Workload& workload) {
  if (workload.fixed_iterations != 0) return workload.fixed_iterations;
  return workload.direction == workloads::Direction::kHigher && workload.image != "memory_gups" ? 2 : 1000;
}

std::vector<abi::MailboxRequest> Requests(const Workload& workload, std::uint64_t seed,
                                          std::initializer_list<Command> commands) {
  std::vector<abi::MailboxRequest> requests;
  for (const Command command : commands) {
    abi::MailboxRequest request = MakeRequest(command, workload.arena_bytes);
    request.sequence = requests.size() + 1;
    request.operation = workload.operation;
    request.seed = seed;
    request.iterations = Iterations(workload);
    std::ranges::copy(workload.parameters, request.parameters);
    requests.push_back(request);
  }
  return requests;
}

ImageRun RunWorkload(const Workload& workload, const std::vector<abi::MailboxRequest>& requests) {
  return RunImage(ImagePath(workload.image), workload.arena_bytes, workload.reset_arena, requests);
}

// Empty when every request was answered with kOk; else what happened.
std::string WhyNotOk(const ImageRun& run, std::size_t requests) {
  if (!run.error.empty()) return run.error;
  if (WIFSIGNALED(run.wait_status)) return "killed by signal " + std::to_string(WTERMSIG(run.wait_status));
  for (const abi::MailboxReply& reply : run.replies) {
    if (reply.status != PayloadStatus::kOk) {
      return "status " + std::to_string(static_cast<unsigned>(reply.status)) + ": " + reply.message;
    }
  }
  return run.replies.size() == requests ? "" : "not every request was answered";
}

bool IsUnsupported(const ImageRun& run) {
  return !run.replies.empty() && run.replies[0].status == PayloadStatus::kUnsupported;
}

class QuickWorkloadTest : public testing::TestWithParam<Workload> {};

TEST_P(QuickWorkloadTest, VerifiesEveryBatchAndRepeatsItsChecksum) {
  // Two batches before a check, then one more: what a check leaves behind must not spoil the next batch.
  const auto requests = Requests(GetParam(), 1,
                                 {Command::kNone, Command::kSetUp, Command::kRun, Command::kVerify, Command::kRun,
                                  Command::kRun, Command::kRun, Command::kVerify});
  const ImageRun run = RunWorkload(GetParam(), requests);
  if (run.replies.size() > 1 && run.replies[1].status == PayloadStatus::kUnsupported) {
    GTEST_SKIP() << run.replies[1].message;
  }
  ASSERT_EQ(WhyNotOk(run, requests.size()), "");
  const abi::MailboxReply& first = run.replies[2];
  for (std::size_t i = 2; i < run.replies.size(); ++i) {
    EXPECT_EQ(run.replies[i].checksum, first.checksum);
    EXPECT_EQ(run.replies[i].sequence, requests[i].sequence);
    if (requests[i].command != Command::kRun) continue;
    EXPECT_GT(run.replies[i].tsc_end, run.replies[i].tsc_begin);
    EXPECT_GE(run.replies[i].operations, Iterations(GetParam()));
    EXPECT_EQ(run.replies[i].operations, first.operations);
    EXPECT_EQ(run.replies[i].bytes, first.bytes);
    EXPECT_TRUE(GetParam().metric != workloads::Metric::kBytesPerNs || run.replies[i].bytes > 0);
  }
}

TEST_P(QuickWorkloadTest, DerivesItsChecksumFromTheSeed) {
  const auto checksum = [](std::uint64_t seed) {
    const auto requests = Requests(GetParam(), seed, {Command::kSetUp, Command::kRun});
    const ImageRun run = RunWorkload(GetParam(), requests);
    if (!IsUnsupported(run)) {
      EXPECT_EQ(WhyNotOk(run, requests.size()), "");
    }
    return run.replies.empty() ? 0 : run.replies.back().checksum;
  };
  const std::uint64_t first = checksum(7);
  if (first == 0) GTEST_SKIP() << "not supported by this CPU";
  EXPECT_EQ(first, checksum(7));
  EXPECT_NE(first, checksum(8));
}

TEST_P(QuickWorkloadTest, RefusesHostileRequests) {
  const Workload& workload = GetParam();
  const auto refuses = [&](const char* what, std::uint64_t arena_bytes, auto&& change) {
    auto requests = Requests(workload, 1, {Command::kSetUp});
    requests[0].arena_bytes = arena_bytes;
    change(requests[0]);
    const ImageRun run = RunWorkload(workload, requests);
    ASSERT_EQ(run.error, "") << what;
    ASSERT_TRUE(WIFEXITED(run.wait_status)) << what;
    ASSERT_EQ(run.replies.size(), 1U) << what;
    EXPECT_EQ(run.replies[0].status, PayloadStatus::kBadRequest) << what;
    EXPECT_NE(run.replies[0].message[0], '\0') << what;
  };
  const std::uint64_t arena = workload.arena_bytes;
  refuses("operation", arena, [](auto& request) { request.operation = 99; });
  refuses("largest operation", arena, [](auto& request) { request.operation = ~0ULL; });
  refuses("no iterations", arena, [](auto& request) { request.iterations = 0; });
  refuses("magic", arena, [](auto& request) { request.magic = 0; });
  refuses("version", arena, [](auto& request) { request.version = 0; });
  refuses("command", arena, [](auto& request) { request.command = static_cast<Command>(77); });
  refuses("arena elsewhere", arena, [](auto& request) { request.arena_base = 0x1000; });
  refuses("run before set-up", arena, [](auto& request) { request.command = Command::kRun; });
  refuses("verify before run", arena, [](auto& request) { request.command = Command::kVerify; });
  if (arena != 0) {
    refuses("no arena", 0, [](auto&) {});
    refuses("tiny arena", 64, [](auto&) {});
    refuses("arena beyond the map", ~0ULL, [](auto&) {});
  }
  if (workload.parameters[0] != 0) {
    refuses("huge parameters", arena, [](auto& request) { std::ranges::fill(request.parameters, ~0ULL); });
    refuses("large odd parameters", arena,
            [](auto& request) { std::ranges::fill(request.parameters, 1ULL << 63 | 1); });
    refuses("parameters of 0", arena, [](auto& request) { std::ranges::fill(request.parameters, 0); });
    refuses("parameters of 1", arena, [](auto& request) { std::ranges::fill(request.parameters, 1); });
  }
}

TEST_P(QuickWorkloadTest, RunsASingleIteration) {
  auto requests = Requests(GetParam(), 3, {Command::kSetUp, Command::kRun, Command::kVerify});
  for (abi::MailboxRequest& request : requests) request.iterations = 1;
  const ImageRun run = RunWorkload(GetParam(), requests);
  if (IsUnsupported(run)) GTEST_SKIP() << run.replies[0].message;
  EXPECT_EQ(WhyNotOk(run, requests.size()), "");
}

TEST_P(QuickWorkloadTest, RunsOnlyWhatWasSetUp) {
  auto requests = Requests(GetParam(), 3, {Command::kSetUp, Command::kRun, Command::kVerify});
  requests[1].seed = 4;
  const ImageRun run = RunWorkload(GetParam(), requests);
  if (IsUnsupported(run)) GTEST_SKIP() << run.replies[0].message;
  ASSERT_EQ(run.replies.size(), 3U);
  EXPECT_EQ(run.replies[0].status, PayloadStatus::kOk);
  EXPECT_EQ(run.replies[1].status, PayloadStatus::kBadRequest);
  EXPECT_EQ(run.replies[2].status, PayloadStatus::kBadRequest);
}

INSTANTIATE_TEST_SUITE_P(Catalogue, QuickWorkloadTest, testing::ValuesIn(QuickWorkloads()), TestName);

TEST(FirstTouchTest, NoticesAnArenaThatIsNotFresh) {
  constexpr std::uint64_t kArenaBytes = abi::kLargePageBytes;
  std::vector<abi::MailboxRequest> requests;
  for (const Command command : {Command::kSetUp, Command::kRun, Command::kRun}) {
    requests.push_back(MakeRequest(command, kArenaBytes));
    requests.back().iterations = kArenaBytes / abi::kPageBytes;
  }
  const ImageRun run = RunImage(ImagePath("memory_first_touch"), kArenaBytes, false, requests);
  ASSERT_EQ(run.replies.size(), 3U) << run.error;
  EXPECT_EQ(run.replies[1].status, PayloadStatus::kOk);
  EXPECT_EQ(run.replies[2].status, PayloadStatus::kWrongResult);
  EXPECT_THAT(run.replies[2].message, testing::HasSubstr("fresh"));
}

TEST(GupsTest, VerifiesAfterBatchesOfManyLengths) {
  constexpr std::uint64_t kArenaBytes = abi::kLargePageBytes;
  std::vector<abi::MailboxRequest> requests = {MakeRequest(Command::kSetUp, kArenaBytes)};
  for (std::uint64_t length = 1; length <= 4096; length *= 2) {
    requests.push_back(MakeRequest(Command::kRun, kArenaBytes));
    requests.back().iterations = length;
  }
  requests.push_back(requests.back());
  requests.back().command = Command::kVerify;
  for (abi::MailboxRequest& request : requests) request.parameters[0] = kArenaBytes;
  EXPECT_EQ(WhyNotOk(RunImage(ImagePath("memory_gups"), kArenaBytes, false, requests), requests.size()), "");
}

// A wrong result must be seen: the arena is made fresh between set-up and batch, which takes away what was stored.
TEST(VerifyTest, NoticesMemoryThatChanged) {
  for (const Workload& workload : QuickWorkloads()) {
    if (workload.image != "memory_bandwidth" && workload.image != "memory_gups" && workload.image != "cpu_hash")
      continue;
    const auto requests = Requests(workload, 5, {Command::kSetUp, Command::kRun, Command::kVerify});
    const ImageRun run = RunImage(ImagePath(workload.image), workload.arena_bytes, true, requests);
    if (IsUnsupported(run)) continue;
    ASSERT_EQ(run.replies.size(), 3U) << workload.name << run.error;
    EXPECT_EQ(run.replies[2].status, PayloadStatus::kWrongResult) << workload.name;
    EXPECT_NE(run.replies[2].message[0], '\0');
  }
}

TEST(ExitsTest, RunsInAProcessWhatAProcessMayDo) {
  for (const ExitOperation operation : {ExitOperation::kCpuid, ExitOperation::kRdtsc}) {
    std::vector<abi::MailboxRequest> requests;
    for (const Command command : {Command::kSetUp, Command::kRun, Command::kVerify}) {
      requests.push_back(MakeRequest(command, 0));
      requests.back().operation = static_cast<std::uint64_t>(operation);
      requests.back().iterations = 10;
    }
    const ImageRun run = RunImage(ImagePath("exits"), 0, false, requests);
    EXPECT_EQ(WhyNotOk(run, requests.size()), "");
  }
}

TEST(ExitsTest, RefusesAnUnknownOperation) {
  abi::MailboxRequest request = MakeRequest(Command::kSetUp, 0);
  request.operation = kExitOperationCount;
  const ImageRun run = RunImage(ImagePath("exits"), 0, false, {request});
  ASSERT_EQ(run.replies.size(), 1U) << run.error;
  EXPECT_EQ(run.replies[0].status, PayloadStatus::kBadRequest);
}

TEST(EntryTest, CrashesOnADoorbellThatItCannotRing) {
  abi::MailboxRequest request = MakeRequest(Command::kNone, 0);
  request.doorbell = static_cast<abi::Doorbell>(9);
  const ImageRun run = RunImage(ImagePath("cpu_integer"), 0, false, {request});
  EXPECT_TRUE(WIFSIGNALED(run.wait_status) && WTERMSIG(run.wait_status) == SIGILL);
}

}  // namespace
}  // namespace nestbench::payload
