// Whether guests of this KVM can be hypervisors themselves, and with what. Any thread.
#pragma once

#include <cstdint>

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/kvm_device.h"

namespace nestbench::vmm {

enum class Virtualization : std::uint8_t { kSvm, kVmx };

// kUnsupported, with what to do, where guests have neither.
Result<Virtualization> GuestVirtualization(const KvmDevice& device);

// The same, and kUnsupported where they have the other one.
Result<void> CheckVirtualization(const KvmDevice& device, Virtualization wanted);

}  // namespace nestbench::vmm
