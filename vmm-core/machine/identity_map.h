// Page tables that map guest-virtual = guest-physical. Private to this layer.
#pragma once

#include <cstdint>
#include <span>

#include "nestbench/abi/address.h"
#include "nestbench/abi/layout.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/machine/page_tables.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::vmm::internal {

struct Mapping {
  std::uint64_t start;
  std::uint64_t size_bytes;
  PageAccess access;
  std::uint64_t page_bytes = abi::kPageBytes;
};

// Writes tables of `mappings` into `pool`, which is zero; the address of their root.
Result<abi::GuestPhysAddr> WriteIdentityTables(const GuestMemory& memory, abi::GuestPhysRange pool,
                                               std::span<const Mapping> mappings,
                                               PageTableFormat format = PageTableFormat::kLongMode);

}  // namespace nestbench::vmm::internal
