// Writes four-level page tables into guest memory. Sources: AMD APM, volume 2, section "Long-Mode Page Translation";
// Intel SDM, volume 3, section "EPT Translation Mechanism".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "nestbench/abi/address.h"
#include "nestbench/abi/layout.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::vmm {

struct PageAccess {
  bool user = false;
  bool writable = false;
  bool executable = false;
  bool cacheable = true;
};

enum class PageTableFormat : std::uint8_t {
  kLongMode,  // AMD's nested tables too
  kExtended,  // Intel's nested tables (EPT): no rights of users
};

// Builds tables inside a pool of guest memory. The pool must be zero. Refers to the memory, which outlives it.
class PageTableBuilder {
 public:
  // kInvalidArgument when the pool is not page-aligned or smaller than one page, or not in memory.
  static Result<PageTableBuilder> Create(const GuestMemory& memory, abi::GuestPhysRange pool,
                                         PageTableFormat format = PageTableFormat::kLongMode);

  // Maps [virtual_start, + size_bytes) to physical_start. `page_bytes` is 4096 or 2 MiB; addresses and size are
  // multiples of it. kInvalidArgument for a range that is mapped already or not canonical, or when the pool is full.
  Result<void> Map(abi::GuestVirtAddr virtual_start, abi::GuestPhysAddr physical_start, std::uint64_t size_bytes,
                   std::uint64_t page_bytes, PageAccess access);

  // What CR3 takes; the address in an EPT pointer.
  [[nodiscard]] abi::GuestPhysAddr root() const { return pool_.start; }

 private:
  PageTableBuilder(const GuestMemory& memory, abi::GuestPhysRange pool, PageTableFormat format)
      : memory_(&memory), pool_(pool), format_(format) {}
  [[nodiscard]] std::uint64_t FlagsOf(PageAccess access) const;
  Result<void> Touch(std::uint64_t table);
  Result<std::uint64_t> NextTable(std::uint64_t table, std::uint64_t index);
  Result<std::span<std::byte>> LastTable(std::uint64_t virtual_address, bool large);

  const GuestMemory* memory_;
  abi::GuestPhysRange pool_;
  PageTableFormat format_;
  std::uint64_t used_bytes_ = abi::kPageBytes;
};

}  // namespace nestbench::vmm
