// nestbench-guest as the supervisor sees it: what it answers, what holds it, and what it leaves behind.
#include "guest_process.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <initializer_list>
#include <optional>
#include <regex>
#include <tuple>
#include <vector>

#include "nestbench/substrates/substrate.h"
#include "nestbench/vmm/digest/sha256.h"
#include "nestbench/vmm/loader/elf.h"
#include "nestbench/vmm/loader/loaded_file.h"

namespace nestbench::substrates {
namespace {

using namespace std::chrono_literals;
using testing::Eventually;
using testing::GuestEnd;
using testing::GuestProcess;
using ::testing::HasSubstr;
using testing::IntegerRequest;
using ::testing::MatchesRegex;
using testing::NetworkRequest;
using testing::ReadText;

constexpr const char* kImage = NESTBENCH_IMAGES_FOLDER "/cpu_integer.elf";
constexpr std::size_t kMaxImageBytes = 1 << 20;

std::vector<std::byte> ImageBytes() {
  auto file = vmm::LoadedFile::Read(kImage, kMaxImageBytes);
  if (!file) throw std::runtime_error(file.error().ToString());
  return {file->bytes().begin(), file->bytes().end()};
}

// Files of one test, removed after it.
class GuestProcessTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "nestbench-guest-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, std::span<const std::byte> bytes) const {
    std::string path = (folder_ / name).string();
    std::ofstream(path, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return path;
  }

  // The image with other code at its entry: a payload that does as it likes.
  [[nodiscard]] std::string ImageWithCode(std::initializer_list<int> code) const {
    std::vector<std::byte> bytes = ImageBytes();
    const auto image = vmm::ParseElf(bytes, {abi::GuestPhysAddr(abi::kImageBase), abi::kImageMaxBytes});
    if (!image) throw std::runtime_error(image.error().ToString());
    const vmm::ElfSegment& text = image->segments().front();
    auto at = static_cast<std::size_t>(text.file_bytes.data() - bytes.data()) + image->entry().value() -
              text.memory.start.value();
    for (const int value : code) bytes.at(at++) = static_cast<std::byte>(value);
    return Write("patched.elf", bytes);
  }

