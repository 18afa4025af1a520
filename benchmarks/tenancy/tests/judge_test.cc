// Judge and RestartPolicy: what is said of a tenant by evidence alone, and when it is started again.
#include "nestbench/tenancy/judge.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "nestbench/tenancy/restart_policy.h"
#include "nestbench/vmm/base/clock.h"

namespace nestbench::tenancy {
namespace {

using namespace std::chrono_literals;
using tenants::FaultClass;
using ::testing::HasSubstr;

constexpr std::uint64_t kMs = 1'000'000;

// wait(2) status words of a process that was killed, and of one that returned.
constexpr int KilledBy(int signal) { return signal; }
constexpr int Exited(int code) { return code << 8; }

tenants::Fault FaultOf(FaultClass fault_class, std::string_view cause) {
  tenants::Fault fault = {};
  fault.fault_class = fault_class;
  cause.copy(fault.cause, sizeof(fault.cause) - 1);
  std::string_view("rip 0x1000").copy(fault.evidence, sizeof(fault.evidence) - 1);
  return fault;
}

// Ready, with a heartbeat just now.
void MakeHealthy(Tenant& tenant) {
  tenant.id = 7;
  tenant.phase = Phase::kReady;
  tenant.pid = ::getpid();
  tenant.spawn.heartbeat_ms = 100;
  tenant.last_sign_ns = vmm::MonotonicNs();
}

void EndWith(Tenant& tenant, int wait_status) {
  tenant.phase = Phase::kEnded;
  tenant.wait_status = wait_status;
}

class JudgeTest : public ::testing::Test {
 protected:
  JudgeTest() { MakeHealthy(tenant_); }

  Trouble Expect(const Judge& judge) {
    auto trouble = judge.Look(tenant_);
    EXPECT_TRUE(trouble) << "nothing was noticed";
    return trouble.value_or(Trouble{});
  }

  Tenant tenant_;
  std::uint64_t oom_kills_ = 0;
  Judge judge_{JudgeOptions{.oom_kills = [this](TenantId) { return oom_kills_; }}};
};

TEST_F(JudgeTest, HasNothingToSayOfAHealthyTenant) { EXPECT_FALSE(judge_.Look(tenant_)); }

TEST_F(JudgeTest, BelievesLastWordsOnceTheyHadTimeToBeTheLast) {
  tenant_.fault = FaultOf(FaultClass::kGuestFault, "triple fault");
  tenant_.fault_ns = vmm::MonotonicNs();
  EXPECT_FALSE(judge_.Look(tenant_)) << "its end may follow at once";
  tenant_.fault_ns -= 200 * kMs;
  const Trouble trouble = Expect(judge_);
  EXPECT_EQ(trouble.trouble, TroubleClass::kGuestFault);
  EXPECT_EQ(trouble.died, "guest");
  EXPECT_EQ(trouble.cause, "triple fault");
}

TEST_F(JudgeTest, TellsTheClassesOfLastWordsApart) {
  const std::pair<FaultClass, TroubleClass> cases[] = {{FaultClass::kGuestFault, TroubleClass::kGuestFault},
                                                       {FaultClass::kVmmFault, TroubleClass::kVmmFault},
                                                       {FaultClass::kHang, TroubleClass::kHang},
                                                       {FaultClass::kHostResource, TroubleClass::kHostResource},
                                                       {FaultClass::kUnsupported, TroubleClass::kHostResource}};
  for (const auto& [said, judged] : cases) {
    tenant_.fault = FaultOf(said, "words");
    EndWith(tenant_, Exited(1));
    const Trouble trouble = Expect(judge_);
    EXPECT_EQ(ToString(trouble.trouble), ToString(judged));
    EXPECT_THAT(trouble.evidence, HasSubstr("exit code 1"));
    EXPECT_THAT(trouble.evidence, HasSubstr("rip 0x1000"));
  }
}

TEST_F(JudgeTest, CallsASignalTheVmmsOwnFault) {
  EndWith(tenant_, KilledBy(SIGSEGV));
  Trouble trouble = Expect(judge_);
  EXPECT_EQ(trouble.trouble, TroubleClass::kVmmFault);
  EXPECT_EQ(trouble.cause, "SIGSEGV");
  EndWith(tenant_, KilledBy(SIGSYS));
  EXPECT_THAT(Expect(judge_).cause, HasSubstr("filter forbids"));
  EndWith(tenant_, Exited(3));
  trouble = Expect(judge_);
  EXPECT_EQ(trouble.trouble, TroubleClass::kVmmFault);
  EXPECT_EQ(trouble.cause, "it ended without a word");
}

// SIGKILL alone does not say who sent it: the counter of the group does, and only what it counted since Begin().
TEST_F(JudgeTest, BlamesTheLimitOnlyWhenTheGroupCountedAnotherKill) {
  oom_kills_ = 3;
  judge_.Begin(tenant_);
  EndWith(tenant_, KilledBy(SIGKILL));
  EXPECT_EQ(Expect(judge_).trouble, TroubleClass::kVmmFault);
  oom_kills_ = 4;
  const Trouble trouble = Expect(judge_);
  EXPECT_EQ(trouble.trouble, TroubleClass::kKilledByLimit);
  EXPECT_EQ(trouble.cause, "oom_kill");
  EXPECT_THAT(trouble.evidence, HasSubstr("4 OOM kills, 3 before"));
}

TEST_F(JudgeTest, CallsALieTheVmmsFaultWhetherItHasEndedOrNot) {
  tenant_.lie = "magic 0x0";
  EXPECT_EQ(Expect(judge_).cause, "it broke the protocol");
  EndWith(tenant_, KilledBy(SIGKILL));
  const Trouble trouble = Expect(judge_);
  EXPECT_EQ(trouble.trouble, TroubleClass::kVmmFault);
  EXPECT_EQ(trouble.evidence, "magic 0x0");
}

TEST_F(JudgeTest, CallsSilenceAHangAndSaysInWhichStateTheProcessIs) {
  tenant_.last_sign_ns -= 300 * kMs;
  EXPECT_FALSE(judge_.Look(tenant_)) << "three heartbeats late is not silent yet";
  tenant_.last_sign_ns -= 200 * kMs;
  const Trouble trouble = Expect(judge_);
  EXPECT_EQ(trouble.trouble, TroubleClass::kHang);
  EXPECT_THAT(trouble.cause, HasSubstr("spins")) << "this process runs while it looks at itself";
  tenant_.pid = -1;
  EXPECT_EQ(Expect(judge_).cause, "the VMM does not answer");
}

TEST_F(JudgeTest, SaysThatAStoppedProcessIsStopped) {
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    for (;;) ::pause();
  }
  ASSERT_EQ(::kill(child, SIGSTOP), 0);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, WUNTRACED), child);
  EXPECT_EQ(ProcessState(child), 'T');
  tenant_.pid = child;
  tenant_.last_sign_ns -= 500 * kMs;
  EXPECT_EQ(Expect(judge_).cause, "the VMM process is stopped");
  ::kill(child, SIGKILL);
  ::waitpid(child, &status, 0);
  EXPECT_EQ(ProcessState(child), std::nullopt);
}

