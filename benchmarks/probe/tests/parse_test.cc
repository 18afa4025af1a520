#include "parse.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "host_probe.h"

namespace nestbench::probe {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr std::string_view kCpuInfo = R"(processor	: 0
vendor_id	: AuthenticAMD
cpu family	: 25
model		: 17
model name	: AMD EPYC 9R14
stepping	: 1
microcode	: 0xa101148
flags		: fpu vme avx2 hypervisor svm
bugs		: sysret_ss_attrs

processor	: 1
vendor_id	: SomethingElse
flags		: none
)";

TEST(ParseCpuInfo, ReadsTheFirstProcessor) {
  const auto cpu = ParseCpuInfo(kCpuInfo);
  ASSERT_TRUE(cpu) << cpu.error().ToString();
  EXPECT_EQ(cpu->vendor, "AuthenticAMD");
  EXPECT_EQ(cpu->model_name, "AMD EPYC 9R14");
  EXPECT_EQ(cpu->family, 25U);
  EXPECT_EQ(cpu->model, 17U) << "`model name` taken for `model`?";
  EXPECT_EQ(cpu->microcode, "0xa101148");
  EXPECT_TRUE(cpu->HasFlag("avx2"));
  EXPECT_FALSE(cpu->HasFlag("avx"));
  EXPECT_FALSE(cpu->HasFlag("none"));
}

TEST(ParseCpuInfo, RefusesOtherArchitecturesAndGarbage) {
  EXPECT_FALSE(ParseCpuInfo("processor : 0\nCPU implementer : 0x41\n"));
  EXPECT_FALSE(ParseCpuInfo(""));
  EXPECT_FALSE(ParseCpuInfo(std::string_view("\0\n:\n::\n", 6)));
}

TEST(ParseCpuInfo, TakesANumberThatIsNoneAsZero) {
  EXPECT_EQ(ParseCpuInfo("vendor_id : X\ncpu family : 99999999999999999999\n")->family, 0U);
}

TEST(BracketedWord, IsTheChosenOne) {
  EXPECT_EQ(BracketedWord("always [madvise] never\n"), "madvise");
  EXPECT_EQ(BracketedWord("always madvise never"), "");
  EXPECT_EQ(BracketedWord("]always["), "");
  EXPECT_EQ(BracketedWord("[open"), "");
}

TEST(CountCpuList, CountsRangesAndSingles) {
  EXPECT_EQ(CountCpuList("0-3,8,10-11\n"), 7U);
  EXPECT_EQ(CountCpuList("0"), 1U);
  for (const char* bad : {"", "a", "3-1", "0-", "-1", "0,,1", "0-99999999999"}) EXPECT_FALSE(CountCpuList(bad)) << bad;
}

TEST(MeminfoBytes, FindsTheWholeKey) {
  constexpr std::string_view kText = "MemTotalX: 1 kB\nMemTotal:       24684096 kB\nMemFree: 5 kB\n";
  EXPECT_EQ(MeminfoBytes(kText, "MemTotal"), 24684096ULL << 10);
  EXPECT_FALSE(MeminfoBytes(kText, "Mem"));
  EXPECT_FALSE(MeminfoBytes("MemTotal: 99999999999999999999 kB\n", "MemTotal"));
  EXPECT_FALSE(MeminfoBytes("MemTotal: 18446744073709551615 kB\n", "MemTotal")) << "overflow";
}

TEST(ParseEffectiveCapabilities, ReadsTheHexMask) {
  EXPECT_EQ(ParseEffectiveCapabilities("CapPrm:\t0\nCapEff:\t000001ffffffffff\n"), 0x1ff'ffff'ffffULL);
  EXPECT_FALSE(ParseEffectiveCapabilities("CapPrm:\t0\n"));
}

// Captured: Debian 12 with systemd.
constexpr std::string_view kMountsV2 =
    "22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n"
    "28 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro\n"
    "31 22 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