  std::filesystem::path folder_;
};

class EachSubstrateTest : public GuestProcessTest, public ::testing::WithParamInterface<SubstrateKind> {};

std::string Line(const Request& request) { return ToJson(request).dump() + "\n"; }

// The answer of a process that ended well; throws otherwise.
Answer AnswerOf(const GuestEnd& end) {
  if (end.killed_by_us || !WIFEXITED(end.wait_status) || WEXITSTATUS(end.wait_status) != 0) {
    throw std::runtime_error("wait status " + std::to_string(end.wait_status) + ": " + end.error_text);
  }
  auto answer = ParseAnswer(end.output);
  if (!answer) throw std::runtime_error(answer.error().ToString() + ": " + end.output);
  return std::move(*answer);
}

Answer Measured(const Request& request) { return AnswerOf(GuestProcess(Line(request)).Wait()); }

// On a busy machine the clocks may disagree on every sample of one process, which the supervisor expects as well.
Answer RunUntilKept(const Request& request) {
  Answer answer = Measured(request);
  for (int again = 0; again < 4 && answer.status == AnswerStatus::kFailed && answer.voided != 0; ++again) {
    answer = Measured(request);
  }
  return answer;
}

// The doorbell of a guest here, or nothing, and why, where no guest can run.
std::optional<abi::Doorbell> GuestDoorbell(std::string& why) {
  auto doorbell = ChooseDoorbell(ImageBytes(), 5s);
  if (doorbell) return *doorbell;
  why = doorbell.error().ToString();
  return std::nullopt;
}

#define NESTBENCH_REQUIRE_GUEST(request)                             \
  if ((request).substrate == SubstrateKind::kVm) {                   \
    std::string why;                                                 \
    const auto doorbell = GuestDoorbell(why);                        \
    if (!doorbell) GTEST_SKIP() << "no guest can run here: " << why; \
    (request).doorbell = *doorbell;                                  \
  }

TEST_F(GuestProcessTest, AllSubstratesRunOneDigestAndComputeTheSame) {
  Request in_process = IntegerRequest(SubstrateKind::kBare);
  Request in_guest = IntegerRequest(SubstrateKind::kVm);
  NESTBENCH_REQUIRE_GUEST(in_guest);
  const Answer bare = RunUntilKept(in_process);
  const Answer vm = RunUntilKept(in_guest);
  ASSERT_EQ(bare.status, AnswerStatus::kOk) << bare.reason;
  ASSERT_EQ(vm.status, AnswerStatus::kOk) << vm.reason;
  EXPECT_EQ(bare.image_sha256, vmm::Sha256Hex(ImageBytes()).value());
  EXPECT_EQ(bare.image_sha256, vm.image_sha256);
  EXPECT_EQ(bare.checksum, vm.checksum);
  EXPECT_NE(bare.checksum, 0U);
  EXPECT_EQ(bare.exits, 0U);
}

TEST_P(EachSubstrateTest, MeasuresWhatWasAskedFor) {
  Request request = IntegerRequest(GetParam());
  NESTBENCH_REQUIRE_GUEST(request);
  const Answer answer = RunUntilKept(request);
  ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
  EXPECT_LE(answer.samples.size(), 3U);
  EXPECT_EQ(answer.iterations, request.iterations);
  for (const Sample& sample : answer.samples) {
    EXPECT_EQ(sample.operations, request.iterations);
    EXPECT_NEAR(sample.inside_ns / sample.outside_ns, 1.0, 0.006);
  }
  request.seed = 6;
  EXPECT_NE(RunUntilKept(request).checksum, answer.checksum);
}

TEST_P(EachSubstrateTest, CalibratesToTheTargetTime) {
  Request request = IntegerRequest(GetParam());
  NESTBENCH_REQUIRE_GUEST(request);
  request.iterations = 0;
  request.batch_target_ns = 20'000'000;
  const Answer answer = RunUntilKept(request);
  ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
  for (const Sample& sample : answer.samples) {
    EXPECT_GT(sample.inside_ns, 0.2 * 20e6);
    EXPECT_LT(sample.inside_ns, 5 * 20e6);
  }
}

TEST_P(EachSubstrateTest, PassesOnThatThePayloadRefuses) {
  Request request = IntegerRequest(GetParam());
  NESTBENCH_REQUIRE_GUEST(request);
  request.operation = 7;
  const Answer answer = Measured(request);
  EXPECT_EQ(answer.status, AnswerStatus::kError);
  EXPECT_THAT(answer.reason, HasSubstr("operation must be 0"));
}

TEST_P(EachSubstrateTest, RefusesACorruptedImage) {
  const std::vector<std::byte> bytes = ImageBytes();
  Request request = IntegerRequest(GetParam());
  NESTBENCH_REQUIRE_GUEST(request);
  for (const std::size_t kept : {std::size_t{0}, std::size_t{63}, bytes.size() / 4}) {
    request.image = Write("truncated.elf", std::span(bytes).first(kept));
    const Answer answer = Measured(request);
    EXPECT_EQ(answer.status, AnswerStatus::kError) << kept;
    EXPECT_THAT(answer.reason, HasSubstr("load ELF image")) << kept;
  }
  std::vector<std::byte> wrong = bytes;
  wrong[0] = std::byte{'M'};
  request.image = Write("wrong.elf", wrong);
  EXPECT_THAT(Measured(request).reason, HasSubstr("not an ELF file"));
}

TEST_P(EachSubstrateTest, RefusesAFileThatIsNoImage) {
  Request request = IntegerRequest(GetParam());
  for (const std::string& path : {(folder_ / "missing.elf").string(), folder_.string(), std::string()}) {
    request.image = path;
    const Answer answer = Measured(request);
    EXPECT_EQ(answer.status, AnswerStatus::kError) << path;
    EXPECT_THAT(answer.reason, HasSubstr(path));
  }
}

TEST_P(EachSubstrateTest, RefusesACpuThatIsNotThere) {
  Request request = IntegerRequest(GetParam());
  for (const int cpu : {CPU_SETSIZE - 1, CPU_SETSIZE, 999'999'999}) {
    request.cpu = cpu;
    const Answer answer = Measured(request);
    EXPECT_EQ(answer.status, AnswerStatus::kError);
    EXPECT_THAT(answer.reason, HasSubstr("CPU " + std::to_string(cpu)));
  }
}

TEST_F(GuestProcessTest, AnswersARequestThatIsNone) {
  for (const char* line : {"\n", "{}\n", "not json\n", "{\"protocol\":1}\n"}) {
    const Answer answer = AnswerOf(GuestProcess(line).Wait());
    EXPECT_EQ(answer.status, AnswerStatus::kError) << line;
    EXPECT_THAT(answer.reason, HasSubstr("guest request")) << line;
  }
}

TEST_F(GuestProcessTest, SaysWhoseProgramItIsWithoutARequest) {
  const GuestEnd end = GuestProcess("").Wait();
  ASSERT_TRUE(WIFEXITED(end.wait_status));
  EXPECT_EQ(WEXITSTATUS(end.wait_status), 2);
  EXPECT_EQ(end.output, "");
  EXPECT_THAT(end.error_text, HasSubstr("run nestbench"));
}

TEST_F(GuestProcessTest, IsUnsupportedWithAReasonWithoutDevKvm) {
  // A /dev of its own with nothing in it.
  const auto hide_devices = [] {
    if (::unshare(CLONE_NEWNS) != 0 && ::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) return false;
    return ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
           ::mount("tmpfs", "/dev", "tmpfs", 0, nullptr) == 0;
  };
  GuestProcess process(Line(IntegerRequest(SubstrateKind::kVm)), hide_devices);
  const GuestEnd end = process.Wait();
  if (WIFEXITED(end.wait_status) && WEXITSTATUS(end.wait_status) == GuestProcess::kCannotPrepare) {
    GTEST_SKIP() << "no mount namespace may be made here";
  }
  const Answer answer = AnswerOf(end);
  EXPECT_EQ(answer.status, AnswerStatus::kUnsupported);
  EXPECT_THAT(answer.reason, HasSubstr("/dev/kvm"));
  EXPECT_THAT(answer.reason, HasSubstr("No such file"));
}

TEST_F(GuestProcessTest, ReportsAGuestThatCrashes) {
  Request request = IntegerRequest(SubstrateKind::kVm);
  NESTBENCH_REQUIRE_GUEST(request);
  request.image = ImageWithCode({0x0F, 0x0B});  // ud2
  const Answer answer = Measured(request);
  EXPECT_EQ(answer.status, AnswerStatus::kCrashed);
  EXPECT_THAT(answer.reason, HasSubstr("vector 6"));
}

TEST_F(GuestProcessTest, EndsAGuestThatSpins) {
  Request request = IntegerRequest(SubstrateKind::kVm);
  NESTBENCH_REQUIRE_GUEST(request);
  request.image = ImageWithCode({0xEB, 0xFE});  // jmp to itself
  request.deadline_ns = 300'000'000;
  const auto begin = std::chrono::steady_clock::now();
  const Answer answer = Measured(request);
  EXPECT_EQ(answer.status, AnswerStatus::kTimeout);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 10s);
}

