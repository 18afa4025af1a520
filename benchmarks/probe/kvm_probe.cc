#include "kvm_probe.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "nestbench/vmm/kvm/capabilities.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/kvm/linux_kvm.h"

namespace nestbench::probe {
namespace {

std::string GroupName(gid_t gid) {
  group entry{};
  group* found = nullptr;
  std::array<char, 4096> buffer{};
  if (::getgrgid_r(gid, &entry, buffer.data(), buffer.size(), &found) == 0 && found != nullptr) return found->gr_name;
  return fmt::format("{}", gid);
}

bool InGroup(gid_t gid) {
  if (::getegid() == gid) return true;
  std::array<gid_t, 1024> groups{};
  const int count = ::getgroups(static_cast<int>(groups.size()), groups.data());
  return std::find(groups.begin(), groups.begin() + std::max(count, 0), gid) != groups.begin() + std::max(count, 0);
}

bool IsTrue(const std::string& parameter) { return parameter == "Y" || parameter == "1"; }

// Whether a guest can be a hypervisor: KVM offers the CPU's extension to guests and keeps nested state.
void JudgeNested(const vmm::KvmDevice& device, KvmInfo& info) {
  const auto cpuid = device.SupportedCpuid();
  if (!cpuid) {
    info.nested_reason = cpuid.error().ToString();
    return;
  }
  constexpr std::uint32_t kVmxBit = 1U << 5;  // leaf 1, ECX
  constexpr std::uint32_t kSvmBit = 1U << 2;  // leaf 0x80000001, ECX
  const auto* basic = cpuid->Find(1);
  const auto* extended = cpuid->Find(0x8000'0001);
  const bool vmx = basic != nullptr && (basic->ecx & kVmxBit) != 0;
  const bool svm = extended != nullptr && (extended->ecx & kSvmBit) != 0;
  const int state_bytes = device.CheckCapability(KVM_CAP_NESTED_STATE);
  const auto parameter = info.parameters.find(info.module + ".nested");
  if (!vmx && !svm) {
    info.nested_reason = "KVM offers guests neither VMX nor SVM";
    if (parameter != info.parameters.end() && !IsTrue(parameter->second)) {
      info.nested_reason +=
          fmt::format(" ({}.nested is {}: load the module with nested=1)", info.module, parameter->second);
    }
  } else if (state_bytes == 0) {
    info.nested_reason = "KVM_CAP_NESTED_STATE is 0";
  } else {
    info.nested = true;
    info.nested_reason =
        fmt::format("guests have {}; KVM_CAP_NESTED_STATE is {} bytes", vmx ? "VMX" : "SVM", state_bytes);
  }
}

}  // namespace

std::string FindVendorModule(const SystemFiles& files) {
  for (const std::string& name : files.List("/sys/module")) {
    if (name.starts_with("kvm_")) return name;
  }
  return {};
}

Diagnosis DiagnoseKvm(const KvmSurroundings& s) {
  const std::string module = s.cpu_is_amd ? "kvm_amd" : "kvm_intel";
  const std::string_view extension = s.cpu_is_amd ? "SVM" : "VMX";
  if (!s.file_exists) {
    if (!s.vendor_module.empty()) {
      return {fmt::format("{} is missing although {} is loaded: a container that was not given the device?", s.path,
                          s.vendor_module),
              "pass the device into the container (docker run --device /dev/kvm), or `sudo mknod /dev/kvm c 10 232`"};
    }
    if (!s.cpu_has_virtualization) {
      return {fmt::format("{} is missing and the CPU shows no VMX or SVM", s.path),
              s.is_guest ? fmt::format("this host is a virtual machine: have its hypervisor hand {} on (nested "
                                       "virtualization), or use a host type that does",
                                       extension)
                         : fmt::format("enable {} (virtualization) in the firmware set-up", extension)};
    }
    return {fmt::format("{} is missing: the module {} is not loaded", s.path, module),
            fmt::format("`sudo modprobe {}`; if that fails, `dmesg | grep -i kvm` says why", module)};
  }
  switch (s.open_errno) {
    case EACCES:
    case EPERM:
      if (s.user_in_group && (s.mode & 0060) != 0060) {
        return {fmt::format("{} may not be opened: its mode is {:04o}", s.path, s.mode),
                fmt::format("`sudo chmod 0660 {}`", s.path)};
      }
      if (s.user_in_group || s.group == "root") {
        return {fmt::format("{} may not be opened by this user (group {}, mode {:04o})", s.path, s.group, s.mode),
                fmt::format("`sudo chown root:kvm {0} && sudo chmod 0660 {0} && sudo usermod -aG kvm $USER`, then log "
                            "in again; in a container, allow the device in its cgroup",
                            s.path)};
      }
      return {fmt::format("{} may only be opened by group `{}`, which this process is not in", s.path, s.group),
              fmt::format("`sudo usermod -aG {} $USER`, then log in again", s.group)};
    case EBUSY:
      return {fmt::format("{} is busy: another hypervisor holds the CPU's virtualization extension", s.path),
              "stop the other hypervisor (VirtualBox, VMware) or unload its kernel module"};
    case ENODEV:
    case ENXIO:
      return {fmt::format("{} is there but no module serves it", s.path),
              s.cpu_has_virtualization
                  ? fmt::format("`sudo modprobe {}`; if that fails, `dmesg | grep -i kvm` says why", module)
                  : fmt::format("the CPU shows no {}: enable it in the firmware set-up, or have the hypervisor below "
                                "hand it on",
                                extension)};
    default:
      return {fmt::format("{} cannot be opened: {} (errno {})", s.path, std::generic_category().message(s.open_errno),
                          s.open_errno),
              "`dmesg | grep -i kvm` may say why"};
  }
}

KvmInfo ProbeKvm(const SystemFiles& files, const std::string& kvm_path, const CpuInfo& cpu, bool is_guest) {
  KvmInfo info;
  info.module = FindVendorModule(files);
  for (const std::string& module : {std::string("kvm"), info.module}) {
    if (module.empty()) continue;
    const std::string folder = fmt::format("/sys/module/{}/parameters", module);
    for (const std::string& name : files.List(folder)) {
      info.parameters[fmt::format("{}.{}", module, name)] =
          files.ReadTrimmedOrEmpty(fmt::format("{}/{}", folder, name));
    }
  }

  auto device = vmm::KvmDevice::Open(kvm_path);
  if (!device) {
    if (device.error().kind != vmm::ErrorKind::kSystem) {  // opened, but of another API version
      info.reason = device.error().ToString();
      info.remedy = "use a kernel from 2.6.22 on: KVM_GET_API_VERSION must be 12";
      return info;
    }
    KvmSurroundings surroundings;
    surroundings.path = kvm_path;
    surroundings.open_errno = device.error().error_number;
    struct stat status {};
    if (::stat(kvm_path.c_str(), &status) == 0) {
      surroundings.file_exists = true;
      surroundings.group = GroupName(status.st_gid);
      surroundings.mode = status.st_mode & 07777;
      surroundings.user_in_group = InGroup(status.st_gid);
    }
    surroundings.core_module_loaded = files.Exists("/sys/module/kvm");
    surroundings.vendor_module = info.module;
    surroundings.cpu_has_virtualization = cpu.HasFlag("vmx") || cpu.HasFlag("svm");
    surroundings.cpu_is_amd = cpu.vendor == "AuthenticAMD" || cpu.vendor == "HygonGenuine";
    surroundings.is_guest = is_guest;
    Diagnosis diagnosis = DiagnoseKvm(surroundings);
    info.reason = std::move(diagnosis.reason);
    info.remedy = std::move(diagnosis.remedy);
    return info;
  }
  info.available = true;
  info.api_version = ::ioctl(device->fd(), KVM_GET_API_VERSION, 0);
  for (const vmm::CapabilityName& capability : vmm::AllCapabilities()) {
    info.capabilities[std::string(capability.name)] = device->CheckCapability(capability.number);
  }
  JudgeNested(*device, info);
  return info;
}

}  // namespace nestbench::probe
