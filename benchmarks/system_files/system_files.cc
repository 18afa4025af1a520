#include "nestbench/system_files/system_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "nestbench/system_files/text.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::system_files {
namespace {

constexpr std::size_t kMaxBytes = 4 << 20;

}  // namespace

std::filesystem::path SystemFiles::Below(const std::string& path) const {
  return root_ / std::filesystem::path(path).relative_path();
}

vmm::Result<std::string> SystemFiles::Read(const std::string& path) const {
  const vmm::UniqueFd file(::open(Below(path).c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.valid()) return vmm::Fail(vmm::Error::System("open " + path, errno));
  std::string text;
  char buffer[4096];
  while (text.size() < kMaxBytes) {
    const ssize_t got = ::read(file.get(), buffer, sizeof(buffer));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return vmm::Fail(vmm::Error::System("read " + path, errno));
    if (got == 0) return text;
    text.append(buffer, static_cast<std::size_t>(got));
  }
  return vmm::Fail(vmm::Error::Malformed("read " + path, "larger than 4 MiB"));
}

std::string SystemFiles::ReadTrimmedOrEmpty(const std::string& path) const {
  const auto text = Read(path);
  return text ? std::string(Trim(*text)) : std::string();
}

std::vector<std::string> SystemFiles::List(const std::string& path) const {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(Below(path), error), end; !error && it != end; it.increment(error)) {
    names.push_back(it->path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

bool SystemFiles::Exists(const std::string& path) const {
  std::error_code error;
  return std::filesystem::exists(Below(path), error);
}

}  // namespace nestbench::system_files
