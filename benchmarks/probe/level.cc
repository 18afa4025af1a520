#include "level.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "parse.h"

namespace nestbench::probe {
namespace {

bool Contains(std::string_view text, std::string_view part) { return text.find(part) != std::string_view::npos; }

// DMI strings that only virtual machines carry. Cloud vendors name their metal machines like their guests, so a vendor
// alone ("Amazon EC2") proves nothing and is not listed.
std::string_view VirtualDmi(const LevelEvidence& evidence) {
  constexpr std::array<std::string_view, 12> kNames = {
      "QEMU",  "KVM",       "VirtualBox", "VMware",    "Bochs",       "Virtual Machine",
      "bhyve", "Parallels", "HVM domU",   "OpenStack", "Firecracker", "Google Compute Engine"};
  for (const std::string_view name : kNames) {
    for (const std::string& field : {evidence.dmi_vendor, evidence.dmi_product, evidence.dmi_bios}) {
      if (Contains(field, name)) return name;
    }
  }
  return {};
}

}  // namespace

LevelEvidence GatherLevelEvidence(const SystemFiles& files) {
  LevelEvidence evidence;
  evidence.dmi_vendor = files.ReadTrimmedOrEmpty("/sys/class/dmi/id/sys_vendor");
  evidence.dmi_product = files.ReadTrimmedOrEmpty("/sys/class/dmi/id/product_name");
  evidence.dmi_bios = files.ReadTrimmedOrEmpty("/sys/class/dmi/id/bios_vendor");
  evidence.sys_hypervisor = files.ReadTrimmedOrEmpty("/sys/hypervisor/type");
  evidence.xen_control_domain = Contains(files.ReadTrimmedOrEmpty("/proc/xen/capabilities"), "control_d");
  evidence.virtio_devices = static_cast<unsigned>(files.List("/sys/bus/virtio/devices").size());
  evidence.cmdline = files.ReadTrimmedOrEmpty("/proc/cmdline");
  return evidence;
}

Level JudgeLevel(const LevelEvidence& evidence) {
  Level level;
  double doubt = 1;  // that there is no hypervisor below, given what was seen
  const auto below = [&level, &doubt](double weight, std::string text) {
    doubt *= 1 - weight;
    level.evidence.push_back(std::move(text));
  };
  const auto note = [&level](std::string text) { level.evidence.push_back(std::move(text)); };

  // Rule 1.
  if (evidence.cpuid.present_bit) {
    below(0.99, "CPUID leaf 1: the hypervisor bit is set");
  } else {
    note("CPUID leaf 1: the hypervisor bit is clear");
  }
  for (const std::string& signature : evidence.cpuid.signatures) {
    below(0.9, fmt::format("CPUID leaf 0x40000000: hypervisor signature `{}`", signature));
  }
  for (const std::string& source : evidence.clock_sources) {
    if (source == "kvm-clock" || source.starts_with("hyperv_clocksource") || source == "xen") {
      below(0.9, fmt::format("clock source `{}` is there for guests only", source));
    }
  }
  if (!evidence.sys_hypervisor.empty()) {
    below(0.9, fmt::format("/sys/hypervisor: type `{}`{}", evidence.sys_hypervisor,
                           evidence.xen_control_domain ? ", this is its control domain" : ""));
  }
  if (const std::string_view name = VirtualDmi(evidence); !name.empty()) {
    below(0.8, fmt::format("DMI: `{}` in \"{}\", \"{}\", \"{}\"", name, evidence.dmi_vendor, evidence.dmi_product,
                           evidence.dmi_bios));
  } else if (!evidence.dmi_vendor.empty()) {
    note(fmt::format("DMI: \"{}\", \"{}\" name no virtual machine", evidence.dmi_vendor, evidence.dmi_product));
  }
  if (evidence.virtio_devices > 0) below(0.5, fmt::format("{} virtio devices", evidence.virtio_devices));

  const double cpuid_ns = evidence.cpuid.cpuid_ns;
  const bool traps = cpuid_ns > kCpuidTrapNs && !evidence.clock_is_emulated;
  if (traps) below(0.8, fmt::format("CPUID costs {:.0f} ns: it leaves for a hypervisor", cpuid_ns));
  if (evidence.clock_is_emulated) below(0.9, "instructions run at the speed of a software emulator");
  if (!traps && cpuid_ns > 0) note(fmt::format("CPUID costs {:.0f} ns: no exit", cpuid_ns));

  // Rule 2.
  bool deeper = false;
  if (traps && cpuid_ns > kCpuidNestedNs) {
    deeper = true;
    note(fmt::format("a CPUID of {:.0f} ns is more than one hardware exit: perhaps more than one level", cpuid_ns));
  }
  if (evidence.kvm_module == "kvm_pvm" && !evidence.cpu_has_virtualization) {
    deeper = true;
    note("kvm_pvm without VMX or SVM: made for hosts that are guests themselves");
  }
  if (Contains(evidence.cmdline, "nested")) {
    for (const std::string_view word : SplitWords(evidence.cmdline)) {
      if (!Contains(word, "nested")) continue;
      deeper = true;
      note(fmt::format("kernel command line: `{}`", word));
    }
  }

  // The pieces are not wholly independent (one firmware writes DMI and CPUID), so that certainty is never claimed.
  const double confidence = std::min(1 - doubt, 0.999);
  if (confidence >= 0.75) {
    level.value = deeper ? "L1+" : "L1";
    level.confidence = confidence;
  } else if (!evidence.cpuid.present_bit && confidence == 0 && cpuid_ns > 0) {
    // Rule 3. Not certain: a hypervisor may let CPUID through (kvm-pvm does so for user code) and hide all else.
    level.value = "L0";
    level.confidence = evidence.dmi_vendor.empty() ? 0.7 : 0.9;
  } else {
    level.value = "unknown";
    level.confidence = 0;
  }
  return level;
}

}  // namespace nestbench::probe
