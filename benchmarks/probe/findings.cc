#include "findings.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

namespace nestbench::probe {
namespace {

using result::Capability;
using result::Finding;
using result::Severity;

std::string Evidence(const Execution& execution) {
  std::string text = fmt::format("{:.2f} ns per instruction in the guest, {:.2f} ns on the host",
                                 execution.guest_ns_per_instruction, execution.host_ns_per_instruction);
  if (execution.emulations_per_instruction) {
    text += fmt::format("; KVM counts {:.2f} emulations per instruction", *execution.emulations_per_instruction);
  }
  return text;
}

void AddExecution(std::vector<Finding>& findings, std::string_view id, std::string_view name,
                  const Execution& execution) {
  if (execution.mode == "emulated") {
    findings.push_back({.id = fmt::format("{}-emulated", id),
                        .severity = Severity::kWarning,
                        .text = fmt::format("Guest code at {} runs in KVM's instruction emulator.", name),
                        .evidence = Evidence(execution)});
  } else if (execution.mode == "native") {
    findings.push_back({.id = fmt::format("{}-native", id),
                        .severity = Severity::kInfo,
                        .text = fmt::format("Guest code at {} runs natively.", name),
                        .evidence = Evidence(execution)});
  } else {
    findings.push_back({.id = fmt::format("{}-unknown", id),
                        .severity = Severity::kWarning,
                        .text = fmt::format("How guest code at {} runs could not be measured.", name),
                        .evidence = execution.reason});
  }
}

template <typename T>
void AddFailure(std::vector<Finding>& findings, std::string_view item, const Result<T>& value) {
  if (value) return;
  findings.push_back({.id = fmt::format("probe-{}-unavailable", item),
                      .severity = Severity::kWarning,
                      .text = fmt::format("The probe could not find out: {}.", item),
                      .evidence = value.error().ToString()});
}

// Why `subject` cannot run and what would change it; both empty when it can.
std::pair<std::string, std::string> Obstacle(const HostReport& report, const Subject& subject) {
  if (subject.needs_kvm && !report.kvm.available) {
    return {fmt::format("no guest can run: {}", report.kvm.reason), report.kvm.remedy};
  }
  if (subject.needs_kvm && report.kvm.user.mode == "unknown") {
    return {fmt::format("guest user code does not run: {}", report.kvm.user.reason), ""};
  }
  for (const std::string& flag : subject.cpu_flags) {
    if (!report.cpu) return {fmt::format("it is unknown whether the CPU has {}", flag), ""};
    if (!report.cpu->HasFlag(flag)) {
      return {fmt::format("the CPU has no {}", flag), "use a CPU that has it; in a guest, have the hypervisor show it"};
    }
  }
  for (const std::string& name : subject.kvm_capabilities) {
    const auto found = report.kvm.capabilities.find(name);
    if (found == report.kvm.capabilities.end() || found->second == 0) {
      return {fmt::format("this KVM has no {}", name), "use a kernel or KVM module that has it"};
    }
  }
  if (subject.memory_bytes > 0 && report.topology && report.topology->memory_bytes < subject.memory_bytes) {
    return {fmt::format("needs {} MiB of memory; the host has {}", subject.memory_bytes >> 20,
                        report.topology->memory_bytes >> 20),
            "use a host with more memory"};
  }
  return {};
}

}  // namespace

std::vector<Finding> DeriveFindings(const HostReport& report) {
  std::vector<Finding> findings;
  AddFailure(findings, "cmdline", report.cmdline);
  AddFailure(findings, "cpu", report.cpu);
  AddFailure(findings, "mitigations", report.mitigations);
  AddFailure(findings, "clock", report.clock);
  AddFailure(findings, "topology", report.topology);
  AddFailure(findings, "huge-pages", report.huge_pages);
  AddFailure(findings, "cgroup", report.cgroup);
  AddFailure(findings, "rights", report.rights);

  if (report.kvm.available) {
    AddExecution(findings, "supervisor", "CPL0", report.kvm.supervisor);
    AddExecution(findings, "user", "CPL3", report.kvm.user);
    if (!report.kvm.nested) {
      findings.push_back({.id = "nested-unsupported",
                          .severity = Severity::kInfo,
                          .text = "Guests cannot be hypervisors themselves on this host.",
                          .evidence = report.kvm.nested_reason});
    }
  } else {
    findings.push_back(
        {.id = "kvm-unavailable",
         .severity = Severity::kError,
         .text = report.kvm.remedy.empty()
                     ? std::string("No guest can run on this host.")
                     : fmt::format("No guest can run on this host. To change that: {}.", report.kvm.remedy),
         .evidence = report.kvm.reason});
  }
  if (report.clock && report.clock->is_emulated) {
    findings.push_back(
        {.id = "clock-emulated",
         .severity = Severity::kWarning,
         .text = "This host is a software emulator: what runs proves correctness, its times mean nothing.",
         .evidence = report.clock->emulated_reason});
  }
  if (report.clock && !report.clock->tsc_invariant) {
    findings.push_back({.id = "tsc-not-invariant",
                        .severity = Severity::kWarning,
                        .text = "The TSC may change its rate or stop: times read inside a guest may be wrong.",
                        .evidence = "/proc/cpuinfo lacks constant_tsc or nonstop_tsc"});
  }
  if (report.topology && report.topology->usable_cpus < 2) {
    findings.push_back({.id = "one-cpu",
                        .severity = Severity::kWarning,
                        .text = "Only one CPU may be used: the program and what it measures share it.",
                        .evidence = fmt::format("{} of {} CPUs in the affinity mask", report.topology->usable_cpus,
                                                report.topology->cpus)});
  }
  if (report.huge_pages && (report.huge_pages->thp.empty() || report.huge_pages->thp == "never") &&
      report.huge_pages->hugetlb_2m_free == 0) {
    findings.push_back({.id = "no-huge-pages",
                        .severity = Severity::kWarning,
                        .text = "Workloads on 2 MiB pages cannot run. To change that: `echo madvise | sudo tee "
                                "/sys/kernel/mm/transparent_hugepage/enabled`.",
                        .evidence = fmt::format("THP is `{}`; the hugetlb pool of 2 MiB pages has none free",
                                                report.huge_pages->thp.empty() ? "absent" : report.huge_pages->thp)});
  }
  if (report.cgroup && !report.cgroup->writable) {
    findings.push_back({.id = "cgroup-not-writable",
                        .severity = Severity::kInfo,
                        .text = "Guests cannot be put into cgroups of their own.",
                        .evidence = report.cgroup->reason});
  }
  return findings;
}

std::vector<Capability> AssessCapability(const HostReport& report, std::span<const Subject> subjects) {
  std::vector<Capability> capability;
  capability.reserve(subjects.size());
  for (const Subject& subject : subjects) {
    auto [reason, remedy] = Obstacle(report, subject);
    const bool is_runnable = reason.empty();
    capability.push_back({.scenario = subject.scenario,
                          .workload = subject.workload,
                          .runnable = is_runnable,
                          .reason = std::move(reason),
                          .remedy = std::move(remedy)});
  }
  return capability;
}

}  // namespace nestbench::probe
