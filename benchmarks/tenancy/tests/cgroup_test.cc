// Cgroups on layouts that this machine need not have: a make-believe kernel.
#include "nestbench/tenancy/cgroup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/file.h>

#include <memory>

#include "cgroup_fake_kernel.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::tenancy {
namespace {

using ::testing::ElementsAre;
using ::testing::Eq;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* kRunId = "20260101T000000Z-0a1b2c";
constexpr const char* kDeadRunId = "20250101T000000Z-ffffff";
const std::string kScope = "/sys/fs/cgroup/user.slice/nest.scope";
const std::string kRun = kScope + "/nestbench-" + kRunId;

CgroupTreeOptions Options(std::shared_ptr<FakeKernel> kernel) {
  CgroupTreeOptions options;
  options.run_id = kRunId;
  options.files = std::move(kernel);
  return options;
}

// v2, this process alone in a scope that was delegated to it.
class CgroupV2Test : public ::testing::Test {
 protected:
  void SetUp() override {
    kernel_->Put("/proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
    kernel_->Put("/proc/self/cgroup", "0::/user.slice/nest.scope\n");
    kernel_->AddRootGroup("/sys/fs/cgroup", "cpu memory pids");
    kernel_->AddRootGroup("/sys/fs/cgroup/user.slice", "cpu memory pids");
    kernel_->AddRootGroup(kScope, "cpu memory pids");
    kernel_->AddProcess(::getpid(), kScope);
  }
  std::shared_ptr<FakeKernel> kernel_ = std::make_shared<FakeKernel>();
};

TEST_F(CgroupV2Test, MovesItselfToALeafSoThatControllersReachTheTenants) {
  auto tree = CgroupTree::Create(Options(kernel_));
  ASSERT_TRUE(tree) << tree.error().ToString();
  EXPECT_EQ(tree->layout(), "v2");
  EXPECT_THAT(tree->missing(), IsEmpty());
  EXPECT_EQ(kernel_->GroupOf(::getpid()), kRun + "-supervisor");
  EXPECT_EQ(kernel_->Text(kRun + "/cgroup.subtree_control"), "cpu memory pids");
}

TEST_F(CgroupV2Test, SetsLimitsAndReadsCounters) {
  auto tree = CgroupTree::Create(Options(kernel_));
  ASSERT_TRUE(tree) << tree.error().ToString();
  auto group = tree->CreateGroup("tenant-1", {.memory_bytes = 1 << 20, .cpus = 0.5, .pids = 16});
  ASSERT_TRUE(group) << group.error().ToString();
  EXPECT_EQ(kernel_->Text(kRun + "/tenant-1/memory.max"), "1048576");
  EXPECT_EQ(kernel_->Text(kRun + "/tenant-1/memory.swap.max"), "0");
  EXPECT_THAT(kernel_->Text(kRun + "/tenant-1/cpu.max"), Eq("50000 100000"));
  EXPECT_EQ(kernel_->Text(kRun + "/tenant-1/pids.max"), "16");
  ASSERT_TRUE(group->Add(4242));
  EXPECT_EQ(kernel_->GroupOf(4242), kRun + "/tenant-1");
  EXPECT_THAT(group->EntryFiles(), ElementsAre(kRun + "/tenant-1/cgroup.procs"));
  const CgroupReading reading = group->Read();
  EXPECT_EQ(reading.memory_bytes, 4096U);
  EXPECT_EQ(reading.kernel_memory_bytes, 4096U);
  EXPECT_EQ(reading.oom_kills, 2U);
  EXPECT_EQ(reading.cpu_usage_ns, 5000U);
  EXPECT_EQ(reading.pids, 1U);
  EXPECT_EQ(reading.throttled_ns, std::nullopt);
  EXPECT_EQ(tree->CountGroups(), 1U);
}

TEST_F(CgroupV2Test, ReadsPressureWhereItWasAskedFor) {
  CgroupTreeOptions options = Options(kernel_);
  options.controllers = {CgroupController::kPressure};
  auto tree = CgroupTree::Create(std::move(options));
  ASSERT_TRUE(tree) << tree.error().ToString();
  EXPECT_EQ(kernel_->GroupOf(::getpid()), kScope) << "nothing has to be delegated for it";
  auto group = tree->CreateGroup("tenant-1", {});
  ASSERT_TRUE(group) << group.error().ToString();
  EXPECT_EQ(group->Read().cpu_pressure_some_ns, 7000U);
}

TEST_F(CgroupV2Test, TakesProcessesOfTheRunIntoALeaf) {
  CgroupTreeOptions options = Options(kernel_);
  options.budget = {.memory_bytes = 1 << 30, .cpus = 1.5, .pids = {}};
  auto tree = CgroupTree::Create(std::move(options));
  ASSERT_TRUE(tree) << tree.error().ToString();
  EXPECT_EQ(kernel_->Text(kRun + "/memory.max"), "1073741824");
  EXPECT_THAT(kernel_->Text(kRun + "/cpu.max"), Eq("150000 100000"));
  ASSERT_TRUE(tree->Add(4242));
  EXPECT_EQ(kernel_->GroupOf(4242), kRun + "/shared");
  EXPECT_EQ(tree->CountGroups(), 0U);
}

TEST_F(CgroupV2Test, LeavesTheSystemAsItWas) {
  {
    auto tree = CgroupTree::Create(Options(kernel_));
    ASSERT_TRUE(tree) << tree.error().ToString();
    auto group = tree->CreateGroup("tenant-1", {});
    ASSERT_TRUE(group && group->Add(4242));
    auto other = tree->CreateGroup("tenant-2", {});
    ASSERT_TRUE(other && tree->Add(4243));
  }
  EXPECT_EQ(kernel_->GroupOf(::getpid()), kScope);
  EXPECT_EQ(kernel_->GroupOf(4242), "") << "killed";
  EXPECT_EQ(kernel_->GroupOf(4243), "") << "killed";
  EXPECT_THAT(kernel_->Subfolders(kScope), IsEmpty());
  EXPECT_EQ(kernel_->Text(kScope + "/cgroup.subtree_control"), "");
}

TEST_F(CgroupV2Test, SaysWhyWhenOthersAreInItsGroup) {
  kernel_->AddProcess(777, kScope);
  auto tree = CgroupTree::Create(Options(kernel_));
  ASSERT_TRUE(tree) << tree.error().ToString();
  ASSERT_EQ(tree->missing().size(), 3U);
  EXPECT_THAT(tree->missing().front(), HasSubstr("cpu: "));
  EXPECT_THAT(tree->missing().front(), HasSubstr("Delegate=yes"));
  EXPECT_FALSE(tree->Enforces(CgroupController::kMemory));
  EXPECT_TRUE(tree->Enforces(CgroupController::kCpuUsage));
  EXPECT_EQ(kernel_->GroupOf(::getpid()), kScope) << "it went back";
  ASSERT_TRUE(tree->Remove());
  EXPECT_THAT(kernel_->Subfolders(kScope), IsEmpty());
}

TEST_F(CgroupV2Test, WithoutRightsEverythingIsMissingAndNothingFails) {
  kernel_->DenyFolder(kScope);
  auto tree = CgroupTree::Create(Options(kernel_));
  ASSERT_TRUE(tree) << tree.error().ToString();
  ASSERT_EQ(tree->missing().size(), 4U);
  EXPECT_THAT(tree->missing()[2], HasSubstr("Permission denied"));
  auto group = tree->CreateGroup("tenant-1", {.memory_bytes = 1 << 20});
  ASSERT_TRUE(group) << group.error().ToString();
  EXPECT_TRUE(group->Add(4242));
  EXPECT_TRUE(group->Kill());
  EXPECT_EQ(group->OomKills(), std::nullopt);
  EXPECT_EQ(kernel_->GroupOf(4242), "");
}

TEST_F(CgroupV2Test, RefusesWhatIsNoRunNoLimitAndNoName) {
  CgroupTreeOptions options = Options(kernel_);
  options.run_id = "../../system.slice";
  EXPECT_FALSE(CgroupTree::Create(options));
  options.run_id = kRunId;
  options.budget.cpus = 0;
  EXPECT_FALSE(CgroupTree::Create(options));
  options.budget = {};
  auto tree = CgroupTree::Create(options);
  ASSERT_TRUE(tree) << tree.error().ToString();
  for (const char* name : {"", "..", "a/b", ".hidden", "shared", "a b"})
    EXPECT_FALSE(tree->CreateGroup(name, {})) << name;
  EXPECT_FALSE(tree->CreateGroup("x", {.memory_bytes = 0}));
  EXPECT_FALSE(tree->CreateGroup("x", {.pids = 0}));
  auto first = tree->CreateGroup("x", {});
  ASSERT_TRUE(first);
  auto second = tree->CreateGroup("x", {});
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().error_number, EEXIST);
  EXPECT_EQ(tree->CountGroups(), 1U) << "the one that was there is left alone";
}

TEST_F(CgroupV2Test, ARunOfTheSameNameIsNotTouched) {
  auto tree = CgroupTree::Create(Options(kernel_));
  ASSERT_TRUE(tree);
  EXPECT_FALSE(CgroupTree::Create(Options(kernel_)));
  EXPECT_TRUE(kernel_->Exists(kRun));
}

TEST_F(CgroupV2Test, RemovesDeadRunsAndLeavesTheLivingAndTheUnknown) {
  auto tree = CgroupTree::Create(Options(kernel_));
  ASSERT_TRUE(tree) << tree.error().ToString();
  // Elsewhere in the hierarchy: the dead run was started in another session.
  const std::string dead = "/sys/fs/cgroup/user.slice/nestbench-" + std::string(kDeadRunId);
  ASSERT_TRUE(kernel_->MakeFolder(dead));
  ASSERT_TRUE(kernel_->MakeFolder(dead + "/tenant-1"));
  ASSERT_TRUE(kernel_->MakeFolder(dead + "/tenant-1/nested"));
  kernel_->AddProcess(999, dead + "/tenant-1/nested");
  ASSERT_TRUE(kernel_->MakeFolder("/sys/fs/cgroup/user.slice/nestbench-mine"));
  const auto removed = CgroupTree::RemoveStale(kernel_);
  ASSERT_TRUE(removed) << removed.error().ToString();
  EXPECT_EQ(*removed, 1U);
  EXPECT_FALSE(kernel_->Exists(dead));
  EXPECT_EQ(kernel_->GroupOf(999), "") << "killed";
  EXPECT_TRUE(kernel_->Exists(kRun));
  EXPECT_TRUE(kernel_->Exists("/sys/fs/cgroup/user.slice/nestbench-mine"));
}

TEST_F(CgroupV2Test, ADeadRunAboveThisProcessIsLeftAlone) {
  const std::string dead = "/sys/fs/cgroup/user.slice/nestbench-" + std::string(kDeadRunId);
  ASSERT_TRUE(kernel_->MakeFolder(dead));
  ASSERT_TRUE(kernel_->MakeFolder(dead + "/tenant-1"));
  kernel_->AddProcess(::getpid(), dead + "/tenant-1");
  EXPECT_EQ(CgroupTree::RemoveStale(kernel_).value_or(99), 0U);
  EXPECT_TRUE(kernel_->Exists(dead + "/tenant-1"));
}

// Hybrid: memory and pids in v1, cpu in v2.
TEST(CgroupHybridTest, UsesEachControllerWhereItIs) {
  auto kernel = std::make_shared<FakeKernel>();
  kernel->Put("/proc/self/mountinfo",
              "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
              "33 31 0:30 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
              "34 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n");
  kernel->Put("/proc/self/cgroup", "2:pids:/me\n1:memory:/me\n0::/me\n");
  for (const char* name : {"memory", "pids"}) {
    kernel->AddRootGroup("/sys/fs/cgroup/" + std::string(name) + "/me", name, false);
  }
  kernel->AddRootGroup("/sys/fs/cgroup/unified/me", "cpu");
  CgroupTreeOptions options = Options(kernel);
  options.budget.cpus = 2;
  auto tree = CgroupTree::Create(std::move(options));
  ASSERT_TRUE(tree) << tree.error().ToString();
  EXPECT_EQ(tree->layout(), "hybrid");
  EXPECT_THAT(tree->missing(), IsEmpty());
  auto group = tree->CreateGroup("tenant-1", {.memory_bytes = 1 << 20, .cpus = 0.5, .pids = 3});
  ASSERT_TRUE(group) << group.error().ToString();
  const std::string below = std::string("/me/nestbench-") + kRunId + "/tenant-1";
  EXPECT_EQ(kernel->Text("/sys/fs/cgroup/memory" + below + "/memory.limit_in_bytes"), "1048576");
  EXPECT_EQ(kernel->Text("/sys/fs/cgroup/pids" + below + "/pids.max"), "3");
  EXPECT_THAT(kernel->Text("/sys/fs/cgroup/unified" + below + "/cpu.max"), Eq("50000 100000"));
  EXPECT_EQ(group->OomKills(), 1U);
  EXPECT_EQ(tree->OomKills(), 2U) << "v1 counts in each group: the run's and the tenant's";
  ASSERT_TRUE(group->Remove());
  EXPECT_EQ(tree->OomKills(), 2U) << "what a group counted outlives it";
}

TEST(CgroupNoneTest, WithoutAnyHierarchyNothingFails) {
  auto kernel = std::make_shared<FakeKernel>();
  auto tree = CgroupTree::Create(Options(kernel));
  ASSERT_TRUE(tree) << tree.error().ToString();
  EXPECT_EQ(tree->layout(), "none");
  EXPECT_EQ(tree->missing().size(), 4U);
  EXPECT_TRUE(tree->CreateGroup("tenant-1", {}));
  EXPECT_EQ(CgroupTree::RemoveStale(kernel).value_or(99), 0U);
}

}  // namespace
}  // namespace nestbench::tenancy
