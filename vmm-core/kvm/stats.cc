#include "nestbench/vmm/kvm/stats.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

#include "nestbench/vmm/base/mutant.h"
#include "nestbench/vmm/kvm/linux_kvm.h"

namespace nestbench::vmm {
namespace {

constexpr std::string_view kOperation = "read KVM statistics";
constexpr std::uint32_t kMaxDescriptors = 4096;
constexpr std::uint32_t kMaxNameBytes = 256;
constexpr std::uint32_t kMaxValues = 4096;

Result<void> ReadAt(int fd, std::uint64_t offset_bytes, std::span<std::byte> destination) {
  const ssize_t got = ::pread(fd, destination.data(), destination.size(), static_cast<off_t>(offset_bytes));
  if (got < 0) return Fail(Error::System("pread", errno, "KVM statistics"));
  if (static_cast<std::size_t>(got) != destination.size()) {
    return Fail(Error::Malformed(kOperation, fmt::format("{} of {} bytes", got, destination.size())));
  }
  return {};
}

}  // namespace

Result<BinaryStats> BinaryStats::Open(UniqueFd stats_fd) {
  kvm_stats_header header = {};
  if (auto done = ReadAt(stats_fd.get(), 0, std::as_writable_bytes(std::span(&header, 1))); !done) {
    return Fail(std::move(done.error()));
  }
  if (header.num_desc > kMaxDescriptors || header.name_size == 0 || header.name_size > kMaxNameBytes) {
    return Fail(Error::Malformed(
        kOperation, fmt::format("{} descriptors with names of {} bytes", header.num_desc, header.name_size)));
  }
  const std::size_t descriptor_bytes =
      sizeof(kvm_stats_desc) + header.name_size - (Mutated("stats-names-misaligned") ? 1 : 0);
  std::vector<std::byte> block(descriptor_bytes * header.num_desc);
  if (auto done = ReadAt(stats_fd.get(), header.desc_offset, block); !done) return Fail(std::move(done.error()));

  std::vector<Entry> entries;
  entries.reserve(header.num_desc);
  for (std::uint32_t index = 0; index < header.num_desc; ++index) {
    const std::byte* at = block.data() + index * descriptor_bytes;
    // kvm_stats_desc ends in the flexible name: only its fixed part is copied.
    decltype(kvm_stats_desc::offset) offset = 0;
    decltype(kvm_stats_desc::size) count = 0;
    std::memcpy(&offset, at + offsetof(kvm_stats_desc, offset), sizeof(offset));
    std::memcpy(&count, at + offsetof(kvm_stats_desc, size), sizeof(count));
    const char* name = reinterpret_cast<const char*>(at + sizeof(kvm_stats_desc));
    entries.push_back({std::string(name, ::strnlen(name, header.name_size)), offset, count});
  }
  return BinaryStats(std::move(stats_fd), header.data_offset, std::move(entries));
}

Result<std::vector<std::uint64_t>> BinaryStats::ReadValues(const Entry& entry) const {
  std::vector<std::uint64_t> values(std::clamp<std::uint32_t>(entry.count, 1, kMaxValues));
  if (auto done = ReadAt(fd_.get(), std::uint64_t{data_offset_bytes_} + entry.offset_bytes,
                         std::as_writable_bytes(std::span(values)));
      !done) {
    return Fail(std::move(done.error()));
  }
  return values;
}

Result<std::uint64_t> BinaryStats::Get(std::string_view name) const {
  const auto found =
      std::find_if(entries_.begin(), entries_.end(), [name](const Entry& entry) { return entry.name == name; });
  if (found == entries_.end()) {
    return Fail(Error::Unsupported(kOperation, fmt::format("this kernel has no statistic `{}`", name)));
  }
  auto values = ReadValues(*found);
  if (!values) return Fail(std::move(values.error()));
  return values->front();
}

Result<std::map<std::string, std::vector<std::uint64_t>>> BinaryStats::All() const {
  std::map<std::string, std::vector<std::uint64_t>> all;
  for (const Entry& entry : entries_) {
    auto values = ReadValues(entry);
    if (!values) return Fail(std::move(values.error()));
    all.emplace(entry.name, std::move(*values));
  }
  return all;
}

}  // namespace nestbench::vmm
