// KVM's binary statistics by name. Source: kernel document "The Definitive KVM API Documentation",
// KVM_GET_STATS_FD (capability KVM_CAP_BINARY_STATS_FD).
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::vmm {

// Statistics of one VM or one vCPU. Owns the stats descriptor; names are read once, values with each call. Reading
// is two system calls and may be done from any thread.
class BinaryStats {
 public:
  // Takes the descriptor that KVM_GET_STATS_FD returned.
  static Result<BinaryStats> Open(UniqueFd stats_fd);

  // The first value of the statistic, or kUnsupported when this kernel does not have it.
  [[nodiscard]] Result<std::uint64_t> Get(std::string_view name) const;

  // All statistics; histograms have several values.
  [[nodiscard]] Result<std::map<std::string, std::vector<std::uint64_t>>> All() const;

  // The stats descriptor: readable with pread() by any process that it is handed to.
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  struct Entry {
    std::string name;
    std::uint32_t offset_bytes;  // into the data block
    std::uint32_t count;
  };

  BinaryStats(UniqueFd fd, std::uint32_t data_offset, std::vector<Entry> entries)
      : fd_(std::move(fd)), data_offset_bytes_(data_offset), entries_(std::move(entries)) {}
  [[nodiscard]] Result<std::vector<std::uint64_t>> ReadValues(const Entry& entry) const;

  UniqueFd fd_;
  std::uint32_t data_offset_bytes_;
  std::vector<Entry> entries_;
};

}  // namespace nestbench::vmm
