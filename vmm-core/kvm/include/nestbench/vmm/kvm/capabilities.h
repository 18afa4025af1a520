// KVM's capabilities by name. Source: kernel document "The Definitive KVM API Documentation", section "Capabilities
// that can be enabled" and the KVM_CHECK_EXTENSION ioctl.
#pragma once

#include <span>
#include <string_view>

namespace nestbench::vmm {

struct CapabilityName {
  std::string_view name;  // "KVM_CAP_IRQCHIP"
  int number;             // what KVM_CHECK_EXTENSION takes
};

// Every capability of the kernel's headers that an x86 host can have, and those that newer kernels added, by number.
std::span<const CapabilityName> AllCapabilities();

}  // namespace nestbench::vmm
