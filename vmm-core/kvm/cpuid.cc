#include "nestbench/vmm/kvm/cpuid.h"

#include <sys/ioctl.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "nestbench/abi/x86.h"

namespace nestbench::vmm {
namespace {

// Intel SDM, volume 2, section "CPUID-CPU Identification"; AMD APM, volume 3, appendix "Obtaining Processor
// Information Via the CPUID Instruction".
constexpr std::uint32_t kLeafFeatures = 0x1;
constexpr std::uint32_t kLeafTopology = 0xB;
constexpr std::uint32_t kLeafXsave = 0xD;
constexpr std::uint32_t kLeafTopologyV2 = 0x1F;
constexpr std::uint32_t kLeafHypervisorFirst = 0x4000'0000;
constexpr std::uint32_t kLeafHypervisorLast = 0x4000'FFFF;
constexpr std::uint32_t kLeafAmdTopology = 0x8000'001E;
constexpr std::uint32_t kFeaturesEcxXsave = 1U << 26;
constexpr std::uint32_t kFeaturesEcxHypervisor = 1U << 31;
constexpr std::uint32_t kMaxEntries = 4096;

}  // namespace

Result<CpuidPolicy> CpuidPolicy::Read(int fd, unsigned long request, std::string_view request_name) {
  for (std::uint32_t capacity = 128; capacity <= kMaxEntries; capacity *= 2) {
    std::vector<std::byte> buffer(sizeof(kvm_cpuid2) + capacity * sizeof(kvm_cpuid_entry2));
    std::memcpy(buffer.data() + offsetof(kvm_cpuid2, nent), &capacity, sizeof(capacity));
    if (::ioctl(fd, request, buffer.data()) != 0) {
      if (errno == E2BIG) continue;
      return Fail(Error::System(request_name, errno));
    }
    std::uint32_t count = 0;
    std::memcpy(&count, buffer.data() + offsetof(kvm_cpuid2, nent), sizeof(count));
    CpuidPolicy policy;
    policy.entries_.resize(std::min(count, capacity));
    if (!policy.entries_.empty()) {
      std::memcpy(policy.entries_.data(), buffer.data() + sizeof(kvm_cpuid2),
                  policy.entries_.size() * sizeof(kvm_cpuid_entry2));
    }
    return policy;
  }
  return Fail(Error::System(request_name, E2BIG, "more leaves than any CPU has"));
}

const kvm_cpuid_entry2* CpuidPolicy::Find(std::uint32_t function, std::uint32_t index) const {
  for (const kvm_cpuid_entry2& entry : entries_) {
    if (entry.function != function) continue;
    if ((entry.flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) != 0 && entry.index != index) continue;
    return &entry;
  }
  return nullptr;
}

kvm_cpuid_entry2* CpuidPolicy::Find(std::uint32_t function, std::uint32_t index) {
  return const_cast<kvm_cpuid_entry2*>(static_cast<const CpuidPolicy*>(this)->Find(function, index));
}

void CpuidPolicy::Remove(std::uint32_t function) {
  std::erase_if(entries_, [function](const kvm_cpuid_entry2& entry) { return entry.function == function; });
}

void CpuidPolicy::SetTopology(abi::VcpuId id, std::uint32_t vcpu_count) {
  const auto apic_id = static_cast<std::uint32_t>(id);
  const std::uint32_t count = std::max(vcpu_count, 1U);
  for (kvm_cpuid_entry2& entry : entries_) {
    switch (entry.function) {
      case kLeafFeatures:  // EBX: initial APIC ID (31:24), logical processors (23:16)
        entry.ebx = (entry.ebx & 0x0000'FFFFU) | (apic_id << 24) | (std::min(count, 255U) << 16);
        break;
      case kLeafTopology:
      case kLeafTopologyV2:
        entry.edx = apic_id;
        if (entry.index == 1) {  // core level: all vCPUs lie in one package
          entry.eax = static_cast<std::uint32_t>(std::bit_width(count - 1));
          entry.ebx = count;
        }
        break;
      case kLeafAmdTopology:
        entry.eax = apic_id;
        break;
      default:
        break;
    }
  }
}

void CpuidPolicy::HideHypervisor() {
  std::erase_if(entries_, [](const kvm_cpuid_entry2& entry) {
    return entry.function >= kLeafHypervisorFirst && entry.function <= kLeafHypervisorLast;
  });
  if (kvm_cpuid_entry2* features = Find(kLeafFeatures)) features->ecx &= ~kFeaturesEcxHypervisor;
}

std::uint64_t CpuidPolicy::SupportedXcr0() const {
  const kvm_cpuid_entry2* features = Find(kLeafFeatures);
  const kvm_cpuid_entry2* xsave = Find(kLeafXsave, 0);
  if (features == nullptr || xsave == nullptr || (features->ecx & kFeaturesEcxXsave) == 0) {
    return abi::x86::kXcr0X87;
  }
  return (std::uint64_t{xsave->edx} << 32) | xsave->eax;
}

}  // namespace nestbench::vmm
