// The file operations that cgroups are made of. All go through here, so that tests can put a make-believe kernel below
// them: a folder that is made in a cgroup file system is full of files at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/vmm/base/error.h"

namespace nestbench::tenancy {

// Paths are absolute ("/sys/fs/cgroup/..."), below `root`. Thread-safe: holds nothing but the root.
class CgroupFiles {
 public:
  explicit CgroupFiles(std::filesystem::path root = "/") : root_(std::move(root)) {}
  virtual ~CgroupFiles() = default;

  // kSystem with the errno: EEXIST when it is there.
  virtual vmm::Result<> MakeFolder(const std::string& path) const;
  // ENOENT is success: a group that is gone is what was wanted.
  virtual vmm::Result<> RemoveFolder(const std::string& path) const;
  // One write(2) of the whole text; the file must exist.
  virtual vmm::Result<> Write(const std::string& path, std::string_view text) const;

  [[nodiscard]] vmm::Result<std::string> Read(const std::string& path) const;
  // Of a file that holds one number; "max" and everything else is empty.
  [[nodiscard]] std::optional<std::uint64_t> ReadNumber(const std::string& path) const;
  // Folders in a folder, sorted; empty when it cannot be read.
  [[nodiscard]] std::vector<std::string> Subfolders(const std::string& path) const;
  [[nodiscard]] bool Exists(const std::string& path) const;
  [[nodiscard]] std::filesystem::path Below(const std::string& path) const;

 private:
  std::filesystem::path root_;
};

// The path of a group below another one.
inline std::string GroupIn(const std::string& folder, const std::string& name) {
  return std::filesystem::path(folder) / name;
}

// Processes of one group, without those of its children and without those that this PID namespace cannot name (0).
std::vector<int> ProcessesOf(const CgroupFiles& files, const std::string& folder);

// Kills what is in a group and in those below it and removes all of them, deepest first. Retries while processes are
// still on their way out. kTimedOut names what stayed. A folder that is not there is success. Never touches the calling
// process or its threads.
vmm::Result<> KillAndRemove(const CgroupFiles& files, const std::string& folder, std::chrono::nanoseconds limit);

// SIGKILL to everything in a group and below it, by cgroup.kill where there is one, else one by one until no new
// process shows up. What was killed may take a moment to be gone.
vmm::Result<> KillAll(const CgroupFiles& files, const std::string& folder);

}  // namespace nestbench::tenancy
