// What a UserMachine with a hypervisor inside (L1) has beside the payload, which then is L2. Private to this layer.
#pragma once

#include <cstdint>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/loader/elf.h"
#include "nestbench/vmm/machine/user_machine.h"
#include "nestbench/vmm/memory/guest_memory.h"
#include "supervisor.h"

namespace nestbench::vmm::internal {

// What L2 starts with, and where its memory is.
struct Level2 {
  abi::GuestPhysAddr page_table_root;
  abi::GuestVirtAddr entry;
  bool has_xsave = false;
  abi::GuestPhysRange image;  // whole pages
  std::uint64_t arena_bytes = 0;
  std::uint64_t arena_page_bytes = abi::kPageBytes;  // of the nested tables
};

// L1's tables and the nested ones lie behind those of L2.
constexpr std::uint64_t NestedTablesBase(std::uint64_t arena_bytes) {
  return kPageTablesBase + PageTablesBytes(arena_bytes);
}
// The nested ones map the supervisor area too, L2's tables included, which are in as many ranges of 2 MiB as follow.
constexpr std::uint64_t NestedTablesBytes(std::uint64_t arena_bytes) {
  constexpr std::uint64_t kSupervisorTables = abi::kSupervisorBytes / abi::kLargePageBytes;
  return PageTablesBytes(0) + PageTablesBytes(arena_bytes) + kSupervisorTables * abi::kPageBytes;
}
static_assert(NestedTablesBase(abi::kArenaMaxBytes) + NestedTablesBytes(abi::kArenaMaxBytes) <= abi::kSupervisorBytes);
static_assert(kFaultStackBase + kFaultStackBytes == abi::kHypervisorBase && abi::kHypervisorEnd <= kPageTablesBase);

// kUnsupported, with what to do, where this KVM's guests can have no guests, or not with that paging.
Result<void> CheckNested(const KvmDevice& device, const NestedOptions& options);

// Loads L1, writes its tables and L2's VMCB, and points the vCPU at L1's entry. What the supervisor area holds is
// written before.
Result<void> EnterNested(const NestedOptions& options, const GuestMemory& memory, Vcpu& vcpu, const Level2& level2);

}  // namespace nestbench::vmm::internal
