// Which level is this host on: evidence in, verdict out. Pure, so that every combination can be tested.
//
// Rules, strongest first:
//   1. CPUID leaf 1 ECX bit 31 set, a hypervisor signature, a guest-only clock source (kvm-clock, the Hyper-V page),
//      /sys/hypervisor or DMI strings of a virtual machine each show that a hypervisor is below. Bit 31 is reserved and
//      zero on every CPU, so it alone is as good as certain; the others alone are less so (DMI tables can be copied, a
//      virtio device can be real hardware). Independent pieces add up: confidence is 1 - product(1 - weight).
//   2. That there is a hypervisor says nothing of how many. A CPUID that costs far more than one exit does on any
//      hardware since 2010, KVM without VMX/SVM, or a command line that speaks of nesting hint at more than one:
//      the value is then "L1+". A second level is never claimed: from inside it cannot be told from a slow first one.
//   3. "L0" needs the bit to be clear, nothing of rule 1, and a CPUID at hardware speed. A clear bit with a CPUID that
//      costs an exit is a hypervisor that hides: "L1" at the confidence of that measurement.
//   4. Anything else is "unknown".
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "nestbench/probe/probe.h"
#include "parse.h"

namespace nestbench::probe {

struct LevelEvidence {
  HypervisorCpuid cpuid;
  bool clock_is_emulated = false;          // an emulator below executes CPUID without an exit
  std::vector<std::string> clock_sources;  // available ones
  std::string dmi_vendor;                  // sys_vendor
  std::string dmi_product;                 // product_name
  std::string dmi_bios;                    // bios_vendor
  std::string sys_hypervisor;              // /sys/hypervisor/type
  bool xen_control_domain = false;         // /proc/xen/capabilities says control_d
  unsigned virtio_devices = 0;
  std::string kvm_module;
  bool cpu_has_virtualization = false;  // vmx or svm
  std::string cmdline;
};

// CPUID above this left for a hypervisor; no CPU since 2010 needs as long by itself.
inline constexpr double kCpuidTrapNs = 250;
// CPUID above this cost more than one hardware exit and its handling do (0.4 to 1.5 us).
inline constexpr double kCpuidNestedNs = 2500;

LevelEvidence GatherLevelEvidence(const SystemFiles& files);  // what lies in files; the rest is the caller's
Level JudgeLevel(const LevelEvidence& evidence);

}  // namespace nestbench::probe
