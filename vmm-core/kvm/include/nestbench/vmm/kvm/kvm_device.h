// /dev/kvm: the system-wide descriptor. Source: kernel document "The Definitive KVM API Documentation", sections
// "API description" (system ioctls).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"
#include "nestbench/vmm/kvm/cpuid.h"
#include "nestbench/vmm/kvm/linux_kvm.h"

namespace nestbench::vmm {

// Owns the descriptor. Move-only; safe to use from any thread.
class KvmDevice {
 public:
  // Opens the device and checks KVM_GET_API_VERSION == 12. kSystem (ENOENT, EACCES, ...) when it cannot be opened,
  // kUnsupported for another API version.
  static Result<KvmDevice> Open(const std::string& path = "/dev/kvm");

  // The value of KVM_CHECK_EXTENSION: 0 when the capability is absent.
  [[nodiscard]] int CheckCapability(int capability) const;

  // CPUID leaves this KVM can give a guest (KVM_GET_SUPPORTED_CPUID).
  [[nodiscard]] Result<CpuidPolicy> SupportedCpuid() const;

  // MSRs that KVM_GET_MSRS can read from a vCPU, and those that describe the host (KVM_GET_MSR_FEATURE_INDEX_LIST).
  [[nodiscard]] Result<std::vector<std::uint32_t>> MsrIndices() const;
  [[nodiscard]] Result<std::vector<std::uint32_t>> FeatureMsrIndices() const;
  [[nodiscard]] Result<std::uint64_t> ReadFeatureMsr(std::uint32_t index) const;

  [[nodiscard]] std::size_t vcpu_mmap_bytes() const { return vcpu_mmap_bytes_; }
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  KvmDevice(UniqueFd fd, std::size_t vcpu_mmap_bytes) : fd_(std::move(fd)), vcpu_mmap_bytes_(vcpu_mmap_bytes) {}

  UniqueFd fd_;
  std::size_t vcpu_mmap_bytes_;
};

}  // namespace nestbench::vmm
