// The same image files, booted by another VMM through their PVH note: QEMU, which emulates the CPU, must compute what a
// host process computes.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>

#include "image_process.h"
#include "nestbench/vmm/loader/elf.h"
#include "nestbench/vmm/loader/loaded_file.h"
#include "nestbench/workloads/catalogue.h"

namespace nestbench::payload {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using workloads::Workload;

constexpr int kExitOk = 33;  // what pvh_entry.cc writes to isa-debug-exit: 2 * 16 + 1
constexpr int kExitNotOk = 35;

std::string ImagePath(const std::string& image) { return std::string(NESTBENCH_IMAGES_FOLDER) + "/" + image + ".elf"; }

struct Boot {
  int exit_code = -1;
  std::string output;
};

Boot RunShell(const std::string& command) {
  Boot boot;
  FILE* const pipe = ::popen(command.c_str(), "r");  // NOLINT(cert-env33-c): fixed commands, our paths
  if (pipe == nullptr) return boot;
  std::array<char, 4096> buffer;
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) boot.output += buffer.data();
  const int status = ::pclose(pipe);
  boot.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return boot;
}

class PvhTest : public testing::Test {
 protected:
  void SetUp() override {
    if (RunShell("command -v qemu-system-x86_64").exit_code != 0) {
      GTEST_SKIP() << "no qemu-system-x86_64: install the package qemu-system-x86";
    }
    std::string pattern = (std::filesystem::temp_directory_path() / "nestbench-pvh-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    folder_ = pattern;
  }
  void TearDown() override {
    if (!folder_.empty()) std::filesystem::remove_all(folder_);
  }

  static Boot BootImage(const std::string& image, const std::string& options) {
    return RunShell(
        "timeout 50 qemu-system-x86_64 -accel tcg -cpu max -display none -no-reboot -nodefaults -serial stdio "
        "-kernel '" +
        ImagePath(image) + "' " + options + " </dev/null 2>&1");
  }

  // With `request` in the mailbox before the start.
  Boot BootWith(const std::string& image, const abi::MailboxRequest& request, const std::string& options) const {
    const std::string path = (folder_ / "request").string();
    std::ofstream(path, std::ios::binary).write(reinterpret_cast<const char*>(&request), sizeof(request));
    return BootImage(image, "-device loader,file='" + path + "',addr=" + std::to_string(abi::kMailboxBase) +
                                ",force-raw=on " + options);
  }

  std::filesystem::path folder_;
};

constexpr const char* kDebugExit = "-device isa-debug-exit,iobase=0xf4,iosize=4 ";

// What a host process answers to the same work.
std::string LineOfProcess(const std::string& image, abi::MailboxRequest request) {
  std::vector<abi::MailboxRequest> requests;
  for (const abi::Command command : {abi::Command::kSetUp, abi::Command::kRun, abi::Command::kVerify}) {
    request.command = command;
    request.doorbell = abi::Doorbell::kReturn;
    requests.push_back(request);
  }
  const ImageRun run = RunImage(ImagePath(image), request.arena_bytes, false, requests);
  if (run.replies.size() != 3 || run.replies[2].status != abi::PayloadStatus::kOk)
    return "the process failed: " + run.error;
  return "nestbench-pvh operation=" + std::to_string(request.operation) +
         " iterations=" + std::to_string(request.iterations) + " seed=" + std::to_string(request.seed) +
         " operations=" + std::to_string(run.replies[1].operations) +
         " checksum=" + std::to_string(run.replies[1].checksum) + " status=ok\n";
}

abi::MailboxRequest SelfCheck() {
  abi::MailboxRequest request = MakeRequest(abi::Command::kSetUp, 0);
  request.iterations = 1000;
  request.seed = 1;
  return request;
}

TEST_F(PvhTest, ChecksItselfWhenNothingIsAsked) {
  const Boot boot = BootImage("cpu_integer", std::string("-m 272 ") + kDebugExit);
  EXPECT_EQ(boot.output, LineOfProcess("cpu_integer", SelfCheck()));
  EXPECT_EQ(boot.exit_code, kExitOk);
}

TEST_F(PvhTest, EndsTheMachineWithoutADebugExit) {
  const Boot boot = BootImage("cpu_integer", "-m 272");
  EXPECT_EQ(boot.output, LineOfProcess("cpu_integer", SelfCheck()));
  EXPECT_EQ(boot.exit_code, 0);
}

TEST_F(PvhTest, RunsTheRequestInTheMailbox) {
  abi::MailboxRequest request = SelfCheck();
  request.iterations = 54'321;
  request.seed = 0xFEDC'BA98'7654'3210;
  const Boot boot = BootWith("cpu_integer", request, std::string("-m 272 ") + kDebugExit);
  EXPECT_EQ(boot.output, LineOfProcess("cpu_integer", request));
  EXPECT_EQ(boot.exit_code, kExitOk);
}

// Vector registers are open, the arena is mapped.
TEST_F(PvhTest, RunsWorkloadsThatNeedVectorsAndAnArena) {
  constexpr std::uint64_t kMaxArenaBytes = 64ULL << 20;
  std::vector<std::string> done;
  for (const Workload& workload : workloads::Catalogue()) {
    const bool is_wanted = workload.image == "cpu_sha256" || workload.image == "cpu_sort" ||
                           workload.image == "cpu_hash" || workload.image == "memory_chase" ||
                           workload.image == "memory_bandwidth";
    if (!is_wanted || workload.arena_bytes > kMaxArenaBytes || std::ranges::count(done, workload.image) != 0) continue;
    done.push_back(workload.image);
    abi::MailboxRequest request = MakeRequest(abi::Command::kSetUp, workload.arena_bytes);
    request.operation = workload.operation;
    request.seed = 9;
    request.iterations = workload.fixed_iterations != 0 ? workload.fixed_iterations : 2;
    std::ranges::copy(workload.parameters, request.parameters);
    const Boot boot = BootWith(workload.image, request, std::string("-m 768 ") + kDebugExit);
    EXPECT_EQ(boot.output, LineOfProcess(workload.image, request)) << workload.name;
    EXPECT_EQ(boot.exit_code, kExitOk) << workload.name;
  }
  EXPECT_EQ(done.size(), 5U);
}

TEST_F(PvhTest, SaysWhyItRefuses) {
  abi::MailboxRequest request = SelfCheck();
  request.operation = 7;
  const Boot boot = BootWith("cpu_integer", request, std::string("-m 272 ") + kDebugExit);
  EXPECT_THAT(boot.output, StartsWith("nestbench-pvh operation=7 "));
  EXPECT_THAT(boot.output, HasSubstr("status=bad-request message=cpu_integer: operation must be 0\n"));
  EXPECT_EQ(boot.exit_code, kExitNotOk);
}

// What another VMM enters is not what ours enters.
TEST(PvhNoteTest, EveryImageHasOneApartFromItsEntry) {
  std::size_t images = 0;
  for (const auto& entry : std::filesystem::directory_iterator(NESTBENCH_IMAGES_FOLDER)) {
    const auto file = vmm::LoadedFile::Read(entry.path().string(), abi::kImageMaxBytes);
    ASSERT_TRUE(file.has_value()) << file.error().ToString();
    const auto image = vmm::ParseElf(file->bytes(), {abi::GuestPhysAddr(abi::kImageBase), abi::kImageMaxBytes});
    ASSERT_TRUE(image.has_value()) << image.error().ToString();
    ASSERT_TRUE(image->pvh_entry().has_value()) << entry.path();
    // In the last segment, behind all that is the payload's.
    const vmm::ElfSegment& last = image->segments().back();
    EXPECT_TRUE(last.memory.Contains(*image->pvh_entry(), 1)) << entry.path();
    EXPECT_FALSE(last.memory.Contains(abi::GuestPhysAddr(image->entry().value()), 1)) << entry.path();
    ++images;
  }
  EXPECT_GT(images, 0U);
}

}  // namespace
}  // namespace nestbench::payload
