// Cgroups on the kernel's own file systems, where this user may make them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <fstream>
#include <thread>

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "nestbench/tenancy/cgroup.h"

namespace nestbench::tenancy {
namespace {

using namespace std::chrono_literals;

std::string NewRunId() {
  return fmt::format("20000101T000000Z-{:06x}", (::getpid() * 7919U + static_cast<unsigned>(rand())) & 0xFFFFFFU);
}

// A child that runs `work` and ends.
template <typename Work>
pid_t Fork(Work work) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    work();
    ::_exit(0);
  }
  return pid;
}

void WaitForever() {
  for (;;) ::pause();
}

class CgroupSystemTest : public ::testing::Test {
 protected:
  void Make(CgroupLimits budget = {}) {
    auto tree =
        CgroupTree::Create({.run_id = run_id_, .controllers = controllers_, .budget = budget, .files = nullptr});
    ASSERT_TRUE(tree) << tree.error().ToString();
    if (!tree->Enforces(CgroupController::kMemory)) {
      GTEST_SKIP() << "no memory groups here: " << fmt::format("{}", tree->missing());
    }
    tree_ = std::make_unique<CgroupTree>(std::move(*tree));
  }
  std::string run_id_ = NewRunId();
  std::vector<CgroupController> controllers_ = {CgroupController::kCpu, CgroupController::kCpuUsage,
                                                CgroupController::kMemory, CgroupController::kPids};
  std::unique_ptr<CgroupTree> tree_;
};

TEST_F(CgroupSystemTest, AProcessIsInItsGroupAndDiesWithIt) {
  Make();
  if (IsSkipped()) return;
  auto group = tree_->CreateGroup("tenant", {.memory_bytes = 64 << 20, .cpus = 1.0, .pids = 8});
  ASSERT_TRUE(group) << group.error().ToString();
  const pid_t child = Fork(WaitForever);
  ASSERT_TRUE(group->Add(child));
  EXPECT_THAT(group->Processes(), ::testing::ElementsAre(child));
  if (tree_->Enforces(CgroupController::kPids)) {
    EXPECT_EQ(group->Read().pids, 1U);
  }
  EXPECT_EQ(tree_->CountGroups(), 1U);
  ASSERT_TRUE(group->Remove());
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_EQ(tree_->CountGroups(), 0U);
  EXPECT_TRUE(group->Remove()) << "again";
}

