#include "nestbench/result/recover.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>

#include "nestbench/result/write_atomically.h"
#include "sample_run.h"

namespace nestbench::result {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

std::string SampleJournal(bool with_end) {
  const ScratchFolder scratch;
  const auto journal = WriteSampleRun(scratch.path(), with_end);
  EXPECT_TRUE(journal);
  return ReadFile(scratch.path() / "journal.jsonl");
}

TEST(Recover, GivesTheDocumentOfTheLivePath) {
  const ScratchFolder scratch;
  json live;
  {
    auto journal = WriteSampleRun(scratch.path(), /*with_end=*/true);
    ASSERT_TRUE(journal);
    live = json::parse(ReadFile(journal->WriteDocument().value()));
  }
  std::filesystem::remove(scratch.path() / "result.json");
  const auto recovered = Recover(scratch.path());
  ASSERT_TRUE(recovered) << recovered.error().ToString();
  json written = json::parse(ReadFile(scratch.path() / "result.json"));
  EXPECT_EQ(written, recovered->document);
  EXPECT_EQ(written["nestbench"]["run"]["recovered"], true);
  written["nestbench"]["run"]["recovered"] = false;
  EXPECT_EQ(written, live);
}

TEST(Recover, MarksARunWithoutAnEndAsInterrupted) {
  const auto recovered = RecoverText(SampleJournal(/*with_end=*/false));
  ASSERT_TRUE(recovered);
  const json& run = recovered->document["nestbench"]["run"];
  EXPECT_EQ(run["interrupted"], true);
  EXPECT_EQ(run["recovered"], true);
  EXPECT_GT(run["duration_s"].get<double>(), 0) << "the time of the last record";
}

// A kill can cut the journal anywhere. At every single byte: all whole records are kept and nothing is invented.
TEST(Recover, LosesNothingFinishedWhereverTheJournalIsTorn) {
  const std::string journal = SampleJournal(/*with_end=*/true);
  const std::size_t header_bytes = journal.find('\n');
  for (std::size_t cut = 0; cut <= journal.size(); ++cut) {
    const std::string_view torn = std::string_view(journal).substr(0, cut);
    const auto recovered = RecoverText(torn);
    if (cut < header_bytes) {
      ASSERT_FALSE(recovered) << "cut at " << cut;
      EXPECT_EQ(recovered.error().kind, vmm::ErrorKind::kMalformed);
      continue;
    }
    ASSERT_TRUE(recovered) << "cut at " << cut << ": " << recovered.error().ToString();
    // A record that lacks nothing but its line end is whole.
    const auto lines = static_cast<std::size_t>(std::ranges::count(torn, '\n'));
    const bool whole_without_end = cut < journal.size() && journal[cut] == '\n';
    EXPECT_EQ(recovered->records, lines + (whole_without_end ? 1 : 0)) << "cut at " << cut;
    EXPECT_EQ(recovered->dropped.empty(), whole_without_end || cut == 0 || torn.back() == '\n') << "cut at " << cut;
    EXPECT_EQ(recovered->document["nestbench"]["run"]["interrupted"], cut + 1 < journal.size()) << "cut at " << cut;
  }
}

TEST(Recover, DropsAGarbageLastLineAndSaysSo) {
  for (const std::string& garbage : {std::string("garbage\n"), std::string(4096, '\0'),
                                     std::string("{\"type\":\"x\"}\n"), std::string("\n"), std::string("[[[[")}) {
    const auto recovered = RecoverText(SampleJournal(/*with_end=*/false) + garbage);
    ASSERT_TRUE(recovered) << recovered.error().ToString();
    EXPECT_THAT(recovered->dropped, HasSubstr("line 13"));
    const json& findings = recovered->document["nestbench"]["findings"];
    EXPECT_EQ(findings.back()["id"], "journal-last-line-dropped");
  }
}

TEST(Recover, NamesTheLineOfGarbageInTheMiddle) {
  std::string journal = SampleJournal(/*with_end=*/true);
  std::size_t line_start = 0;
  for (int line = 1; line < 4; ++line) line_start = journal.find('\n', line_start) + 1;
  journal[line_start] = '#';
  const auto recovered = RecoverText(journal);
  ASSERT_FALSE(recovered);
  EXPECT_EQ(recovered.error().kind, vmm::ErrorKind::kMalformed);
  EXPECT_THAT(recovered.error().ToString(), HasSubstr("line 4"));
}

TEST(Recover, SurvivesAnyDamagedByte) {
  const std::string journal = SampleJournal(/*with_end=*/true);
  for (std::size_t i = 0; i < journal.size(); ++i) {
    std::string damaged = journal;
    damaged[i] = static_cast<char>(damaged[i] ^ 0x15);
    const auto recovered = RecoverText(damaged);
    if (!recovered) {
      EXPECT_FALSE(recovered.error().detail.empty());
    }
  }
}

TEST(Recover, RefusesARunThatIsStillAlive) {
  const ScratchFolder scratch;
  auto journal = WriteSampleRun(scratch.path(), /*with_end=*/false);
  ASSERT_TRUE(journal);
  const auto recovered = Recover(scratch.path());
  ASSERT_FALSE(recovered);
  EXPECT_THAT(recovered.error().ToString(), HasSubstr("still alive"));
  EXPECT_FALSE(std::filesystem::exists(scratch.path() / "result.json"));
}

TEST(Recover, DoesNotOverwriteAResultUnlessTold) {
  const ScratchFolder scratch;
  ASSERT_TRUE(WriteSampleRun(scratch.path(), /*with_end=*/false));
  WriteFile(scratch.path() / "result.json", "precious");
  const auto refused = Recover(scratch.path());
  ASSERT_FALSE(refused);
  EXPECT_THAT(refused.error().ToString(), HasSubstr("move it away"));
  EXPECT_EQ(ReadFile(scratch.path() / "result.json"), "precious");
  EXPECT_TRUE(Recover(scratch.path(), /*replace=*/true));
  EXPECT_NE(ReadFile(scratch.path() / "result.json"), "precious");
}

TEST(Recover, RefusesWhatIsNotAJournal) {
  const ScratchFolder scratch;
  EXPECT_FALSE(Recover(scratch.path() / "missing"));
  EXPECT_FALSE(Recover(scratch.path())) << "an empty folder";
  ASSERT_EQ(::mkfifo((scratch.path() / "journal.jsonl").c_str(), 0600), 0);
  const auto fifo = Recover(scratch.path());
  ASSERT_FALSE(fifo);
  EXPECT_THAT(fifo.error().ToString(), HasSubstr("regular file"));
  std::filesystem::remove(scratch.path() / "journal.jsonl");
  WriteFile(scratch.path() / "journal.jsonl", "");
  const auto empty = Recover(scratch.path());
  ASSERT_FALSE(empty);
  EXPECT_THAT(empty.error().ToString(), HasSubstr("empty"));
}

}  // namespace
}  // namespace nestbench::result
