#include "nestbench/result/recover.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "nestbench/result/document.h"
#include "nestbench/result/json.h"
#include "nestbench/result/out_folder.h"
#include "nestbench/result/write_atomically.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::result {
namespace {

using nlohmann::json;

// Far above any real journal (a standard run writes some MiB); keeps a wrong file from filling the memory.
constexpr off_t kMaxJournalBytes = 1LL << 30;

Result<std::string> ReadAll(int fd, std::size_t size_bytes, const std::string& name) {
  std::string text(size_bytes, '\0');
  std::size_t filled = 0;
  while (filled < text.size()) {
    const ssize_t got = ::read(fd, text.data() + filled, text.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return vmm::Fail(Error::System(fmt::format("read {}", name), errno));
    if (got == 0) break;
    filled += static_cast<std::size_t>(got);
  }
  text.resize(filled);
  return text;
}

Result<> ApplyLine(DocumentBuilder& builder, std::string_view line) {
  auto record = ParseJson(line, "journal record");
  if (!record) return vmm::Fail(std::move(record.error()));
  return builder.Apply(*record);
}

// The document says itself that something was left out of it.
void AddDroppedFinding(json& document, const std::string& dropped) {
  document["nestbench"]["findings"].push_back(
      ToJson(Finding{.id = "journal-last-line-dropped",
                     .severity = Severity::kWarning,
                     .text = "The last line of the journal was incomplete and was left out.",
                     .evidence = dropped}));
}

}  // namespace

Result<Recovered> RecoverText(std::string_view journal) {
  DocumentBuilder builder;
  Recovered recovered;
  std::size_t number = 0;
  while (!journal.empty()) {
    ++number;
    const auto end = journal.find('\n');
    const std::string_view line = journal.substr(0, end);
    journal.remove_prefix(end == std::string_view::npos ? journal.size() : end + 1);
    auto applied = ApplyLine(builder, line);
    if (applied) {
      ++recovered.records;
    } else if (journal.empty()) {
      recovered.dropped = fmt::format("line {}: {}", number, applied.error().ToString());
    } else {
      return vmm::Fail(Error::Malformed(
          "recover", fmt::format("journal line {}: {}; only the last line may be damaged. Take this line out by hand "
                                 "if the others are to be kept",
                                 number, applied.error().ToString())));
    }
  }
  auto document = builder.Build(/*recovered=*/true);
  if (!document) {
    return vmm::Fail(
        Error::Malformed("recover", recovered.dropped.empty()
                                        ? "the journal is empty: nothing was finished"
                                        : fmt::format("the journal holds no whole record: {}", recovered.dropped)));
  }
  recovered.document = std::move(*document);
  if (!recovered.dropped.empty()) AddDroppedFinding(recovered.document, recovered.dropped);
  return recovered;
}

Result<Recovered> Recover(const std::filesystem::path& folder, bool replace) {
  const std::filesystem::path journal_path = folder / kJournalName;
  const std::string name = journal_path.string();
  // O_NONBLOCK: a FIFO of that name must not hang the program.
  const vmm::UniqueFd file(::open(journal_path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) {
    const int error_number = errno;
    return vmm::Fail(Error::System(fmt::format("open {}", name), error_number,
                                   error_number == ENOENT ? "name the out folder of a run" : ""));
  }
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) return vmm::Fail(Error::System(fmt::format("stat {}", name), errno));
  if (!S_ISREG(status.st_mode)) return vmm::Fail(Error::InvalidArgument("recover", name + " is not a regular file"));
  if (status.st_size > kMaxJournalBytes) {
    return vmm::Fail(Error::InvalidArgument("recover", fmt::format("{} is larger than {} bytes: not a journal of this "
                                                                   "program",
                                                                   name, kMaxJournalBytes)));
  }
  if (::flock(file.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return vmm::Fail(Error::System(fmt::format("lock {}", name), errno));
    return vmm::Fail(Error::InvalidArgument(
        "recover", fmt::format("the run in {} is still alive; wait for its end or stop it first", folder.string())));
  }
  const std::filesystem::path document_path = folder / kDocumentName;
  std::error_code ignored;
  if (!replace && std::filesystem::exists(std::filesystem::symlink_status(document_path, ignored))) {
    return vmm::Fail(Error::InvalidArgument(
        "recover",
        fmt::format("{} is there already; move it away if the journal is to be used instead", document_path.string())));
  }
  auto text = ReadAll(file.get(), static_cast<std::size_t>(status.st_size), name);
  if (!text) return vmm::Fail(std::move(text.error()));
  auto recovered = RecoverText(*text);
  if (!recovered) {
    recovered.error().operation = fmt::format("recover {}", folder.string());
    return recovered;
  }
  if (auto written = WriteAtomically(document_path, Dump(recovered->document, 1) + "\n"); !written) {
    return vmm::Fail(std::move(written.error()));
  }
  recovered->path = document_path;
  return recovered;
}

}  // namespace nestbench::result