TEST_F(GuestProcessTest, ReportsAGuestThatRingsWithoutAnAnswer) {
  Request request = IntegerRequest(SubstrateKind::kVm);
  NESTBENCH_REQUIRE_GUEST(request);
  if (request.doorbell == abi::Doorbell::kPort) {
    request.image = ImageWithCode({0xBA, 0x20, 0x0B, 0, 0, 0xEF, 0xEB, 0xFD});  // mov edx, 0xB20; out dx, eax; again
  } else {
    request.image = ImageWithCode({0xB8, 0, 0, 0, 0xD0, 0x89, 0x00, 0xEB, 0xFC});  // mov eax, the page; mov [rax], eax
  }
  const Answer answer = Measured(request);
  EXPECT_EQ(answer.status, AnswerStatus::kError);
  EXPECT_THAT(answer.reason, HasSubstr("answers command 0"));
}

TEST_F(GuestProcessTest, KillsAProcessThatMakesASystemCallOfItsOwn) {
#ifdef NESTBENCH_SANITIZED
  GTEST_SKIP() << "a sanitizer's runtime needs system calls that the filter forbids: there is no filter in this build";
#endif
  Request request = IntegerRequest(SubstrateKind::kBare);
  request.image = ImageWithCode({0xB8, 57, 0, 0, 0, 0x0F, 0x05, 0xC3});  // mov eax, SYS_fork; syscall; ret
  const GuestEnd end = GuestProcess(Line(request)).Wait();
  ASSERT_TRUE(WIFSIGNALED(end.wait_status)) << end.output;
  EXPECT_EQ(WTERMSIG(end.wait_status), SIGSYS);
  EXPECT_EQ(end.output, "");
}

