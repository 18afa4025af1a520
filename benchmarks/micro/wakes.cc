// What: how fast a vCPU answers another thread. Unit: ns for each, lower is better. `vm`: vmm-core. `floor`: raw
// ioctls.
//   kick        from another thread's kick to the return of KVM_RUN, the guest spinning at CPL3
//   irqfd_wake  from another thread's write to an irqfd to the guest's first exit, its vCPU halted in the kernel and
//   its
//               thread asleep; the guest's interrupt handler is three instructions in real mode
//   irq_line_wake  the same without the irqfd: the other thread raises the line by KVM_IRQ_LINE
// Timer: CLOCK_MONOTONIC_RAW, read by the other thread directly before it acts and by this one when KVM_RUN has
// returned (manual time); it is one clock on all CPUs. Left out: getting the guest to spin or halt again. The other
// thread has a CPU of its own.
#include <fmt/format.h>
#include <sys/eventfd.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "code_image.h"
#include "guest.h"
#include "helper.h"
#include "nestbench/vmm/base/clock.h"
#include "nestbench/vmm/base/unique_fd.h"
#include "timing.h"

namespace nestbench::micro {
namespace {

using abi::GuestPhysAddr;
using benchmark::State;

// Beyond the mailbox structure, in the page that both can write.
constexpr std::uint64_t kCounterOffset = 0x800;
static_assert(sizeof(abi::Mailbox) <= kCounterOffset && abi::kMailboxBase == 0x0F00'0000);

int ThisThread() { return static_cast<int>(::syscall(SYS_gettid)); }

void SetTimeSince(State& state, std::uint64_t begin_ns, std::uint64_t end_ns) {
  state.SetIterationTime(static_cast<double>(end_ns - begin_ns) * 1e-9);
}

template <typename Guest>
void Kick(State& state, Environment& environment) {
  const int helper_cpu = environment.helper_cpu();
  Guest guest(environment, MakeCodeImage({0xB9, 0x00, 0x08, 0x00, 0x0F,  // mov ecx, kMailboxBase + kCounterOffset
                                          0x48, 0xFF, 0x01,              // 1: inc qword [rcx]
                                          0xEB, 0xFB}));                 // jmp 1b
  const auto* counter = reinterpret_cast<const std::uint64_t*>(guest.mailbox() + kCounterOffset);
  std::uint64_t before = 0;  // written while the helper waits to be asked
  Helper helper(
      helper_cpu, [counter, &before] { return __atomic_load_n(counter, __ATOMIC_RELAXED) != before; }, guest.Kicker());
  for (auto _ : state) {
    const auto deadline = guest.StartDeadline();
    before = __atomic_load_n(counter, __ATOMIC_RELAXED);
    helper.Ask();
    const bool kicked = guest.RunUntilKicked();
    const std::uint64_t end_ns = vmm::MonotonicRawNs();
    if (!kicked) throw Broken{fmt::format("the guest did not spin: {}", guest.Why())};
    if (helper.ActedAtNs() == 0) throw Broken("the guest was not seen to spin in time");
    SetTimeSince(state, helper.ActedAtNs(), end_ns);
  }
}

// Real mode: programs the interrupt controller (vector base 8, only IRQ 4 open, automatic end of interrupt), then halts
// for ever. Source: Intel 8259A data sheet, section "Initialization Command Words".
constexpr std::uint64_t kCodeAddress = 0x1000;
constexpr std::uint64_t kHandlerAddress = 0x1100;
constexpr std::uint64_t kVectorAddress = 12 * 4;  // vector base 8 + IRQ 4, in the real-mode vector table
constexpr std::uint32_t kGsi = 4;
constexpr std::uint64_t kMemoryBytes = 1ULL << 20;
constexpr std::array<std::uint8_t, 24> kHaltingCode = {
    0xB0, 0x11, 0xE6, 0x20,                          // mov al, 0x11; out 0x20, al (ICW1)
    0xB0, 0x08, 0xE6, 0x21,                          // ICW2: vector base 8
    0xB0, 0x04, 0xE6, 0x21,                          // ICW3
    0xB0, 0x03, 0xE6, 0x21,                          // ICW4: 8086 mode, automatic end of interrupt
    0xB0, 0xEF, 0xE6, 0x21, 0xFB, 0xF4, 0xEB, 0xFD,  // OCW1; sti; 1: hlt; jmp 1b
};
constexpr std::array<std::uint8_t, 6> kHandlerCode = {0xBA, 0x20, 0x0B, 0x66, 0xEF, 0xCF};  // out 0xB20, eax; iret
constexpr std::uint32_t kHandlerVector = kHandlerAddress;                                   // segment 0

class LibraryHaltingGuest {
 public:
  static constexpr const char* kSubstrate = LibraryGuest::kSubstrate;

  LibraryHaltingGuest(Environment& environment, int eventfd) : vm_(Take(vmm::Vm::Create(environment.device()))) {
    Take(vm_.AddMemory(Take(vmm::MemoryRegion::Create({GuestPhysAddr(0), kMemoryBytes}, {}))));
    Take(vm_.memory().Write(GuestPhysAddr(kCodeAddress), kHaltingCode));
    Take(vm_.memory().Write(GuestPhysAddr(kHandlerAddress), kHandlerCode));
    Take(vm_.memory().Write(GuestPhysAddr(kVectorAddress), kHandlerVector));
    Take(vm_.CreateIrqChip());
    vcpu_.emplace(Take(vmm::Vcpu::Create(vm_, abi::VcpuId{0})));
    kvm_sregs sregs = Take(vcpu_->GetSregs());
    for (kvm_segment* segment : {&sregs.cs, &sregs.ds, &sregs.es, &sregs.ss}) segment->base = segment->selector = 0;
    Take(vcpu_->SetSregs(sregs));
    kvm_regs regs = {};
    regs.rip = regs.rsp = kCodeAddress;
    regs.rflags = 2;
    Take(vcpu_->SetRegs(regs));
    Take(vm_.AttachIrqFd(eventfd, kGsi));
  }

  [[nodiscard]] vmm::RunDeadline StartDeadline() { return Take(vmm::RunDeadline::Start(*vcpu_, kGuestLimit)); }

  [[nodiscard]] bool RunToExit() {
    auto exit = vcpu_->Run();
    if (!exit) {
      why_ = exit.error().ToString();
      return false;
    }
    const auto* io = std::get_if<vmm::IoExit>(&*exit);
    if (io != nullptr && io->is_write && io->port == abi::kDoorbellPort) return true;
    why_ = vmm::ToString(*exit);
    return false;
  }
  [[nodiscard]] const std::string& Why() const { return why_; }
  void SetLine(bool level) { Take(vm_.SetIrqLine(kGsi, level)); }

 private:
  vmm::Vm vm_;
  std::optional<vmm::Vcpu> vcpu_;
  std::string why_;
};

class FloorHaltingGuest {
 public:
  static constexpr const char* kSubstrate = FloorGuest::kSubstrate;

  FloorHaltingGuest(Environment& environment, int eventfd) : vm_(environment.raw_kvm()) {
    std::byte* memory = vm_.AddMemory(0, 0, kMemoryBytes);
    std::memcpy(memory + kCodeAddress, kHaltingCode.data(), kHaltingCode.size());
    std::memcpy(memory + kHandlerAddress, kHandlerCode.data(), kHandlerCode.size());
    std::memcpy(memory + kVectorAddress, &kHandlerVector, sizeof(kHandlerVector));
    floor::RawIoctl(vm_.fd(), KVM_CREATE_IRQCHIP, 0UL, "KVM_CREATE_IRQCHIP");
    vm_.CreateVcpu();
    vm_.EnterRealMode(kCodeAddress);
    kvm_irqfd irqfd = {};
    irqfd.fd = static_cast<std::uint32_t>(eventfd);
    irqfd.gsi = kGsi;
    floor::RawIoctl(vm_.fd(), KVM_IRQFD, &irqfd, "KVM_IRQFD");
  }

  [[nodiscard]] floor::RawAlarm StartDeadline() { return {vm_.run(), kGuestLimit}; }
  [[nodiscard]] bool RunToExit() { return vm_.RunToPortWrite(abi::kDoorbellPort); }
  [[nodiscard]] std::string Why() const { return vm_.DescribeLastExit(); }
  void SetLine(bool level) {
    kvm_irq_level line = {};
    line.irq = kGsi;
    line.level = level ? 1 : 0;
    floor::RawIoctl(vm_.fd(), KVM_IRQ_LINE, &line, "KVM_IRQ_LINE");
  }

 private:
  floor::RawVm vm_;
};

enum class Wake { kIrqFd, kIrqLine };

template <typename Guest, Wake kWake>
void WakeHalted(State& state, Environment& environment) {
  const int helper_cpu = environment.helper_cpu();
  environment.device();
  const vmm::UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) throw Broken(vmm::Error::System("eventfd", errno).ToString());
  Guest guest(environment, event.get());
  const SleepProbe halted(ThisThread());
  const auto wake = [&] {
    if constexpr (kWake == Wake::kIrqFd) {
      ::eventfd_write(event.get(), 1);
    } else {
      guest.SetLine(true);
    }
  };
  Helper helper(
      helper_cpu, [&halted] { return halted.IsAsleep(); }, wake);
  for (auto _ : state) {
    const auto deadline = guest.StartDeadline();
    helper.Ask();
    const bool left = guest.RunToExit();
    const std::uint64_t end_ns = vmm::MonotonicRawNs();
    if (!left) throw Broken{fmt::format("the guest did not take its interrupt: {}", guest.Why())};
    if (helper.ActedAtNs() == 0) throw Broken("the guest left before it was interrupted");
    if constexpr (kWake == Wake::kIrqLine) guest.SetLine(false);  // the next rise is an edge again
    SetTimeSince(state, helper.ActedAtNs(), end_ns);
  }
}

template <typename Body>
void Add(Environment& environment, const char* workload, const char* substrate, Body body) {
  Register(std::string("lifecycle/") + workload + "/" + substrate, Timer::kManual,
           [&environment, body](State& state) { body(state, environment); });
}

}  // namespace

void RegisterWakes(Environment& environment) {
  Add(environment, "kick", LibraryGuest::kSubstrate, Kick<LibraryGuest>);
  Add(environment, "kick", FloorGuest::kSubstrate, Kick<FloorGuest>);
  Add(environment, "irqfd_wake", LibraryHaltingGuest::kSubstrate, WakeHalted<LibraryHaltingGuest, Wake::kIrqFd>);
  Add(environment, "irqfd_wake", FloorHaltingGuest::kSubstrate, WakeHalted<FloorHaltingGuest, Wake::kIrqFd>);
  Add(environment, "irq_line_wake", LibraryHaltingGuest::kSubstrate, WakeHalted<LibraryHaltingGuest, Wake::kIrqLine>);
  Add(environment, "irq_line_wake", FloorHaltingGuest::kSubstrate, WakeHalted<FloorHaltingGuest, Wake::kIrqLine>);
}

}  // namespace nestbench::micro
