// A file that a run reads and writes as a disk. It has no name: whatever ends this process, nothing stays. Private to
// this folder.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::scenarios {

class ScratchDisk {
 public:
  // `size_bytes` in the file system of `folder`, every sector stamped (StampDisk) and written to it. kSystem when it
  // does not fit.
  static vmm::Result<ScratchDisk> Create(const std::filesystem::path& folder, std::uint64_t size_bytes);
  // The same in memory.
  static vmm::Result<ScratchDisk> CreateInMemory(std::uint64_t size_bytes);

  // A descriptor of its own on it, for direct I/O (O_DIRECT) or through the page cache.
  [[nodiscard]] vmm::Result<vmm::UniqueFd> Open(bool direct) const;

  // Where children of this process open it.
  [[nodiscard]] std::string path() const;

 private:
  explicit ScratchDisk(vmm::UniqueFd fd) : fd_(std::move(fd)) {}
  static vmm::Result<ScratchDisk> Fill(vmm::UniqueFd fd, std::uint64_t size_bytes);

  vmm::UniqueFd fd_;
};

}  // namespace nestbench::scenarios
