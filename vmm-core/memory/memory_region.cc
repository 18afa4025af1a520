#include "nestbench/vmm/memory/memory_region.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include <cerrno>
#include <charconv>
#include <fstream>
#include <string>
#include <utility>

#include "nestbench/abi/layout.h"

namespace nestbench::vmm {
namespace {

constexpr std::uint64_t kGiB = 1ULL << 30;

std::string RangeText(abi::GuestPhysRange range) {
  return fmt::format("guest-physical [{:#x}, +{:#x})", range.start.value(), range.size_bytes);
}

bool IsHugetlb(Backing backing) { return backing == Backing::kHugetlb2M || backing == Backing::kHugetlb1G; }

Result<void> CheckRange(abi::GuestPhysRange range, const MemoryRegionOptions& options) {
  const std::uint64_t alignment = IsHugetlb(options.backing) ? PageBytes(options.backing) : abi::kPageBytes;
  if (range.size_bytes == 0 || !range.IsValid() || !range.start.IsAligned(alignment) ||
      range.size_bytes % alignment != 0) {
    return Fail(Error::InvalidArgument("map guest memory",
                                       fmt::format("{} must be non-empty and a multiple of {:#x} bytes for {} backing",
                                                   RangeText(range), alignment, ToString(options.backing))));
  }
  if (options.fixed_host_address && *options.fixed_host_address % alignment != 0) {
    return Fail(Error::InvalidArgument("map guest memory", fmt::format("host address {:#x} is not aligned to {:#x}",
                                                                       *options.fixed_host_address, alignment)));
  }
  return {};
}

Result<void> BindToNode(std::span<std::byte> bytes, std::uint32_t node) {
  constexpr std::uint32_t kMaxNodes = 1024;  // CONFIG_NODES_SHIFT is at most 10
  unsigned long mask[kMaxNodes / (8 * sizeof(unsigned long))] = {};
  if (node >= kMaxNodes || node >= NumaNodeCount()) {
    return Fail(Error::InvalidArgument("mbind", fmt::format("node {} of a host with {}", node, NumaNodeCount())));
  }
  mask[node / (8 * sizeof(unsigned long))] = 1UL << (node % (8 * sizeof(unsigned long)));
  if (::syscall(SYS_mbind, bytes.data(), bytes.size(), MPOL_BIND, mask, kMaxNodes, 0) != 0) {
    return Fail(Error::System("mbind", errno, fmt::format("node {}", node)));
  }
  return {};
}

Result<UniqueFd> CreateMemfd(std::uint64_t size_bytes) {
  UniqueFd fd(::memfd_create("nestbench-guest", MFD_CLOEXEC));
  if (!fd.valid()) return Fail(Error::System("memfd_create", errno));
  if (::ftruncate(fd.get(), static_cast<off_t>(size_bytes)) != 0) {
    return Fail(Error::System("ftruncate", errno, fmt::format("memfd of {} bytes", size_bytes)));
  }
  return fd;
}

}  // namespace

std::string_view ToString(Backing backing) {
  switch (backing) {
    case Backing::kSmallPages:
      return "4 KiB anonymous";
    case Backing::kTransparentHuge:
      return "transparent 2 MiB";
    case Backing::kMemfd:
      return "4 KiB memfd";
    case Backing::kHugetlb2M:
      return "2 MiB hugetlb";
    case Backing::kHugetlb1G:
      return "1 GiB hugetlb";
  }
  return "unknown";
}

std::uint64_t PageBytes(Backing backing) {
  switch (backing) {
    case Backing::kTransparentHuge:
    case Backing::kHugetlb2M:
      return abi::kLargePageBytes;
    case Backing::kHugetlb1G:
      return kGiB;
    case Backing::kSmallPages:
    case Backing::kMemfd:
      break;
  }
  return abi::kPageBytes;
}

Result<MemoryRegion> MemoryRegion::Create(abi::GuestPhysRange range, const MemoryRegionOptions& options) {
  if (auto valid = CheckRange(range, options); !valid) return Fail(std::move(valid.error()));

  int protection = PROT_READ | PROT_WRITE;
  if (options.executable_on_host) protection |= PROT_EXEC;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  UniqueFd memfd;
  if (options.backing == Backing::kMemfd) {
    auto created = CreateMemfd(range.size_bytes);
    if (!created) return Fail(std::move(created.error()));
    memfd = std::move(*created);
    flags = MAP_SHARED | MAP_NORESERVE;
  } else if (IsHugetlb(options.backing)) {
    // Without MAP_NORESERVE: an empty pool fails here and not with SIGBUS in the guest.
    flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB |
            (options.backing == Backing::kHugetlb2M ? MAP_HUGE_2MB : MAP_HUGE_1GB);
  }

  // A transparent-huge region is reserved with slack, so that its start can be made congruent to the guest address.
  const bool needs_slack = options.backing == Backing::kTransparentHuge && !options.fixed_host_address;
  const std::uint64_t slack_bytes = needs_slack ? abi::kLargePageBytes : 0;
  void* hint = nullptr;
  if (options.fixed_host_address) {
    hint = reinterpret_cast<void*>(*options.fixed_host_address);
    flags |= MAP_FIXED_NOREPLACE;
  }
  const std::uint64_t mapped_bytes = range.size_bytes + slack_bytes;
  void* base = ::mmap(hint, mapped_bytes, protection, flags, memfd.get(), 0);
  if (base == MAP_FAILED) {
    const int error = errno;
    if (IsHugetlb(options.backing) && error == ENOMEM) {
      return Fail(Error::Unsupported(
          "map guest memory",
          fmt::format("the {} pool has too few free pages for {} bytes; as root: echo N > "
                      "/sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
                      ToString(options.backing), range.size_bytes, PageBytes(options.backing) / 1024)));
    }
    return Fail(Error::System("mmap", error, fmt::format("{}, {}", RangeText(range), ToString(options.backing))));
  }
  const std::span reservation(static_cast<std::byte*>(base), mapped_bytes);
  if (options.fixed_host_address && base != hint) {  // kernels before 4.17 take the address as a hint only
    ::munmap(base, mapped_bytes);
    return Fail(Error::System("mmap", EEXIST, fmt::format("host address {:#x}", *options.fixed_host_address)));
  }
  std::uint64_t skip = 0;
  if (needs_slack) {
    const auto address = reinterpret_cast<std::uint64_t>(base);
    skip = (range.start.value() - address) % abi::kLargePageBytes;
  }
  MemoryRegion region(range, options.backing, options.read_only_for_guest, reservation,
                      reservation.subspan(skip, range.size_bytes), std::move(memfd));

  if (options.backing == Backing::kSmallPages || options.backing == Backing::kTransparentHuge) {
    const int advice = options.backing == Backing::kSmallPages ? MADV_NOHUGEPAGE : MADV_HUGEPAGE;
    // EINVAL: a kernel without transparent huge pages, where 4 KiB is all there is.
    if (::madvise(region.bytes_.data(), region.bytes_.size(), advice) != 0 &&
        (errno != EINVAL || advice == MADV_HUGEPAGE)) {
      const int error = errno;
      if (error == EINVAL) {
        return Fail(Error::Unsupported("madvise", "this kernel has no transparent huge pages"));
      }
      return Fail(Error::System("madvise", error, std::string(ToString(options.backing))));
    }
  }
  if (options.numa_node) {
    if (auto bound = BindToNode(region.bytes_, *options.numa_node); !bound) return Fail(std::move(bound.error()));
  }
  return region;
}

MemoryRegion::MemoryRegion(abi::GuestPhysRange range, Backing backing, bool read_only, std::span<std::byte> reservation,
                           std::span<std::byte> bytes, UniqueFd memfd)
    : range_(range),
      backing_(backing),
      read_only_for_guest_(read_only),
      reservation_(reservation),
      bytes_(bytes),
      memfd_(std::move(memfd)) {}

MemoryRegion::MemoryRegion(MemoryRegion&& other) noexcept
    : range_(std::exchange(other.range_, {})),
      backing_(other.backing_),
      read_only_for_guest_(other.read_only_for_guest_),
      reservation_(std::exchange(other.reservation_, {})),
      bytes_(std::exchange(other.bytes_, {})),
      memfd_(std::move(other.memfd_)) {}

MemoryRegion& MemoryRegion::operator=(MemoryRegion&& other) noexcept {
  std::swap(range_, other.range_);
  std::swap(backing_, other.backing_);
  std::swap(read_only_for_guest_, other.read_only_for_guest_);
  std::swap(reservation_, other.reservation_);
  std::swap(bytes_, other.bytes_);
  std::swap(memfd_, other.memfd_);
  return *this;
}

MemoryRegion::~MemoryRegion() {
  if (!reservation_.empty()) ::munmap(reservation_.data(), reservation_.size());
}

Result<void> MemoryRegion::Discard() const { return DiscardPart(0, bytes_.size()); }

Result<void> MemoryRegion::DiscardPart(std::uint64_t offset_bytes, std::uint64_t size_bytes) const {
  const std::uint64_t page_bytes = IsHugetlb(backing_) ? PageBytes(backing_) : abi::kPageBytes;
  if (offset_bytes > bytes_.size() || size_bytes > bytes_.size() - offset_bytes || offset_bytes % page_bytes != 0 ||
      size_bytes % page_bytes != 0) {
    return Fail(Error::InvalidArgument("discard guest memory",
                                       fmt::format("[{:#x}, +{:#x}) of {} is not whole pages of {} bytes inside it",
                                                   offset_bytes, size_bytes, RangeText(range_), page_bytes)));
  }
  const auto part = bytes_.subspan(offset_bytes, size_bytes);
  // A shared mapping keeps its pages under MADV_DONTNEED; MADV_REMOVE punches them out of the memfd.
  const int advice = backing_ == Backing::kMemfd ? MADV_REMOVE : MADV_DONTNEED;
  if (::madvise(part.data(), part.size(), advice) != 0) {
    return Fail(Error::System("madvise", errno, fmt::format("discard of {}", RangeText(range_))));
  }
  return {};
}

Result<std::uint64_t> MemoryRegion::HugeBytes() const {
  if (IsHugetlb(backing_)) return range_.size_bytes;
  std::ifstream smaps("/proc/self/smaps");
  if (!smaps) return Fail(Error::System("open", errno, "/proc/self/smaps"));
  const auto begin = reinterpret_cast<std::uint64_t>(bytes_.data());
  const std::uint64_t end = begin + bytes_.size();
  std::uint64_t huge_bytes = 0;
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    const char* text = line.data();
    const char* text_end = text + line.size();
    std::uint64_t low = 0;
    if (const auto parsed = std::from_chars(text, text_end, low, 16);
        parsed.ec == std::errc() && parsed.ptr != text_end && *parsed.ptr == '-') {
      inside = low >= begin && low < end;
    } else if (inside && (line.starts_with("AnonHugePages:") || line.starts_with("ShmemPmdMapped:"))) {
      const auto digits = line.find_first_of("0123456789");
      std::uint64_t kib = 0;
      if (digits != std::string::npos) std::from_chars(text + digits, text_end, kib);
      huge_bytes += kib * 1024;
    }
  }
  return huge_bytes;
}

std::uint32_t NumaNodeCount() {
  // "0" or "0-3": the highest possible node is the last number. Kernel document "NUMA Memory Policy" counts from 0.
  std::ifstream file("/sys/devices/system/node/has_memory");
  std::string text;
  if (!file || !std::getline(file, text)) return 1;
  const auto last = text.find_last_of("-,");
  const char* begin = text.data() + (last == std::string::npos ? 0 : last + 1);
  std::uint32_t highest = 0;
  const auto parsed = std::from_chars(begin, text.data() + text.size(), highest);
  return parsed.ec == std::errc() ? highest + 1 : 1;
}

}  // namespace nestbench::vmm
