// Small files of /proc and /sys. All reads go through here, so that tests can lay a captured tree below another root.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "nestbench/vmm/base/error.h"

namespace nestbench::system_files {

class SystemFiles {
 public:
  explicit SystemFiles(std::filesystem::path root = "/") : root_(std::move(root)) {}

  // The file's text, at most 4 MiB. `path` is absolute: "/proc/cpuinfo".
  [[nodiscard]] vmm::Result<std::string> Read(const std::string& path) const;
  // The same without white space at its ends; empty when it cannot be read.
  [[nodiscard]] std::string ReadTrimmedOrEmpty(const std::string& path) const;
  // Names in a folder, sorted; empty when it cannot be read.
  [[nodiscard]] std::vector<std::string> List(const std::string& path) const;
  [[nodiscard]] bool Exists(const std::string& path) const;

 private:
  [[nodiscard]] std::filesystem::path Below(const std::string& path) const;

  std::filesystem::path root_;
};

}  // namespace nestbench::system_files
