#include "nestbench/probe/probe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "cpu_probe.h"
#include "execution.h"
#include "findings.h"
#include "host_probe.h"
#include "kvm_probe.h"
#include "level.h"
#include "parse.h"

namespace nestbench::probe {
namespace {

Result<ClockInfo> ProbeClock(const SystemFiles& files, const HostReport& report, std::chrono::nanoseconds calibration) {
  auto clock = ReadClockSources(files);
  if (!clock) return clock;
  MeasureInstructionSpeed(report.cpuid, *clock);
  auto tsc_hz = CalibrateTscHz(calibration);
  if (!tsc_hz) return vmm::Fail(std::move(tsc_hz.error()));
  clock->tsc_hz = *tsc_hz;
  clock->tsc_invariant = report.cpu && report.cpu->HasFlag("constant_tsc") && report.cpu->HasFlag("nonstop_tsc");
  return clock;
}

void ProbeExecution(const std::string& kvm_path, std::chrono::nanoseconds deadline, KvmInfo& kvm) {
  kvm.supervisor.mode = kvm.user.mode = "unknown";
  if (!kvm.available) {
    kvm.supervisor.reason = kvm.user.reason = kvm.reason;
    return;
  }
  const auto device = vmm::KvmDevice::Open(kvm_path);
  if (!device) {
    kvm.supervisor.reason = kvm.user.reason = device.error().ToString();
    return;
  }
  const double host = HostLoopNsPerInstruction();
  kvm.user = MeasureExecution(*device, PrivilegeLevel::kUser, deadline / 2, host);
  kvm.supervisor = MeasureExecution(*device, PrivilegeLevel::kSupervisor, deadline / 2, host);
}

}  // namespace

bool CpuInfo::HasFlag(std::string_view flag) const { return std::ranges::find(flags, flag) != flags.end(); }

HostReport Probe(const ProbeOptions& options) {
  const SystemFiles files;
  HostReport report;
  report.kernel = KernelText();
  report.cmdline = files.Read("/proc/cmdline").map([](const std::string& text) { return std::string(Trim(text)); });
  report.cpu = files.Read("/proc/cpuinfo").and_then([](const std::string& text) { return ParseCpuInfo(text); });
  report.cpuid = ReadHypervisorCpuid();
  report.mitigations = ReadMitigations(files);
  report.clock = ProbeClock(files, report, options.tsc_calibration);
  report.topology = ReadTopology(files);
  report.huge_pages = ReadHugePages(files);
  report.cgroup = ProbeCgroups(files);
  report.rights = ReadRights(files);
  const char* path = std::getenv("PATH");
  report.tools = FindTools(path != nullptr ? path : "");

  const CpuInfo cpu = report.cpu.value_or(CpuInfo{});
  LevelEvidence evidence = GatherLevelEvidence(files);
  evidence.cpuid = report.cpuid;
  evidence.kvm_module = FindVendorModule(files);
  evidence.cpu_has_virtualization = cpu.HasFlag("vmx") || cpu.HasFlag("svm");
  if (report.clock) {
    evidence.clock_is_emulated = report.clock->is_emulated;
    evidence.clock_sources = report.clock->available;
  }
  report.level = JudgeLevel(evidence);
  report.kvm = ProbeKvm(files, options.kvm_path, cpu, report.level.value.starts_with("L1"));
  ProbeExecution(options.kvm_path, options.guest_deadline, report.kvm);

  report.findings = DeriveFindings(report);
  report.capability = AssessCapability(report, options.subjects);
  return report;
}

}  // namespace nestbench::probe