TEST_F(JudgeTest, CallsARequestWithoutEndAHangThoughHeartbeatsCome) {
  tenant_.heartbeat.request_since_ns = vmm::MonotonicNs() - 600 * kMs;
  EXPECT_FALSE(judge_.Look(tenant_));
  tenant_.heartbeat.request_since_ns -= 200 * kMs;
  const Trouble trouble = Expect(judge_);
  EXPECT_EQ(trouble.trouble, TroubleClass::kHang);
  EXPECT_EQ(trouble.cause, "a request does not end");
}

TEST_F(JudgeTest, ExpectsNoSignOfLifeFromOneThatGivesNone) {
  tenant_.last_sign_ns -= 60'000 * kMs;
  tenant_.spawn.heartbeat_ms = 0;
  EXPECT_FALSE(judge_.Look(tenant_));
  tenant_.spawn.heartbeat_ms = 100;
  tenant_.phase = Phase::kStarting;
  EXPECT_FALSE(judge_.Look(tenant_));
}

TEST(RestartPolicy, NeverIsNever) {
  RestartPolicy policy({.mode = RestartMode::kNever});
  EXPECT_EQ(policy.OnFailure(1h), std::nullopt);
}

TEST(RestartPolicy, WaitsTwiceAsLongEachTimeUpToItsMost) {
  RestartPolicy policy({.first = 10ms, .most = 70ms, .healthy = 10s});
  EXPECT_EQ(policy.OnFailure(1ms), 10ms);
  EXPECT_EQ(policy.OnFailure(1ms), 20ms);
  EXPECT_EQ(policy.OnFailure(1ms), 40ms);
  EXPECT_EQ(policy.OnFailure(1ms), 70ms);
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(policy.OnFailure(1ms), 70ms) << "no overflow, however often";
}

TEST(RestartPolicy, StartsOverAfterAHealthyLife) {
  RestartPolicy policy({.first = 10ms, .most = 1s, .healthy = 10s});
  for (int i = 0; i < 5; ++i) policy.OnFailure(1ms);
  EXPECT_EQ(policy.failures(), 5U);
  EXPECT_EQ(policy.OnFailure(10s), 10ms);
  EXPECT_EQ(policy.failures(), 1U);
}

}  // namespace
}  // namespace nestbench::tenancy
