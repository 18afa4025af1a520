// The journal of a run: one JSON object on one line for each finished piece, so that `kill -9` loses nothing finished.
//
// Each record is one write(2) of a whole line to `journal.jsonl` in the out folder. The journal holds an exclusive
// flock on that file from Create() to its end, so two runs cannot share a folder and `recover` can tell a dead run
// from a live one. The kernel drops the lock when the process dies; O_CLOEXEC keeps children from holding it.
//
// One thread. A record that could not be written in full is cut off again and the journal refuses all later records
// with the same error: what stands in the file stays readable.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "nestbench/result/document.h"
#include "nestbench/result/types.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::result {

class Journal {
 public:
  // Makes `folder`/journal.jsonl (it must not exist), locks it and writes the header. The folder exists:
  // PrepareOutFolder.
  static Result<Journal> Create(const std::filesystem::path& folder, const Header& header);

  Journal(Journal&&) noexcept = default;
  Journal& operator=(Journal&&) noexcept = default;

  // Announces a measurement, once for each id and before its rounds; `rounds` must be empty.
  Result<> AddMeasurement(const Measurement& measurement);
  Result<> AddRound(std::string_view id, const Round& round);
  // The last status given counts. `reason` is empty exactly for Status::kOk.
  Result<> SetStatus(std::string_view id, Status status, std::string_view reason);
  // Announces an experiment, once for each id and before its records. Its id may be that of a measurement, too.
  Result<> AddExperiment(const Experiment& experiment);
  // `record` is an object with the string `kind`; its numbers are finite. kMalformed otherwise.
  Result<> AddRecord(std::string_view experiment_id, nlohmann::json record);
  Result<> AddFinding(const Finding& finding);
  Result<> AddImage(std::string_view name, std::string_view sha256);
  // Last record. duration_s: from Create() to now.
  Result<> End(bool interrupted);

  // fdatasync: what was added survives a power cut, not only the death of the process.
  Result<> Sync();

  // Assembles the document from the records and writes it as `folder`/result.json. Returns its path.
  Result<std::filesystem::path> WriteDocument();

  [[nodiscard]] const DocumentBuilder& builder() const { return builder_; }
  [[nodiscard]] const std::filesystem::path& folder() const { return folder_; }

 private:
  Journal(std::filesystem::path folder, vmm::UniqueFd file);
  Result<> Append(nlohmann::json record);
  [[nodiscard]] double ElapsedSeconds() const;

  std::filesystem::path folder_;
  vmm::UniqueFd file_;
  std::chrono::steady_clock::time_point started_;
  std::uint64_t size_bytes_ = 0;  // of whole records in the file
  DocumentBuilder builder_;
  std::optional<Error> broken_;  // the write that failed
};

}  // namespace nestbench::result
