#include "nestbench/result/write_atomically.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>

#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::result {
namespace {

// The process's umask, without changing it: umask(2) can only be read by setting it, which races with other threads.
mode_t CurrentUmask() {
  std::ifstream status("/proc/self/status");
  std::string key;
  while (status >> key) {
    if (key == "Umask:") {
      std::string value;
      status >> value;
      return static_cast<mode_t>(std::strtoul(value.c_str(), nullptr, 8)) & 0777;
    }
  }
  return 0077;  // /proc is not mounted: the stricter choice
}

std::string Advice(int error_number) {
  switch (error_number) {
    case ENOSPC:
    case EDQUOT:
      return "; free some space there or choose another folder with --out";
    case EACCES:
    case EPERM:
    case EROFS:
      return "; choose a folder that you may write to with --out";
    default:
      return {};
  }
}

Error Failure(std::string_view call, const std::filesystem::path& path, int error_number) {
  return Error::System(fmt::format("write {}", path.string()), error_number,
                       fmt::format("{} failed{}", call, Advice(error_number)));
}

Result<> WriteAll(int fd, std::string_view bytes, const std::filesystem::path& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return vmm::Fail(Failure("write", path, errno));
    }
    if (written == 0) return vmm::Fail(Failure("write", path, EIO));  // never for a regular file; would loop
    bytes.remove_prefix(static_cast<std::size_t>(written));
  }
  return {};
}

}  // namespace

Result<> WriteAtomically(const std::filesystem::path& path, std::string_view bytes) {
  if (!path.has_filename()) {
    return vmm::Fail(Error::InvalidArgument("write file", fmt::format("`{}` names no file", path.string())));
  }
  const std::filesystem::path folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  const vmm::UniqueFd folder_fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder_fd.valid()) return vmm::Fail(Failure("open folder", path, errno));

  std::string temporary = (folder / fmt::format(".{:.100}.XXXXXX", path.filename().string())).string();
  const vmm::UniqueFd file(::mkostemp(temporary.data(), O_CLOEXEC));
  if (!file.valid()) return vmm::Fail(Failure("create temporary file", path, errno));

  const auto discard = [&temporary](Error error) {
    ::unlink(temporary.c_str());
    return vmm::Fail(std::move(error));
  };
  if (auto written = WriteAll(file.get(), bytes, path); !written) return discard(std::move(written.error()));
  if (::fchmod(file.get(), 0666 & ~CurrentUmask()) != 0) return discard(Failure("fchmod", path, errno));
  if (::fsync(file.get()) != 0) return discard(Failure("fsync", path, errno));
  if (::rename(temporary.c_str(), path.c_str()) != 0) return discard(Failure("rename", path, errno));
  // The file stands and is whole. A file system that cannot sync folders (EINVAL) has no more to promise.
  if (::fsync(folder_fd.get()) != 0 && errno != EINVAL) return vmm::Fail(Failure("fsync folder", path, errno));
  return {};
}

}  // namespace nestbench::result
