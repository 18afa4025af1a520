#include "identity_map.h"

#include <utility>

namespace nestbench::vmm::internal {

Result<abi::GuestPhysAddr> WriteIdentityTables(const GuestMemory& memory, abi::GuestPhysRange pool,
                                               std::span<const Mapping> mappings, PageTableFormat format) {
  auto builder = PageTableBuilder::Create(memory, pool, format);
  if (!builder) return Fail(std::move(builder.error()));
  for (const Mapping& mapping : mappings) {
    auto mapped = builder->Map(abi::GuestVirtAddr(mapping.start), abi::GuestPhysAddr(mapping.start), mapping.size_bytes,
                               mapping.page_bytes, mapping.access);
    if (!mapped) return Fail(std::move(mapped.error()));
  }
  return builder->root();
}

}  // namespace nestbench::vmm::internal
