// What conditions start from: the device, a VM, or a small guest in real mode. What cannot be had skips the test with
// the reason; it is not the test's business to fail for a missing /dev/kvm.
#pragma once

#include <gtest/gtest.h>
#include <sys/ioctl.h>  // IWYU pragma: export

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>

#include "condition.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/kvm/exit.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/kvm/linux_kvm.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"

namespace nestbench::conformance {

// RFLAGS that guests start with. Interrupts are on: nobody sends one that a test does not ask for, and a guest that
// spins with them off stops Bochs 2.7 for good, which then takes its own host's timer no more.
inline constexpr std::uint64_t kFirstFlags = abi::x86::kRflagsReserved1 | abi::x86::kRflagsInterrupts;

// The errno of an ioctl as it is, without a library between; 0 when it succeeded.
int ErrorOf(int fd, unsigned long request, const void* argument);
int ErrorOf(int fd, unsigned long request, unsigned long argument = 0);

// "EINVAL (Invalid argument)", for messages.
std::string ErrorName(int error);

// EXPECT that an ioctl fails with one of the errors that the document names.
::testing::AssertionResult FailsWith(int error, std::initializer_list<int> allowed);

// Whether KVM left because it emulates the guest and has no such instruction.
bool LacksInstruction(const vmm::Exit& exit);
// GTEST_SKIP with the exit that named it.
void SkipFor(const std::string& exit);

// A feature flag: {"CPUID 7:ECX.UMIP", 7, &kvm_cpuid_entry2::ecx, 2}.
struct CpuidBit {
  const char* name;
  std::uint32_t leaf;
  __u32 kvm_cpuid_entry2::*word;
  unsigned bit;
};

class KvmTest : public ::testing::Test {
 protected:
  void SetUp() override;
  [[nodiscard]] const vmm::KvmDevice& device() const { return *device_; }
  // Skips the calling test when the capability is 0: call it as `if (Lacks(...)) return;`.
  [[nodiscard]] bool Lacks(int capability, const char* name) const;
  // Likewise a feature that KVM_GET_SUPPORTED_CPUID does not have; of leaves with sub-leaves, in the first.
  [[nodiscard]] bool Has(const CpuidBit& feature) const;
  [[nodiscard]] bool Lacks(const CpuidBit& feature) const;

 private:
  std::optional<vmm::KvmDevice> device_;
};

class VmTest : public KvmTest {
 protected:
  void SetUp() override;
  [[nodiscard]] vmm::Vm& vm() { return *vm_; }

  // Private memory of this process, zero, freed with the test; page-aligned.
  std::span<std::byte> HostMemory(std::size_t bytes);

  // KVM_SET_USER_MEMORY_REGION as it is; the errno.
  int SetSlot(std::uint32_t slot, std::uint64_t guest_physical, std::uint64_t bytes, const void* host,
              std::uint32_t flags = 0);

 private:
  std::optional<vmm::Vm> vm_;
};

// A VM with one vCPU, in the state after reset and without memory.
class VcpuTest : public VmTest {
 protected:
  void SetUp() override;
  // What must be done to the VM before its first vCPU: an interrupt chip, a capability. May fail the test.
  virtual void PrepareVm() {}

  // Until the next exit. A guest that does not leave within the limit fails the test, and the exit is InterruptedExit.
  vmm::Exit Run(std::chrono::milliseconds limit = std::chrono::seconds(2));

  // Run(), which must end in an exit of that kind; else the test fails (or is skipped, when the host's emulator says
  // that it has no such instruction) and the result is empty.
  template <typename Wanted>
  std::optional<Wanted> RunTo(std::chrono::milliseconds limit = std::chrono::seconds(2)) {
    vmm::Exit exit = Run(limit);
    if (auto* wanted = std::get_if<Wanted>(&exit)) return std::move(*wanted);
    Complain(exit);
    return std::nullopt;
  }

  [[nodiscard]] vmm::Vcpu& vcpu() { return *vcpu_; }
  static void Complain(const vmm::Exit& exit);

 private:
  std::optional<vmm::Vcpu> vcpu_;
};

// One vCPU in real mode at kEntry, in 64 KiB of memory at 0. Its code is given as bytes, with the instructions beside.
class GuestTest : public VcpuTest {
 protected:
  static constexpr std::uint64_t kMemoryBytes = 0x10000;
  static constexpr std::uint16_t kEntry = 0x1000;
  static constexpr std::uint16_t kStackTop = 0x8000;
  static constexpr std::uint32_t kSlot = 0;

  void SetUp() override;
  void Load(std::initializer_list<int> code, std::uint16_t at = kEntry);

  [[nodiscard]] std::span<std::byte> memory() const { return memory_; }

 private:
  std::span<std::byte> memory_;
};

}  // namespace nestbench::conformance
