#include <algorithm>
#include <string_view>
#include <utility>

#include "nestbench/probe/probe.h"
#include "nestbench/workloads/catalogue.h"

namespace nestbench::probe {
namespace {

constexpr std::uint64_t kSpareMemoryBytes = 256 << 20;  // beside the arena: the system itself, the child, the image

// Every workload of the catalogue once, with the arena of its largest size.
void AddOverhead(std::vector<Subject>& subjects) {
  for (const workloads::Workload& workload : workloads::Catalogue()) {
    const std::uint64_t memory_bytes = workload.arena_bytes + kSpareMemoryBytes;
    const auto found =
        std::ranges::find_if(subjects, [&](const Subject& subject) { return subject.workload == workload.name; });
    if (found != subjects.end()) {
      found->memory_bytes = std::max(found->memory_bytes, memory_bytes);
      continue;
    }
    Subject subject{.scenario = "overhead",
                    .workload = workload.name,
                    .needs_kvm = true,
                    .cpu_flags = {},
                    .kvm_capabilities = {},
                    .memory_bytes = memory_bytes};
    if (workload.name.find("fma") != std::string::npos) subject.cpu_flags = {"avx2", "fma"};
    subjects.push_back(std::move(subject));
  }
}

void AddGuest(std::vector<Subject>& subjects, const char* scenario, const char* workload,
              std::vector<std::string> capabilities = {}) {
  subjects.push_back({.scenario = scenario,
                      .workload = workload,
                      .needs_kvm = true,
                      .cpu_flags = {},
                      .kvm_capabilities = std::move(capabilities),
                      .memory_bytes = 0});
}

std::vector<Subject> MakeSubjects() {
  std::vector<Subject> subjects;
  AddOverhead(subjects);
  AddGuest(subjects, "exits", "doorbell_pio");
  AddGuest(subjects, "exits", "doorbell_mmio");
  AddGuest(subjects, "exits", "ioeventfd_pio", {"KVM_CAP_IOEVENTFD"});
  AddGuest(subjects, "exits", "ioeventfd_mmio", {"KVM_CAP_IOEVENTFD"});
  AddGuest(subjects, "exits", "cpuid");
  AddGuest(subjects, "exits", "page_fault");
  AddGuest(subjects, "exits", "rdtsc");
  AddGuest(subjects, "exits", "immediate_exit", {"KVM_CAP_IMMEDIATE_EXIT"});
  AddGuest(subjects, "lifecycle", "create_vm");
  AddGuest(subjects, "lifecycle", "create_vcpu");
  AddGuest(subjects, "lifecycle", "cold_start");
  AddGuest(subjects, "lifecycle", "destroy");
  AddGuest(subjects, "lifecycle", "slot_add");
  AddGuest(subjects, "lifecycle", "slot_remove");
  AddGuest(subjects, "lifecycle", "dirty_log");
  AddGuest(subjects, "lifecycle", "kick", {"KVM_CAP_IMMEDIATE_EXIT"});
  AddGuest(subjects, "lifecycle", "irqfd_wake", {"KVM_CAP_IRQFD"});
  AddGuest(subjects, "lifecycle", "irq_line_wake", {"KVM_CAP_IRQFD"});
  return subjects;
}

}  // namespace

std::span<const Subject> DefaultSubjects() {
  static const std::vector<Subject> kSubjects = MakeSubjects();
  return kSubjects;
}

}  // namespace nestbench::probe
