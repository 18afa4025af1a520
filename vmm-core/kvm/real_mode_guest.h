// A 16-bit real-mode guest for this layer's tests: the least state in which KVM runs code. Test code only.
#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"

namespace nestbench::vmm::testing {

inline constexpr std::uint64_t kCodeAddress = 0x1000;
inline constexpr std::uint64_t kMemoryBytes = 1ULL << 20;

// Skips the calling test, with the reason, where there is no usable /dev/kvm. (A name that is declared cannot stand in
// parentheses.)
// NOLINTBEGIN(bugprone-macro-parentheses)
#define NESTBENCH_REQUIRE_KVM(device)                \
  auto device = ::nestbench::vmm::KvmDevice::Open(); \
  if (!(device)) GTEST_SKIP() << (device).error().ToString()
// NOLINTEND(bugprone-macro-parentheses)

// Fails the calling test with the error's text.
#define ASSERT_OK(expression)                                             \
  do {                                                                    \
    const auto& nestbench_result = (expression);                          \
    ASSERT_TRUE(nestbench_result) << nestbench_result.error().ToString(); \
  } while (false)

inline Result<void> LoadCode(const Vm& vm, std::initializer_list<int> code, std::uint64_t address = kCodeAddress) {
  std::vector<std::byte> bytes;
  for (const int value : code) bytes.push_back(static_cast<std::byte>(value));
  return vm.memory().WriteBytes(abi::GuestPhysAddr(address), bytes);
}

// Points a fresh vCPU at `address` in real mode, with flat segments from 0 and a stack below the code.
inline Result<void> EnterRealMode(Vcpu& vcpu, std::uint64_t address = kCodeAddress) {
  auto sregs = vcpu.GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));
  for (kvm_segment* segment : {&sregs->cs, &sregs->ds, &sregs->es, &sregs->ss}) {
    segment->base = 0;
    segment->selector = 0;
  }
  if (auto set = vcpu.SetSregs(*sregs); !set) return set;
  kvm_regs regs = {};
  regs.rip = address;
  regs.rsp = kCodeAddress;
  regs.rflags = 2;
  return vcpu.SetRegs(regs);
}

// A VM with 1 MiB at 0 that holds `code`, without a vCPU yet.
inline Result<Vm> CreateVmWithCode(const KvmDevice& device, std::initializer_list<int> code, bool log_dirty = false) {
  auto vm = Vm::Create(device);
  if (!vm) return vm;
  auto region = MemoryRegion::Create({abi::GuestPhysAddr(0), kMemoryBytes}, {});
  if (!region) return Fail(std::move(region.error()));
  if (auto slot = vm->AddMemory(std::move(*region), log_dirty); !slot) return Fail(std::move(slot.error()));
  if (auto loaded = LoadCode(*vm, code); !loaded) return Fail(std::move(loaded.error()));
  return vm;
}

inline constexpr abi::VcpuId kFirst{0};
inline constexpr std::initializer_list<int> kSpin = {0xEB, 0xFE};  // jmp $
inline constexpr std::initializer_list<int> kHalt = {0xF4};

// A guest of one vCPU, ready to run `code`; the deadline keeps a wrong test from hanging.
class Guest {
 public:
  static Result<Guest> Create(const KvmDevice& device, std::initializer_list<int> code, bool log_dirty = false) {
    auto vm = CreateVmWithCode(device, code, log_dirty);
    if (!vm) return Fail(std::move(vm.error()));
    auto vcpu = Vcpu::Create(*vm, kFirst);
    if (!vcpu) return Fail(std::move(vcpu.error()));
    if (auto entered = EnterRealMode(*vcpu); !entered) return Fail(std::move(entered.error()));
    return Guest(std::move(*vm), std::move(*vcpu));
  }
  Result<Exit> Run() {
    auto deadline = RunDeadline::Start(vcpu, std::chrono::seconds(5));
    if (!deadline) return Fail(std::move(deadline.error()));
    return vcpu.Run();
  }

  Vm vm;
  Vcpu vcpu;

 private:
  Guest(Vm v, Vcpu c) : vm(std::move(v)), vcpu(std::move(c)) {}
};

}  // namespace nestbench::vmm::testing
