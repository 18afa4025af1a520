// Host counters and process accounting, on captured files and on this machine.
#include "nestbench/tenancy/host_load.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>
#include <thread>

#include "nestbench/tenancy/process_accounting.h"

namespace nestbench::tenancy {
namespace {

using namespace std::chrono_literals;
using system_files::SystemFiles;

class CapturedTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "nestbench-host-load-XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Put(const std::string& path, std::string_view text) const {
    const auto target = root_ / std::filesystem::path(path).relative_path();
    std::filesystem::create_directories(target.parent_path());
    std::ofstream(target) << text;
  }
  std::filesystem::path root_;
};

TEST_F(CapturedTest, DifferencesOfTheKernelsCounters) {
  Put("/proc/stat", "cpu  100 0 100 700 50 10 10 30 5 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nctxt 1000\nprocesses 50\n");
  Put("/proc/vmstat", "nr_free_pages 1\noom_kill 3\n");
  Put("/proc/meminfo", "MemTotal:  2048 kB\nMemAvailable:    1024 kB\n");
  Put("/proc/loadavg", "0.00 0.01 0.05 1/90 12345\n");
  Put("/proc/sys/kernel/pid_max", "100\n");
  Put("/proc/sys/fs/file-nr", "40\t0\t50\n");
  const HostLoad load = HostLoad::Begin(SystemFiles(root_));
  // 100 ticks: 20 idle, 20 stolen, 60 busy.
  Put("/proc/stat", "cpu  130 0 110 710 60 20 20 50 9 0\ncpu0 1 1 1 1 1 1 1 1 1 1\nctxt 1400\nprocesses 57\n");
  Put("/proc/vmstat", "nr_free_pages 1\noom_kill 5\n");
  const HostLoadInterval interval = load.Difference();
  EXPECT_DOUBLE_EQ(interval.cpu_busy.value_or(-1), 0.6);
  EXPECT_DOUBLE_EQ(interval.steal.value_or(-1), 0.2);
  EXPECT_EQ(interval.context_switches, 400U);
  EXPECT_EQ(interval.processes_started, 7U);
  EXPECT_EQ(interval.oom_kills, 2U);
  EXPECT_EQ(interval.mem_available_bytes, 1U << 20);
  EXPECT_EQ(interval.threads_left, 10U);
  EXPECT_EQ(interval.descriptors_left, 10U);
  EXPECT_EQ(interval.psi_cpu_some, std::nullopt) << "no /proc/pressure";
  const nlohmann::json json = load.End();
  EXPECT_TRUE(json.at("psi_memory_full").is_null());
  EXPECT_EQ(json.at("oom_kills"), 2U);
  EXPECT_TRUE(json.at("run_queue_wait").is_null());
}