// Captured: a host that mounts each controller by itself.
constexpr std::string_view kMountsV1 =
    "40 39 0:33 / /sys/fs/cgroup/systemd rw shared:12 - cgroup cgroup rw,xattr,name=systemd\n"
    "41 39 0:34 / /sys/fs/cgroup/cpu,cpuacct rw shared:13 - cgroup cgroup rw,cpu,cpuacct\n"
    "42 39 0:35 / /sys/fs/cgroup/memory rw shared:14 - cgroup cgroup rw,memory\n";
constexpr std::string_view kMountUnified = "43 39 0:36 / /sys/fs/cgroup/unified rw shared:15 - cgroup2 cgroup2 rw\n";

TEST(FindCgroups, RecognisesV2) {
  const auto view = FindCgroups(ParseMountInfo(kMountsV2), ParseSelfCgroup("0::/user.slice/user-1000.slice\n"));
  EXPECT_EQ(view.layout, "v2");
  ASSERT_THAT(view.hierarchies, SizeIs(1));
  EXPECT_TRUE(view.hierarchies[0].is_v2);
  EXPECT_EQ(view.hierarchies[0].folder, "/sys/fs/cgroup/user.slice/user-1000.slice");
}

TEST(FindCgroups, RecognisesV1AndLeavesOutNamedHierarchies) {
  const auto view = FindCgroups(ParseMountInfo(kMountsV1),
                                ParseSelfCgroup("3:memory:/a:b\n2:cpu,cpuacct:/\n1:name=systemd:/init.scope\n"));
  EXPECT_EQ(view.layout, "v1");
  ASSERT_THAT(view.hierarchies, SizeIs(2));
  EXPECT_EQ(view.hierarchies[0].folder, "/sys/fs/cgroup/memory/a:b");
  EXPECT_THAT(view.hierarchies[1].controllers, ElementsAre("cpu", "cpuacct"));
  EXPECT_EQ(view.hierarchies[1].folder, "/sys/fs/cgroup/cpu,cpuacct");
}

TEST(FindCgroups, RecognisesHybrid) {
  const auto view = FindCgroups(ParseMountInfo(std::string(kMountsV1) + std::string(kMountUnified)),
                                ParseSelfCgroup("2:cpu,cpuacct:/\n0::/\n"));
  EXPECT_EQ(view.layout, "hybrid");
  EXPECT_THAT(view.hierarchies, SizeIs(2));
}

TEST(FindCgroups, FindsNoneWhereNothingIsMounted) {
  EXPECT_EQ(FindCgroups({}, ParseSelfCgroup("0::/\n")).layout, "none");
  EXPECT_EQ(FindCgroups(ParseMountInfo(kMountsV2), {}).layout, "none");
}

TEST(FindCgroups, FollowsAMountThatShowsAPartOnly) {
  const std::string mounts = "31 22 0:26 /docker/abc /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
  EXPECT_EQ(FindCgroups(ParseMountInfo(mounts), ParseSelfCgroup("0::/docker/abc/x\n")).hierarchies[0].folder,
            "/sys/fs/cgroup/x");
  EXPECT_EQ(FindCgroups(ParseMountInfo(mounts), ParseSelfCgroup("0::/docker/abcd\n")).hierarchies[0].folder,
            "/sys/fs/cgroup");
}

TEST(ParseMountInfo, DecodesOctalAndSkipsWhatIsNotALine) {
  const std::string text =
      "\n"
      "garbage\n"
      "1 2 3:4 / /no-separator rw shared:1 ext4 x rw\n"
      "1 2 3:4 / /too-short rw - ext4\n"
      "1 2 3:4 / /with\\040space\\134 rw a b c - ext4 /dev/x rw\n"
      "1 2 3:4 / /bad\\09escape\\ rw - ext4 x rw\n"
      "- - - - - - - - -\n";
  const auto mounts = ParseMountInfo(text);
  ASSERT_THAT(mounts, SizeIs(2));
  EXPECT_EQ(mounts[0].mount_point, "/with space\\");
  EXPECT_EQ(mounts[1].mount_point, "/bad\\09escape\\");
}

