#include "nestbench/result/out_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "sample_run.h"

namespace nestbench::result {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

class WorkingDirectory {
 public:
  explicit WorkingDirectory(const std::filesystem::path& path) : before_(std::filesystem::current_path()) {
    std::filesystem::current_path(path);
  }
  ~WorkingDirectory() { std::filesystem::current_path(before_); }
  WorkingDirectory(const WorkingDirectory&) = delete;
  WorkingDirectory& operator=(const WorkingDirectory&) = delete;

 private:
  std::filesystem::path before_;
};

TEST(OutFolder, IsANewOneForEachRunByDefault) {
  const ScratchFolder scratch;
  const WorkingDirectory inside(scratch.path());
  const auto first = PrepareOutFolder(std::nullopt);
  const auto second = PrepareOutFolder(std::nullopt);
  ASSERT_TRUE(first && second);
  EXPECT_NE(*first, *second);
  EXPECT_THAT(first->string(), MatchesRegex("results/[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}"));
  EXPECT_TRUE(std::filesystem::is_empty(*first)) << "the proof that it is writable stayed";
}

TEST(OutFolder, IsMadeWithItsParents) {
  const ScratchFolder scratch;
  const auto folder = PrepareOutFolder(scratch.path() / "a" / "b");
  ASSERT_TRUE(folder) << folder.error().ToString();
  EXPECT_TRUE(std::filesystem::is_directory(*folder));
  EXPECT_TRUE(PrepareOutFolder(*folder)) << "an existing folder without a run is fine";
  EXPECT_TRUE(PrepareOutFolder(folder->string() + "/")) << "with a slash at the end too";
}

TEST(OutFolder, WithAJournalOrAResultIsRefusedWithWhatToDo) {
  const ScratchFolder scratch;
  WriteFile(scratch.path() / "journal.jsonl", "");
  const auto journal = PrepareOutFolder(scratch.path());
  ASSERT_FALSE(journal);
  EXPECT_EQ(journal.error().kind, vmm::ErrorKind::kInvalidArgument);
  EXPECT_THAT(journal.error().ToString(), HasSubstr("nestbench recover " + scratch.path().string()));
  WriteFile(scratch.path() / "result.json", "{}");
  const auto result = PrepareOutFolder(scratch.path());
  ASSERT_FALSE(result);
  EXPECT_THAT(result.error().ToString(), HasSubstr("result of another run"));
}

TEST(OutFolder, ThatIsAFileIsRefused) {
  const ScratchFolder scratch;
  WriteFile(scratch.path() / "file", "");
  for (const auto& path : {scratch.path() / "file", scratch.path() / "file" / "below"}) {
    const auto folder = PrepareOutFolder(path);
    ASSERT_FALSE(folder) << path;
    EXPECT_THAT(folder.error().ToString(), HasSubstr("--out"));
  }
  EXPECT_FALSE(PrepareOutFolder(std::filesystem::path()));
}

TEST(OutFolder, ThatCannotBeWrittenIsRefused) {
  const ScratchFolder scratch;
  if (::geteuid() == 0) {
    // Root writes anywhere but to a read-only file system.
    if (::mount("nestbench-test", scratch.path().c_str(), "tmpfs", MS_RDONLY, "size=64k") != 0) {
      GTEST_SKIP() << "root without the right to mount a read-only tmpfs: " << std::strerror(errno);
    }
  } else {
    std::filesystem::permissions(scratch.path(),
                                 std::filesystem::perms::owner_read | std::filesystem::perms::owner_exec);
  }
  const auto folder = PrepareOutFolder(scratch.path());
  const auto below = PrepareOutFolder(scratch.path() / "new");
  if (::geteuid() == 0) {
    EXPECT_EQ(::umount2(scratch.path().c_str(), MNT_DETACH), 0);
  }
  ASSERT_FALSE(folder);
  EXPECT_THAT(folder.error().ToString(), HasSubstr("choose a folder that you may write to"));
  ASSERT_FALSE(below);
  EXPECT_THAT(below.error().ToString(), HasSubstr("choose a folder that you may write to"));
}

TEST(RunTime, IsRfc3339InUtc) {
  EXPECT_THAT(Rfc3339Now(), MatchesRegex("[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z"));
}

}  // namespace
}  // namespace nestbench::result
