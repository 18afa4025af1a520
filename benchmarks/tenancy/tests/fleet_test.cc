// The fleet with real tenants: processes always, guests where there is a usable /dev/kvm.
#include "nestbench/tenancy/fleet.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <thread>

#include "nestbench/payload/disk_work.h"
#include "nestbench/payload/net_work.h"
#include "nestbench/substrates/disk.h"
#include "nestbench/vmm/base/unique_fd.h"
#include "nestbench/vmm/kvm/kvm_device.h"

namespace nestbench::tenancy {
namespace {

using namespace std::chrono_literals;
using tenants::Activity;
using tenants::FaultClass;
using tenants::Spawn;
using tenants::TenantKind;
using tenants::VmmFault;
using ::testing::HasSubstr;

constexpr std::uint64_t kMiB = 1 << 20;

bool Exists(pid_t pid) { return ::kill(pid, 0) == 0; }

class FleetTest : public ::testing::TestWithParam<TenantKind> {
 protected:
  void SetUp() override {
    if (GetParam() != TenantKind::kBare) {
      if (auto device = vmm::KvmDevice::Open(); !device) GTEST_SKIP() << device.error().ToString();
    }
    const std::filesystem::path images = NESTBENCH_IMAGES;
    disk_ = vmm::UniqueFd(::memfd_create("nestbench-fleet-test", MFD_CLOEXEC));
    ASSERT_TRUE(disk_.valid());
    ASSERT_TRUE(substrates::StampDisk(disk_.get(), kDiskBytes));
    auto fleet = Fleet::Start({.tenant_program = NESTBENCH_TENANT,
                               .images = {images / "cpu_integer.elf", images / "memory_first_touch.elf",
                                          images / "io_disk.elf", images / "io_net.elf"},
                               .disk = disk_.get()});
    ASSERT_TRUE(fleet) << fleet.error().ToString();
    fleet_ = std::move(*fleet);
  }

  static Spawn SpawnOf(std::uint32_t image = 0, std::uint64_t arena_bytes = 0) {
    Spawn spawn = {};
    spawn.kind = GetParam();
    spawn.image = image;
    spawn.arena_bytes = arena_bytes;
    spawn.host_page_bytes = spawn.guest_page_bytes = abi::kPageBytes;
    spawn.seed = 7;
    spawn.doorbell = GetParam() == TenantKind::kBare ? abi::Doorbell::kReturn : abi::Doorbell::kPort;
    spawn.cpu = -1;
    spawn.heartbeat_ms = 20;
    spawn.max_files = 64;
    return spawn;
  }

  // 1,000 iterations every 5 ms.
  static Load Steady() {
    Load load = {};
    load.activity = Activity::kRequests;
    load.intensity_percent = 100;
    load.iterations = 1000;
    load.period_ns = 5'000'000;
    load.request_limit_ns = 500'000'000;
    load.window_ns = 50'000'000;
    return load;
  }

  TenantId AddReady(const Spawn& spawn = SpawnOf()) {
    auto id = fleet_->Add(spawn);
    EXPECT_TRUE(id) << id.error().ToString();
    EXPECT_TRUE(fleet_->WaitReady({*id}, 10s));
    EXPECT_EQ(fleet_->Get(*id).phase, Phase::kReady) << fleet_->Get(*id).DescribeEnd();
    return *id;
  }

  // Until the tenant has ended.
  const Tenant& AwaitEnd(TenantId id) {
    fleet_->Poll(10s, [&] { return fleet_->Get(id).phase == Phase::kEnded; });
    EXPECT_EQ(fleet_->Get(id).phase, Phase::kEnded);
    return fleet_->Get(id);
  }