TEST_F(CapturedTest, ThreadsAreLimitedByTheGroupsAbove) {
  Put("/proc/loadavg", "0.00 0.01 0.05 1/90 12345\n");
  Put("/proc/sys/kernel/pid_max", "32768\n");
  Put("/proc/self/mountinfo", "30 24 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
  Put("/proc/self/cgroup", "0::/a/b\n");
  for (const char* group : {"", "/a", "/a/b"}) Put("/sys/fs/cgroup" + std::string(group) + "/cgroup.procs", "");
  Put("/sys/fs/cgroup/a/pids.max", "30\n");
  Put("/sys/fs/cgroup/a/pids.current", "25\n");
  Put("/sys/fs/cgroup/a/b/pids.max", "max\n");
  Put("/sys/fs/cgroup/a/b/pids.current", "25\n");
  EXPECT_EQ(HostLoad::Begin(SystemFiles(root_)).Difference().threads_left, 5U);
}

TEST_F(CapturedTest, NothingIsToldWithoutProc) {
  const HostLoadInterval interval = HostLoad::Begin(SystemFiles(root_)).Difference();
  EXPECT_EQ(interval.cpu_busy, std::nullopt);
  EXPECT_EQ(interval.mem_available_bytes, std::nullopt);
  EXPECT_EQ(interval.threads_left, std::nullopt);
}

TEST_F(CapturedTest, CountersThatGoBackwardsHaveNotMoved) {
  Put("/proc/stat", "cpu  100 0 100 700 50 10 10 30\n");
  Put("/proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=900\n");
  const HostLoad load = HostLoad::Begin(SystemFiles(root_));
  Put("/proc/stat", "cpu  200 0 100 700 50 10 10 20\n");
  Put("/proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=800\n");
  const HostLoadInterval interval = load.Difference();
  EXPECT_DOUBLE_EQ(interval.steal.value_or(-1), 0);
  EXPECT_DOUBLE_EQ(interval.cpu_busy.value_or(-1), 1);
  EXPECT_DOUBLE_EQ(interval.psi_memory_some.value_or(-1), 0);
  EXPECT_EQ(interval.psi_memory_full, std::nullopt);
}

TEST_F(CapturedTest, AProcessWithAHostileName) {
  Put("/proc/77/stat", "77 (a) R (b) T 1 77 77 0 -1 64 11 0 12 0 1 2 0 0 20 0 1 0 5 6 7\n");
  Put("/proc/77/schedstat", "5 1234 9\n");
  Put("/proc/77/status", "Name:\tx\nvoluntary_ctxt_switches:\t3\nnonvoluntary_ctxt_switches:\t4\n");
  const auto usage = ReadProcess(77, SystemFiles(root_));
  ASSERT_TRUE(usage) << usage.error().ToString();
  EXPECT_EQ(usage->state, 'T');
  EXPECT_EQ(usage->minor_faults, 11U);
  EXPECT_EQ(usage->major_faults, 12U);
  EXPECT_EQ(usage->threads, 1U);
  EXPECT_EQ(usage->run_queue_wait_ns, 1234U);
  EXPECT_EQ(usage->voluntary_switches, 3U);
  EXPECT_EQ(usage->involuntary_switches, 4U);
  Put("/proc/77/stat", "77 (a T 1");
  EXPECT_FALSE(ReadProcess(77, SystemFiles(root_)));
}

TEST_F(CapturedTest, SplitsTheMemoryOfAProcess) {
  // Guest memory of 1 MiB, merged by the kernel with 4 KiB before it; then a shared library.
  Put("/proc/77/smaps",
      "7f0000000000-7f0000101000 rw-p 00000000 00:00 0 \nRss:                1028 kB\nPss:                1028 kB\n"
      "7f1000000000-7f1000100000 r-xp 00000000 08:01 5 /lib/a-b.so\nRss:  100 kB\nPss:   10 kB\n");
  Put("/proc/77/status", "VmPTE:      44 kB\n");
  const AddressRange ram = {0x7f0000001000, 1 << 20};
  const auto memory = ReadProcessMemory(77, std::span(&ram, 1), SystemFiles(root_));
  ASSERT_TRUE(memory) << memory.error().ToString();
  EXPECT_EQ(memory->guest_ram_bytes, 1U << 20);
  EXPECT_EQ(memory->vmm_private_bytes, (4U + 10U) << 10);
  EXPECT_EQ(memory->page_tables_bytes, 44U << 10);
}

TEST_F(CapturedTest, TheTotalIsWhatTheHostHasLost) {
  Put("/proc/meminfo", "MemAvailable:    10240 kB\n");
  for (const char* pid : {"1", "2"}) {
    Put("/proc/" + std::string(pid) + "/smaps",
        "10000-20000 rw-p 00000000 00:00 0 \nRss:     64 kB\nPss:   64 kB\n20000-30000 rw-p 00000000 00:00 0 \nRss:  "
        "64 kB\nPss:  32 kB\n");
  }
  const MemoryAccount account = MemoryAccount::Begin(SystemFiles(root_));
  Put("/proc/meminfo", "MemAvailable:    9216 kB\n");
  const std::vector<GuestProcess> guests = {{1, {{0x10000, 0x10000}}}, {2, {{0x10000, 0x10000}}}, {3, {}}};
  const auto each = account.PerGuest(guests);
  ASSERT_TRUE(each);
  EXPECT_EQ(each->sampled, 2U) << "the third is gone";
  EXPECT_DOUBLE_EQ(each->total_bytes, 1024.0 * 1024 / 3);
  EXPECT_DOUBLE_EQ(each->guest_ram_bytes, 65536);
  EXPECT_DOUBLE_EQ(each->vmm_private_bytes, 32768);
  EXPECT_DOUBLE_EQ(each->kernel_bytes, 1024.0 * 1024 / 3 - 98304);
  EXPECT_EQ(account.PerGuest({}), std::nullopt);
}

TEST_F(CapturedTest, PagesInThePerCpuListsAreUnusedAsWell) {
  Put("/proc/meminfo", "MemAvailable:    1024 kB\n");
  EXPECT_EQ(ReadUnusedMemoryBytes(SystemFiles(root_)), 1U << 20);
  Put("/proc/zoneinfo",
      "Node 0, zone   Normal\n  pages free     5\n      nr_count: 9\n  pagesets\n    cpu: 0\n              count:    "
      "100\n"
      "              high:     900\n    cpu: 1\n              count:    56\n");
  EXPECT_EQ(ReadUnusedMemoryBytes(SystemFiles(root_)), (1U << 20) + 156 * static_cast<std::uint64_t>(::getpagesize()));
}

TEST(HostLoadSystemTest, SeesThisMachineWork) {
  const HostLoad load = HostLoad::Begin();
  const auto end = std::chrono::steady_clock::now() + 300ms;
  while (std::chrono::steady_clock::now() < end) {
  }
  const HostLoadInterval interval = load.Difference();
  EXPECT_GE(interval.duration_ns, 300'000'000U);
  EXPECT_GT(interval.cpu_busy.value_or(0), 0);
  EXPECT_GT(interval.mem_available_bytes.value_or(0), 0U);
  EXPECT_GT(interval.descriptors_left.value_or(0), 0U);
  EXPECT_GT(interval.threads_left.value_or(0), 0U);
}

TEST(HostLoadSystemTest, OpenDescriptorsAreFewer) {
  const HostLoad load = HostLoad::Begin();
  rlimit old_limit = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &old_limit), 0);
  rlimit limit = {.rlim_cur = std::min<rlim_t>(256, old_limit.rlim_max), .rlim_max = old_limit.rlim_max};
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  const auto before = load.Difference().descriptors_left;
  int fds[20];
  for (int& fd : fds) fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const auto after = load.Difference().descriptors_left;
  for (const int fd : fds) ::close(fd);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &old_limit), 0);
  ASSERT_TRUE(before && after);
  EXPECT_EQ(*before - *after, 20U);
}

