// What lets a guest be a hypervisor (L1) with AMD's SVM: the pages that it needs, and a VMCB whose guest (L2) starts in
// a state that is given. Any thread.
#pragma once

#include <cstdint>

#include "nestbench/abi/svm.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/kvm/linux_kvm.h"
#include "nestbench/vmm/kvm/vcpu.h"

namespace nestbench::vmm {

// The pages of an L1 hypervisor, one after the other: offsets from the VMCB, which is aligned to a page. The permission
// maps intercept nothing while they are zero.
inline constexpr std::uint64_t kSvmHostSaveOffset = 0x1000;
inline constexpr std::uint64_t kSvmMsrPermissionsOffset = 0x2000;  // 8 KiB
inline constexpr std::uint64_t kSvmIoPermissionsOffset = 0x4000;   // 12 KiB
inline constexpr std::uint64_t kSvmPagesBytes = 0x7000;

// kUnsupported, with what to do, where this KVM gives its guests no SVM.
Result<void> CheckSvm(const KvmDevice& device);

// The same for nested paging, where there is SVM.
Result<void> CheckSvmNestedPaging(const KvmDevice& device);

// Sets EFER.SVME and the host save area, in a vCPU whose CPUID offers SVM.
Result<void> AllowSvm(Vcpu& vcpu, std::uint64_t vmcb_address);

// Fills a VMCB that is zero: L2 begins in the state of `sregs`, with RFLAGS and the debug registers as after reset,
// shadow paging, and no intercept but that of VMRUN, without which VMRUN is refused. RIP and RSP are the caller's.
void FillVmcb(const kvm_sregs& sregs, std::uint64_t vmcb_address, abi::svm::Vmcb& vmcb);

// L2's memory is translated by the nested tables at `root` as well.
void UseNestedPaging(std::uint64_t root, abi::svm::Vmcb& vmcb);

}  // namespace nestbench::vmm
