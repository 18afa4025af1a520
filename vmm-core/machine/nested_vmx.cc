#include <array>
#include <utility>
#include <vector>

#include "nestbench/abi/hypervisor.h"
#include "nestbench/abi/vmx.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/vmx.h"
#include "nested.h"

namespace nestbench::vmm::internal {

using namespace abi::vmx;
using abi::GuestPhysAddr;

// L2 leaves for everything that it would leave a VM for, and for the page faults that shadow tables would raise.
// Without an MSR bitmap every access to an MSR leaves; CPUID, VMCALL and a triple fault always do.
Result<void> PrepareVmx(const KvmDevice& device, bool nested_paging, const GuestMemory& memory, Vcpu& vcpu,
                        const Level2& level2, const kvm_sregs& l1, const kvm_sregs& l2) {
  auto capabilities = ReadVmxCapabilities(device);
  if (!capabilities) return Fail(std::move(capabilities.error()));
  auto values = FillVmcs(*capabilities, l1, l2,
                         {.pin = kPinExternalInterrupt,
                          .processor = kProcessorHlt | kProcessorPortBitmaps,
                          .secondary = nested_paging ? kSecondaryEpt : 0,
                          .exception_bitmap = nested_paging ? 0 : 1U << abi::x86::kVectorPageFault});
  if (!values) return Fail(std::move(values.error()));
  values->push_back({kPortBitmapA, abi::kHypervisorPortBitmaps});
  values->push_back({kPortBitmapB, abi::kHypervisorPortBitmaps + abi::kPageBytes});
  values->push_back({kGuestRip, level2.entry.value()});
  values->push_back({kGuestRsp, kUserStackPointer});
  // As user code runs everywhere. Bochs 2.7 takes no interrupt, not the host's either, in a guest whose flag is clear.
  values->push_back({kGuestRflags, abi::x86::kRflagsReserved1 | abi::x86::kRflagsInterrupts});
  if (nested_paging) {
    auto root = WriteNestedTables(memory, level2, PageTableFormat::kExtended);
    if (!root) return Fail(std::move(root.error()));
    values->push_back({kEptPointer, root->value() | kEptPointerFourLevels | kEptPointerWriteBack});
  }
  std::vector<abi::VmcsField> fields;
  fields.reserve(values->size() + 1);
  for (const VmcsValue& value : *values) fields.push_back({value.field, value.value});
  fields.push_back({abi::kVmcsFieldsEnd, 0});
  std::array<std::byte, 2 * abi::kPageBytes> ports = {};
  FillPortBitmap(ports);
  auto written = memory.WriteBytes(GuestPhysAddr(abi::kHypervisorControl), std::as_bytes(std::span(fields)));
  if (written) written = memory.WriteBytes(GuestPhysAddr(abi::kHypervisorPortBitmaps), ports);
  for (const std::uint64_t region : {abi::kHypervisorVmxonRegion, abi::kHypervisorVmcs}) {
    if (written) written = memory.Write(GuestPhysAddr(region), capabilities->revision);
  }
  if (!written) return written;
  return AllowVmx(vcpu);
}

}  // namespace nestbench::vmm::internal
