#include "nestbench/vmm/kvm/virtualization.h"

#include <fmt/format.h>

#include <utility>

#include "nestbench/abi/svm.h"
#include "nestbench/abi/vmx.h"

namespace nestbench::vmm {
namespace {

constexpr std::string_view kOperation = "run a guest in a guest";

}  // namespace

Result<Virtualization> GuestVirtualization(const KvmDevice& device) {
  const int state = device.CheckCapability(KVM_CAP_NESTED_STATE);
  if (state <= 0) {
    return Fail(Error::Unsupported(
        kOperation, fmt::format("KVM_CAP_NESTED_STATE is {}: guests cannot be hypervisors here; load kvm_intel or "
                                "kvm_amd with nested=1 on a host that has VMX or SVM",
                                state)));
  }
  auto cpuid = device.SupportedCpuid();
  if (!cpuid) return Fail(std::move(cpuid.error()));
  const kvm_cpuid_entry2* basic = cpuid->Find(1);
  if (basic != nullptr && (basic->ecx & abi::vmx::kCpuid1EcxVmx) != 0) return Virtualization::kVmx;
  const kvm_cpuid_entry2* extended = cpuid->Find(0x8000'0001);
  if (extended != nullptr && (extended->ecx & abi::svm::kCpuidExtendedEcxSvm) != 0) return Virtualization::kSvm;
  return Fail(Error::Unsupported(kOperation,
                                 "CPUID 1 ECX.VMX and CPUID 8000_0001 ECX.SVM are 0 for guests: this KVM offers its "
                                 "guests no virtualization"));
}

Result<void> CheckVirtualization(const KvmDevice& device, Virtualization wanted) {
  auto found = GuestVirtualization(device);
  if (!found) return Fail(std::move(found.error()));
  if (*found == wanted) return {};
  return Fail(Error::Unsupported(kOperation, wanted == Virtualization::kSvm
                                                 ? "this KVM gives its guests VMX, not SVM: that takes kvm_amd"
                                                 : "this KVM gives its guests SVM, not VMX: that takes kvm_intel"));
}

}  // namespace nestbench::vmm
