#include "nested.h"

#include <fmt/format.h>

#include <memory>
#include <utility>

#include "identity_map.h"
#include "nestbench/abi/hypervisor.h"
#include "nestbench/abi/svm.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/segments.h"
#include "nestbench/vmm/kvm/svm.h"

namespace nestbench::vmm::internal {
namespace {

using namespace abi::svm;
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

// All that is L2's, and of the supervisor area no page of L1. Rights are those of L2's own tables, but for the user
// bit, which every nested walk needs. AMD APM volume 2, section "Nested Paging".
Result<GuestPhysAddr> WriteNestedTables(const GuestMemory& memory, const Level2& level2) {
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
  return WriteIdentityTables(memory, {GuestPhysAddr(base), bytes}, mappings);
}

// L2 leaves for everything that it would leave a VM for, and for the page faults that shadow tables would raise. Two
// things go past L1: a triple fault, and the panic port, so that the host finds L2's own registers there.
Result<void> WriteVmcb(const NestedOptions& options, const GuestMemory& memory, const kvm_sregs& after_reset,
                       const Level2& level2) {
  kvm_sregs sregs = after_reset;
  SetUserMode(sregs, level2.page_table_root, level2.has_xsave);
  auto vmcb = std::make_unique<Vmcb>();
  FillVmcb(sregs, abi::kHypervisorVmcb, *vmcb);
  vmcb->intercepts_1 = 1U << kIntercept1Intr | 1U << kIntercept1Cpuid | 1U << kIntercept1Hlt | 1U << kIntercept1Ioio |
                       1U << kIntercept1Msr;
  vmcb->intercepts_2 |= 1U << kIntercept2Vmmcall;
  vmcb->virtual_interrupt = kVirtualMasking;
  vmcb->rip = level2.entry.value();
  vmcb->rsp = kUserStackPointer;
  if (options.nested_paging) {
    auto root = WriteNestedTables(memory, level2);
    if (!root) return Fail(std::move(root.error()));
    UseNestedPaging(root->value(), *vmcb);
  } else {
    vmcb->exception_intercepts = 1U << kVectorPageFault;
  }
  constexpr std::uint64_t kPortsBytes = kSvmPagesBytes - kSvmIoPermissionsOffset;
  std::array<std::byte, kSvmPagesBytes - kSvmMsrPermissionsOffset> permissions = {};
  permissions.fill(std::byte{0xFF});
  const std::span<std::byte> ports = std::span(permissions).last(kPortsBytes);
  for (std::uint32_t port = abi::kPanicPort; port < abi::kPanicPort + 4U; ++port) {
    ports[port / 8] &= ~(std::byte{1} << (port % 8));
  }
  auto written =
      memory.WriteBytes(GuestPhysAddr(abi::kHypervisorVmcb + kSvmMsrPermissionsOffset), std::span(permissions));
  if (written)
    written = memory.WriteBytes(GuestPhysAddr(abi::kHypervisorVmcb), std::as_bytes(std::span(vmcb.get(), 1)));
  return written;
}

}  // namespace

Result<void> CheckNested(const KvmDevice& device, const NestedOptions& options) {
  if (auto can = CheckSvm(device); !can || !options.nested_paging) return can;
  return CheckSvmNestedPaging(device);
}

Result<void> EnterNested(const NestedOptions& options, const GuestMemory& memory, Vcpu& vcpu, const Level2& level2) {
  if (options.hypervisor.empty() || options.hypervisor.size() > abi::kHypervisorMaxBytes) {
    return Fail(Error::InvalidArgument(
        "load guest hypervisor",
        fmt::format("a binary of {} bytes; at most {}", options.hypervisor.size(), abi::kHypervisorMaxBytes)));
  }
  auto sregs = vcpu.GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));
  abi::HypervisorData data = {};
  data.registers[abi::kRegisterRdi] = abi::kMailboxBase;
  auto written = memory.WriteBytes(GuestPhysAddr(abi::kHypervisorBase), options.hypervisor);
  if (written) written = memory.Write(GuestPhysAddr(abi::kHypervisorDataBase), data);
  if (written) written = WriteExceptionGates(memory, abi::kHypervisorIdtBase);
  if (written) written = WriteVmcb(options, memory, *sregs, level2);
  if (!written) return written;
  auto root = WriteOwnTables(memory, level2);
  if (!root) return Fail(std::move(root.error()));

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
  return AllowSvm(vcpu, abi::kHypervisorVmcb);
}

}  // namespace nestbench::vmm::internal
