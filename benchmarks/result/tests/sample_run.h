// A small run to test with: one measurement of each kind, and the journal that it leaves.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

#include "nestbench/result/journal.h"
#include "nestbench/result/out_folder.h"
#include "nestbench/result/types.h"

namespace nestbench::result {

// A folder of its own below $TMPDIR, removed at the end.
class ScratchFolder {
 public:
  ScratchFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "nestbench-test.XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::permissions(path_, std::filesystem::perms::owner_all, ignored);
    std::filesystem::remove_all(path_, ignored);
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

inline std::string ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline void WriteFile(const std::filesystem::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary) << bytes;
}

inline const std::string kDigest(64, 'a');

inline Header SampleHeader() {
  Header header;
  header.context = MakeContext("nestbench");
  header.host = nlohmann::json::parse(R"({
    "cpu": {"vendor": "GenuineIntel", "model_name": "Sample CPU", "family": 6, "model": 106, "stepping": 6,
            "microcode": "0x1", "flags": ["fpu", "sse2"]},
    "kernel": "6.1.0", "cmdline": "quiet", "mitigations": {"meltdown": "Not affected"},
    "kvm": {"available": true, "reason": "", "module": "kvm_intel", "parameters": {"nested": "Y"}, "api_version": 12,
            "capabilities": {"KVM_CAP_IRQCHIP": 1}},
    "topology": {"cpus": 2, "cores": 1, "sockets": 1, "numa_nodes": 1, "memory_bytes": 8589934592},
    "clock_source": "tsc", "tsc_hz": 2596000000,
    "huge_pages": {"thp": "madvise", "hugetlb_2m_free": 0, "hugetlb_1g_free": 0},
    "cgroup": {"layout": "v2", "controllers": ["cpu", "memory"], "writable": false},
    "level": {"value": "L0", "confidence": 0.9, "evidence": ["CPUID: hypervisor bit clear"]},
    "hypervisor_signature": "", "supervisor_execution": "native", "user_execution": "native", "clock": "real"})");
  header.build = {
      {"version", "0.1.0"}, {"commit", "0000000"}, {"compiler", "GNU 12"}, {"flags", "-O2"}, {"type", "Release"}};
  header.run = {.id = "20260131T120000Z-1a2b3c",
                .started = "2026-01-31T12:00:00Z",
                .profile = "quick",
                .seed = 0xFFFF'FFFF'FFFF'FFFF,
                .arguments = {"run", "--profile", "quick"}};
  header.capability = {
      {.scenario = "overhead", .workload = "cpu_integer", .runnable = true, .reason = "", .remedy = ""},
      {.scenario = "exits", .workload = "pio", .runnable = false, .reason = "no KVM", .remedy = "load kvm"}};
  return header;
}

inline Measurement SampleMeasurement(const std::string& substrate) {
  return {.id = "overhead/memory_chase/working_set_bytes=16384/" + substrate,
          .scenario = "overhead",
          .workload = "memory_chase",
          .substrate = substrate,
          .params = {{"working_set_bytes", std::int64_t{16384}}},
          .unit = "ns/load",
          .direction = Direction::kLower,
          .status = Status::kOk,
          .reason = "",
          .image = "memory_pointer_chase",
          .image_sha256 = kDigest,
          .rounds = {},
          .floor_id = std::nullopt};
}

inline Round SampleRound(std::uint32_t round, std::uint32_t order, Arm arm) {
  return {.round = round,
          .order = order,
          .arm = arm,
          .samples = {1.25, 1.5, 1.0},
          .iterations = 1000,
          .voided = 1,
          .steal_ns = 10,
          .run_queue_wait_ns = 20,
          .context_switches = 2,
          .migrations = 0,
          .warmup_batches = 3,
          .clock_disagreement_max = 0.001,
          .huge_page_bytes = 2 << 20,
          .exits = 7};
}

inline Experiment SampleExperiment() {
  return {.id = "containment/soak/vm",
          .scenario = "containment",
          .workload = "soak",
          .substrate = "vm",
          .setup = {{"neighbours", 50}}};
}

inline nlohmann::json SampleRecord() {
  return {{"kind", "soak"}, {"duration_ns", 60'000'000'000}, {"guests", 50}, {"faults", 12}, {"wrong", 0}, {"lost", 0}};
}

// Writes the sample run into `folder`; the journal stays open, and so alive, as long as the caller keeps it.
inline Result<Journal> WriteSampleRun(const std::filesystem::path& folder, bool with_end) {
  auto journal = Journal::Create(folder, SampleHeader());
  if (!journal) return journal;
  const auto add = [](const Result<>& added) { EXPECT_TRUE(added) << added.error().ToString(); };
  add(journal->AddImage("memory_pointer_chase", kDigest));
  const Measurement bare = SampleMeasurement("bare");
  const Measurement vm = SampleMeasurement("vm");
  add(journal->AddMeasurement(bare));
  add(journal->AddMeasurement(vm));
  add(journal->AddRound(bare.id, SampleRound(0, 0, Arm::kA)));
  add(journal->AddRound(vm.id, SampleRound(0, 1, Arm::kA)));
  add(journal->AddRound(vm.id, SampleRound(0, 2, Arm::kB)));
  add(journal->AddRound(bare.id, SampleRound(0, 3, Arm::kB)));
  Measurement refused = SampleMeasurement("nested");
  refused.status = Status::kUnsupported;
  refused.reason = "guests have no VMX here";
  add(journal->AddMeasurement(refused));
  const Experiment experiment = SampleExperiment();
  add(journal->AddExperiment(experiment));
  add(journal->AddRecord(experiment.id, SampleRecord()));
  add(journal->AddFinding({.id = "sample", .severity = Severity::kInfo, .text = "A finding.", .evidence = "none"}));
  if (with_end) add(journal->End(/*interrupted=*/false));
  add(journal->Sync());
  return journal;
}

}  // namespace nestbench::result
