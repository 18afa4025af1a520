// Writes the sample run's document into the folder given, for the test that holds it against the JSON schema:
// `write_sample_run DIR live` through the live path, `write_sample_run DIR recovered` through a journal cut short.
#include <fmt/format.h>

#include <cstdio>
#include <cstring>

#include "nestbench/result/recover.h"
#include "sample_run.h"

int main(int argc, char** argv) {
  using namespace nestbench::result;
  if (argc != 3) {
    fmt::print(stderr, "usage: {} DIR live|recovered\n", argv[0]);
    return 2;
  }
  const bool live = std::strcmp(argv[2], "live") == 0;
  const auto folder = PrepareOutFolder(argv[1]);
  if (!folder) {
    fmt::print(stderr, "{}\n", folder.error().ToString());
    return 2;
  }
  {
    auto journal = WriteSampleRun(*folder, /*with_end=*/live);
    if (!journal) {
      fmt::print(stderr, "{}\n", journal.error().ToString());
      return 6;
    }
    if (live) {
      const auto written = journal->WriteDocument();
      if (!written) fmt::print(stderr, "{}\n", written.error().ToString());
      return written ? 0 : 6;
    }
  }
  std::ofstream(*folder / kJournalName, std::ios::app) << R"({"type":"rou)";
  const auto recovered = Recover(*folder);
  if (!recovered) fmt::print(stderr, "{}\n", recovered.error().ToString());
  return recovered ? 0 : 6;
}
