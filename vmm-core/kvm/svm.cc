#include "nestbench/vmm/kvm/svm.h"

#include <utility>

#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/virtualization.h"

namespace nestbench::vmm {
namespace {

using namespace abi::svm;

constexpr std::uint64_t kPatAfterReset = 0x0007'0406'0007'0406;

// AMD APM volume 2, section "VMRUN Instruction": the descriptor's attributes, without a gap.
Segment FromKvm(const kvm_segment& from) {
  const unsigned attributes = from.type | from.s << 4U | from.dpl << 5U | from.present << 7U | from.avl << 8U |
                              from.l << 9U | from.db << 10U | from.g << 11U;
  return {.selector = from.selector,
          .attributes = static_cast<std::uint16_t>(attributes),
          .limit = from.limit,
          .base = from.base};
}

Segment FromKvm(const kvm_dtable& from) {
  return {.selector = 0, .attributes = 0, .limit = from.limit, .base = from.base};
}

}  // namespace

Result<void> CheckSvm(const KvmDevice& device) { return CheckVirtualization(device, Virtualization::kSvm); }

Result<void> CheckSvmNestedPaging(const KvmDevice& device) {
  auto cpuid = device.SupportedCpuid();
  if (!cpuid) return Fail(std::move(cpuid.error()));
  const kvm_cpuid_entry2* leaf = cpuid->Find(0x8000'000A);
  if (leaf == nullptr || (leaf->edx & kCpuidSvmEdxNestedPaging) == 0) {
    return Fail(Error::Unsupported("run a guest in a guest with nested paging",
                                   "CPUID 8000_000A EDX.NP is 0 for guests; load kvm_amd with npt=1"));
  }
  return {};
}

Result<void> AllowSvm(Vcpu& vcpu, std::uint64_t vmcb_address) {
  auto sregs = vcpu.GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));
  sregs->efer |= kEferSvme;
  if (auto set = vcpu.SetSregs(*sregs); !set) return set;
  return vcpu.WriteMsr(kMsrHostSavePa, vmcb_address + kSvmHostSaveOffset);
}

void FillVmcb(const kvm_sregs& sregs, std::uint64_t vmcb_address, Vmcb& vmcb) {
  vmcb.intercepts_2 = 1U << kIntercept2Vmrun;
  vmcb.msrpm_base_pa = vmcb_address + kSvmMsrPermissionsOffset;
  vmcb.iopm_base_pa = vmcb_address + kSvmIoPermissionsOffset;
  vmcb.guest_asid = 1;
  vmcb.cs = FromKvm(sregs.cs);
  vmcb.ss = FromKvm(sregs.ss);
  vmcb.ds = FromKvm(sregs.ds);
  vmcb.es = FromKvm(sregs.es);
  vmcb.fs = FromKvm(sregs.fs);
  vmcb.gs = FromKvm(sregs.gs);
  vmcb.tr = FromKvm(sregs.tr);
  vmcb.ldtr = FromKvm(sregs.ldt);
  vmcb.gdtr = FromKvm(sregs.gdt);
  vmcb.idtr = FromKvm(sregs.idt);
  vmcb.cpl = sregs.ss.dpl;
  vmcb.efer = sregs.efer | kEferSvme;
  vmcb.cr0 = sregs.cr0;
  vmcb.cr3 = sregs.cr3;
  vmcb.cr4 = sregs.cr4;
  vmcb.dr6 = abi::x86::kDr6AfterReset;
  vmcb.dr7 = abi::x86::kDr7AfterReset;
  vmcb.rflags = abi::x86::kRflagsReserved1;
  vmcb.guest_pat = kPatAfterReset;
}

void UseNestedPaging(std::uint64_t root, Vmcb& vmcb) {
  vmcb.nested_control = 1;
  vmcb.nested_cr3 = root;
}

}  // namespace nestbench::vmm
