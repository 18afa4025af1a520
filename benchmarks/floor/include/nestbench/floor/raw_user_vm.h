// A guest that runs one payload image at CPL3, in raw ioctls: the twin of vmm-core's UserMachine. The same slots, page
// tables, descriptor tables, I/O bitmap, #PF stub and vCPU state, so that a difference between the two is the
// library's.
//
// The image is trusted: it comes from this build and is copied segment by segment. Throws RawError.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "nestbench/abi/layout.h"
#include "nestbench/abi/mailbox.h"
#include "nestbench/floor/raw_vm.h"

namespace nestbench::floor {

// What KVM_GET_SUPPORTED_CPUID says, for a program that makes many VMs and asks once.
class RawCpuid {
 public:
  explicit RawCpuid(const RawKvm& kvm);
  [[nodiscard]] kvm_cpuid2* get() const { return reinterpret_cast<kvm_cpuid2*>(words_.data()); }

 private:
  mutable std::vector<std::uint64_t> words_;
};

class RawUserVm {
 public:
  RawUserVm(const RawKvm& kvm, std::span<const std::byte> image) : RawUserVm(kvm, RawCpuid(kvm), image, 0) {}

  // With an arena, mapped in 4 KiB pages.
  RawUserVm(const RawKvm& kvm, const RawCpuid& cpuid, std::span<const std::byte> image, std::uint64_t arena_bytes);

  void WriteRequest(const abi::MailboxRequest& request);
  [[nodiscard]] const std::byte* mailbox() const { return mailbox_; }

  // Lets writes of 4 bytes to abi::kEventPort and abi::kEventPage signal `eventfd` inside the kernel.
  void AttachEvent(int eventfd);

  // One entry into the guest; whether it left by the doorbell.
  [[nodiscard]] bool RunToDoorbellPort() { return vm_.RunToPortWrite(abi::kDoorbellPort); }
  [[nodiscard]] bool RunToDoorbellPage() { return vm_.RunToMmioWrite(abi::kDoorbellPage); }

  [[nodiscard]] RawVm& vm() { return vm_; }
  [[nodiscard]] const RawVm& vm() const { return vm_; }

 private:
  bool SetUpFeatures(const RawCpuid& supported);  // CPUID and XCR0; whether there is XSAVE
  void EnterUserMode(std::uint64_t entry, bool has_xsave);

  RawVm vm_;
  std::byte* mailbox_ = nullptr;
};

}  // namespace nestbench::floor
