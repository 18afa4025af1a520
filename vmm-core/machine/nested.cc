#include "nested.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "identity_map.h"
#include "nestbench/abi/hypervisor.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/segments.h"
#include "nestbench/vmm/kvm/svm.h"
#include "nestbench/vmm/kvm/vmx.h"

namespace nestbench::vmm::internal {
namespace {

using namespace abi::x86;
using abi::GuestPhysAddr;

// L1 sees itself, what the exceptions need, the text of L2 whose stores it carries out, and the MMIO pages.
Result<GuestPhysAddr> WriteOwnTables(const GuestMemory& memory, const Level2& level2) {
  constexpr PageAccess kData{.writable = true};
  const Mapping mappings[] = {
      {kGdtBase, abi::kPageBytes, kData},
      {kStubsBase, abi::kPageBytes, {.executable = true}},
      {kTssBase, kTssPagesBytes, kData},
      {kFaultStackBase, kFaultStackBytes, kData},
      {abi::kHypervisorBase, abi::kHypervisorMaxBytes, {.executable = true}},
      {abi::kHypervisorDataBase, abi::kHypervisorEnd - abi::kHypervisorDataBase, kData},
      {level2.image.start.value(), level2.image.size_bytes, {}},
      {abi::kDoorbellPage, abi::kMmioPagesEnd - abi::kDoorbellPage, {.writable = true, .cacheable = false}},
  };
  return WriteIdentityTables(memory, {GuestPhysAddr(NestedTablesBase(level2.arena_bytes)), PageTablesBytes(0)},
                             mappings);
}

}  // namespace

// Rights are those of L2's own tables, but for the user bit, which every nested walk of AMD's needs. AMD APM volume 2,
// section "Nested Paging".
Result<GuestPhysAddr> WriteNestedTables(const GuestMemory& memory, const Level2& level2, PageTableFormat format) {
  constexpr PageAccess kAll{.user = true, .writable = true, .executable = true};
  const Mapping mappings[] = {
      {kGdtBase, abi::kHypervisorBase - kGdtBase, kAll},
      {kPageTablesBase, PageTablesBytes(level2.arena_bytes), kAll},
      {abi::kMailboxBase, abi::kMailboxBytes, kAll},
      {abi::kStackBase, abi::kStackBytes, kAll},
      {level2.image.start.value(), level2.image.size_bytes, kAll},
      {abi::kArenaBase, level2.arena_bytes, kAll, level2.arena_page_bytes},
  };
  const std::uint64_t base = NestedTablesBase(level2.arena_bytes) + PageTablesBytes(0);
  const std::uint64_t bytes = NestedTablesBytes(level2.arena_bytes) - PageTablesBytes(0);
  return WriteIdentityTables(memory, {GuestPhysAddr(base), bytes}, mappings, format);
}

void FillPortBitmap(std::span<std::byte> bitmap) {
  std::ranges::fill(bitmap, std::byte{0xFF});
  for (std::uint32_t port = abi::kPanicPort; port < abi::kPanicPort + 4U; ++port) {
    bitmap[port / 8] &= ~(std::byte{1} << (port % 8));
  }
}

Result<Virtualization> CheckNested(const KvmDevice& device, const NestedOptions& options) {
  auto virtualization = GuestVirtualization(device);
  if (!virtualization || !options.nested_paging) return virtualization;
  auto can = *virtualization == Virtualization::kSvm ? CheckSvmNestedPaging(device) : CheckVmxNestedPaging(device);
  if (!can) return Fail(std::move(can.error()));
  return virtualization;
}

Result<void> EnterNested(const KvmDevice& device, Virtualization virtualization, const NestedOptions& options,
                         const GuestMemory& memory, Vcpu& vcpu, const Level2& level2) {
  const std::span<const std::byte> hypervisor = virtualization == Virtualization::kSvm ? options.svm : options.vmx;
  if (hypervisor.empty() || hypervisor.size() > abi::kHypervisorMaxBytes) {
    return Fail(Error::InvalidArgument(
        "load guest hypervisor",
        fmt::format("a binary of {} bytes; at most {}", hypervisor.size(), abi::kHypervisorMaxBytes)));
  }
  auto sregs = vcpu.GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));
  abi::HypervisorData data = {};
  data.registers[abi::kRegisterRdi] = abi::kMailboxBase;
  auto written = memory.WriteBytes(GuestPhysAddr(abi::kHypervisorBase), hypervisor);
  if (written) written = memory.Write(GuestPhysAddr(abi::kHypervisorDataBase), data);
  if (written) written = WriteExceptionGates(memory, abi::kHypervisorIdtBase);
  if (!written) return written;
  auto root = WriteOwnTables(memory, level2);
  if (!root) return Fail(std::move(root.error()));

  kvm_sregs l2 = *sregs;
  SetUserMode(l2, level2.page_table_root, level2.has_xsave);
  SetUserMode(*sregs, *root, level2.has_xsave);
  sregs->cs = FlatSegment(kKernelCodeSelector, kSegmentTypeCodeReadAccessed, true);
  sregs->ss = sregs->ds = sregs->es = sregs->fs = sregs->gs =
      FlatSegment(kKernelDataSelector, kSegmentTypeDataWriteAccessed, false);
  sregs->idt.base = abi::kHypervisorIdtBase;
  sregs->idt.limit = abi::kPageBytes - 1;
  if (auto set = vcpu.SetSregs(*sregs); !set) return set;
  kvm_regs regs = {};
  regs.rip = abi::kHypervisorBase;
  regs.rsp = abi::kHypervisorStackTop;
  regs.rflags = kRflagsReserved1;
  if (auto set = vcpu.SetRegs(regs); !set) return set;
  return virtualization == Virtualization::kSvm
             ? PrepareSvm(options.nested_paging, memory, vcpu, level2, l2)
             : PrepareVmx(device, options.nested_paging, memory, vcpu, level2, *sregs, l2);
}

}  // namespace nestbench::vmm::internal
