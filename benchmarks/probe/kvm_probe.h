// KVM from the outside: is it there, why not, what can it do.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "nestbench/probe/probe.h"
#include "parse.h"

namespace nestbench::probe {

// What surrounds a /dev/kvm that could not be opened.
struct KvmSurroundings {
  std::string path = "/dev/kvm";
  int open_errno = 0;
  bool file_exists = false;
  std::string group;                    // that owns the file: "kvm"; empty when there is no file
  unsigned mode = 0;                    // of the file, permission bits
  bool user_in_group = false;           // of this process, not of the password file
  bool core_module_loaded = false;      // /sys/module/kvm
  std::string vendor_module;            // kvm_intel, kvm_amd, ...; empty when none is loaded
  bool cpu_has_virtualization = false;  // vmx or svm in /proc/cpuinfo
  bool cpu_is_amd = false;
  bool is_guest = false;  // a hypervisor is below: it has to hand VMX or SVM on
};

struct Diagnosis {
  std::string reason;
  std::string remedy;
};

Diagnosis DiagnoseKvm(const KvmSurroundings& surroundings);

// The loaded module that gives KVM its hardware: any kvm_* but kvm itself. Empty when none.
std::string FindVendorModule(const SystemFiles& files);

// Everything but `supervisor` and `user`, which execution.h measures.
KvmInfo ProbeKvm(const SystemFiles& files, const std::string& kvm_path, const CpuInfo& cpu, bool is_guest);

}  // namespace nestbench::probe