TEST_F(CgroupSystemTest, AProcessMovesItselfIn) {
  Make();
  if (IsSkipped()) return;
  auto group = tree_->CreateGroup("tenant", {});
  ASSERT_TRUE(group) << group.error().ToString();
  const std::vector<std::string> files = group->EntryFiles();
  const pid_t child = Fork([&] {
    for (const std::string& file : files) std::ofstream(file) << "0" << std::flush;
    WaitForever();
  });
  const auto end = std::chrono::steady_clock::now() + 5s;
  while (group->Processes().empty() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(1ms);
  EXPECT_THAT(group->Processes(), ::testing::ElementsAre(child));
  ASSERT_TRUE(group->Kill());
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
}

TEST_F(CgroupSystemTest, AMemoryBombIsKilledAndCounted) {
  Make();
  if (IsSkipped()) return;
  constexpr std::size_t kLimit = 16 << 20;
  auto group = tree_->CreateGroup("bomb", {.memory_bytes = kLimit});
  ASSERT_TRUE(group) << group.error().ToString();
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  const pid_t child = Fork([&] {
    char byte = 0;
    if (::read(go[0], &byte, 1) != 1) return;
    void* memory =
        ::mmap(nullptr, 4 * kLimit, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory != MAP_FAILED) std::memset(memory, 1, 4 * kLimit);
  });
  ASSERT_TRUE(group->Add(child));
  ASSERT_EQ(::write(go[1], "x", 1), 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_GE(group->OomKills().value_or(0), 1U);
  ASSERT_TRUE(group->Remove());
  EXPECT_GE(tree_->OomKills().value_or(0), 1U);
  ::close(go[0]);
  ::close(go[1]);
}

TEST_F(CgroupSystemTest, TheBudgetHoldsForAllOfThemTogether) {
  constexpr std::size_t kBudget = 24 << 20;
  Make({.memory_bytes = kBudget, .cpus = {}, .pids = {}});
  if (IsSkipped()) return;
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  std::vector<pid_t> children;
  for (int i = 0; i < 4; ++i) {
    children.push_back(Fork([&] {
      char byte = 0;
      if (::read(go[0], &byte, 1) != 1) return;
      void* memory = ::mmap(nullptr, kBudget / 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
      std::memset(memory, 1, kBudget / 2);
      WaitForever();
    }));
    ASSERT_TRUE(tree_->Add(children.back()));
  }
  ASSERT_EQ(::write(go[1], "xxxx", 4), 4);
  const auto end = std::chrono::steady_clock::now() + 10s;
  while (tree_->OomKills().value_or(0) < 1 && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(2ms);
  EXPECT_GE(tree_->OomKills().value_or(0), 1U);
  EXPECT_LE(tree_->MemoryUsageBytes().value_or(UINT64_MAX), kBudget);
  ASSERT_TRUE(tree_->Remove());
  for (const pid_t child : children) EXPECT_EQ(::waitpid(child, nullptr, 0), child);
  ::close(go[0]);
  ::close(go[1]);
}

TEST_F(CgroupSystemTest, AQuotaThrottles) {
  Make();
  if (IsSkipped()) return;
  if (!tree_->Enforces(CgroupController::kCpu)) GTEST_SKIP() << "no cpu groups here";
  auto group = tree_->CreateGroup("spinner", {.cpus = 0.05});
  ASSERT_TRUE(group) << group.error().ToString();
  const pid_t child = Fork([] {
    for (;;) (void)::getppid();
  });
  ASSERT_TRUE(group->Add(child));
  const auto end = std::chrono::steady_clock::now() + 5s;
  while (group->ThrottledNs().value_or(0) == 0 && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(5ms);
  EXPECT_GT(group->ThrottledNs().value_or(0), 0U);
  if (tree_->Enforces(CgroupController::kCpuUsage)) {
    EXPECT_GT(group->CpuUsageNs().value_or(0), 0U);
  }
  ASSERT_TRUE(group->Remove());
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
}

TEST_F(CgroupSystemTest, AForkBombStaysWithinItsLimitAndIsKilled) {
  Make();
  if (IsSkipped()) return;
  if (!tree_->Enforces(CgroupController::kPids)) GTEST_SKIP() << "no pids groups here";
  constexpr std::uint64_t kMost = 24;
  auto group = tree_->CreateGroup("bomb", {.pids = kMost});
  ASSERT_TRUE(group) << group.error().ToString();
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  const pid_t child = Fork([&] {
    char byte = 0;
    if (::read(go[0], &byte, 1) != 1) return;
    for (;;) {
      if (::fork() < 0) ::usleep(1000);
    }
  });
  ASSERT_TRUE(group->Add(child));
  ASSERT_EQ(::write(go[1], "x", 1), 1);
  const auto end = std::chrono::steady_clock::now() + 5s;
  while (group->Read().pids.value_or(0) < kMost && std::chrono::steady_clock::now() < end)
    std::this_thread::sleep_for(1ms);
  EXPECT_EQ(group->Read().pids.value_or(0), kMost);
  ASSERT_TRUE(group->Remove());
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(tree_->CountGroups(), 0U);
  ::close(go[0]);
  ::close(go[1]);
}

TEST_F(CgroupSystemTest, WhatAKilledSupervisorLeavesIsRemovedAtTheNextStart) {
  Make();
  if (IsSkipped()) return;
  int ready[2];
  ASSERT_EQ(::pipe(ready), 0);
  const std::string dead_id = NewRunId();
  const pid_t supervisor = Fork([&] {
    auto tree = CgroupTree::Create({.run_id = dead_id, .controllers = controllers_, .budget = {}, .files = nullptr});
    if (!tree) ::_exit(2);
    auto group = tree->CreateGroup("tenant", {});
    const pid_t tenant = group ? ::fork() : -1;
    if (tenant == 0) {
      // As a program of its own would be: without the descriptors that hold the lock.
      for (int fd = 3; fd < 256; ++fd) ::close(fd);
      WaitForever();
    }
    if (tenant < 0 || !group->Add(tenant) || ::write(ready[1], &tenant, sizeof(tenant)) != sizeof(tenant)) ::_exit(2);
    WaitForever();
  });
  ::close(ready[1]);
  pid_t tenant = -1;
  ASSERT_EQ(::read(ready[0], &tenant, sizeof(tenant)), static_cast<ssize_t>(sizeof(tenant)));
  EXPECT_TRUE(CgroupTree::RemoveStale());
  EXPECT_EQ(::kill(tenant, 0), 0) << "its supervisor lives";
  ASSERT_EQ(::kill(supervisor, SIGKILL), 0);
  ASSERT_EQ(::waitpid(supervisor, nullptr, 0), supervisor);
  const auto removed = CgroupTree::RemoveStale();
  ASSERT_TRUE(removed) << removed.error().ToString();
  const auto end = std::chrono::steady_clock::now() + 5s;
  const auto lives = [tenant] {
    std::string state;
    std::ifstream file(fmt::format("/proc/{}/stat", tenant));
    std::getline(file, state);
    return !state.empty() && state.find(") Z") == std::string::npos;
  };
  while (lives() && std::chrono::steady_clock::now() < end) std::this_thread::sleep_for(1ms);
  EXPECT_FALSE(lives()) << "the tenant of the dead run";
  auto again = CgroupTree::Create({.run_id = dead_id, .controllers = controllers_, .budget = {}, .files = nullptr});
  EXPECT_TRUE(again) << "its groups are gone, so that their name is free";
  ::close(ready[0]);
}

TEST_F(CgroupSystemTest, AForkedChildDoesNotCleanUpAfterItsParent) {
  Make();
  if (IsSkipped()) return;
  auto group = tree_->CreateGroup("tenant", {});
  ASSERT_TRUE(group);
  const pid_t child = Fork([&] {
    { Cgroup gone = std::move(*group); }
    tree_.reset();
  });
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_EQ(tree_->CountGroups(), 1U);
}

}  // namespace
}  // namespace nestbench::tenancy
