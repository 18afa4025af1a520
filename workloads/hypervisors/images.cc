#include "nestbench/hypervisors/images.h"

extern "C" {
// Labels of images.S.
extern const std::byte nestbench_hypervisor_svm_begin[];  // NOLINT(readability-identifier-naming)
extern const std::byte nestbench_hypervisor_svm_end[];    // NOLINT(readability-identifier-naming)
extern const std::byte nestbench_hypervisor_vmx_begin[];  // NOLINT(readability-identifier-naming)
extern const std::byte nestbench_hypervisor_vmx_end[];    // NOLINT(readability-identifier-naming)
}

namespace nestbench::hypervisors {

std::span<const std::byte> Svm() { return {nestbench_hypervisor_svm_begin, nestbench_hypervisor_svm_end}; }
std::span<const std::byte> Vmx() { return {nestbench_hypervisor_vmx_begin, nestbench_hypervisor_vmx_end}; }

}  // namespace nestbench::hypervisors