// One line of a file of /proc, from its label to its end; empty when it is not there.
std::string LineOf(const std::string& text, const std::string& label) {
  const std::size_t begin = text.find(label);
  return begin == std::string::npos ? "" : text.substr(begin, text.find('\n', begin) - begin);
}

// A measurement that does not end by itself for a minute.
Request EndlessRequest(SubstrateKind substrate) {
  Request request = IntegerRequest(substrate);
  request.iterations = 1ULL << 40;
  request.deadline_ns = 60'000'000'000;
  return request;
}

// Whether all that confines the process is in place.
bool IsConfined(const std::string& proc) {
#ifdef NESTBENCH_SANITIZED
  return LineOf(ReadText(proc + "/status"), "NoNewPrivs:") == "NoNewPrivs:\t1";
#else
  return LineOf(ReadText(proc + "/status"), "Seccomp:") == "Seccomp:\t2";
#endif
}

// What a process has open besides pipes, the descriptors of a VM and files of /proc.
std::vector<std::string> FilesOpenIn(const std::string& proc) {
  std::vector<std::string> files;
  const std::regex expected("(pipe|anon_inode|socket):.*|/dev/kvm|/proc/.*");
  for (const auto& entry : std::filesystem::directory_iterator(proc + "/fd")) {
    std::error_code gone;  // a descriptor closed in between has no target
    std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
    if (!gone && !std::regex_match(target, expected)) files.push_back(std::move(target));
  }
  return files;
}

// Where this process may make no namespaces, or there is no tap, that is its answer: no failure.
#define NESTBENCH_REQUIRE_NETWORK(answer) \
  if ((answer).status == AnswerStatus::kUnsupported) GTEST_SKIP() << (answer).reason

class EachNetworkTest : public GuestProcessTest,
                        public ::testing::WithParamInterface<std::tuple<payload::NetOperation, NetPeer>> {};

TEST_P(EachNetworkTest, GuestAndTwinDeliverTheSame) {
  const auto [operation, peer] = GetParam();
  const Answer bare = RunUntilKept(NetworkRequest(SubstrateKind::kBare, operation, peer));
  NESTBENCH_REQUIRE_NETWORK(bare);
  ASSERT_EQ(bare.status, AnswerStatus::kOk) << bare.reason;
  Request in_guest = NetworkRequest(SubstrateKind::kVm, operation, peer);
  NESTBENCH_REQUIRE_GUEST(in_guest);
  const Answer vm = RunUntilKept(in_guest);
  NESTBENCH_REQUIRE_NETWORK(vm);
  ASSERT_EQ(vm.status, AnswerStatus::kOk) << vm.reason;
  EXPECT_NE(bare.checksum, 0U);
  EXPECT_EQ(bare.checksum, vm.checksum);
  EXPECT_EQ(bare.exits, 0U);
  EXPECT_GT(vm.exits, 0U);
  for (const Answer& answer : {bare, vm}) {
    ASSERT_FALSE(answer.samples.empty());
    EXPECT_EQ(answer.samples[0].operations, in_guest.iterations);
    EXPECT_EQ(answer.samples[0].bytes, in_guest.iterations * (in_guest.parameters[0] - payload::kDatagramHeaderBytes));
    const bool has_latencies = operation == payload::NetOperation::kPingPong;
    EXPECT_EQ(answer.latencies.count, has_latencies ? answer.samples.size() * in_guest.iterations : 0);
    EXPECT_EQ(answer.latencies.p50_ns > 0, has_latencies);
  }
  // The namespaces and their interfaces went with the processes; here there never were any.
  EXPECT_FALSE(std::filesystem::exists("/sys/class/net/nestbench0"));
}

