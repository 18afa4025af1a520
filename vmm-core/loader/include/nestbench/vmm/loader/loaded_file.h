// A file that was read as a whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "nestbench/vmm/base/error.h"

namespace nestbench::vmm {

// The largest file that is read as an image: a hundred times what the largest payload needs.
inline constexpr std::uint64_t kMaxImageFileBytes = 64ULL << 20;

// Owns the bytes; they stay where they are when this is moved. Move-only.
class LoadedFile {
 public:
  // Reads the regular file at `path`. kSystem when it cannot be opened or read (missing, no right to);
  // kInvalidArgument, saying what it is, for a directory, FIFO, socket or device (none is waited for) and for more
  // than `max_bytes` bytes. An empty file is read as such.
  static Result<LoadedFile> Read(const std::string& path, std::uint64_t max_bytes);

  LoadedFile(LoadedFile&&) noexcept = default;
  LoadedFile& operator=(LoadedFile&&) noexcept = default;
  LoadedFile(const LoadedFile&) = delete;
  LoadedFile& operator=(const LoadedFile&) = delete;

  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  LoadedFile(std::string path, std::vector<std::byte> bytes) : path_(std::move(path)), bytes_(std::move(bytes)) {}

  std::string path_;
  std::vector<std::byte> bytes_;
};

}  // namespace nestbench::vmm
