#include <fmt/format.h>
#include <fmt/ranges.h>

#include <map>
#include <string>
#include <utility>

#include "nestbench/probe/probe.h"
#include "nestbench/result/json.h"

namespace nestbench::probe {
namespace {

using nlohmann::json;

json ToJson(const CpuInfo& cpu) {
  return {{"vendor", cpu.vendor},     {"model_name", cpu.model_name}, {"family", cpu.family}, {"model", cpu.model},
          {"stepping", cpu.stepping}, {"microcode", cpu.microcode},   {"flags", cpu.flags}};
}

json ToJson(const Execution& execution) {
  return {{"mode", execution.mode},
          {"reason", execution.reason},
          {"guest_ns_per_instruction", execution.guest_ns_per_instruction},
          {"host_ns_per_instruction", execution.host_ns_per_instruction},
          {"emulations_per_instruction",
           execution.emulations_per_instruction ? json(*execution.emulations_per_instruction) : json(nullptr)}};
}

json ToJson(const KvmInfo& kvm) {
  return {{"available", kvm.available},   {"reason", kvm.reason},           {"module", kvm.module},
          {"parameters", kvm.parameters}, {"api_version", kvm.api_version}, {"capabilities", kvm.capabilities}};
}

json ToJson(const Topology& topology) {
  return {{"cpus", topology.cpus},
          {"cores", topology.cores},
          {"sockets", topology.sockets},
          {"numa_nodes", topology.numa_nodes},
          {"memory_bytes", topology.memory_bytes}};
}

json ToJson(const HugePages& pages) {
  return {{"thp", pages.thp}, {"hugetlb_2m_free", pages.hugetlb_2m_free}, {"hugetlb_1g_free", pages.hugetlb_1g_free}};
}

json ToJson(const CgroupInfo& cgroup) {
  return {{"layout", cgroup.layout}, {"controllers", cgroup.controllers}, {"writable", cgroup.writable}};
}

json ToJson(const Rights& rights) {
  json limits = json::object();
  const auto value = [](const std::optional<std::uint64_t>& limit) { return limit ? json(*limit) : json(nullptr); };
  for (const auto& [name, limit] : rights.limits)
    limits[name] = {{"soft", value(limit.soft)}, {"hard", value(limit.hard)}};
  return {{"user_id", rights.user_id},
          {"capabilities", rights.capabilities},
          {"limits", std::move(limits)},
          {"perf_hardware", rights.perf_hardware},
          {"perf_reason", rights.perf_reason}};
}

// What the probe found beyond the document's `host`, whose shape is closed.
json Details(const HostReport& report) {
  const ClockInfo clock = report.clock.value_or(ClockInfo{});
  const HugePages pages = report.huge_pages.value_or(HugePages{});
  return {{"execution", {{"supervisor", ToJson(report.kvm.supervisor)}, {"user", ToJson(report.kvm.user)}}},
          {"nested", {{"supported", report.kvm.nested}, {"reason", report.kvm.nested_reason}}},
          {"kvm_remedy", report.kvm.remedy},
          {"cpuid_ns", report.cpuid.cpuid_ns},
          {"hypervisor_signatures", report.cpuid.signatures},
          {"clock",
           {{"available_sources", clock.available},
            {"tsc_invariant", clock.tsc_invariant},
            {"emulated_reason", clock.emulated_reason},
            {"add_ns", clock.add_ns},
            {"x87_multiply_ns", clock.x87_multiply_ns}}},
          {"usable_cpus", report.topology.value_or(Topology{}).usable_cpus},
          {"huge_pages",
           {{"thp_defrag", pages.thp_defrag},
            {"hugetlb_2m_total", pages.hugetlb_2m_total},
            {"hugetlb_1g_total", pages.hugetlb_1g_total}}},
          {"cgroup_reason", report.cgroup ? report.cgroup->reason : report.cgroup.error().ToString()},
          {"rights", ToJson(report.rights.value_or(Rights{}))},
          {"tools", report.tools}};
}

}  // namespace

// An item that failed has its type's empty value here and its reason in a finding: the document keeps one shape.
json ToJson(const HostReport& report) {
  const ClockInfo clock = report.clock.value_or(ClockInfo{});
  CgroupInfo cgroup = report.cgroup.value_or(CgroupInfo{});
  if (!report.cgroup) cgroup.layout = "unknown";
  return {
      {"cpu", ToJson(report.cpu.value_or(CpuInfo{}))},
      {"kernel", report.kernel},
      {"cmdline", report.cmdline.value_or("")},
      {"mitigations", report.mitigations.value_or(std::map<std::string, std::string>{})},
      {"kvm", ToJson(report.kvm)},
      {"topology", ToJson(report.topology.value_or(Topology{}))},
      {"clock_source", clock.source},
      {"tsc_hz", clock.tsc_hz},
      {"huge_pages", ToJson(report.huge_pages.value_or(HugePages{}))},
      {"cgroup", ToJson(cgroup)},
      {"level",
       {{"value", report.level.value}, {"confidence", report.level.confidence}, {"evidence", report.level.evidence}}},
      {"hypervisor_signature", fmt::format("{}", fmt::join(report.cpuid.signatures, ", "))},
      {"supervisor_execution", report.kvm.supervisor.mode},
      {"user_execution", report.kvm.user.mode},
      {"clock", clock.is_emulated ? "emulated" : "real"}};
}

json ToProbeJson(const HostReport& report) {
  json capability = json::array();
  for (const result::Capability& entry : report.capability) capability.push_back(result::ToJson(entry));
  json findings = json::array();
  for (const result::Finding& finding : report.findings) findings.push_back(result::ToJson(finding));
  return {{"host", ToJson(report)},
          {"details", Details(report)},
          {"capability", std::move(capability)},
          {"findings", std::move(findings)}};
}

}  // namespace nestbench::probe