TEST(ProcessAccountingSystemTest, ReadsAProcessOfManyThreads) {
  const auto before = ReadProcess(::getpid());
  ASSERT_TRUE(before) << before.error().ToString();
  std::thread([] {
    const auto end = std::chrono::steady_clock::now() + 50ms;
    while (std::chrono::steady_clock::now() < end) {
    }
  }).join();
  std::thread waiting([] { std::this_thread::sleep_for(100ms); });
  const auto after = ReadProcess(::getpid());
  waiting.join();
  ASSERT_TRUE(after) << after.error().ToString();
  EXPECT_EQ(before->state, 'R');
  EXPECT_EQ(after->threads, before->threads + 1);
  EXPECT_GT(after->cpu_ns, before->cpu_ns) << "a thread that has ended counts";
  EXPECT_TRUE(ReadRunQueueWaitNs(::getpid()));
}

TEST(ProcessAccountingSystemTest, TellsGuestMemoryFromTheRest) {
  constexpr std::uint64_t kBytes = 64 << 20;
  // What the test itself allocates between the two readings; more under a sanitizer.
  constexpr double kOwnBytes = 8 << 20;
  void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  ASSERT_NE(memory, MAP_FAILED);
  const AddressRange range = {reinterpret_cast<std::uint64_t>(memory), kBytes};
  const auto with = ReadProcessMemory(::getpid(), std::span(&range, 1));
  const auto without = ReadProcessMemory(::getpid(), {});
  ::munmap(memory, kBytes);
  ASSERT_TRUE(with && without);
  EXPECT_EQ(with->guest_ram_bytes, kBytes);
  EXPECT_EQ(without->guest_ram_bytes, 0U);
  EXPECT_NEAR(static_cast<double>(without->vmm_private_bytes - with->vmm_private_bytes), static_cast<double>(kBytes),
              kOwnBytes);
}

TEST(ProcessAccountingSystemTest, AProcessThatIsGoneIsAnError) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  EXPECT_FALSE(ReadProcess(child));
  EXPECT_FALSE(ReadProcessMemory(child, {}));
  EXPECT_EQ(ReadRunQueueWaitNs(child), std::nullopt);
}

}  // namespace
}  // namespace nestbench::tenancy
