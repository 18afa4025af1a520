#include "cgroup_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <thread>

#include "nestbench/system_files/system_files.h"
#include "nestbench/system_files/text.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::tenancy {

using namespace std::chrono_literals;
using vmm::Error;
using vmm::Fail;
using vmm::Result;

std::filesystem::path CgroupFiles::Below(const std::string& path) const {
  return root_ / std::filesystem::path(path).relative_path();
}

Result<> CgroupFiles::MakeFolder(const std::string& path) const {
  if (::mkdir(Below(path).c_str(), 0755) != 0) return Fail(Error::System("mkdir", errno, path));
  return {};
}

Result<> CgroupFiles::RemoveFolder(const std::string& path) const {
  if (::rmdir(Below(path).c_str()) != 0 && errno != ENOENT) return Fail(Error::System("rmdir", errno, path));
  return {};
}

Result<> CgroupFiles::Write(const std::string& path, std::string_view text) const {
  const vmm::UniqueFd file(::open(Below(path).c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid()) return Fail(Error::System("open", errno, path));
  ssize_t written = -1;
  do {
    written = ::write(file.get(), text.data(), text.size());
  } while (written < 0 && errno == EINTR);
  if (written != static_cast<ssize_t>(text.size())) {
    return Fail(Error::System("write", written < 0 ? errno : EIO, fmt::format("\"{}\" to {}", text, path)));
  }
  return {};
}

Result<std::string> CgroupFiles::Read(const std::string& path) const {
  return system_files::SystemFiles(root_).Read(path);
}

std::optional<std::uint64_t> CgroupFiles::ReadNumber(const std::string& path) const {
  const auto text = Read(path);
  return text ? system_files::ParseUnsigned(system_files::Trim(*text)) : std::nullopt;
}

std::vector<std::string> CgroupFiles::Subfolders(const std::string& path) const {
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(Below(path), error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    if (it->is_directory(ignored) && !it->is_symlink(ignored)) names.push_back(it->path().filename().string());
  }
  std::ranges::sort(names);
  return names;
}

bool CgroupFiles::Exists(const std::string& path) const {
  std::error_code error;
  return std::filesystem::exists(Below(path), error);
}

std::vector<int> ProcessesOf(const CgroupFiles& files, const std::string& folder) {
  std::vector<int> pids;
  const auto text = files.Read(folder + "/cgroup.procs");
  if (!text) return pids;
  for (const std::string_view line : system_files::SplitLines(*text)) {
    const auto pid = system_files::ParseUnsigned(system_files::Trim(line));
    if (pid && *pid > 0 && *pid <= INT32_MAX) pids.push_back(static_cast<int>(*pid));
  }
  return pids;
}

namespace {

// A fork bomb makes new processes while the old ones are being killed; each pass finds fewer, because those that it has
// found no longer fork.
constexpr int kMostPasses = 100;

// Whether there was anybody. A process that is gone already is nobody; one that may not be killed is an error.
Result<bool> KillOnce(const CgroupFiles& files, const std::string& folder) {
  bool found = false;
  for (const std::string& name : files.Subfolders(folder)) {
    auto below = KillOnce(files, GroupIn(folder, name));
    if (!below) return below;
    found = found || *below;
  }
  for (const int pid : ProcessesOf(files, folder)) {
    if (pid == ::getpid() || pid == 1) continue;
    if (::kill(pid, SIGKILL) == 0) {
      found = true;
    } else if (errno != ESRCH) {
      return Fail(Error::System("kill", errno, fmt::format("process {} of {}", pid, folder)));
    }
  }
  return found;
}

void CollectProcesses(const CgroupFiles& files, const std::string& folder, std::vector<int>& pids) {
  for (const int pid : ProcessesOf(files, folder)) pids.push_back(pid);
  for (const std::string& name : files.Subfolders(folder)) CollectProcesses(files, GroupIn(folder, name), pids);
}

Result<> RemoveTree(const CgroupFiles& files, const std::string& folder) {
  for (const std::string& name : files.Subfolders(folder)) {
    if (auto removed = RemoveTree(files, GroupIn(folder, name)); !removed) return removed;
  }
  return files.RemoveFolder(folder);
}

}  // namespace

Result<> KillAll(const CgroupFiles& files, const std::string& folder) {
  std::vector<int> pids;
  CollectProcesses(files, folder, pids);
  if (pids.empty()) return {};
  // All at once and below as well; not when this process is in there.
  if (std::ranges::find(pids, ::getpid()) == pids.end() && files.Exists(folder + "/cgroup.kill")) {
    return files.Write(folder + "/cgroup.kill", "1");
  }
  for (int pass = 0; pass < kMostPasses; ++pass) {
    auto found = KillOnce(files, folder);
    if (!found) return Fail(std::move(found.error()));
    if (!*found) return {};
    std::this_thread::sleep_for(200us);
  }
  return {};  // whoever removes the group finds out
}

Result<> KillAndRemove(const CgroupFiles& files, const std::string& folder, std::chrono::nanoseconds limit) {
  const auto end = std::chrono::steady_clock::now() + limit;
  auto wait = 200us;
  for (;;) {
    auto removed = RemoveTree(files, folder);  // what is empty goes without a look at who is in it
    if (removed) return removed;
    if (removed.error().error_number != EBUSY) return removed;
    if (auto killed = KillAll(files, folder); !killed) return killed;
    if (std::chrono::steady_clock::now() >= end) {
      std::vector<int> pids;
      CollectProcesses(files, folder, pids);
      return Fail(Error::TimedOut("remove cgroup", fmt::format("{} is busy; processes in it: {}", folder,
                                                               pids.empty() ? "none" : fmt::format("{}", pids))));
    }
    std::this_thread::sleep_for(wait);
    wait = std::min<std::chrono::microseconds>(wait * 2, 5ms);
  }
}

}  // namespace nestbench::tenancy
