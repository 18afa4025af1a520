#include "second_vcpu.h"

#include <array>
#include <atomic>
#include <future>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <utility>

#include "nestbench/abi/address.h"
#include "nestbench/abi/x86.h"
#include "operations.h"
#include "prepare.h"

namespace nestbench::costs {
namespace {

using vmm::Fail;
using vmm::Result;

constexpr std::uint64_t kCode = 0xA'8000;
constexpr std::uint64_t kStackTop = 0xA'A000;
constexpr abi::VcpuId kSecond{1};

// Of the first one, taken on its thread.
struct FirstState {
  kvm_sregs sregs;
  vmm::CpuidPolicy cpuid;
};

Result<vmm::Vcpu> Create(const vmm::Vm& vm, FirstState first) {
  auto vcpu = vmm::Vcpu::Create(vm, kSecond);
  if (!vcpu) return Fail(std::move(vcpu.error()));
  first.cpuid.SetTopology(kSecond, 2);
  if (auto set = vcpu->SetCpuid(first.cpuid); !set) return Fail(std::move(set.error()));
  auto own = vcpu->GetSregs();
  if (!own) return Fail(std::move(own.error()));
  first.sregs.apic_base = own->apic_base;  // it is not the bootstrap processor
  kvm_regs regs = {};
  regs.rip = kCode;
  regs.rsp = kStackTop;
  regs.rflags = abi::x86::kRflagsReserved1;
  regs.rcx = abi::x86::X2apicMsr(abi::x86::kApicEndOfInterrupt);
  regs.r14 = kMovingPage;
  auto done = vcpu->SetSregs(first.sregs);
  if (done) done = vcpu->SetRegs(regs);
  if (done) done = EnableApic(*vcpu, Apic::kX2apic);
  // In place of INIT and SIPI.
  if (done) done = vcpu->SetMpState(KVM_MP_STATE_RUNNABLE);
  if (!done) return Fail(std::move(done.error()));
  return vcpu;
}

}  // namespace

struct SecondVcpu::State {
  std::atomic<bool> stopping = false;
  std::atomic<bool> kicked = false;
  mutable std::mutex mutex;
  std::string end;  // guarded by mutex
  std::optional<vmm::VcpuKicker> kicker;
  std::thread thread;

  void Run(vmm::Vcpu& vcpu) {
    while (!stopping) {
      auto exit = vcpu.Run();
      if (exit && std::holds_alternative<vmm::InterruptedExit>(*exit)) continue;
      const std::string text = exit ? vmm::ToString(*exit) : exit.error().ToString();
      const std::lock_guard lock(mutex);
      end = text.substr(0, text.find('\n'));
      return;
    }
  }
};

Result<std::unique_ptr<SecondVcpu>> SecondVcpu::Start(vmm::FlatMachine& machine) {
  // sti; hlt; mov rbx, [r14]; jmp to the start
  constexpr std::array<std::uint8_t, 7> kLoop = {0xFB, 0xF4, 0x49, 0x8B, 0x1E, 0xEB, 0xF9};
  const vmm::Vm& vm = machine.vm();
  auto written = vm.memory().WriteBytes(abi::GuestPhysAddr(kCode), std::as_bytes(std::span(kLoop)));
  if (!written) return Fail(std::move(written.error()));
  auto sregs = machine.vcpu().GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));
  auto cpuid = machine.vcpu().GetCpuid();
  if (!cpuid) return Fail(std::move(cpuid.error()));

  auto state = std::make_unique<State>();
  std::promise<Result<void>> promise;
  auto started = promise.get_future();
  // A vCPU belongs to the thread that creates it. `vm` and `promise` are used before this function returns only.
  state->thread =
      std::thread([own = state.get(), &vm, &promise, first = FirstState{*sregs, std::move(*cpuid)}]() mutable {
        auto vcpu = Create(vm, std::move(first));
        if (!vcpu) return promise.set_value(Fail(std::move(vcpu.error())));
        own->kicker = vcpu->Kicker();
        promise.set_value({});
        own->Run(*vcpu);
        // The kicker writes to the vCPU's page: it lives until nobody kicks any more.
        own->kicked.wait(false);
      });
  auto second = std::unique_ptr<SecondVcpu>(new SecondVcpu(std::move(state)));
  if (auto result = started.get(); !result) return Fail(std::move(result.error()));
  return second;
}

SecondVcpu::SecondVcpu(std::unique_ptr<State> state) : state_(std::move(state)) {}

SecondVcpu::~SecondVcpu() {
  state_->stopping = true;  // before the kick, behind which the thread looks at it
  if (state_->kicker) state_->kicker->Kick();
  state_->kicked = true;
  state_->kicked.notify_one();
  state_->thread.join();
}

std::string SecondVcpu::End() const {
  const std::lock_guard lock(state_->mutex);
  return state_->end;
}

}  // namespace nestbench::costs
