#include "nestbench/vmm/machine/page_tables.h"

#include <fmt/format.h>

#include <cstring>
#include <utility>

#include "nestbench/abi/vmx.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm {
namespace {

using namespace abi::x86;

constexpr std::string_view kOperation = "map guest page";
constexpr unsigned kLevelBits = 9;
constexpr unsigned kPageShift = 12;
// Lower half only: user addresses below bit 47 are canonical as they are.
constexpr std::uint64_t kLowerHalfEnd = 1ULL << 47;

std::uint64_t IndexAt(std::uint64_t address, unsigned level) {
  return (address >> (kPageShift + kLevelBits * level)) % kPageTableEntries;
}

}  // namespace

Result<PageTableBuilder> PageTableBuilder::Create(const GuestMemory& memory, abi::GuestPhysRange pool,
                                                  PageTableFormat format) {
  if (!pool.start.IsAligned(abi::kPageBytes) || pool.size_bytes < abi::kPageBytes) {
    return Fail(
        Error::InvalidArgument("page-table pool", fmt::format("[{:#x}, +{:#x})", pool.start.value(), pool.size_bytes)));
  }
  PageTableBuilder builder(memory, pool, format);
  if (auto touched = builder.Touch(pool.start.value()); !touched) return Fail(std::move(touched.error()));
  return builder;
}

// A new page that is read first costs a second page fault when it is written: thousands of guests start at once.
Result<void> PageTableBuilder::Touch(std::uint64_t table) {
  return memory_->Write<std::uint64_t>(abi::GuestPhysAddr(table), 0);
}

Result<std::uint64_t> PageTableBuilder::NextTable(std::uint64_t table, std::uint64_t index) {
  const abi::GuestPhysAddr entry_address(table + index * sizeof(std::uint64_t));
  auto entry = memory_->Read<std::uint64_t>(entry_address);
  if (!entry) return Fail(std::move(entry.error()));
  if ((*entry & kPtePresent) != 0) {
    if ((*entry & kPteLarge) != 0) return Fail(Error::InvalidArgument(kOperation, "a 2 MiB page is there already"));
    return *entry & kPteAddressMask;
  }
  if (pool_.size_bytes - used_bytes_ < abi::kPageBytes) {
    return Fail(Error::InvalidArgument(kOperation, fmt::format("the pool of {:#x} bytes is full", pool_.size_bytes)));
  }
  const std::uint64_t next = pool_.start.value() + used_bytes_;
  used_bytes_ += abi::kPageBytes;
  if (auto touched = Touch(next); !touched) return Fail(std::move(touched.error()));
  // Rights are given by the last level alone; the levels above allow everything. These bits are those of EPT too.
  static_assert(kPtePresent == abi::vmx::kEptRead && kPteWritable == abi::vmx::kEptWrite &&
                kPteUser == abi::vmx::kEptExecute);
  if (auto written = memory_->Write(entry_address, next | kPtePresent | kPteWritable | kPteUser); !written) {
    return Fail(std::move(written.error()));
  }
  return next;
}

Result<std::span<std::byte>> PageTableBuilder::LastTable(std::uint64_t virtual_address, bool large) {
  std::uint64_t table = pool_.start.value();
  const unsigned last_level = large ? 1 : 0;
  for (unsigned level = 3; level > last_level; --level) {
    auto next = NextTable(table, IndexAt(virtual_address, level));
    if (!next) return Fail(std::move(next.error()));
    table = *next;
  }
  return memory_->Slice(abi::GuestPhysAddr(table), abi::kPageBytes);
}

std::uint64_t PageTableBuilder::FlagsOf(PageAccess access) const {
  if (format_ == PageTableFormat::kExtended) {
    std::uint64_t flags = abi::vmx::kEptRead | (access.cacheable ? abi::vmx::kEptWriteBack : abi::vmx::kEptUncacheable);
    if (access.writable) flags |= abi::vmx::kEptWrite;
    if (access.executable) flags |= abi::vmx::kEptExecute;
    return flags;
  }
  // Accessed and dirty are set beforehand: setting them is not what a payload measures.
  std::uint64_t flags = kPtePresent | kPteAccessed | kPteDirty;
  if (access.writable || Mutated("page-code-writable")) flags |= kPteWritable;
  if (access.user || Mutated("page-user-for-supervisor")) flags |= kPteUser;
  if (!access.cacheable) flags |= kPteCacheDisable;
  if (!access.executable && !Mutated("page-no-execute-lost")) flags |= kPteNoExecute;
  return flags;
}

Result<void> PageTableBuilder::Map(abi::GuestVirtAddr virtual_start, abi::GuestPhysAddr physical_start,
                                   std::uint64_t size_bytes, std::uint64_t page_bytes, PageAccess access) {
  const bool large = page_bytes == abi::kLargePageBytes;
  if ((!large && page_bytes != abi::kPageBytes) || !virtual_start.IsAligned(page_bytes) ||
      !physical_start.IsAligned(page_bytes) || size_bytes % page_bytes != 0 || virtual_start.value() >= kLowerHalfEnd ||
      size_bytes > kLowerHalfEnd - virtual_start.value()) {
    return Fail(Error::InvalidArgument(
        kOperation, fmt::format("{:#x} -> {:#x}, {:#x} bytes in pages of {:#x}", virtual_start.value(),
                                physical_start.value(), size_bytes, page_bytes)));
  }
  const std::uint64_t flags = FlagsOf(access) | (large ? kPteLarge : 0);  // the same bit in both formats
  // One walk for each table of the last level, not for each of its 512 entries: a large arena has half a million.
  std::span<std::byte> table;
  for (std::uint64_t offset = 0; offset < size_bytes; offset += page_bytes) {
    const std::uint64_t address = virtual_start.value() + offset;
    const std::uint64_t index = IndexAt(address, large ? 1 : 0);
    if (table.empty() || index == 0) {
      auto found = LastTable(address, large);
      if (!found) return Fail(std::move(found.error()));
      table = *found;
    }
    const std::uint64_t entry = (physical_start.value() + offset) | flags;
    std::byte* place = table.subspan(index * sizeof(entry), sizeof(entry)).data();
    std::uint64_t present = 0;
    std::memcpy(&present, place, sizeof(present));
    if (present != 0) {
      return Fail(Error::InvalidArgument(kOperation, fmt::format("{:#x} is mapped already", address)));
    }
    std::memcpy(place, &entry, sizeof(entry));
  }
  return {};
}

}  // namespace nestbench::vmm