std::string NameOfNetwork(const ::testing::TestParamInfo<EachNetworkTest::ParamType>& info) {
  static constexpr const char* kOperations[] = {"PingPong", "Stream", "Packets", "Receive"};
  const auto [operation, peer] = info.param;
  return std::string(kOperations[static_cast<std::size_t>(operation)]) +
         (peer == NetPeer::kHost ? "WithTheHost" : "WithAnotherGuest");
}
INSTANTIATE_TEST_SUITE_P(
    Networks, EachNetworkTest,
    ::testing::Combine(::testing::Values(payload::NetOperation::kPingPong, payload::NetOperation::kStream,
                                         payload::NetOperation::kPackets, payload::NetOperation::kReceive),
                       ::testing::Values(NetPeer::kHost, NetPeer::kGuest)),
    NameOfNetwork);

TEST_F(GuestProcessTest, KeepsAGuestsNetworkWithinItsLimit) {
  Request request = NetworkRequest(SubstrateKind::kVm, payload::NetOperation::kStream, NetPeer::kGuest);
  NESTBENCH_REQUIRE_GUEST(request);
  constexpr double kBytesPerS = 10e6;
  request.network.bytes_per_s = static_cast<std::uint64_t>(kBytesPerS);
  const Answer answer = RunUntilKept(request);  // a batch is 3 MB: the first warm-up takes the burst
  ASSERT_EQ(answer.status, AnswerStatus::kOk) << answer.reason;
  double frame_bytes = 0;
  double seconds = 0;
  for (const Sample& sample : answer.samples) {
    frame_bytes += static_cast<double>(sample.operations * request.parameters[0]);
    seconds += sample.inside_ns / 1e9;
  }
  EXPECT_NEAR(frame_bytes / seconds / kBytesPerS, 1.0, 0.04) << answer.resent << " frames sent again";
}

TEST_F(GuestProcessTest, SaysWhatToDoWhereItMayMakeNoNetwork) {
  const Request request = NetworkRequest(SubstrateKind::kBare, payload::NetOperation::kPingPong, NetPeer::kHost);
  // In a user namespace that allows no other one, without rights after exec.
  const auto no_namespaces = [] {
    if (::unshare(CLONE_NEWUSER) != 0) return false;
    std::ofstream limit("/proc/sys/user/max_user_namespaces");
    limit << 0 << std::flush;
    return limit.good();
  };
  const GuestEnd end = GuestProcess(Line(request), no_namespaces).Wait();
  if (WIFEXITED(end.wait_status) && WEXITSTATUS(end.wait_status) == GuestProcess::kCannotPrepare) {
    GTEST_SKIP() << "no user namespace can be made here";
  }
  const Answer answer = AnswerOf(end);
  EXPECT_EQ(answer.status, AnswerStatus::kUnsupported);
  EXPECT_THAT(answer.reason, HasSubstr("network namespace"));
  EXPECT_THAT(answer.reason, HasSubstr("root"));
}

