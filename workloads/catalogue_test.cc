// The catalogue against what reads it: ids, sizes, and the images that were built.
#include "nestbench/workloads/catalogue.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>

#include "nestbench/abi/layout.h"

namespace nestbench::workloads {
namespace {

constexpr std::uint64_t kMiB = 1ULL << 20;

TEST(CatalogueTest, GivesEveryWorkloadAnIdOfItsOwn) {
  std::set<std::string> ids;
  for (const Workload& workload : Catalogue()) {
    EXPECT_TRUE(ids.insert(Id(workload, "overhead", "vm")).second) << Id(workload, "overhead", "vm");
  }
}

TEST(CatalogueTest, FollowsTheGrammarOfIds) {
  const std::regex grammar(
      "overhead/[a-z][a-z0-9_-]*(/[a-z][a-z0-9_-]*=[A-Za-z0-9_.+-]+(,[a-z][a-z0-9_-]*=[A-Za-z0-9_.+-]+)*)?/bare");
  for (const Workload& workload : Catalogue()) {
    const std::string id = Id(workload, "overhead", "bare");
    EXPECT_TRUE(std::regex_match(id, grammar)) << id;
  }
}

TEST(CatalogueTest, WritesTheIdsKeysInOrder) {
  Workload workload;
  workload.name = "memory_chase";
  EXPECT_EQ(Id(workload, "overhead", "vm"), "overhead/memory_chase/vm");
  workload.params = {{"working_set_bytes", std::uint64_t{16384}}, {"order", "random"}};
  EXPECT_EQ(Id(workload, "overhead", "vm"), "overhead/memory_chase/order=random,working_set_bytes=16384/vm");
}

TEST(CatalogueTest, AsksForArenasThatTheMapAllows) {
  for (const Workload& workload : Catalogue()) {
    const std::string id = Id(workload, "overhead", "bare");
    EXPECT_EQ(workload.arena_bytes % abi::kLargePageBytes, 0U) << id;
    EXPECT_LE(workload.arena_bytes, abi::kArenaMaxBytes) << id;
    for (const std::uint64_t page_bytes : {workload.host_page_bytes, workload.guest_page_bytes}) {
      EXPECT_TRUE(page_bytes == abi::kPageBytes || page_bytes == abi::kLargePageBytes) << id;
    }
    EXPECT_FALSE(workload.unit.empty()) << id;
    EXPECT_FALSE(workload.summary.empty()) << id;
  }
}

TEST(CatalogueTest, KeepsTheQuickProfileSmall) {
  std::size_t quick = 0;
  for (const Workload& workload : Catalogue()) {
    if (!Includes(Profile::kQuick, workload)) continue;
    ++quick;
    // A machine of 2 GiB can run it. Most need far less: a first touch in large pages needs many of them for a batch.
    EXPECT_LE(workload.arena_bytes, 512 * kMiB) << Id(workload, "overhead", "bare");
  }
  EXPECT_GE(quick, 15U);
  EXPECT_LE(quick, 20U);
}

TEST(CatalogueTest, IncludesASmallerProfileInALargerOne) {
  Workload standard;
  standard.profile = Profile::kStandard;
  EXPECT_FALSE(Includes(Profile::kQuick, standard));
  EXPECT_TRUE(Includes(Profile::kStandard, standard));
  EXPECT_TRUE(Includes(Profile::kFull, standard));
}

TEST(CatalogueTest, ConvertsABatchToEachUnit) {
  Workload workload;
  EXPECT_DOUBLE_EQ(ToUnit(workload, 3000, 1500, 0), 2.0);  // ns/op
  workload.metric = Metric::kOperationsPerMicrosecond;
  EXPECT_DOUBLE_EQ(ToUnit(workload, 2000, 6000, 0), 3000.0);  // M/s
  workload.scale = 1e-3;
  EXPECT_DOUBLE_EQ(ToUnit(workload, 2000, 6000, 0), 3.0);  // GFLOP/s
  workload.metric = Metric::kBytesPerNs;
  workload.scale = 1;
  EXPECT_DOUBLE_EQ(ToUnit(workload, 100, 1, 250), 2.5);  // GB/s
}

TEST(CatalogueTest, NamesExactlyTheImagesThatWereBuilt) {
  std::set<std::string> named = {"exits", "io_disk", "io_net", "io_power_cut"};  // of scenarios and tests
  for (const Workload& workload : Catalogue()) named.insert(workload.image);
  std::set<std::string> built;
  for (const auto& file : std::filesystem::directory_iterator(NESTBENCH_IMAGES_FOLDER)) {
    if (file.path().extension() == ".elf") built.insert(file.path().stem());
  }
  EXPECT_EQ(named, built) << "an image is left from a payload that no longer exists, or a catalogue line is missing";
}

}  // namespace
}  // namespace nestbench::workloads
