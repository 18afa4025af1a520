#include "nestbench/result/out_folder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <random>
#include <system_error>

#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::result {
namespace {

std::tm UtcNow() {
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  ::gmtime_r(&now, &utc);
  return utc;
}

std::string Format(const char* format) {
  const std::tm utc = UtcNow();
  char text[40];
  return {text, std::strftime(text, sizeof(text), format, &utc)};
}

std::uint32_t Random() {
  std::uint32_t value = 0;
  if (::getrandom(&value, sizeof(value), 0) != sizeof(value)) value = std::random_device{}();
  return value;
}

Error CannotUse(const std::filesystem::path& folder, int error_number, std::string_view what) {
  return Error::System(fmt::format("out folder {}", folder.string()), error_number,
                       fmt::format("cannot {}; choose a folder that you may write to with --out", what));
}

// Permission bits say little (root, read-only mounts, quotas): only making a file proves that files can be made.
Result<> ProveWritable(const std::filesystem::path& folder) {
  std::string name = (folder / ".nestbench.XXXXXX").string();
  const vmm::UniqueFd file(::mkostemp(name.data(), O_CLOEXEC));
  if (!file.valid()) return vmm::Fail(CannotUse(folder, errno, "write to it"));
  ::unlink(name.c_str());
  return {};
}

Result<> RefuseUsed(const std::filesystem::path& folder) {
  const auto refused = [&folder](std::string detail) {
    return vmm::Fail(Error::InvalidArgument(fmt::format("out folder {}", folder.string()), std::move(detail)));
  };
  std::error_code error;
  const auto exists = [&folder, &error](std::string_view name) {
    // symlink_status: a dangling link counts as there.
    return std::filesystem::exists(std::filesystem::symlink_status(folder / name, error));
  };
  if (exists(kDocumentName)) {
    return refused(
        fmt::format("already holds the result of another run ({}); choose another --out, or leave --out away for a "
                    "new folder below {}/",
                    kDocumentName, kDefaultParent));
  }
  if (exists(kJournalName)) {
    return refused(
        fmt::format("already holds the journal of another run; turn it into a document with `nestbench "
                    "recover {}`, or choose another --out",
                    folder.string()));
  }
  return {};
}

}  // namespace

std::string NewRunId() { return fmt::format("{}-{:06x}", Format("%Y%m%dT%H%M%SZ"), Random() & 0xFF'FFFF); }

std::string Rfc3339Now() { return Format("%Y-%m-%dT%H:%M:%SZ"); }

Result<std::filesystem::path> PrepareOutFolder(const std::optional<std::filesystem::path>& requested) {
  std::error_code error;
  std::filesystem::path folder;
  if (requested) {
    folder = *requested;
    if (folder.empty()) return vmm::Fail(Error::InvalidArgument("out folder", "--out is empty; name a folder"));
    std::filesystem::create_directories(folder, error);
    // "d/" and "d/." on an existing d report an error on some library versions; what counts is what stands there.
    std::error_code ignored;
    if (!std::filesystem::is_directory(folder, ignored)) {
      return vmm::Fail(CannotUse(folder, error ? error.value() : ENOTDIR, "make it"));
    }
    if (auto unused = RefuseUsed(folder); !unused) return vmm::Fail(std::move(unused.error()));
  } else {
    std::filesystem::create_directories(kDefaultParent, error);
    if (error) return vmm::Fail(CannotUse(kDefaultParent, error.value(), "make it"));
    // Two runs that start in one second and draw one number: the later one draws again.
    for (int attempt = 0; attempt < 16; ++attempt) {
      folder = std::filesystem::path(kDefaultParent) / NewRunId();
      if (std::filesystem::create_directory(folder, error)) break;
      if (error) return vmm::Fail(CannotUse(folder, error.value(), "make it"));
      folder.clear();
    }
    if (folder.empty()) return vmm::Fail(CannotUse(kDefaultParent, EEXIST, "find a free name in it"));
  }
  if (auto writable = ProveWritable(folder); !writable) return vmm::Fail(std::move(writable.error()));
  return folder;
}

}  // namespace nestbench::result
