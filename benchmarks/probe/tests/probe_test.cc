// The probe on the machine that runs the test, whatever it is.
#include "nestbench/probe/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <sstream>

#include "execution.h"
#include "nestbench/result/json.h"

namespace nestbench::probe {
namespace {

using nlohmann::json;
using ::testing::AnyOf;
using ::testing::HasSubstr;

const HostReport& ThisHost() {
  static const HostReport kReport = Probe();
  return kReport;
}

TEST(Probe, EndsSoon) {
  const auto begin = std::chrono::steady_clock::now();
  const HostReport report = Probe();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  EXPECT_FALSE(report.kernel.empty());
}

TEST(Probe, IsConsistent) {
  const HostReport& report = ThisHost();
  ASSERT_TRUE(report.cpu) << report.cpu.error().ToString();
  EXPECT_FALSE(report.cpu->flags.empty());
  EXPECT_EQ(report.cpuid.present_bit, report.cpu->HasFlag("hypervisor")) << "CPUID and the kernel disagree";
  EXPECT_GT(report.cpuid.cpuid_ns, 0);
  ASSERT_TRUE(report.topology) << report.topology.error().ToString();
  EXPECT_GE(report.topology->cpus, report.topology->usable_cpus);
  EXPECT_GE(report.topology->cpus, report.topology->cores);
  EXPECT_GE(report.topology->cores, report.topology->sockets);
  EXPECT_GE(report.topology->sockets, 1U);
  EXPECT_GT(report.topology->memory_bytes, 1ULL << 20);
  ASSERT_TRUE(report.clock) << report.clock.error().ToString();
  EXPECT_GT(report.clock->tsc_hz, 100'000'000U);
  EXPECT_LT(report.clock->tsc_hz, 10'000'000'000U);
  EXPECT_THAT(report.clock->available, ::testing::Contains(report.clock->source));
  EXPECT_THAT(report.level.value, AnyOf("L0", "L1", "L1+", "unknown"));
  EXPECT_FALSE(report.level.evidence.empty()) << "a level without evidence";
  if (report.cpuid.present_bit) {
    EXPECT_NE(report.level.value, "L0");
  }
  EXPECT_EQ(report.capability.size(), DefaultSubjects().size());
  for (const result::Capability& entry : report.capability) EXPECT_EQ(entry.runnable, entry.reason.empty());
  for (const result::Finding& finding : report.findings) EXPECT_FALSE(finding.text.empty()) << finding.id;
}

TEST(Probe, CalibratesTheTscAlikeTwice) {
  const HostReport again = Probe();
  ASSERT_TRUE(again.clock && ThisHost().clock);
  EXPECT_NEAR(static_cast<double>(again.clock->tsc_hz) / static_cast<double>(ThisHost().clock->tsc_hz), 1, 0.001);
}

TEST(Probe, MeasuresHowGuestsRun) {
  const KvmInfo& kvm = ThisHost().kvm;
  if (!kvm.available) GTEST_SKIP() << kvm.reason;
  EXPECT_EQ(kvm.api_version, 12);
  EXPECT_GT(kvm.capabilities.at("KVM_CAP_USER_MEMORY"), 0);
  EXPECT_THAT(kvm.user.mode, AnyOf("native", "emulated")) << kvm.user.reason;
  EXPECT_THAT(kvm.supervisor.mode, AnyOf("native", "emulated")) << kvm.supervisor.reason;
  EXPECT_GT(kvm.user.guest_ns_per_instruction, 0);
  EXPECT_GT(kvm.user.host_ns_per_instruction, 0);
  EXPECT_FALSE(kvm.nested && kvm.capabilities.at("KVM_CAP_NESTED_STATE") == 0);
  EXPECT_FALSE(kvm.nested_reason.empty());
}

TEST(Probe, StopsAGuestThatDoesNotEndInTime) {
  auto device = vmm::KvmDevice::Open();
  if (!device) GTEST_SKIP() << device.error().ToString();
  const auto begin = std::chrono::steady_clock::now();
  for (const PrivilegeLevel level : {PrivilegeLevel::kSupervisor, PrivilegeLevel::kUser}) {
    const Execution execution = MeasureExecution(*device, level, std::chrono::microseconds(1), 0.3);
    EXPECT_EQ(execution.mode, "unknown");
    EXPECT_THAT(execution.reason, HasSubstr("did not end in time"));
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(2));
}

TEST(Probe, WithoutKvmSaysWhyAndFindsOutTheRest) {
  ProbeOptions options;
  options.kvm_path = "/nonexistent/kvm";
  const HostReport report = Probe(options);
  EXPECT_FALSE(report.kvm.available);
  EXPECT_THAT(report.kvm.reason, HasSubstr("/nonexistent/kvm"));
  EXPECT_FALSE(report.kvm.remedy.empty());
  EXPECT_EQ(report.kvm.user.mode, "unknown");
  EXPECT_TRUE(report.cpu && report.clock && report.topology);
  for (const result::Capability& entry : report.capability) {
    EXPECT_FALSE(entry.runnable);
    EXPECT_EQ(entry.remedy, report.kvm.remedy);
  }
  EXPECT_THAT(ToText(report, false), HasSubstr("no: "));
}

TEST(Probe, TakesAFileThatIsNotKvmForWhatItIs) {
  ProbeOptions options;
  options.kvm_path = "/dev/null";
  const HostReport report = Probe(options);
  EXPECT_FALSE(report.kvm.available);
  EXPECT_FALSE(report.kvm.reason.empty());
}

TEST(Probe, LeavesNoCgroupBehind) {
  const auto count = [] {
    int found = 0;
    std::error_code error;
    for (std::filesystem::recursive_directory_iterator it("/sys/fs/cgroup", error), end; !error && it != end;
         it.increment(error)) {
      found += it->path().filename().string().starts_with("nestbench-probe-") ? 1 : 0;
    }
    return found;
  };
  const int before = count();
  Probe();
  EXPECT_EQ(count(), before);
}

TEST(ProbeText, FitsEightyColumnsAndIsPlainWithoutColour) {
  const std::string text = ToText(ThisHost(), /*colour=*/false);
  EXPECT_EQ(text.find('\x1b'), std::string::npos);
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    // One word longer than the line cannot be broken.
    const bool one_word = line.find(' ', line.find_first_not_of(' ', 16)) == std::string::npos;
    EXPECT_TRUE(line.size() <= 80 || one_word) << line;
  }
  for (const char* section : {"Host\n", "Level\n", "KVM\n", "Rights\n", "What can run here\n", "Findings\n"}) {
    EXPECT_THAT(text, HasSubstr(section));
  }
  EXPECT_NE(ToText(ThisHost(), /*colour=*/true).find('\x1b'), std::string::npos);
}

TEST(ProbeText, PrintsNoControlCharactersOfTheHost) {
  HostReport report = ThisHost();
  report.kernel = "Linux \x1b[31mred\x07";
  EXPECT_THAT(ToText(report, false), HasSubstr("?[31mred?"));
}

TEST(ProbeJson, HoldsWhatTheReportHolds) {
  const json whole = ToProbeJson(ThisHost());
  const json& host = whole["host"];
  EXPECT_EQ(host["cpu"]["vendor"], ThisHost().cpu->vendor);
  EXPECT_EQ(host["supervisor_execution"], ThisHost().kvm.supervisor.mode);
  EXPECT_EQ(host["tsc_hz"], ThisHost().clock->tsc_hz);
  EXPECT_EQ(whole["capability"].size(), ThisHost().capability.size());
  EXPECT_EQ(whole["findings"].size(), ThisHost().findings.size());
  EXPECT_TRUE(whole["details"]["rights"].contains("limits"));
  EXPECT_TRUE(result::ParseJson(result::Dump(whole), "probe"));
}

TEST(ProbeJson, KeepsItsShapeWhenEveryItemFailed) {
  HostReport empty;
  const auto fail = [] { return vmm::Fail(Error::Unsupported("item", "not here")); };
  empty.cmdline = fail();
  empty.cpu = fail();
  empty.mitigations = fail();
  empty.clock = fail();
  empty.topology = fail();
  empty.huge_pages = fail();
  empty.cgroup = fail();
  empty.rights = fail();
  const json host = ToJson(empty);
  const json reference = ToJson(ThisHost());
  for (const auto& [key, value] : reference.items()) {
    ASSERT_TRUE(host.contains(key)) << key;
    EXPECT_EQ(host[key].type_name(), std::string_view(value.type_name())) << key;
  }
  EXPECT_THAT(ToText(empty, false), HasSubstr("not here"));
}

}  // namespace
}  // namespace nestbench::probe
