// The probe's conclusions, from evidence that no single machine can show.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>

#include "cpu_probe.h"
#include "execution.h"
#include "findings.h"
#include "kvm_probe.h"
#include "level.h"
#include "nestbench/vmm/kvm/capabilities.h"

namespace nestbench::probe {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;

LevelEvidence BareMetal() {
  LevelEvidence evidence;
  evidence.cpuid.cpuid_ns = 40;
  evidence.clock_sources = {"tsc", "hpet", "acpi_pm"};
  evidence.dmi_vendor = "Dell Inc.";
  evidence.dmi_product = "PowerEdge R650";
  evidence.dmi_bios = "Dell Inc.";
  evidence.kvm_module = "kvm_intel";
  evidence.cpu_has_virtualization = true;
  return evidence;
}

LevelEvidence KvmGuest() {
  LevelEvidence evidence = BareMetal();
  evidence.cpuid = {.present_bit = true, .signatures = {"KVMKVMKVM"}, .cpuid_ns = 600};
  evidence.clock_sources = {"kvm-clock", "tsc"};
  evidence.dmi_vendor = "QEMU";
  evidence.virtio_devices = 4;
  return evidence;
}

TEST(Level, IsL0OnlyWhenNothingSpeaksOfAHypervisor) {
  const Level level = JudgeLevel(BareMetal());
  EXPECT_EQ(level.value, "L0");
  EXPECT_GT(level.confidence, 0.5);
  EXPECT_LT(level.confidence, 1);
  EXPECT_FALSE(level.evidence.empty());
}

TEST(Level, IsL1ForAnOrdinaryGuest) {
  const Level level = JudgeLevel(KvmGuest());
  EXPECT_EQ(level.value, "L1");
  EXPECT_GT(level.confidence, 0.99);
  EXPECT_THAT(level.evidence, Contains(HasSubstr("KVMKVMKVM")));
}

TEST(Level, IsL1EvenWhenAllButTheBitIsHidden) {
  LevelEvidence evidence = BareMetal();
  evidence.cpuid.present_bit = true;
  EXPECT_EQ(JudgeLevel(evidence).value, "L1");
}

TEST(Level, SeesAHypervisorThatHidesByThePriceOfCpuid) {
  LevelEvidence evidence = BareMetal();
  evidence.cpuid.cpuid_ns = 900;
  const Level level = JudgeLevel(evidence);
  EXPECT_EQ(level.value, "L1");
  EXPECT_LT(level.confidence, 0.99) << "one witness is not proof";
}

TEST(Level, LeavesTheDepthOpenWhereCpuidCostsMoreThanOneExit) {
  LevelEvidence evidence = KvmGuest();
  evidence.cpuid.cpuid_ns = 4000;
  EXPECT_EQ(JudgeLevel(evidence).value, "L1+");
  evidence = KvmGuest();
  evidence.kvm_module = "kvm_pvm";
  evidence.cpu_has_virtualization = false;
  EXPECT_EQ(JudgeLevel(evidence).value, "L1+");
}

TEST(Level, DoesNotCallVirtioAloneAGuest) {
  LevelEvidence evidence = BareMetal();
  evidence.virtio_devices = 1;  // a network card can be a real virtio device
  EXPECT_EQ(JudgeLevel(evidence).value, "unknown");
}

TEST(Level, DoesNotTakeAMetalCloudMachineForAGuest) {
  LevelEvidence evidence = BareMetal();
  evidence.dmi_vendor = "Amazon EC2";
  evidence.dmi_product = "m7i.metal-24xl";
  EXPECT_EQ(JudgeLevel(evidence).value, "L0");
}

TEST(Level, IsUnknownWithoutAnyMeasurement) { EXPECT_EQ(JudgeLevel({}).value, "unknown"); }

TEST(Emulation, IsToldByNameOrBySpeed) {
  EXPECT_EQ(EmulationEvidence({"KVMKVMKVM"}, 0.3, 1.5), "");
  EXPECT_EQ(EmulationEvidence({}, 1.25, 7), "") << "a CPU of 800 MHz";
  EXPECT_THAT(EmulationEvidence({"TCGTCGTCGTCG"}, 0.3, 1.5), HasSubstr("QEMU"));
  EXPECT_THAT(EmulationEvidence({}, 0.4, 40), HasSubstr("80-bit multiply"));
  EXPECT_THAT(EmulationEvidence({}, 10, 10), HasSubstr("dependent add"));
  EXPECT_THAT(EmulationEvidence({}, 0.29, 0.29), HasSubstr("count of instructions")) << "Bochs";
}

Execution Measured(double guest_ns, double host_ns, std::optional<double> emulations) {
  Execution execution;
  execution.guest_ns_per_instruction = guest_ns;
  execution.host_ns_per_instruction = host_ns;
  execution.emulations_per_instruction = emulations;
  JudgeExecution(execution);
  return execution;
}

TEST(Execution, IsJudgedBySpeedAndByKvmsCount) {
  EXPECT_EQ(Measured(0.11, 0.1, 0.0).mode, "native");
  EXPECT_EQ(Measured(0.11, 0.1, std::nullopt).mode, "native");
  EXPECT_EQ(Measured(600, 0.1, 1.0).mode, "emulated");
  EXPECT_EQ(Measured(600, 0.1, std::nullopt).mode, "emulated");
  EXPECT_EQ(Measured(0.11, 0.1, 1.0).mode, "emulated") << "KVM's own count is believed";
  EXPECT_EQ(Measured(0.5, 0.1, 0.0).mode, "unknown") << "five times slower is neither";
  EXPECT_EQ(Measured(0, 0.1, 0.0).mode, "unknown");
  EXPECT_FALSE(Measured(0.5, 0.1, 0.0).reason.empty());
}

KvmSurroundings Surroundings(int error_number, bool exists) {
  KvmSurroundings s;
  s.open_errno = error_number;
  s.file_exists = exists;
  s.group = exists ? "kvm" : "";
  s.mode = 0660;
  s.cpu_has_virtualization = true;
  return s;
}

TEST(DiagnoseKvm, TellsTheCausesApart) {
  EXPECT_THAT(DiagnoseKvm(Surroundings(EACCES, true)).remedy, HasSubstr("sudo usermod -aG kvm"));

  KvmSurroundings in_group = Surroundings(EACCES, true);
  in_group.user_in_group = true;
  EXPECT_THAT(DiagnoseKvm(in_group).remedy, ::testing::Not(::testing::StartsWith("`sudo usermod")));
  in_group.mode = 0600;
  EXPECT_THAT(DiagnoseKvm(in_group).remedy, HasSubstr("chmod"));

  EXPECT_THAT(DiagnoseKvm(Surroundings(EBUSY, true)).reason, HasSubstr("busy"));

  KvmSurroundings amd = Surroundings(ENOENT, false);
  amd.cpu_is_amd = true;
  EXPECT_THAT(DiagnoseKvm(amd).remedy, HasSubstr("modprobe kvm_amd"));
  EXPECT_THAT(DiagnoseKvm(Surroundings(ENOENT, false)).remedy, HasSubstr("modprobe kvm_intel"));
  EXPECT_THAT(DiagnoseKvm(Surroundings(ENODEV, true)).reason, HasSubstr("no module"));

  KvmSurroundings container = Surroundings(ENOENT, false);
  container.vendor_module = "kvm_intel";
  EXPECT_THAT(DiagnoseKvm(container).reason, HasSubstr("container"));

  KvmSurroundings firmware = Surroundings(ENOENT, false);
  firmware.cpu_has_virtualization = false;
  EXPECT_THAT(DiagnoseKvm(firmware).remedy, HasSubstr("firmware"));
  firmware.is_guest = true;
  EXPECT_THAT(DiagnoseKvm(firmware).remedy, HasSubstr("nested"));

  EXPECT_THAT(DiagnoseKvm(Surroundings(ENOTTY, true)).reason, HasSubstr("errno"));
}

HostReport Report() {
  HostReport report;
  report.cpu = CpuInfo{.vendor = "GenuineIntel",
                       .model_name = "",
                       .family = 6,
                       .model = 1,
                       .stepping = 1,
                       .microcode = "",
                       .flags = {"avx2"}};
  report.topology =
      Topology{.cpus = 2, .usable_cpus = 2, .cores = 2, .sockets = 1, .numa_nodes = 1, .memory_bytes = 4ULL << 30};
  report.kvm.available = true;
  report.kvm.user.mode = "native";
  report.kvm.supervisor.mode = "native";
  report.kvm.capabilities = {{"KVM_CAP_IRQFD", 0}, {"KVM_CAP_IOEVENTFD", 1}};
  return report;
}

result::Capability Assess(const HostReport& report, const Subject& subject) {
  return AssessCapability(report, std::span(&subject, 1)).front();
}

TEST(Capability, NamesTheObstacleAndWhatWouldChangeIt) {
  const Subject guest{.scenario = "exits",
                      .workload = "pio",
                      .needs_kvm = true,
                      .cpu_flags = {},
                      .kvm_capabilities = {},
                      .memory_bytes = 0};
  EXPECT_TRUE(Assess(Report(), guest).runnable);
  EXPECT_EQ(Assess(Report(), guest).reason, "");

  HostReport no_kvm = Report();
  no_kvm.kvm.available = false;
  no_kvm.kvm.reason = "the reason";
  no_kvm.kvm.remedy = "the remedy";
  EXPECT_FALSE(Assess(no_kvm, guest).runnable);
  EXPECT_THAT(Assess(no_kvm, guest).reason, HasSubstr("the reason"));
  EXPECT_EQ(Assess(no_kvm, guest).remedy, "the remedy");

  Subject subject = guest;
  subject.cpu_flags = {"avx2", "fma"};
  EXPECT_THAT(Assess(Report(), subject).reason, HasSubstr("no fma"));
  subject = guest;
  subject.kvm_capabilities = {"KVM_CAP_IRQFD"};
  EXPECT_THAT(Assess(Report(), subject).reason, HasSubstr("KVM_CAP_IRQFD"));
  subject.kvm_capabilities = {"KVM_CAP_IOEVENTFD"};
  EXPECT_TRUE(Assess(Report(), subject).runnable);
  subject = guest;
  subject.memory_bytes = 8ULL << 30;
  EXPECT_THAT(Assess(Report(), subject).reason, HasSubstr("8192 MiB"));

  HostReport broken = Report();
  broken.kvm.user.mode = "unknown";
  broken.kvm.user.reason = "KVM_EXIT_SHUTDOWN";
  EXPECT_THAT(Assess(broken, guest).reason, HasSubstr("KVM_EXIT_SHUTDOWN"));
}

TEST(Capability, OfTheDefaultSubjectsIsAskedForByNamesThatExist) {
  const auto known = vmm::AllCapabilities();
  for (const Subject& subject : DefaultSubjects()) {
    for (const std::string& name : subject.kvm_capabilities) {
      EXPECT_TRUE(std::ranges::any_of(known, [&name](const auto& entry) { return entry.name == name; })) << name;
    }
  }
}

TEST(Findings, TellOfEveryItemThatFailed) {
  HostReport report = Report();
  report.mitigations = vmm::Fail(Error::Unsupported("mitigations", "no such folder"));
  report.rights = vmm::Fail(Error::System("open", EACCES, "/proc/self/status"));
  const auto findings = DeriveFindings(report);
  const auto has = [&findings](std::string_view id) {
    return std::ranges::any_of(findings, [id](const auto& finding) { return finding.id == id; });
  };
  EXPECT_TRUE(has("probe-mitigations-unavailable"));
  EXPECT_TRUE(has("probe-rights-unavailable"));
  EXPECT_FALSE(has("probe-cpu-unavailable"));
  EXPECT_TRUE(has("supervisor-native"));
}

}  // namespace
}  // namespace nestbench::probe
