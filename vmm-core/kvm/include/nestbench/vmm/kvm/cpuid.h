// What CPUID tells a guest: a list of leaves that starts as what KVM supports and is then narrowed.
//
// Not every KVM honours it: where guest user code runs natively, CPUID shows the host's values whatever is set here.
// Source: kernel document "The Definitive KVM API Documentation", KVM_SET_CPUID2 and KVM_GET_SUPPORTED_CPUID.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/linux_kvm.h"

namespace nestbench::vmm {

class CpuidPolicy {
 public:
  // Reads a list with one of the KVM_GET_*_CPUID* ioctls; grows the buffer until it fits.
  static Result<CpuidPolicy> Read(int fd, unsigned long request, std::string_view request_name);

  // The leaf, or nullptr. `index` matters only for leaves that have sub-leaves.
  [[nodiscard]] const kvm_cpuid_entry2* Find(std::uint32_t function, std::uint32_t index = 0) const;
  kvm_cpuid_entry2* Find(std::uint32_t function, std::uint32_t index = 0);

  // Drops every sub-leaf of `function`.
  void Remove(std::uint32_t function);

  // Writes the APIC ID into the leaves that report one (1, 0xB, 0x1F, 0x8000001E). `vcpu_count` is 1 or more.
  void SetTopology(abi::VcpuId id, std::uint32_t vcpu_count);

  // Removes the hypervisor leaves (0x40000000...) and the hypervisor-present bit, as bare metal would answer.
  void HideHypervisor();

  // XCR0 bits that leaf 0xD allows; x87 alone where there is no XSAVE.
  [[nodiscard]] std::uint64_t SupportedXcr0() const;

  [[nodiscard]] const std::vector<kvm_cpuid_entry2>& entries() const { return entries_; }

 private:
  std::vector<kvm_cpuid_entry2> entries_;
};

}  // namespace nestbench::vmm
