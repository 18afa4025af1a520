// One run of guest-physical memory and the host mapping behind it.
//
// Owns the mapping (and the memfd, where there is one) and unmaps it when destroyed. Move-only. No thread rule: the
// guest may write the bytes at any moment, so nothing here promises that two reads agree.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::vmm {

// What the host puts behind guest memory. Sources: mmap(2), madvise(2), memfd_create(2); kernel documents
// "Transparent Hugepage Support" and "HugeTLB Pages".
enum class Backing : std::uint8_t {
  kSmallPages,       // private anonymous, MADV_NOHUGEPAGE: 4 KiB pages only
  kTransparentHuge,  // private anonymous, MADV_HUGEPAGE: 2 MiB where the kernel can; see HugeBytes()
  kMemfd,            // shared memfd, 4 KiB pages: for mapping the same memory into another process
  kHugetlb2M,        // 2 MiB pages from the hugetlb pool: fails when the pool is empty, never falls back
  kHugetlb1G,        // 1 GiB pages from the hugetlb pool
};

std::string_view ToString(Backing backing);

// Bytes of one page of this backing at its best; addresses and sizes are multiples of it.
std::uint64_t PageBytes(Backing backing);

struct MemoryRegionOptions {
  Backing backing = Backing::kSmallPages;
  bool read_only_for_guest = false;             // the slot gets KVM_MEM_READONLY; guest writes become MMIO exits
  bool executable_on_host = false;              // PROT_EXEC too: only for images that run as a host process
  std::optional<std::uint32_t> numa_node = {};  // bind to this node (mbind MPOL_BIND)
  std::optional<std::uint64_t> fixed_host_address = {};  // map exactly here; an occupied range is an error
};

class MemoryRegion {
 public:
  // Maps `range.size_bytes` bytes of zeroes. `range.start` and size must be multiples of the backing's page size
  // (kTransparentHuge: of 4 KiB; the host address is congruent to the guest address modulo 2 MiB, so that both
  // sides can use large pages). Errors: kInvalidArgument for bad ranges; kUnsupported when a hugetlb pool cannot
  // serve it, with how to fill the pool; kSystem otherwise.
  static Result<MemoryRegion> Create(abi::GuestPhysRange range, const MemoryRegionOptions& options);

  MemoryRegion(MemoryRegion&& other) noexcept;
  MemoryRegion& operator=(MemoryRegion&& other) noexcept;
  MemoryRegion(const MemoryRegion&) = delete;
  MemoryRegion& operator=(const MemoryRegion&) = delete;
  ~MemoryRegion();

  [[nodiscard]] abi::GuestPhysRange range() const { return range_; }
  [[nodiscard]] Backing backing() const { return backing_; }
  [[nodiscard]] bool read_only_for_guest() const { return read_only_for_guest_; }
  [[nodiscard]] std::span<std::byte> bytes() const { return bytes_; }
  [[nodiscard]] int memfd() const { return memfd_.get(); }  // -1 unless kMemfd; owned by this

  // Gives the pages back to the host: the next access finds zeroes and pays for a first touch.
  Result<void> Discard() const;
  // The same for a part: whole pages (4 KiB; of a hugetlb backing its own), else kInvalidArgument.
  Result<void> DiscardPart(std::uint64_t offset_bytes, std::uint64_t size_bytes) const;

  // Bytes now backed by pages of 2 MiB or more, as /proc/self/smaps counts them.
  [[nodiscard]] Result<std::uint64_t> HugeBytes() const;

 private:
  MemoryRegion(abi::GuestPhysRange range, Backing backing, bool read_only, std::span<std::byte> reservation,
               std::span<std::byte> bytes, UniqueFd memfd);

  abi::GuestPhysRange range_;
  Backing backing_ = Backing::kSmallPages;
  bool read_only_for_guest_ = false;
  std::span<std::byte> reservation_;  // what munmap gets: `bytes_` and, for alignment, what lies around it
  std::span<std::byte> bytes_;
  UniqueFd memfd_;
};

// NUMA nodes with memory on this host; 1 where the kernel does not say.
std::uint32_t NumaNodeCount();

}  // namespace nestbench::vmm
