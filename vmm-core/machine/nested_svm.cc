#include <array>
#include <memory>
#include <utility>

#include "nestbench/abi/hypervisor.h"
#include "nestbench/abi/svm.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/svm.h"
#include "nested.h"

namespace nestbench::vmm::internal {

using namespace abi::svm;
using abi::GuestPhysAddr;

// L2 leaves for everything that it would leave a VM for, and for the page faults that shadow tables would raise. A
// triple fault goes past L1.
Result<void> PrepareSvm(bool nested_paging, const GuestMemory& memory, Vcpu& vcpu, const Level2& level2,
                        const kvm_sregs& l2) {
  auto vmcb = std::make_unique<Vmcb>();
  FillVmcb(l2, abi::kHypervisorControl, *vmcb);
  vmcb->intercepts_1 = 1U << kIntercept1Intr | 1U << kIntercept1Cpuid | 1U << kIntercept1Hlt | 1U << kIntercept1Ioio |
                       1U << kIntercept1Msr;
  vmcb->intercepts_2 |= 1U << kIntercept2Vmmcall;
  vmcb->virtual_interrupt = kVirtualMasking;
  vmcb->rip = level2.entry.value();
  vmcb->rsp = kUserStackPointer;
  if (nested_paging) {
    auto root = WriteNestedTables(memory, level2, PageTableFormat::kLongMode);
    if (!root) return Fail(std::move(root.error()));
    UseNestedPaging(root->value(), *vmcb);
  } else {
    vmcb->exception_intercepts = 1U << abi::x86::kVectorPageFault;
  }
  std::array<std::byte, kSvmPagesBytes - kSvmMsrPermissionsOffset> permissions = {};
  permissions.fill(std::byte{0xFF});
  FillPortBitmap(std::span(permissions).last(kSvmPagesBytes - kSvmIoPermissionsOffset));
  auto written = memory.WriteBytes(GuestPhysAddr(abi::kHypervisorControl + kSvmMsrPermissionsOffset), permissions);
  if (written) {
    written = memory.WriteBytes(GuestPhysAddr(abi::kHypervisorControl), std::as_bytes(std::span(vmcb.get(), 1)));
  }
  if (!written) return written;
  return AllowSvm(vcpu, abi::kHypervisorControl);
}

}  // namespace nestbench::vmm::internal
