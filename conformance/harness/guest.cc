#include "guest.h"

#include <fmt/format.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace nestbench::conformance {

int ErrorOf(int fd, unsigned long request, const void* argument) {
  return ::ioctl(fd, request, argument) < 0 ? errno : 0;
}
int ErrorOf(int fd, unsigned long request, unsigned long argument) {
  return ::ioctl(fd, request, argument) < 0 ? errno : 0;
}

std::string ErrorName(int error) {
  if (error == 0) return "success";
  const char* name = ::strerrorname_np(error);
  return fmt::format("{} ({})", name == nullptr ? "?" : name, ::strerror(error));
}

::testing::AssertionResult FailsWith(int error, std::initializer_list<int> allowed) {
  if (std::ranges::find(allowed, error) != allowed.end()) return ::testing::AssertionSuccess();
  std::string wanted;
  for (const int one : allowed) wanted += (wanted.empty() ? "" : " or ") + ErrorName(one);
  return ::testing::AssertionFailure() << "it ended with " << ErrorName(error) << ", documented is " << wanted;
}

void KvmTest::SetUp() {
  auto device = vmm::KvmDevice::Open();
  if (!device) GTEST_SKIP() << device.error().ToString();
  device_.emplace(std::move(*device));
}

bool KvmTest::Lacks(int capability, const char* name) const {
  const int value = device_->CheckCapability(capability);
  Evidence(name, value);
  if (value > 0) return false;
  [name, value] { GTEST_SKIP() << name << " is " << value; }();
  return true;
}

bool KvmTest::Has(const CpuidBit& feature) const {
  const auto policy = device_->SupportedCpuid();
  const kvm_cpuid_entry2* leaf = policy ? policy->Find(feature.leaf) : nullptr;
  return leaf != nullptr && (leaf->*feature.word >> feature.bit & 1U) != 0;
}

bool KvmTest::Lacks(const CpuidBit& feature) const {
  if (Has(feature)) return false;
  [&feature] { GTEST_SKIP() << feature.name << " [bit " << feature.bit << "] is 0 for guests"; }();
  return true;
}

void VmTest::SetUp() {
  KvmTest::SetUp();
  if (IsSkipped()) return;
  auto vm = vmm::Vm::Create(device());
  ASSERT_TRUE(vm) << vm.error().ToString();
  vm_.emplace(std::move(*vm));
}

std::span<std::byte> VmTest::HostMemory(std::size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    ADD_FAILURE() << "mmap of " << bytes << " bytes: " << ErrorName(errno);
    return {};
  }
  return {static_cast<std::byte*>(memory), bytes};  // the process ends with its one test
}

int VmTest::SetSlot(std::uint32_t slot, std::uint64_t guest_physical, std::uint64_t bytes, const void* host,
                    std::uint32_t flags) {
  const kvm_userspace_memory_region region = {.slot = slot,
                                              .flags = flags,
                                              .guest_phys_addr = guest_physical,
                                              .memory_size = bytes,
                                              .userspace_addr = reinterpret_cast<std::uint64_t>(host)};
  return ErrorOf(vm().fd(), KVM_SET_USER_MEMORY_REGION, &region);
}

void VcpuTest::SetUp() {
  VmTest::SetUp();
  if (IsSkipped() || HasFatalFailure()) return;
  PrepareVm();
  if (IsSkipped() || HasFatalFailure()) return;
  auto vcpu = vmm::Vcpu::Create(vm(), abi::VcpuId(0));
  ASSERT_TRUE(vcpu) << vcpu.error().ToString();
  vcpu_.emplace(std::move(*vcpu));
}

void GuestTest::SetUp() {
  VcpuTest::SetUp();
  if (IsSkipped() || HasFatalFailure()) return;
  memory_ = HostMemory(kMemoryBytes);
  ASSERT_EQ(SetSlot(kSlot, 0, kMemoryBytes, memory_.data()), 0);
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs) << sregs.error().ToString();
  for (kvm_segment* segment : {&sregs->cs, &sregs->ds, &sregs->es, &sregs->ss, &sregs->fs, &sregs->gs}) {
    segment->selector = 0;
    segment->base = 0;
  }
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  kvm_regs regs = {};
  regs.rip = kEntry;
  regs.rsp = kStackTop;
  regs.rflags = kFirstFlags;
  ASSERT_TRUE(vcpu().SetRegs(regs));
}

void GuestTest::Load(std::initializer_list<int> code, std::uint16_t at) {
  ASSERT_LE(at + code.size(), kMemoryBytes);
  std::ranges::transform(code, memory_.begin() + at, [](int byte) { return static_cast<std::byte>(byte); });
}

vmm::Exit VcpuTest::Run(std::chrono::milliseconds limit) {
  auto deadline = vmm::RunDeadline::Start(*vcpu_, limit);
  if (!deadline) {
    ADD_FAILURE() << deadline.error().ToString();
    return vmm::InterruptedExit{};
  }
  auto exit = vcpu_->Run();
  if (!exit) {
    ADD_FAILURE() << exit.error().ToString();
    return vmm::InterruptedExit{};
  }
  return std::move(*exit);
}

bool LacksInstruction(const vmm::Exit& exit) {
  const auto* error = std::get_if<vmm::InternalErrorExit>(&exit);
  return error != nullptr && error->suberror == KVM_INTERNAL_ERROR_EMULATION;
}

void SkipFor(const std::string& exit) {
  GTEST_SKIP() << "this KVM emulates the guest's privileged code and lacks an instruction: " << exit.substr(0, 200);
}

void VcpuTest::Complain(const vmm::Exit& exit) {
  if (LacksInstruction(exit)) {
    SkipFor(vmm::ToString(exit));
  } else {
    ADD_FAILURE() << "the guest left with " << vmm::ToString(exit);
  }
}

}  // namespace nestbench::conformance