TEST(ParseSelfCgroup, SkipsWhatIsNotALine) {
  EXPECT_THAT(ParseSelfCgroup("\n:\n::\nx:cpu:/\n1:cpu\n1:cpu:relative\n"), IsEmpty());
  EXPECT_THAT(ParseSelfCgroup(std::string_view("1:cpu:/\0\n", 9)), SizeIs(1));
}

// A captured tree below another root: two sockets, SMT, one CPU offline.
class CapturedTree : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (std::filesystem::temp_directory_path() / "nestbench-probe.XXXXXX").string();
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    root_ = name;
  }
  void TearDown() override { std::filesystem::remove_all(root_); }
  void Write(const std::string& path, const std::string& text) {
    const auto file = root_ / std::filesystem::path(path).relative_path();
    std::filesystem::create_directories(file.parent_path());
    std::ofstream(file) << text;
  }
  std::filesystem::path root_;
};

TEST_F(CapturedTree, TopologyCountsCoresAndSocketsOfOnlineCpus) {
  Write("/sys/devices/system/cpu/online", "0-3\n");
  const auto cpu = [this](int number, const char* package, const char* siblings) {
    const std::string folder = "/sys/devices/system/cpu/cpu" + std::to_string(number) + "/topology/";
    Write(folder + "physical_package_id", package);
    Write(folder + "core_id", "0");
    Write(folder + "thread_siblings_list", siblings);
  };
  cpu(0, "0\n", "0,2\n");
  cpu(1, "1\n", "1,3\n");
  cpu(2, "0\n", "0,2\n");
  cpu(3, "1\n", "1,3\n");
  Write("/sys/devices/system/cpu/cpu4/online", "0\n");
  Write("/sys/devices/system/cpu/cpufreq/x", "");
  Write("/sys/devices/system/node/has_memory", "0-1\n");
  Write("/proc/meminfo", "MemTotal: 1024 kB\n");
  const auto topology = ReadTopology(SystemFiles(root_));
  ASSERT_TRUE(topology) << topology.error().ToString();
  EXPECT_EQ(topology->cpus, 4U);
  EXPECT_EQ(topology->cores, 2U);
  EXPECT_EQ(topology->sockets, 2U);
  EXPECT_EQ(topology->numa_nodes, 2U);
  EXPECT_EQ(topology->memory_bytes, 1ULL << 20);
}

TEST_F(CapturedTree, HugePagesReadThePools) {
  Write("/sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
  Write("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "8\n");
  Write("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "5\n");
  const auto pages = ReadHugePages(SystemFiles(root_));
  ASSERT_TRUE(pages);
  EXPECT_EQ(pages->thp, "always");
  EXPECT_EQ(pages->hugetlb_2m_total, 8U);
  EXPECT_EQ(pages->hugetlb_2m_free, 5U);
  EXPECT_EQ(pages->hugetlb_1g_free, 0U);
}

TEST_F(CapturedTree, AnEmptyTreeFailsItemByItemWithAReason) {
  const SystemFiles files(root_);
  for (const auto& error :
       {ReadMitigations(files).error(), ReadClockSources(files).error(), ReadTopology(files).error(),
        ReadHugePages(files).error(), ReadRights(files).error(), ProbeCgroups(files).error()}) {
    EXPECT_FALSE(error.ToString().empty());
  }
}

TEST_F(CapturedTree, CgroupsThatCannotTakeAChildSayWhy) {
  Write("/proc/self/mountinfo", "31 22 0:26 / /nonexistent/cgroup rw - cgroup2 cgroup2 rw\n");
  Write("/proc/self/cgroup", "0::/\n");
  const auto cgroup = ProbeCgroups(SystemFiles(root_));
  ASSERT_TRUE(cgroup);
  EXPECT_EQ(cgroup->layout, "v2");
  EXPECT_FALSE(cgroup->writable);
  EXPECT_THAT(cgroup->reason, ::testing::HasSubstr("/nonexistent/cgroup"));
}

}  // namespace
}  // namespace nestbench::probe