  // A disk or a network of its own, with requests of four operations.
  TenantId AddWithDevice(bool network) {
    Spawn spawn = SpawnOf(network ? 3 : 2, network ? payload::kNetArenaBytes : payload::DiskArenaBytes(4096, 2));
    spawn.has_disk = network ? 0 : 1;
    spawn.has_network = network ? 1 : 0;
    spawn.io_cpu = -1;
    return AddReady(spawn);
  }
  static Load DeviceLoad(bool network) {
    Load load = Steady();
    load.iterations = 4;
    load.request_limit_ns = 5'000'000'000;
    if (network) {
      load.operation = static_cast<std::uint64_t>(payload::NetOperation::kPingPong);
      const std::uint64_t parameters[] = {64, 1, 50'000, 100, 300, 2'000'000, 50'000};
      std::ranges::copy(parameters, load.parameters);
    } else {
      load.operation = static_cast<std::uint64_t>(payload::DiskOperation::kRandomWrite);
      const std::uint64_t parameters[] = {4096, 2, kDiskBytes, 50'000};
      std::ranges::copy(parameters, load.parameters);
    }
    return load;
  }

  static constexpr std::uint64_t kDiskBytes = 4ULL << 20;
  vmm::UniqueFd disk_;
  std::unique_ptr<Fleet> fleet_;
};

// Each load is a new set-up of driver and peer, under the filter that the tenant is in by then.
TEST_P(FleetTest, ServesFromItsDeviceUnderOneLoadAfterTheOther) {
  for (const bool network : {false, true}) {
    if (network && GetParam() != TenantKind::kVm) continue;
    if (GetParam() != TenantKind::kVm && GetParam() != TenantKind::kBare) continue;
    const TenantId id = AddWithDevice(network);
    for (int load = 0; load < 3; ++load) {
      ASSERT_TRUE(fleet_->SetLoad(id, DeviceLoad(network)));
      fleet_->Poll(300ms);
      ASSERT_TRUE(fleet_->Report({id}, false, true, 5s)) << fleet_->Get(id).DescribeEnd();
      const Tenant& tenant = fleet_->Get(id);
      ASSERT_EQ(tenant.phase, Phase::kReady) << tenant.DescribeEnd();
      EXPECT_GT(tenant.totals->requests, 0U);
      EXPECT_EQ(tenant.totals->wrong, 0U);
    }
  }
}

TEST_P(FleetTest, TellsOfDevicesThatFail) {
  if (GetParam() != TenantKind::kVm) GTEST_SKIP() << "only a guest has devices that can fail";
  struct Case {
    VmmFault fault;
    bool network;
    int error;
    const char* cause;
  };
  for (const Case& one : {Case{VmmFault::kDiskInputOutput, false, EIO, "disk failed"},
                          Case{VmmFault::kDiskNoSpace, false, ENOSPC, "disk failed"},
                          Case{VmmFault::kLinkDown, true, ENETDOWN, "link down"}}) {
    const TenantId id = AddWithDevice(one.network);
    ASSERT_TRUE(fleet_->SetLoad(id, DeviceLoad(one.network)));
    fleet_->Poll(100ms);
    ASSERT_TRUE(fleet_->Inject(id, static_cast<std::uint32_t>(one.fault), 1));
    const Tenant& tenant = AwaitEnd(id);
    ASSERT_TRUE(tenant.fault) << tenant.DescribeEnd();
    EXPECT_EQ(tenant.fault->fault_class, FaultClass::kHostResource);
    EXPECT_EQ(tenant.fault->error_number, one.error);
    EXPECT_STREQ(tenant.fault->cause, one.cause);
  }
}

TEST_P(FleetTest, SaysThatADeviceItHasNotCannotFail) {
  const TenantId id = AddReady();
  ASSERT_TRUE(fleet_->Inject(id, static_cast<std::uint32_t>(VmmFault::kLinkDown), 1));
  const Tenant& tenant = AwaitEnd(id);
  ASSERT_TRUE(tenant.fault);
  EXPECT_EQ(tenant.fault->fault_class, FaultClass::kUnsupported);
}

TEST_P(FleetTest, ServesRequestsAtTheRateAskedFor) {
  const TenantId id = AddReady();
  ASSERT_TRUE(fleet_->SetLoad(id, Steady()));
  fleet_->Poll(1s);
  ASSERT_TRUE(fleet_->Report({id}, false, true, 5s));
  const Tenant& tenant = fleet_->Get(id);
  ASSERT_EQ(tenant.phase, Phase::kReady) << tenant.DescribeEnd();
  EXPECT_GT(tenant.totals->requests, 100U);
  EXPECT_LE(tenant.totals->requests, 220U);
  EXPECT_EQ(tenant.totals->wrong, 0U);
  EXPECT_EQ(tenant.totals->verified, 1U);
  EXPECT_EQ(tenant.histogram.total(), tenant.totals->requests);
  EXPECT_GT(tenant.histogram.Quantile(0.5), 1000U) << "1,000 dependent operations take longer than 1 us";
  EXPECT_GE(tenant.windows.size(), 10U);
  EXPECT_GT(tenant.windows.back().p99_ns, 0U);
  EXPECT_GT(tenant.heartbeat.at_ns, 0U);
  if (GetParam() != TenantKind::kBare) {
    EXPECT_GE(tenant.totals->exits, tenant.windows.size());
    EXPECT_TRUE(tenant.statistics.valid());
  }
}

// A tenant that waits to be placed is ready only after it has been; one that starts itself never asks.
TEST_P(FleetTest, PlacesOnlyThoseThatWaitForIt) {
  std::vector<TenantId> placed;
  fleet_->SetPlacement([&placed](const Tenant& tenant) -> Result<> {
    EXPECT_EQ(tenant.phase, Phase::kStarting);
    EXPECT_GT(tenant.pid, 0);
    placed.push_back(tenant.id);
    return {};
  });
  Spawn by_itself = SpawnOf();
  by_itself.starts_itself = 1;
  std::vector<TenantId> free;
  for (int i = 0; i < 8; ++i) {
    auto id = fleet_->Add(by_itself);
    ASSERT_TRUE(id) << id.error().ToString();
    free.push_back(*id);
  }
  const TenantId waits = AddReady();
  ASSERT_TRUE(fleet_->WaitReady(free, 10s));
  for (const TenantId id : free) {
    EXPECT_EQ(fleet_->Get(id).phase, Phase::kReady) << fleet_->Get(id).DescribeEnd();
    EXPECT_TRUE(Exists(fleet_->Get(id).pid));
  }
  EXPECT_EQ(placed, std::vector<TenantId>{waits});
}

TEST_P(FleetTest, KillsAllAndLeavesNone) {
  std::vector<TenantId> ids;
  for (int i = 0; i < 20; ++i) {
    auto id = fleet_->Add(SpawnOf());
    ASSERT_TRUE(id);
    ids.push_back(*id);
  }
  ASSERT_TRUE(fleet_->WaitReady(ids, 20s));
  std::vector<pid_t> pids;
  for (const TenantId id : ids) {
    pids.push_back(fleet_->Get(id).pid);
    EXPECT_TRUE(Exists(pids.back()));
  }
  auto took = fleet_->Kill(ids, 10s);
  ASSERT_TRUE(took) << took.error().ToString();
  for (const pid_t pid : pids) EXPECT_FALSE(Exists(pid));
  for (const TenantId id : ids) EXPECT_THAT(fleet_->Get(id).DescribeEnd(), HasSubstr("signal 9"));
}

TEST_P(FleetTest, EndsEveryTenantWhenTheZygoteDies) {
  const TenantId id = AddReady();
  const pid_t pid = fleet_->Get(id).pid;
  ::kill(fleet_->zygote_pid(), SIGKILL);
  AwaitEnd(id);
  EXPECT_THAT(fleet_->zygote_end(), HasSubstr("signal 9"));
  const auto end = std::chrono::steady_clock::now() + 5s;
  while (Exists(pid) && std::chrono::steady_clock::now() < end) {
    ::waitpid(pid, nullptr, WNOHANG);  // it is our orphan now
    std::this_thread::sleep_for(1ms);
  }
  EXPECT_FALSE(Exists(pid));
  EXPECT_FALSE(fleet_->Add(SpawnOf()));
}

TEST_P(FleetTest, HearsLastWordsOfAVmmThatFaults) {
  struct Case {
    VmmFault fault;
    const char* cause;
    int signal;
  };
  for (const Case& one :
       {Case{VmmFault::kSegmentationFault, "SIGSEGV", SIGSEGV}, Case{VmmFault::kAbort, "SIGABRT", SIGABRT},
        Case{VmmFault::kStackOverflow, "stack overflow", SIGSEGV}}) {
#ifdef NESTBENCH_SANITIZED
    if (one.fault == VmmFault::kStackOverflow) continue;  // the sanitizer's frames and handlers are its own
#endif
    const TenantId id = AddReady();
    ASSERT_TRUE(fleet_->SetLoad(id, Steady()));
    fleet_->Poll(50ms);
    ASSERT_TRUE(fleet_->Inject(id, static_cast<std::uint32_t>(one.fault), 1));
    const Tenant& tenant = AwaitEnd(id);
    ASSERT_TRUE(tenant.fault) << one.cause;
    EXPECT_EQ(tenant.fault->fault_class, FaultClass::kVmmFault);
    EXPECT_THAT(tenant.fault->cause, HasSubstr(one.cause));
    EXPECT_THAT(tenant.fault->evidence, HasSubstr("RIP 0x"));
    ASSERT_TRUE(WIFSIGNALED(*tenant.wait_status));
    EXPECT_EQ(WTERMSIG(*tenant.wait_status), one.signal);
  }
}

TEST_P(FleetTest, ForbidsTheNetworkToATenant) {
#ifdef NESTBENCH_SANITIZED
  GTEST_SKIP() << "no filter under a sanitizer";
#endif
  const TenantId id = AddReady();
  ASSERT_TRUE(fleet_->Inject(id, static_cast<std::uint32_t>(VmmFault::kForbiddenSystemCall), 1));
  const Tenant& tenant = AwaitEnd(id);
  ASSERT_TRUE(WIFSIGNALED(*tenant.wait_status));
  EXPECT_EQ(WTERMSIG(*tenant.wait_status), SIGSYS);
}

TEST_P(FleetTest, ReportsExhaustedDescriptorsAndFullDisks) {
  struct Case {
    VmmFault fault;
    int error_number;
  };
  for (const Case& one : {Case{VmmFault::kDescriptorExhaustion, EMFILE}, Case{VmmFault::kDiskFull, ENOSPC}}) {
    const TenantId id = AddReady();
    ASSERT_TRUE(fleet_->Inject(id, static_cast<std::uint32_t>(one.fault), 1));
    const Tenant& tenant = AwaitEnd(id);
    ASSERT_TRUE(tenant.fault);
    EXPECT_EQ(tenant.fault->fault_class, FaultClass::kHostResource);
    EXPECT_EQ(tenant.fault->error_number, one.error_number);
  }
}

TEST_P(FleetTest, FallsSilentWhenTheVmmSpins) {
  const TenantId id = AddReady();
  ASSERT_TRUE(fleet_->Inject(id, static_cast<std::uint32_t>(VmmFault::kBusyLoop), 1));
  fleet_->Poll(100ms);
  const std::uint64_t silent_since = fleet_->Get(id).last_sign_ns;
  fleet_->Poll(200ms);
  EXPECT_EQ(fleet_->Get(id).last_sign_ns, silent_since);
  EXPECT_EQ(fleet_->Get(id).phase, Phase::kReady);
}

TEST_P(FleetTest, HoldsAndChurnsMemory) {
  const TenantId id = AddReady(SpawnOf(1, 16 * kMiB));
  Load load = Steady();
  load.activity = Activity::kHoldMemory;
  load.hold_bytes = 16 * kMiB;
  ASSERT_TRUE(fleet_->SetLoad(id, load));
  ASSERT_TRUE(fleet_->Report({id}, false, false, 10s));
  EXPECT_EQ(fleet_->Get(id).totals->held_bytes, 16 * kMiB);
  std::ifstream statm("/proc/" + std::to_string(fleet_->Get(id).pid) + "/statm");
  std::uint64_t size_pages = 0;
  std::uint64_t resident_pages = 0;
  statm >> size_pages >> resident_pages;
  EXPECT_GE(resident_pages * abi::kPageBytes, 16 * kMiB);

  load.activity = Activity::kChurnMemory;
  load.hold_bytes = kMiB;
  const TenantId churner = AddReady(SpawnOf(1, 16 * kMiB));
  ASSERT_TRUE(fleet_->SetLoad(churner, load));
  fleet_->Poll(300ms);
  EXPECT_EQ(fleet_->Get(churner).phase, Phase::kReady) << fleet_->Get(churner).DescribeEnd();
  std::uint64_t passes = 0;
  for (const auto& window : fleet_->Get(churner).windows) passes += window.activities;
  EXPECT_GT(passes, 2U);
}

TEST_P(FleetTest, KeepsToItsShareOfTheTime) {
  const TenantId id = AddReady();
  Load load = Steady();
  load.period_ns = 0;
  load.intensity_percent = 30;
  load.iterations = 100'000;
  ASSERT_TRUE(fleet_->SetLoad(id, load));
  fleet_->Poll(1s);
  ASSERT_TRUE(fleet_->Report({id}, false, false, 5s));
  const auto& totals = *fleet_->Get(id).totals;
  const double share = static_cast<double>(totals.cpu_ns) / static_cast<double>(totals.end_ns - totals.begin_ns);
  EXPECT_GT(share, 0.05);
  EXPECT_LT(share, 0.5);
}

TEST_P(FleetTest, RefusesALoadItCannotServe) {
  const TenantId id = AddReady();
  Load load = Steady();
  load.activity = Activity::kHoldMemory;
  load.hold_bytes = kMiB;  // it has no arena
  ASSERT_TRUE(fleet_->SetLoad(id, load));
  fleet_->Poll(2s, [&] { return fleet_->Get(id).refused.has_value(); });
  ASSERT_TRUE(fleet_->Get(id).refused);
  EXPECT_THAT(fleet_->Get(id).refused->cause, HasSubstr("arena"));
  ASSERT_TRUE(fleet_->SetLoad(id, Steady()));
  ASSERT_TRUE(fleet_->Report({id}, false, false, 5s));
  EXPECT_EQ(fleet_->Get(id).phase, Phase::kReady);
}

TEST_P(FleetTest, ChurnsProcessesOnlyWithTheRight) {
  Spawn spawn = SpawnOf();
  spawn.may_fork = 1;
  const TenantId id = AddReady(spawn);
  Load load = Steady();
  load.activity = Activity::kProcesses;
  load.intensity_percent = 5;
  ASSERT_TRUE(fleet_->SetLoad(id, load));
  fleet_->Poll(3s, [&] { return !fleet_->Get(id).windows.empty() && fleet_->Get(id).windows.back().activities > 0; });
  EXPECT_EQ(fleet_->Get(id).phase, Phase::kReady) << fleet_->Get(id).DescribeEnd();
  ASSERT_FALSE(fleet_->Get(id).windows.empty());

  const TenantId other = AddReady();
  ASSERT_TRUE(fleet_->SetLoad(other, load));
  fleet_->Poll(2s, [&] { return fleet_->Get(other).refused.has_value(); });
  EXPECT_TRUE(fleet_->Get(other).refused);
}

INSTANTIATE_TEST_SUITE_P(Kinds, FleetTest, ::testing::Values(TenantKind::kBare, TenantKind::kVm),
                         [](const auto& tested) { return tested.param == TenantKind::kBare ? "bare" : "vm"; });

}  // namespace
}  // namespace nestbench::tenancy
