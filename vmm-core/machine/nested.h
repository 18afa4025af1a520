// What a UserMachine with a hypervisor inside (L1) has beside the payload, which then is L2. Private to this layer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/virtualization.h"
#include "nestbench/vmm/loader/elf.h"
#include "nestbench/vmm/machine/page_tables.h"
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

// Which L1 there is to run. kUnsupported, with what to do, where this KVM's guests can have no guests, or not with that
// paging.
Result<Virtualization> CheckNested(const KvmDevice& device, const NestedOptions& options);

// Loads L1, writes its tables and what L2 begins with, and points the vCPU at L1's entry. What the supervisor area
// holds is written before.
Result<void> EnterNested(const KvmDevice& device, Virtualization virtualization, const NestedOptions& options,
                         const GuestMemory& memory, Vcpu& vcpu, const Level2& level2);

// All that is L2's, and of the supervisor area no page of L1, mapped one to one; where the tables' root is.
Result<abi::GuestPhysAddr> WriteNestedTables(const GuestMemory& memory, const Level2& level2, PageTableFormat format);

// One for each port, set: L2 leaves to L1. That of the panic port is not, so that the host finds L2's own registers
// there.
void FillPortBitmap(std::span<std::byte> bitmap);

// What L1 starts with at abi::kHypervisorControl, and the vCPU's right to be a hypervisor. `l1` is the state that L1
// runs in, and has been set; `l2` that L2 begins in, at its entry.
Result<void> PrepareSvm(bool nested_paging, const GuestMemory& memory, Vcpu& vcpu, const Level2& level2,
                        const kvm_sregs& l2);
Result<void> PrepareVmx(const KvmDevice& device, bool nested_paging, const GuestMemory& memory, Vcpu& vcpu,
                        const Level2& level2, const kvm_sregs& l1, const kvm_sregs& l2);

}  // namespace nestbench::vmm::internal
