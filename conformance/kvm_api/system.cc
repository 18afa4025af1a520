// The device's own ioctls. Source: kernel document "The Definitive KVM (Kernel-based Virtual Machine) API
// Documentation", section "API description".
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

#include "../harness/guest.h"

namespace nestbench::conformance {
namespace {

using System = KvmTest;

// A structure with an array at its end, as the lists of KVM are.
template <typename Header, typename Entry>
class List {
 public:
  explicit List(std::uint32_t entries) : bytes_(sizeof(Header) + entries * sizeof(Entry)) { Set(entries); }
  void Set(std::uint32_t entries) { std::memcpy(bytes_.data(), &entries, sizeof(entries)); }
  [[nodiscard]] std::uint32_t count() const {
    std::uint32_t count = 0;
    std::memcpy(&count, bytes_.data(), sizeof(count));
    return count;
  }
  [[nodiscard]] Entry entry(std::size_t index) const {
    Entry entry{};
    std::memcpy(&entry, bytes_.data() + sizeof(Header) + index * sizeof(Entry), sizeof(entry));
    return entry;
  }
  [[nodiscard]] void* data() { return bytes_.data(); }

 private:
  std::vector<std::byte> bytes_;
};
using MsrList = List<kvm_msr_list, std::uint32_t>;
using CpuidList = List<kvm_cpuid2, kvm_cpuid_entry2>;
constexpr std::uint32_t kMany = 1024;

NESTBENCH_CONDITION(kvm_api, System, ApiVersionIs12, "KVM API, KVM_GET_API_VERSION") {
  EXPECT_EQ(::ioctl(device().fd(), KVM_GET_API_VERSION, 0), 12);
}

NESTBENCH_CONDITION(kvm_api, System, ApiVersionTakesNoArgument, "KVM API, KVM_GET_API_VERSION: Parameters: none") {
  EXPECT_TRUE(FailsWith(ErrorOf(device().fd(), KVM_GET_API_VERSION, 1UL), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, System, AVmIsADescriptorOfItsOwn, "KVM API, KVM_CREATE_VM: Returns a VM fd") {
  const int first = ::ioctl(device().fd(), KVM_CREATE_VM, 0);
  const int second = ::ioctl(device().fd(), KVM_CREATE_VM, 0);
  ASSERT_GE(first, 0) << ErrorName(errno);
  ASSERT_GE(second, 0) << ErrorName(errno);
  EXPECT_NE(first, second);
  EXPECT_EQ(::close(first), 0);
  EXPECT_GT(::ioctl(second, KVM_CHECK_EXTENSION, KVM_CAP_USER_MEMORY), 0) << "the other one lives on";
}

NESTBENCH_CONDITION(kvm_api, System, CreateVmRefusesATypeThatDoesNotExist, "KVM API, KVM_CREATE_VM: machine type") {
  EXPECT_TRUE(FailsWith(ErrorOf(device().fd(), KVM_CREATE_VM, 0x7FFF'FFFFUL), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, System, AnUnknownExtensionIsAbsent, "KVM API, KVM_CHECK_EXTENSION: 0 means unsupported") {
  EXPECT_EQ(::ioctl(device().fd(), KVM_CHECK_EXTENSION, 0x00FF'FFFF), 0);
}

NESTBENCH_CONDITION(kvm_api, System, TheRunAreaHoldsItsStructure, "KVM API, KVM_GET_VCPU_MMAP_SIZE") {
  const int bytes = ::ioctl(device().fd(), KVM_GET_VCPU_MMAP_SIZE, 0);
  Evidence("vcpu_mmap_bytes", bytes);
  EXPECT_GE(bytes, static_cast<int>(sizeof(kvm_run)));
  EXPECT_EQ(bytes % ::sysconf(_SC_PAGESIZE), 0);
}

NESTBENCH_CONDITION(kvm_api, System, AShortMsrListIsToldHowLongItMustBe,
                    "KVM API, KVM_GET_MSR_INDEX_LIST: E2BIG, nmsrs adjusted") {
  MsrList list(1);
  list.Set(0);
  EXPECT_TRUE(FailsWith(ErrorOf(device().fd(), KVM_GET_MSR_INDEX_LIST, list.data()), {E2BIG}));
  const std::uint32_t wanted = list.count();
  Evidence("msrs", wanted);
  ASSERT_GT(wanted, 0U);
  MsrList whole(wanted);
  EXPECT_EQ(ErrorOf(device().fd(), KVM_GET_MSR_INDEX_LIST, whole.data()), 0);
  EXPECT_EQ(whole.count(), wanted);
}

NESTBENCH_CONDITION(kvm_api, System, AnMsrIsListedOnce, "KVM API, KVM_GET_MSR_INDEX_LIST") {
  MsrList list(kMany);
  ASSERT_EQ(ErrorOf(device().fd(), KVM_GET_MSR_INDEX_LIST, list.data()), 0);
  std::vector<std::uint32_t> indices;
  for (std::uint32_t i = 0; i < list.count(); ++i) indices.push_back(list.entry(i));
  std::ranges::sort(indices);
  EXPECT_TRUE(std::ranges::adjacent_find(indices) == indices.end());
}

NESTBENCH_CONDITION(kvm_api, System, EveryFeatureMsrCanBeRead,
                    "KVM API, KVM_GET_MSR_FEATURE_INDEX_LIST and KVM_GET_MSRS as a system ioctl") {
  if (Lacks(KVM_CAP_GET_MSR_FEATURES, "KVM_CAP_GET_MSR_FEATURES")) return;
  auto indices = device().FeatureMsrIndices();
  ASSERT_TRUE(indices) << indices.error().ToString();
  Evidence("feature_msrs", static_cast<long long>(indices->size()));
  for (const std::uint32_t index : *indices) {
    const auto value = device().ReadFeatureMsr(index);
    EXPECT_TRUE(value) << value.error().ToString();
  }
}

NESTBENCH_CONDITION(kvm_api, System, AShortCpuidListIsRefused,
                    "KVM API, KVM_GET_SUPPORTED_CPUID: E2BIG when nent is too small") {
  if (Lacks(KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID")) return;
  CpuidList list(1);
  EXPECT_TRUE(FailsWith(ErrorOf(device().fd(), KVM_GET_SUPPORTED_CPUID, list.data()), {E2BIG}));
}

NESTBENCH_CONDITION(kvm_api, System, ALongCpuidListIsCutToWhatIsThere,
                    "KVM API, KVM_GET_SUPPORTED_CPUID: nent adjusted to the number of valid entries") {
  if (Lacks(KVM_CAP_EXT_CPUID, "KVM_CAP_EXT_CPUID")) return;
  CpuidList list(256);
  ASSERT_EQ(ErrorOf(device().fd(), KVM_GET_SUPPORTED_CPUID, list.data()), 0);
  Evidence("cpuid_entries", list.count());
  EXPECT_GT(list.count(), 0U);
  EXPECT_LT(list.count(), 256U);
}

NESTBENCH_CONDITION(kvm_api, System, SupportedCpuidBeginsWithTheHighestLeaf,
                    "KVM API, KVM_GET_SUPPORTED_CPUID; Intel SDM volume 2, CPUID leaf 0") {
  auto policy = device().SupportedCpuid();
  ASSERT_TRUE(policy) << policy.error().ToString();
  CpuidList list(256);
  ASSERT_EQ(ErrorOf(device().fd(), KVM_GET_SUPPORTED_CPUID, list.data()), 0);
  std::uint32_t highest = 0;
  std::uint32_t said = 0;
  for (std::uint32_t i = 0; i < list.count(); ++i) {
    const kvm_cpuid_entry2 entry = list.entry(i);
    if (entry.function == 0) said = entry.eax;
    if (entry.function < 0x4000'0000) highest = std::max(highest, entry.function);
  }
  EXPECT_LE(highest, said) << "a leaf above the one that leaf 0 calls the highest";
}

NESTBENCH_CONDITION(kvm_api, System, AnUnknownIoctlIsRefused, "ioctl(2): ENOTTY or EINVAL for an unknown request") {
  EXPECT_TRUE(FailsWith(ErrorOf(device().fd(), _IO(KVMIO, 0xFE), 0UL), {ENOTTY, EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, System, AVmIoctlOnTheDeviceIsRefused, "KVM API, General description: kinds of ioctls") {
  EXPECT_TRUE(FailsWith(ErrorOf(device().fd(), KVM_CREATE_VCPU, 0UL), {ENOTTY, EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, System, ABadPointerIsAFaultAndNoCrash, "ioctl(2): EFAULT") {
  EXPECT_TRUE(FailsWith(ErrorOf(device().fd(), KVM_GET_MSR_INDEX_LIST, 8UL), {EFAULT}));
  EXPECT_TRUE(FailsWith(ErrorOf(device().fd(), KVM_GET_SUPPORTED_CPUID, 8UL), {EFAULT}));
}

using Vms = VmTest;

NESTBENCH_CONDITION(kvm_api, Vms, AskedOfTheVmTheAnswerIsThere,
                    "KVM API, KVM_CHECK_EXTENSION as a VM ioctl (KVM_CAP_CHECK_EXTENSION_VM)") {
  if (Lacks(KVM_CAP_CHECK_EXTENSION_VM, "KVM_CAP_CHECK_EXTENSION_VM")) return;
  EXPECT_GT(vm().CheckCapability(KVM_CAP_USER_MEMORY), 0);
  EXPECT_EQ(vm().CheckCapability(0x00FF'FFFF), 0);
}

NESTBENCH_CONDITION(kvm_api, Vms, AVcpuCanBeMadeOnce, "KVM API, KVM_CREATE_VCPU: EEXIST for an id in use") {
  const int first = ::ioctl(vm().fd(), KVM_CREATE_VCPU, 0);
  ASSERT_GE(first, 0) << ErrorName(errno);
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_CREATE_VCPU, 0UL), {EEXIST}));
}

NESTBENCH_CONDITION(kvm_api, Vms, AVcpuIdBeyondTheLimitIsRefused,
                    "KVM API, KVM_CREATE_VCPU: max_vcpu_id from KVM_CAP_MAX_VCPU_ID") {
  const int most = device().CheckCapability(KVM_CAP_MAX_VCPU_ID);
  Evidence("KVM_CAP_MAX_VCPU_ID", most);
  ASSERT_GT(most, 0);
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_CREATE_VCPU, static_cast<unsigned long>(most)), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Vms, AsManyVcpusAsRecommendedCanBeMade, "KVM API, KVM_CREATE_VCPU: KVM_CAP_NR_VCPUS") {
  const int recommended = device().CheckCapability(KVM_CAP_NR_VCPUS);
  Evidence("KVM_CAP_NR_VCPUS", recommended);
  ASSERT_GT(recommended, 0);
  for (int id = 0; id < std::min(recommended, 64); ++id) {
    EXPECT_GE(::ioctl(vm().fd(), KVM_CREATE_VCPU, id), 0) << "vCPU " << id << ": " << ErrorName(errno);
  }
}

NESTBENCH_CONDITION(kvm_api, Vms, MoreThanRecommendedAreAllowed,
                    "KVM API, KVM_CREATE_VCPU: KVM_CAP_MAX_VCPUS is not below KVM_CAP_NR_VCPUS") {
  EXPECT_GE(device().CheckCapability(KVM_CAP_MAX_VCPUS), device().CheckCapability(KVM_CAP_NR_VCPUS));
  EXPECT_GE(device().CheckCapability(KVM_CAP_MAX_VCPU_ID), device().CheckCapability(KVM_CAP_MAX_VCPUS));
}

NESTBENCH_CONDITION(kvm_api, Vms, TheRunAreaIsSharedWithKvm, "KVM API, The kvm_run structure") {
  auto vcpu = vmm::Vcpu::Create(vm(), abi::VcpuId(0));
  ASSERT_TRUE(vcpu) << vcpu.error().ToString();
  vcpu->run()->immediate_exit = 1;
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu->fd(), KVM_RUN), {EINTR}));
}

NESTBENCH_CONDITION(kvm_api, Vms, AnUnknownDeviceTypeIsRefused, "KVM API, KVM_CREATE_DEVICE: ENODEV") {
  if (Lacks(KVM_CAP_DEVICE_CTRL, "KVM_CAP_DEVICE_CTRL")) return;
  kvm_create_device create = {.type = 0xFFFF, .fd = 0, .flags = KVM_CREATE_DEVICE_TEST};
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_CREATE_DEVICE, &create), {ENODEV}));
}

NESTBENCH_CONDITION(kvm_api, Vms, AnUnknownCapabilityCannotBeEnabled, "KVM API, KVM_ENABLE_CAP: EINVAL") {
  kvm_enable_cap enable = {};
  enable.cap = 0x00FF'FFFF;
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_ENABLE_CAP, &enable), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Vms, FlagsOfEnableCapMustBeZero, "KVM API, KVM_ENABLE_CAP: flags must be 0") {
  kvm_enable_cap enable = {};
  enable.cap = KVM_CAP_DISABLE_QUIRKS;
  enable.flags = 1;
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_ENABLE_CAP, &enable), {EINVAL}));
}

}  // namespace
}  // namespace nestbench::conformance
