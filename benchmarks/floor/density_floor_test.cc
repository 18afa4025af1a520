// The density floor as its callers see it: one line of JSON, exit codes, and nothing left behind.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace nestbench::floor {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr int kNoKvm = 5;

// Exit code and everything that the program says.
std::pair<int, std::string> RunFloor(const std::string& flags) {
  FILE* pipe = ::popen((std::string(NESTBENCH_DENSITY_FLOOR) + " " + flags + " 2>&1").c_str(), "r");
  if (pipe == nullptr) return {-1, "popen failed"};
  std::string text;
  char buffer[512];
  while (::fgets(buffer, sizeof(buffer), pipe) != nullptr) text += buffer;
  const int status = ::pclose(pipe);
  return {WIFEXITED(status) ? WEXITSTATUS(status) : -1, text};
}

TEST(DensityFloorTest, StartsAndEndsGuests) {
  const auto [code, text] = RunFloor("--guests 8 --guest-ram-bytes 1048576");
  if (code == kNoKvm) GTEST_SKIP() << text;
  ASSERT_EQ(code, 0) << text;
  ASSERT_EQ(std::ranges::count(text, '\n'), 1) << text;
  const auto json = nlohmann::json::parse(text);
  EXPECT_EQ(json.at("guests"), 8);
  EXPECT_GT(json.at("seconds").get<double>(), 0);
  EXPECT_NEAR(json.at("guests_per_s").get<double>() * json.at("seconds").get<double>(), 8, 0.1);
  EXPECT_TRUE(json.at("memory_per_guest_bytes").is_number_unsigned());
  EXPECT_GT(json.at("teardown_ns").get<std::uint64_t>(), 0U);
  EXPECT_TRUE(json.at("failure").is_null());
}

TEST(DensityFloorTest, StartsSeveralAtOnce) {
  const auto [code, text] = RunFloor("--guests 9 --parallel 4");
  if (code == kNoKvm) GTEST_SKIP() << text;
  ASSERT_EQ(code, 0) << text;
  EXPECT_EQ(nlohmann::json::parse(text).at("guests"), 9);
}

TEST(DensityFloorTest, NamesTheCallThatFailed) {
  if (RunFloor("--guests 1").first == kNoKvm) GTEST_SKIP() << "no usable /dev/kvm";
  // Enough descriptors to open /dev/kvm and a pipe, too few for a VM and its vCPU.
  int output[2];
  ASSERT_EQ(::pipe(output), 0);
  const pid_t program = ::fork();
  if (program == 0) {
    ::dup2(output[1], 1);
    for (int fd = 3; fd < 256; ++fd) ::close(fd);
    const rlimit limit = {.rlim_cur = 6, .rlim_max = 6};
    ::setrlimit(RLIMIT_NOFILE, &limit);
    ::execl(NESTBENCH_DENSITY_FLOOR, NESTBENCH_DENSITY_FLOOR, "--guests", "3", nullptr);
    ::_exit(127);
  }
  ::close(output[1]);
  std::string line(1024, '\0');
  const ssize_t got = ::read(output[0], line.data(), line.size());
  ::close(output[0]);
  line.resize(got < 0 ? 0 : static_cast<std::size_t>(got));
  int status = 0;
  ASSERT_EQ(::waitpid(program, &status, 0), program);
  ASSERT_TRUE(WIFEXITED(status));
  ASSERT_EQ(WEXITSTATUS(status), 1) << line;
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json.at("guests"), 0);
  EXPECT_EQ(json.at("failure").at("errno"), EMFILE);
  EXPECT_THAT(json.at("failure").at("call").get<std::string>(), HasSubstr("KVM_CREATE_"));
}

TEST(DensityFloorTest, RefusesNonsense) {
  for (const char* flags : {"--guests 0", "--guests -1", "--guests 5x", "--guests 99999999999999999999", "--guests ''",
                            "--guests", "--guest-ram-bytes 4097", "--guest-ram-bytes 0", "--parallel 0",
                            "--parallel 2000", "--bogus", "extra", "--guests ' 5'"}) {
    const auto [code, text] = RunFloor(flags);
    EXPECT_EQ(code, 2) << flags;
    EXPECT_THAT(text, HasSubstr("usage:")) << flags;
  }
}

TEST(DensityFloorTest, GuestsDieWithTheProgram) {
  const pid_t program = ::fork();
  if (program == 0) {
    const int null = ::open("/dev/null", O_WRONLY);
    ::dup2(null, 1);
    ::dup2(null, 2);
    ::execl(NESTBENCH_DENSITY_FLOOR, NESTBENCH_DENSITY_FLOOR, "--guests", "100000", nullptr);
    ::_exit(127);
  }
  const auto end = std::chrono::steady_clock::now() + 20s;
  std::vector<pid_t> children;
  while (children.size() < 5 && std::chrono::steady_clock::now() < end && ::waitpid(program, nullptr, WNOHANG) == 0) {
    children.clear();
    std::ifstream list("/proc/" + std::to_string(program) + "/task/" + std::to_string(program) + "/children");
    for (pid_t child = 0; list >> child;) children.push_back(child);
    std::this_thread::sleep_for(5ms);
  }
  if (children.empty())
    GTEST_SKIP() << "no guest was started (no usable /dev/kvm), or the kernel has no list of children";
  ::kill(program, SIGKILL);
  ASSERT_EQ(::waitpid(program, nullptr, 0), program);
  const auto is_alive = [](pid_t pid) {
    std::string stat;
    std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
    std::getline(file, stat);
    return stat.find("density_floor") != std::string::npos && stat.find(") Z") == std::string::npos;
  };
  const auto gone_by = std::chrono::steady_clock::now() + 10s;
  while (std::ranges::any_of(children, is_alive) && std::chrono::steady_clock::now() < gone_by) {
    std::this_thread::sleep_for(5ms);
  }
  EXPECT_FALSE(std::ranges::any_of(children, is_alive));
}

}  // namespace
}  // namespace nestbench::floor
