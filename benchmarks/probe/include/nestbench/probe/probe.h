// What this host is and what can run on it: found by looking and by measuring, never assumed.
//
// Every item can fail alone: it then holds an Error with the reason, a finding says so, and the rest goes on. Nothing
// here changes the host: the cgroup and the VMs that are made to see whether they can be made are removed again.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/result/types.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::probe {

using vmm::Error;
using vmm::Result;

struct CpuInfo {
  std::string vendor;
  std::string model_name;
  std::uint32_t family = 0;
  std::uint32_t model = 0;
  std::uint32_t stepping = 0;
  std::string microcode;  // as the kernel shows it: "0xb000040"; empty where it does not
  std::vector<std::string> flags;

  [[nodiscard]] bool HasFlag(std::string_view flag) const;
};

// What the CPUID instruction says about a hypervisor, and what it costs.
struct HypervisorCpuid {
  bool present_bit = false;             // leaf 1, ECX bit 31
  std::vector<std::string> signatures;  // leaf 0x40000000 and every 0x100 above it, unprintable bytes as '.'
  double cpuid_ns = 0;                  // median cost of one CPUID; above some 200 ns it leaves the guest
};

// The level of this host, with what speaks for it. How evidence is combined: level.h.
struct Level {
  std::string value;      // "L0", "L1", "L1+" (at least one hypervisor below, perhaps more), "unknown"
  double confidence = 0;  // 0 to 1
  std::vector<std::string> evidence;
};

// How instructions of a guest run at one privilege level.
struct Execution {
  std::string mode;                                  // "native", "emulated", "unknown"
  std::string reason;                                // why unknown; else empty
  double guest_ns_per_instruction = 0;               // dependent adds and a loop branch; 0 when unknown
  double host_ns_per_instruction = 0;                // the same loop in this process
  std::optional<double> emulations_per_instruction;  // KVM's statistic `insn_emulation`; empty where it has none
};

struct KvmInfo {
  bool available = false;
  std::string reason;                             // why not; empty when available
  std::string remedy;                             // what would change it; empty when available or when nothing would
  std::string module;                             // "kvm_intel", "kvm_amd", "kvm_pvm"; empty when none is loaded
  std::map<std::string, std::string> parameters;  // of kvm and of `module`: "kvm_amd.nested" -> "1"
  int api_version = 0;
  std::map<std::string, int> capabilities;  // KVM_CHECK_EXTENSION by name, absent ones (0) included
  bool nested = false;                      // a guest can be a hypervisor itself
  std::string nested_reason;                // why not, or by which extension
  Execution supervisor;                     // CPL0 in 64-bit mode
  Execution user;                           // CPL3 in 64-bit mode
};

struct ClockInfo {
  std::string source;
  std::vector<std::string> available;
  std::uint64_t tsc_hz = 0;          // calibrated against CLOCK_MONOTONIC_RAW
  bool tsc_invariant = false;        // constant_tsc and nonstop_tsc
  bool is_emulated = false;          // times on this host mean nothing
  bool counts_instructions = false;  // an emulator's time is that of its instructions: no exit costs more than they do
  std::string emulated_reason;       // what says so
  double add_ns = 0;                 // one dependent integer add
  double x87_multiply_ns = 0;        // one dependent 80-bit multiply: software emulators need ten times a CPU's time
};

struct Topology {
  std::uint32_t cpus = 0;         // online
  std::uint32_t usable_cpus = 0;  // in this process's affinity mask
  std::uint32_t cores = 0;
  std::uint32_t sockets = 0;
  std::uint32_t numa_nodes = 0;
  std::uint64_t memory_bytes = 0;
};

struct HugePages {
  std::string thp;  // "always", "madvise", "never"; empty when the kernel has no THP
  std::string thp_defrag;
  std::uint64_t hugetlb_2m_total = 0;
  std::uint64_t hugetlb_2m_free = 0;
  std::uint64_t hugetlb_1g_total = 0;
  std::uint64_t hugetlb_1g_free = 0;
};

struct CgroupInfo {
  std::string layout;  // "v1", "v2", "hybrid", "none"
  std::vector<std::string> controllers;
  bool writable = false;  // a child group was made and removed
  std::string reason;     // why not writable
};

struct Limit {
  std::optional<std::uint64_t> soft;  // empty: unlimited
  std::optional<std::uint64_t> hard;
};

struct Rights {
  std::uint32_t user_id = 0;              // effective
  std::vector<std::string> capabilities;  // effective ones that matter here: "CAP_SYS_ADMIN", ...
  std::map<std::string, Limit> limits;    // "memlock_bytes", "open_files", "processes", "address_space_bytes", ...
  bool perf_hardware = false;             // perf_event_open of CPU cycles of this process
  std::string perf_reason;                // why not
};

struct HostReport {
  std::string kernel;  // "Linux 6.1.0-18-amd64 #1 SMP ..."
  Result<std::string> cmdline;
  Result<CpuInfo> cpu;
  HypervisorCpuid cpuid;
  Result<std::map<std::string, std::string>> mitigations;
  Level level;
  KvmInfo kvm;
  Result<ClockInfo> clock;
  Result<Topology> topology;
  Result<HugePages> huge_pages;
  Result<CgroupInfo> cgroup;
  Result<Rights> rights;
  std::map<std::string, std::string> tools;  // name -> path; empty path: not found
  std::vector<result::Capability> capability;
  std::vector<result::Finding> findings;
};

// What a workload of a scenario needs from the host.
struct Subject {
  std::string scenario;
  std::string workload;
  bool needs_kvm = false;                     // more than `bare`: a guest
  std::vector<std::string> cpu_flags;         // of /proc/cpuinfo: "avx2"
  std::vector<std::string> kvm_capabilities;  // not 0: "KVM_CAP_IOEVENTFD"
  std::uint64_t memory_bytes = 0;             // of RAM
};

// The overhead workloads of the catalogue, and those of the scenarios `exits` and `lifecycle`.
std::span<const Subject> DefaultSubjects();

struct ProbeOptions {
  std::span<const Subject> subjects = DefaultSubjects();
  // For everything that runs a guest, together. A guest that does not end in its share of it is stopped and reported.
  std::chrono::nanoseconds guest_deadline = std::chrono::seconds(2);
  std::chrono::nanoseconds tsc_calibration = std::chrono::milliseconds(50);
  std::string kvm_path = "/dev/kvm";
};

// Takes some 0.2 s. Single-threaded; the calling thread must leave the signal of vmm-core unblocked.
HostReport Probe(const ProbeOptions& options = {});

// The `host` object of the result document.
nlohmann::json ToJson(const HostReport& report);

// What `nestbench probe --json` prints: {host, details, capability, findings}. `details` holds what the closed shape of
// `host` has no place for: rights, tools, what was measured of execution and clocks.
nlohmann::json ToProbeJson(const HostReport& report);

// For people: at most 80 columns (lines with one long word aside), ANSI colours when `colour`.
std::string ToText(const HostReport& report, bool colour);

}  // namespace nestbench::probe
