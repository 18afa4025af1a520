#include "nestbench/vmm/loader/loaded_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::vmm {
namespace {

constexpr std::string_view kOperation = "read file";
constexpr std::size_t kFirstChunkBytes = 64 << 10;

std::string_view KindName(mode_t mode) {
  if (S_ISDIR(mode)) return "a directory";
  if (S_ISFIFO(mode)) return "a FIFO";
  if (S_ISSOCK(mode)) return "a socket";
  if (S_ISCHR(mode)) return "a character device";
  if (S_ISBLK(mode)) return "a block device";
  return "not a file";
}

Error TooLarge(const std::string& path, std::uint64_t max_bytes) {
  return Error::InvalidArgument(kOperation,
                                fmt::format("{} holds more than {} bytes, the most that is read", path, max_bytes));
}

}  // namespace

Result<LoadedFile> LoadedFile::Read(const std::string& path, std::uint64_t max_bytes) {
  // A path with a NUL would silently be cut at it.
  if (path.empty() || path.find('\0') != std::string::npos) {
    return Fail(Error::InvalidArgument(kOperation, "the path is empty or holds a NUL byte"));
  }
  // O_NONBLOCK: a FIFO without a writer would hold the open() itself; on regular files it has no effect.
  UniqueFd fd;
  do {
    fd = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
  } while (!fd.valid() && errno == EINTR);
  if (!fd.valid()) {
    // A socket's open() fails before its kind can be seen from the descriptor.
    if (errno == ENXIO)
      return Fail(
          Error::InvalidArgument(kOperation, fmt::format("{} is a socket or a device, not a regular file", path)));
    return Fail(Error::System("open", errno, path));
  }
  struct stat status = {};
  if (::fstat(fd.get(), &status) != 0) return Fail(Error::System("fstat", errno, path));
  if (!S_ISREG(status.st_mode)) {
    return Fail(Error::InvalidArgument(
        kOperation, fmt::format("{} is {}; give the path of a regular file", path, KindName(status.st_mode))));
  }
  if (static_cast<std::uint64_t>(status.st_size) > max_bytes) return Fail(TooLarge(path, max_bytes));

  // The size is only a first guess: the file may change while it is read, and those of /proc say zero. One byte more
  // than the limit is asked for, to tell a file that fits from one that does not.
  std::vector<std::byte> bytes;
  std::size_t used = 0;
  for (;;) {
    if (used == bytes.size()) {
      const std::uint64_t guess =
          used == 0 ? std::max<std::uint64_t>(static_cast<std::uint64_t>(status.st_size) + 1, kFirstChunkBytes)
                    : 2 * used;
      bytes.resize(max_bytes < guess ? max_bytes + 1 : guess);
    }
    const ssize_t count = ::read(fd.get(), bytes.data() + used, bytes.size() - used);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return Fail(Error::System("read", errno, path));
    if (count == 0) break;
    used += static_cast<std::size_t>(count);
    if (used > max_bytes) return Fail(TooLarge(path, max_bytes));
  }
  bytes.resize(used);
  return LoadedFile(path, std::move(bytes));
}

}  // namespace nestbench::vmm
