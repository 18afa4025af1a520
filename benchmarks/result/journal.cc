#include "nestbench/result/journal.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "nestbench/result/json.h"
#include "nestbench/result/out_folder.h"
#include "nestbench/result/write_atomically.h"

namespace nestbench::result {
namespace {

using nlohmann::json;

Error WriteFailure(const std::filesystem::path& folder, int error_number) {
  return Error::System(
      fmt::format("write {}", (folder / kJournalName).string()), error_number,
      fmt::format("what was finished before is kept; make room, then `nestbench recover {}`", folder.string()));
}

}  // namespace

Journal::Journal(std::filesystem::path folder, vmm::UniqueFd file)
    : folder_(std::move(folder)), file_(std::move(file)), started_(std::chrono::steady_clock::now()) {}

Result<Journal> Journal::Create(const std::filesystem::path& folder, const Header& header) {
  const std::filesystem::path path = folder / kJournalName;
  vmm::UniqueFd file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (!file.valid()) {
    const int error_number = errno;
    return vmm::Fail(Error::System(
        fmt::format("create {}", path.string()), error_number,
        error_number == EEXIST
            ? fmt::format("another run writes or wrote here; `nestbench recover {}`, or choose another --out",
                          folder.string())
            : "choose a folder that you may write to with --out"));
  }
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    return vmm::Fail(
        Error::System(fmt::format("lock {}", path.string()), errno, "another process holds it; choose another --out"));
  }
  Journal journal(folder, std::move(file));
  json capability = json::array();
  for (const Capability& entry : header.capability) capability.push_back(ToJson(entry));
  auto written = journal.Append({{"type", "header"},
                                 {"schema", kSchema},
                                 {"context", header.context},
                                 {"host", header.host},
                                 {"build", header.build},
                                 {"run", ToJson(header.run)},
                                 {"capability", std::move(capability)}});
  if (!written) return vmm::Fail(std::move(written.error()));
  // The name too must survive a power cut, or the journal's content would be synced in vain.
  const vmm::UniqueFd folder_fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder_fd.valid() || (::fsync(folder_fd.get()) != 0 && errno != EINVAL)) {
    return vmm::Fail(Error::System(fmt::format("sync folder {}", folder.string()), errno));
  }
  return journal;
}

double Journal::ElapsedSeconds() const {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
}

Result<> Journal::Append(json record) {
  if (broken_) return vmm::Fail(*broken_);
  record["at_s"] = ElapsedSeconds();
  std::string line = Dump(record);
  // The builder is given what stands in the line, not what was meant: bytes that are not UTF-8 and numbers that JSON
  // does not have are met here and not at recovery.
  auto written_record = ParseJson(line, "journal record");
  if (!written_record) return vmm::Fail(std::move(written_record.error()));
  if (auto applied = builder_.Apply(*written_record); !applied) return applied;

  line += '\n';
  ssize_t written = 0;
  do {
    written = ::write(file_.get(), line.data(), line.size());
  } while (written < 0 && errno == EINTR);
  if (written == static_cast<ssize_t>(line.size())) {
    size_bytes_ += line.size();
    return {};
  }
  // A short write of a regular file means that there is no room for the rest.
  broken_ = WriteFailure(folder_, written < 0 ? errno : ENOSPC);
  if (written > 0 && ::ftruncate(file_.get(), static_cast<off_t>(size_bytes_)) != 0) {
    broken_->detail += "; the last line of it is torn";
  }
  return vmm::Fail(*broken_);
}

Result<> Journal::AddMeasurement(const Measurement& measurement) {
  return Append({{"type", "measurement"}, {"measurement", ToJson(measurement)}});
}

Result<> Journal::AddRound(std::string_view id, const Round& round) {
  return Append({{"type", "round"}, {"id", id}, {"round", ToJson(round)}});
}

Result<> Journal::SetStatus(std::string_view id, Status status, std::string_view reason) {
  return Append({{"type", "status"}, {"id", id}, {"status", ToString(status)}, {"reason", reason}});
}

Result<> Journal::AddExperiment(const Experiment& experiment) {
  if (const auto where = FindNotFinite(experiment.setup)) {
    return vmm::Fail(Error::Malformed("experiment", fmt::format("`{}`: setup{} is not finite", experiment.id, *where)));
  }
  return Append({{"type", "experiment"}, {"experiment", ToJson(experiment)}});
}

Result<> Journal::AddRecord(std::string_view experiment_id, json record) {
  if (const auto where = FindNotFinite(record)) {
    return vmm::Fail(Error::Malformed("record", fmt::format("`{}`: {} is not finite", experiment_id, *where)));
  }
  return Append({{"type", "record"}, {"id", experiment_id}, {"record", std::move(record)}});
}

Result<> Journal::AddFinding(const Finding& finding) {
  return Append({{"type", "finding"}, {"finding", ToJson(finding)}});
}

Result<> Journal::AddImage(std::string_view name, std::string_view sha256) {
  return Append({{"type", "image"}, {"name", name}, {"sha256", sha256}});
}

Result<> Journal::End(bool interrupted) {
  return Append({{"type", "end"}, {"duration_s", ElapsedSeconds()}, {"interrupted", interrupted}});
}

Result<> Journal::Sync() {
  if (::fdatasync(file_.get()) != 0) return vmm::Fail(WriteFailure(folder_, errno));
  return {};
}

Result<std::filesystem::path> Journal::WriteDocument() {
  auto document = builder_.Build(/*recovered=*/false);
  if (!document) return vmm::Fail(std::move(document.error()));
  const std::filesystem::path path = folder_ / kDocumentName;
  if (auto written = WriteAtomically(path, Dump(*document, 1) + "\n"); !written) {
    return vmm::Fail(std::move(written.error()));
  }
  return path;
}

}  // namespace nestbench::result
