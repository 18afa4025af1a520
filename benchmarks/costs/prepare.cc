#include "prepare.h"

#include <array>
#include <cstring>
#include <span>

#include "nestbench/abi/address.h"
#include "nestbench/abi/x86.h"

namespace nestbench::costs {
namespace {

using namespace abi::x86;
using abi::GuestPhysAddr;
using vmm::Error;
using vmm::Fail;
using vmm::Result;

constexpr std::uint64_t kDirectory = 0xA'2000;          // over kPageTable
constexpr std::uint64_t kDirectoryPointers = 0xA'3000;  // over kDirectory
constexpr std::uint64_t kUserCode = 0xA'5000;

// STAR: SYSCALL loads CS from bits 47:32 and SS from the next selector. SYSRETQ takes bits 63:48 for SS + 8 and CS +
// 16, at CPL3, and looks at no descriptor; nothing loads them again, with interrupts off.
constexpr std::uint64_t kSyscallSelectors = 0x08ULL << 32 | 0x13ULL << 48;

Result<void> Check(const vmm::KvmDevice& device, const Operation& operation) {
  if (operation.has_user_msrs && device.CheckCapability(KVM_CAP_X86_USER_SPACE_MSR) <= 0) {
    return Fail(Error::Unsupported("let MSRs leave", "this KVM has no KVM_CAP_X86_USER_SPACE_MSR"));
  }
  if (operation.needs_tsc_deadline && device.CheckCapability(KVM_CAP_TSC_DEADLINE_TIMER) <= 0) {
    return Fail(Error::Unsupported("arm the local APIC's timer", "this KVM has no KVM_CAP_TSC_DEADLINE_TIMER"));
  }
  if (operation.apic == Apic::kNone) return {};
  if (device.CheckCapability(KVM_CAP_IRQCHIP) <= 0) {
    return Fail(Error::Unsupported("create interrupt controllers", "this KVM has no KVM_CAP_IRQCHIP"));
  }
  auto policy = device.SupportedCpuid();
  if (!policy) return Fail(std::move(policy.error()));
  const kvm_cpuid_entry2* features = policy->Find(1);
  const bool has_x2apic = features != nullptr && (features->ecx & kCpuid1EcxX2apic) != 0;
  if (operation.apic == Apic::kX2apic && !has_x2apic) {
    return Fail(Error::Unsupported("enable the local APIC", "this KVM offers its guests no x2APIC"));
  }
  return {};
}

Result<void> WriteSmallPages(const vmm::GuestMemory& memory, Bytes user_code) {
  constexpr std::uint64_t kAll = kPtePresent | kPteWritable | kPteUser;
  struct Write {
    std::uint64_t address;
    std::uint64_t value;
  };
  constexpr auto kWrites = std::to_array<Write>({
      {vmm::kFlatPageTablesBase + 8, kDirectoryPointers | kAll},  // entry 1 of the first level: kUserPage
      {kDirectoryPointers, kDirectory | kAll},
      {kDirectory, kPageTable | kAll},
      {kPageTable, kUserCode | kPtePresent | kPteUser},
      {kPageTable + 8, kFirstPage | kPtePresent | kPteWritable},
      {kFirstPage, 0},
      {kSecondPage, 2},
  });
  for (const Write& write : kWrites) {
    if (auto done = memory.Write(GuestPhysAddr(write.address), write.value); !done) return done;
  }
  return memory.WriteBytes(GuestPhysAddr(kUserCode), std::as_bytes(user_code));
}

Result<void> EnableSyscall(vmm::Vcpu& vcpu) {
  auto sregs = vcpu.GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));
  sregs->efer |= kEferSyscall;
  auto done = vcpu.SetSregs(*sregs);
  if (done) done = vcpu.WriteMsr(kMsrStar, kSyscallSelectors);
  if (done) done = vcpu.WriteMsr(kMsrLstar, vmm::kFlatCodeBase + std::uint64_t{kFreeVector} * vmm::kFlatStubBytes);
  return done;
}

Result<void> LetMsrsLeave(vmm::Vm& vm) {
  const std::uint64_t reasons = KVM_MSR_EXIT_REASON_UNKNOWN;
  return vm.EnableCapability(KVM_CAP_X86_USER_SPACE_MSR, {&reasons, 1});
}

}  // namespace

// AMD APM, section "Task Priority and Processor Priority": a local APIC that software has not enabled takes no
// interrupt but NMI, SMI and INIT.
Result<void> EnableApic(vmm::Vcpu& vcpu, Apic mode) {
  if (mode == Apic::kX2apic) {
    auto sregs = vcpu.GetSregs();
    if (!sregs) return Fail(std::move(sregs.error()));
    sregs->apic_base |= kApicBaseX2apic;
    if (auto set = vcpu.SetSregs(*sregs); !set) return set;
  }
  auto state = vcpu.GetLapic();
  if (!state) return Fail(std::move(state.error()));
  constexpr std::uint32_t kEnabled = kApicSoftwareEnable | kApicSpuriousVector;
  std::memcpy(state->regs + kApicSpuriousInterrupt, &kEnabled, sizeof(kEnabled));
  return vcpu.SetLapic(*state);
}

Result<vmm::FlatMachineOptions> MachineOptions(const vmm::KvmDevice& device, const Operation& operation) {
  if (auto can = Check(device, operation); !can) return Fail(std::move(can.error()));
  const bool has_apic = operation.apic != Apic::kNone;
  const bool has_level2 = operation.level2 != Level2::kNone;
  return vmm::FlatMachineOptions{.with_interrupt_chip = has_apic,
                                 .with_cpuid = has_apic || has_level2 || !operation.user_code.empty()};
}

Result<void> Prepare(vmm::FlatMachine& machine, const Operation& operation) {
  Result<void> done;
  if (operation.apic != Apic::kNone) done = EnableApic(machine.vcpu(), operation.apic);
  if (done && operation.has_user_msrs) done = LetMsrsLeave(machine.vm());
  if (done && operation.has_small_pages) done = WriteSmallPages(machine.vm().memory(), operation.user_code);
  if (done && !operation.user_code.empty()) done = EnableSyscall(machine.vcpu());
  return done;
}

}  // namespace nestbench::costs
