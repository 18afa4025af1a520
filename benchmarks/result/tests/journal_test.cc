#include "nestbench/result/journal.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <limits>

#include "nestbench/result/json.h"
#include "nestbench/result/recover.h"
#include "nestbench/result/write_atomically.h"
#include "sample_run.h"

namespace nestbench::result {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

TEST(Journal, WritesADocumentThatHoldsEverythingAdded) {
  const ScratchFolder scratch;
  auto journal = WriteSampleRun(scratch.path(), /*with_end=*/true);
  ASSERT_TRUE(journal) << journal.error().ToString();
  const auto path = journal->WriteDocument();
  ASSERT_TRUE(path) << path.error().ToString();
  EXPECT_EQ(*path, scratch.path() / "result.json");
  const json document = json::parse(ReadFile(*path));
  const json& body = document["nestbench"];
  EXPECT_EQ(body["schema"], kSchema);
  EXPECT_EQ(body["run"]["interrupted"], false);
  EXPECT_EQ(body["run"]["recovered"], false);
  EXPECT_EQ(body["run"]["seed"], 0xFFFF'FFFF'FFFF'FFFFU);
  EXPECT_GT(body["run"]["duration_s"].get<double>(), 0);
  EXPECT_EQ(body["images"]["memory_pointer_chase"], kDigest);
  ASSERT_EQ(body["measurements"].size(), 3U);
  EXPECT_EQ(body["measurements"][0]["rounds"].size(), 2U);
  EXPECT_EQ(body["measurements"][0]["rounds"][1]["order"], 3);
  EXPECT_EQ(body["measurements"][2]["status"], "unsupported");
  ASSERT_EQ(body["experiments"].size(), 1U);
  json experiment = ToJson(SampleExperiment());
  experiment["records"] = json::array({SampleRecord()});
  EXPECT_EQ(body["experiments"][0], experiment);
  EXPECT_EQ(body["findings"][0]["id"], "sample");
  EXPECT_EQ(body["capability"].size(), 2U);
  EXPECT_EQ(document["benchmarks"].size(), 4U);
}

TEST(Journal, WritesOneLineForEachRecordAtOnce) {
  const ScratchFolder scratch;
  const auto journal = WriteSampleRun(scratch.path(), /*with_end=*/true);
  ASSERT_TRUE(journal);
  const std::string text =
      ReadFile(scratch.path() / "journal.jsonl");  // the journal is still open: nothing is held back
  EXPECT_EQ(std::ranges::count(text, '\n'), 13);
  EXPECT_EQ(text.back(), '\n');
}

TEST(Journal, IsNotInheritedByChildren) {
  const ScratchFolder scratch;
  const auto journal = WriteSampleRun(scratch.path(), /*with_end=*/false);
  ASSERT_TRUE(journal);
  int found = 0;
  for (int fd = 0; fd < 256; ++fd) {
    std::error_code error;
    const auto target = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(fd), error);
    if (error || target != scratch.path() / "journal.jsonl") continue;
    ++found;
    EXPECT_NE(::fcntl(fd, F_GETFD) & FD_CLOEXEC, 0);
  }
  EXPECT_EQ(found, 1);
}

TEST(Journal, RefusesAFolderThatHasOne) {
  const ScratchFolder scratch;
  ASSERT_TRUE(WriteSampleRun(scratch.path(), /*with_end=*/true));
  const auto second = Journal::Create(scratch.path(), SampleHeader());
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().error_number, EEXIST);
  EXPECT_THAT(second.error().ToString(), HasSubstr("nestbench recover " + scratch.path().string()));
}

TEST(Journal, RefusesWhatCouldNotBeReadAgainAndStaysUsable) {
  const ScratchFolder scratch;
  auto journal = WriteSampleRun(scratch.path(), /*with_end=*/false);
  ASSERT_TRUE(journal);
  const auto size = std::filesystem::file_size(scratch.path() / "journal.jsonl");
  Round round = SampleRound(1, 0, Arm::kA);
  round.samples = {std::numeric_limits<double>::infinity()};
  EXPECT_FALSE(journal->AddRound(SampleMeasurement("vm").id, round));
  EXPECT_FALSE(journal->AddRound("overhead/unknown/vm", SampleRound(1, 0, Arm::kA)));
  EXPECT_FALSE(journal->AddMeasurement(SampleMeasurement("vm")));
  EXPECT_FALSE(journal->AddExperiment(SampleExperiment()));
  EXPECT_FALSE(journal->AddRecord("density/steady/vm", SampleRecord())) << "of no experiment";
  json record = SampleRecord();
  record["duration_ns"] = std::numeric_limits<double>::quiet_NaN();
  const auto refused = journal->AddRecord(SampleExperiment().id, record);
  ASSERT_FALSE(refused) << "NaN would be written as null, which means another thing";
  EXPECT_THAT(refused.error().ToString(), HasSubstr("/duration_ns"));
  EXPECT_EQ(std::filesystem::file_size(scratch.path() / "journal.jsonl"), size);
  EXPECT_TRUE(journal->AddRound(SampleMeasurement("vm").id, SampleRound(1, 0, Arm::kA)));
}

TEST(Journal, KeepsEvidenceThatIsNotUtf8) {
  const ScratchFolder scratch;
  {
    auto journal = WriteSampleRun(scratch.path(), /*with_end=*/false);
    ASSERT_TRUE(journal);
    ASSERT_TRUE(
        journal->AddFinding({.id = "crash", .severity = Severity::kError, .text = "t", .evidence = "\xC3\x28\n"}));
  }
  const auto recovered = Recover(scratch.path());
  ASSERT_TRUE(recovered) << recovered.error().ToString();
  EXPECT_EQ(recovered->document["nestbench"]["findings"][1]["evidence"], "\xEF\xBF\xBD(\n");
}

