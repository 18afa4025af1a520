// Where a run writes: one folder for each run, with the files named below. No run writes into another run's folder.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "nestbench/result/types.h"

namespace nestbench::result {

inline constexpr std::string_view kDocumentName = "result.json";
inline constexpr std::string_view kReportName = "report.html";
inline constexpr std::string_view kJournalName = "journal.jsonl";
inline constexpr std::string_view kDefaultParent = "results";

// Makes the folder of a new run and proves that it can be written to.
//   requested empty: a new folder `results/<UTC time>-<6 random hex digits>` below the working directory.
//   requested given: that folder, made with its parents when missing. Refused (kInvalidArgument, and the message says
//   what to do) when it already holds a journal or a result, or is not a folder. kSystem when it cannot be made or
//   written to.
Result<std::filesystem::path> PrepareOutFolder(const std::optional<std::filesystem::path>& requested);

// "20260131T120000Z-1a2b3c": for a run's folder and its id.
std::string NewRunId();

// Now, as RFC 3339 in UTC: "2026-01-31T12:00:00Z".
std::string Rfc3339Now();

}  // namespace nestbench::result
