// What a zone keeps from the program in it, as seen by that program.
#include "nestbench/tenancy/zone.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <optional>
#include <string>
#include <vector>

namespace nestbench::tenancy {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class ZoneTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto runtime = ZoneRuntime::Find();
    if (!runtime) {
      EXPECT_EQ(runtime.error().kind, vmm::ErrorKind::kUnsupported);
      GTEST_SKIP() << runtime.error().ToString();
    }
    runtime_ = std::move(*runtime);
  }

  // What a shell script in a zone says on its standard output; descriptor `extra`, when given, is left open for it.
  std::string Say(const std::string& script, int extra = -1) const {
    int output[2];
    if (::pipe2(output, O_CLOEXEC) != 0) return "pipe failed";
    std::vector<std::string> command = runtime_->Command({"/bin/sh", "-c", script});
    std::vector<char*> arguments;
    for (std::string& word : command) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::dup2(output[1], 1);
      ::dup2(output[1], 2);
      if (extra >= 0) ::fcntl(extra, F_SETFD, 0);
      ::execv(arguments[0], arguments.data());
      ::_exit(127);
    }
    ::close(output[1]);
    std::string text;
    char buffer[512];
    for (ssize_t got = 0; (got = ::read(output[0], buffer, sizeof(buffer))) > 0;) {
      text.append(buffer, static_cast<std::size_t>(got));
    }
    ::close(output[0]);
    ::waitpid(pid, nullptr, 0);
    return text;
  }

  std::optional<ZoneRuntime> runtime_;
};

TEST_F(ZoneTest, HasAVersion) { EXPECT_THAT(runtime_->version(), StartsWith("bubblewrap ")); }

TEST_F(ZoneTest, SeesNoKvmAndNoOtherProcess) {
  EXPECT_EQ(Say("test -e /dev/kvm || echo none"), "none\n");
  // The runtime's own first process, and the shell.
  EXPECT_EQ(Say("set -- /proc/[0-9]*; test $# -le 2 && echo few || echo $#"), "few\n");
}

TEST_F(ZoneTest, CannotWriteAndHasNoCapability) {
  EXPECT_THAT(Say("touch /usr/nestbench-zone-test"), HasSubstr("Read-only file system"));
  EXPECT_THAT(Say("while read key value; do test $key = CapEff: && echo $value; done < /proc/self/status"),
              StartsWith("0000000000000000"));
}

TEST_F(ZoneTest, HasNamespacesOfItsOwn) {
  for (const char* name : {"pid", "mnt", "net", "ipc", "uts", "user", "cgroup"}) {
    char ours[64] = {};
    ASSERT_GT(::readlink((std::string("/proc/self/ns/") + name).c_str(), ours, sizeof(ours) - 1), 0) << name;
    const std::string theirs = Say(std::string("readlink /proc/self/ns/") + name);
    EXPECT_THAT(theirs, StartsWith(std::string(name) + ":[")) << name;
    EXPECT_NE(theirs, std::string(ours) + "\n") << name;
  }
}

TEST_F(ZoneTest, InheritsTheDescriptorThatIsLeftOpen) {
  int pair[2];
  ASSERT_EQ(::pipe2(pair, O_CLOEXEC), 0);
  Say("echo hello >&" + std::to_string(pair[1]), pair[1]);
  char buffer[16] = {};
  EXPECT_EQ(::read(pair[0], buffer, sizeof(buffer)), 6);
  EXPECT_STREQ(buffer, "hello\n");
  ::close(pair[0]);
  ::close(pair[1]);
}

}  // namespace
}  // namespace nestbench::tenancy
