#include "nestbench/probe/probe.h"

namespace nestbench::probe {

// Kept beside the probe and not read from the payload images: the probe answers before anything is built or run.
std::span<const Subject> DefaultSubjects() {
  static const std::vector<Subject> subjects = [] {
    std::vector<Subject> list;
    const auto overhead = [&list](const char* workload, std::vector<std::string> flags = {}) {
      list.push_back({.scenario = "overhead",
                      .workload = workload,
                      .needs_kvm = true,
                      .cpu_flags = std::move(flags),
                      .kvm_capabilities = {},
                      .memory_bytes = 1ULL << 30});
    };
    const auto guest = [&list](const char* scenario, const char* workload, std::vector<std::string> capabilities = {}) {
      list.push_back({.scenario = scenario,
                      .workload = workload,
                      .needs_kvm = true,
                      .cpu_flags = {},
                      .kvm_capabilities = std::move(capabilities),
                      .memory_bytes = 0});
    };
    overhead("cpu_integer");
    overhead("cpu_branches");
    overhead("cpu_fma", {"avx2", "fma"});
    overhead("cpu_matrix_multiply");
    overhead("cpu_sha256");
    overhead("cpu_sort");
    overhead("cpu_hash_table");
    overhead("memory_bandwidth");
    overhead("memory_pointer_chase");
    overhead("memory_gups");
    overhead("memory_tlb_walk");
    overhead("memory_first_touch");
    guest("exits", "pio");
    guest("exits", "mmio");
    guest("exits", "ioeventfd_pio", {"KVM_CAP_IOEVENTFD"});
    guest("exits", "ioeventfd_mmio", {"KVM_CAP_IOEVENTFD"});
    guest("exits", "cpuid");
    guest("exits", "page_fault");
    guest("exits", "rdtsc");
    guest("lifecycle", "create_vm");
    guest("lifecycle", "create_vcpu");
    guest("lifecycle", "first_exit");
    guest("lifecycle", "destroy");
    guest("lifecycle", "slot");
    guest("lifecycle", "dirty_log");
    guest("lifecycle", "kick", {"KVM_CAP_IMMEDIATE_EXIT"});
    guest("lifecycle", "irqfd", {"KVM_CAP_IRQFD"});
    return list;
  }();
  return subjects;
}

}  // namespace nestbench::probe