TEST(Journal, FailsInAFolderThatIsMissing) {
  const auto journal = Journal::Create("/nonexistent/folder", SampleHeader());
  ASSERT_FALSE(journal);
  EXPECT_EQ(journal.error().error_number, ENOENT);
}

// Fills the file system (or the file-size limit) under a journal and checks that what was finished survives.
void ExpectFullDiskIsReportedAndNothingFinishedIsLost(const std::filesystem::path& folder, int expected_errno) {
  std::size_t rounds = 0;
  {
    auto journal = WriteSampleRun(folder, /*with_end=*/false);
    ASSERT_TRUE(journal) << journal.error().ToString();
    const std::string id = SampleMeasurement("vm").id;
    Round large = SampleRound(1, 0, Arm::kA);
    large.samples.assign(1000, 1.0 / 3);
    Result<> added;
    while ((added = journal->AddRound(id, large))) {
      ASSERT_LT(++rounds, 10000U);
      ++large.round;
    }
    EXPECT_EQ(added.error().error_number, expected_errno) << added.error().ToString();
    EXPECT_THAT(added.error().ToString(), HasSubstr("nestbench recover " + folder.string()));
    EXPECT_GT(rounds, 0U);
    const auto later = journal->AddFinding({.id = "x", .severity = Severity::kInfo, .text = "t", .evidence = ""});
    ASSERT_FALSE(later) << "a broken journal took a record";
    EXPECT_EQ(later.error().ToString(), added.error().ToString());
    EXPECT_FALSE(journal->WriteDocument()) << "there was room for the document?";
    EXPECT_FALSE(std::filesystem::exists(folder / "result.json"));
  }
  const auto entries = std::distance(std::filesystem::directory_iterator(folder), {});
  EXPECT_EQ(entries, 1) << "a temporary file was left behind";
  const auto recovered = RecoverText(ReadFile(folder / "journal.jsonl"));
  ASSERT_TRUE(recovered) << recovered.error().ToString();
  EXPECT_EQ(recovered->dropped, "");
  EXPECT_EQ(recovered->document["nestbench"]["measurements"][1]["rounds"].size(), rounds + 2);
}

TEST(Journal, ReportsAFileSizeLimitAndLosesNothing) {
  const ScratchFolder scratch;
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 64 << 10;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  ExpectFullDiskIsReportedAndNothingFinishedIsLost(scratch.path(), ENOSPC);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
}

TEST(Journal, ReportsAFullDiskAndLosesNothing) {
  const ScratchFolder scratch;
  if (::mount("nestbench-test", scratch.path().c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=64k") != 0) {
    GTEST_SKIP() << "a full disk needs the right to mount a tmpfs (" << std::strerror(errno)
                 << "); the file-size limit test covers the same path";
  }
  ExpectFullDiskIsReportedAndNothingFinishedIsLost(scratch.path(), ENOSPC);
  EXPECT_EQ(::umount2(scratch.path().c_str(), MNT_DETACH), 0);
}

TEST(WriteAtomically, ReplacesTheFileAndLeavesNothingElse) {
  const ScratchFolder scratch;
  const auto path = scratch.path() / "result.json";
  ASSERT_TRUE(WriteAtomically(path, "old"));
  ASSERT_TRUE(WriteAtomically(path, "new"));
  EXPECT_EQ(ReadFile(path), "new");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch.path()), {}), 1);
}

TEST(WriteAtomically, ReplacesALinkInsteadOfFollowingIt) {
  const ScratchFolder scratch;
  WriteFile(scratch.path() / "victim", "untouched");
  std::filesystem::create_symlink("victim", scratch.path() / "result.json");
  ASSERT_TRUE(WriteAtomically(scratch.path() / "result.json", "mine"));
  EXPECT_EQ(ReadFile(scratch.path() / "victim"), "untouched");
  EXPECT_FALSE(std::filesystem::is_symlink(scratch.path() / "result.json"));
}

TEST(WriteAtomically, HonoursTheUmask) {
  const ScratchFolder scratch;
  const mode_t before = ::umask(027);
  ASSERT_TRUE(WriteAtomically(scratch.path() / "f", "x"));
  ::umask(before);
  struct stat status {};
  ASSERT_EQ(::stat((scratch.path() / "f").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640U);
}

TEST(WriteAtomically, LeavesTheOldFileWhenItFails) {
  const ScratchFolder scratch;
  const auto path = scratch.path() / "f";
  ASSERT_TRUE(WriteAtomically(path, "old"));
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  const auto written = WriteAtomically(path, std::string(10000, 'x'));
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().error_number, EFBIG);
  EXPECT_EQ(ReadFile(path), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(scratch.path()), {}), 1);
}

TEST(WriteAtomically, NamesAPathThatCannotBeWritten) {
  const auto missing = WriteAtomically("/nonexistent/result.json", "x");
  ASSERT_FALSE(missing);
  EXPECT_THAT(missing.error().ToString(), HasSubstr("/nonexistent/result.json"));
  EXPECT_FALSE(WriteAtomically("", "x"));
  const ScratchFolder scratch;
  std::filesystem::create_directory(scratch.path() / "folder");
  EXPECT_FALSE(WriteAtomically(scratch.path() / "folder", "x"));
}

}  // namespace
}  // namespace nestbench::result