TEST_P(EachSubstrateTest, RunsConfinedAndLeavesNothingWhenKilled) {
  Request request = EndlessRequest(GetParam());
  NESTBENCH_REQUIRE_GUEST(request);
  GuestProcess process(Line(request));
  const std::string proc = "/proc/" + std::to_string(process.pid());
  ASSERT_TRUE(Eventually([&proc] { return IsConfined(proc); })) << ReadText(proc + "/status");

  const std::string status = ReadText(proc + "/status");
  EXPECT_EQ(LineOf(status, "NoNewPrivs:"), "NoNewPrivs:\t1");
  // The size of files is limited once the request is known: with a disk it is the disk's.
  const auto no_files = [&proc] {
    return ::testing::Matches(MatchesRegex("Max file size +0 +0 .*"))(
        LineOf(ReadText(proc + "/limits"), "Max file size"));
  };
  EXPECT_TRUE(Eventually(no_files)) << ReadText(proc + "/limits");
  const std::string limits = ReadText(proc + "/limits");
  EXPECT_THAT(LineOf(limits, "Max core file size"), MatchesRegex("Max core file size +0 +0 .*"));
  EXPECT_THAT(LineOf(limits, "Max open files"), MatchesRegex("Max open files +64 +64 .*"));

  // Whatever it has is its own: no other process, no file, no shared memory segment that would outlive it.
  const std::string task = proc + "/task/" + std::to_string(process.pid());
  EXPECT_EQ(ReadText(task + "/children"), "");
  EXPECT_TRUE(Eventually([&proc] { return FilesOpenIn(proc).empty(); })) << ::testing::PrintToString(FilesOpenIn(proc));
  process.Kill();
  const GuestEnd end = process.Wait();
  ASSERT_TRUE(WIFSIGNALED(end.wait_status));
  EXPECT_EQ(WTERMSIG(end.wait_status), SIGKILL);
  EXPECT_EQ(end.output, "");
  EXPECT_FALSE(std::filesystem::exists(proc));
}

// With a network there are more threads than one, and each of them is confined.
TEST_P(EachSubstrateTest, ConfinesEveryThreadOfANetwork) {
  Request request = NetworkRequest(GetParam(), payload::NetOperation::kPingPong, NetPeer::kGuest);
  NESTBENCH_REQUIRE_GUEST(request);
  request.iterations = payload::kNetMaxIterations;
  request.deadline_ns = 60'000'000'000;
  GuestProcess process(Line(request));
  const std::filesystem::path tasks = "/proc/" + std::to_string(process.pid()) + "/task";
  // The main thread, the peer's, and for guests those of their devices; some kernels have one for each VM besides.
  const std::size_t expected = GetParam() == SubstrateKind::kVm ? 4 : 2;
  const auto confined = [&tasks] {
    std::size_t count = 0;
    std::error_code gone;
    for (const auto& task : std::filesystem::directory_iterator(tasks, gone)) {
      if (!IsConfined(task.path().string())) return std::size_t{0};
      ++count;
    }
    return count;
  };
  EXPECT_TRUE(Eventually([&] { return confined() >= expected; })) << confined() << " threads of " << expected;
  EXPECT_EQ(ReadText((tasks / std::to_string(process.pid()) / "children").string()), "");
  process.Kill();
  EXPECT_TRUE(WIFSIGNALED(process.Wait().wait_status));
}

TEST_P(EachSubstrateTest, DiesWithItsSupervisor) {
  Request request = EndlessRequest(GetParam());
  NESTBENCH_REQUIRE_GUEST(request);
  int report[2];
  ASSERT_EQ(::pipe(report), 0);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // an orphan becomes ours: we see how it ends
  const pid_t supervisor = ::fork();
  ASSERT_GE(supervisor, 0);
  if (supervisor == 0) {
    GuestProcess process(Line(request));
    const pid_t pid = process.pid();
    (void)!::write(report[1], &pid, sizeof(pid));
    for (;;) ::pause();
  }
  pid_t guest = -1;
  const bool reported = ::read(report[0], &guest, sizeof(guest)) == static_cast<ssize_t>(sizeof(guest));
  const std::string proc = "/proc/" + std::to_string(guest);
  const bool confined = reported && Eventually([&proc] { return IsConfined(proc); });
  ::kill(supervisor, SIGKILL);
  ::waitpid(supervisor, nullptr, 0);
  ASSERT_TRUE(confined);
  int status = 0;
  const bool ended = Eventually([guest, &status] { return ::waitpid(guest, &status, WNOHANG) == guest; });
  if (!ended) ::kill(guest, SIGKILL);
  ::prctl(PR_SET_CHILD_SUBREAPER, 0);
  ::close(report[0]);
  ::close(report[1]);
  ASSERT_TRUE(ended);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << status;
}

INSTANTIATE_TEST_SUITE_P(Substrates, EachSubstrateTest, ::testing::Values(SubstrateKind::kBare, SubstrateKind::kVm),
                         [](const auto& info) { return std::string(ToString(info.param)); });

}  // namespace
}  // namespace nestbench::substrates
