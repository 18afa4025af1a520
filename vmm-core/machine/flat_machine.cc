#include "nestbench/vmm/machine/flat_machine.h"

#include <fmt/format.h>
#include <time.h>

#include <utility>

#include "devices/doorbell/doorbell.h"
#include "devices/panic/panic.h"
#include "flat_state.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/base/mutant.h"
#include "nestbench/vmm/bus/bus.h"

namespace nestbench::vmm {
namespace {

using abi::GuestPhysAddr;

// A kick that falls between the look at immediate_exit and the sleep is noticed this much later.
constexpr long kSleepNs = 5'000'000;

// What a stub leaves on the stack, in words of `Word`, lowest address first.
template <typename Word>
struct StubFrame {
  Word vector;
  Word error_code;
  Word instruction_pointer;
  Word code_segment;
  Word flags;
};

template <typename Word>
std::optional<GuestException> ReadFrame(const GuestMemory& memory, std::uint64_t stack_pointer) {
  auto frame = memory.Read<StubFrame<Word>>(GuestPhysAddr(stack_pointer));
  if (!frame) return std::nullopt;
  return GuestException{static_cast<std::uint32_t>(frame->vector), frame->error_code, frame->instruction_pointer, 0};
}

Result<void> GiveCpuid(const KvmDevice& device, Vcpu& vcpu) {
  auto policy = device.SupportedCpuid();
  if (!policy) return Fail(std::move(policy.error()));
  // Kernel document "The Definitive KVM API Documentation", section "KVM_GET_SUPPORTED_CPUID": the TSC deadline is told
  // by its capability, since it needs KVM's local APIC.
  kvm_cpuid_entry2* features = policy->Find(1);
  if (features != nullptr && device.CheckCapability(KVM_CAP_TSC_DEADLINE_TIMER) > 0) {
    features->ecx |= abi::x86::kCpuid1EcxTscDeadline;
  }
  return vcpu.SetCpuid(*policy);
}

}  // namespace

struct FlatMachine::Board {
  Doorbell doorbell;
  PanicPort panic;
  PortBus ports;

  Result<void> Connect() {
    auto done = ports.Add(PortAddr(abi::kDoorbellPort), Doorbell::kSizeBytes, doorbell, "doorbell");
    if (done) done = ports.Add(PortAddr(abi::kPanicPort), PanicPort::kSizeBytes, panic, "panic port");
    return done;
  }
};

FlatMachine::FlatMachine(Vm vm, Vcpu vcpu, std::unique_ptr<Board> board, FlatMode mode)
    : vm_(std::move(vm)), vcpu_(std::move(vcpu)), board_(std::move(board)), mode_(mode) {}
FlatMachine::FlatMachine(FlatMachine&&) noexcept = default;
FlatMachine::~FlatMachine() = default;

Result<FlatMachine> FlatMachine::Create(const KvmDevice& device, std::span<const std::byte> binary, FlatMode mode,
                                        FlatMachineOptions options) {
  if (binary.size() <= kFlatEntry - kFlatCodeBase || binary.size() > kFlatCodeMaxBytes) {
    return Fail(Error::InvalidArgument(
        "create flat machine", fmt::format("a binary of {} bytes: more than {} and at most {} fit", binary.size(),
                                           kFlatEntry - kFlatCodeBase, kFlatCodeMaxBytes)));
  }
  auto vm = Vm::Create(device);
  if (!vm) return Fail(std::move(vm.error()));
  auto region = MemoryRegion::Create({GuestPhysAddr(0), kFlatMemoryBytes}, {});
  if (!region) return Fail(std::move(region.error()));
  if (auto slot = vm->AddMemory(std::move(*region)); !slot) return Fail(std::move(slot.error()));
  const GuestMemory& memory = vm->memory();
  if (auto written = memory.WriteBytes(GuestPhysAddr(kFlatCodeBase), binary); !written) {
    return Fail(std::move(written.error()));
  }
  if (auto written = internal::WriteFlatTables(memory, mode); !written) return Fail(std::move(written.error()));
  auto mailbox = memory.Slice(GuestPhysAddr(kFlatMailboxBase), abi::kMailboxBytes);
  if (!mailbox) return Fail(std::move(mailbox.error()));

  if (options.with_interrupt_chip) {
    if (auto created = vm->CreateIrqChip(); !created) return Fail(std::move(created.error()));
  }
  auto vcpu = Vcpu::Create(*vm, abi::VcpuId{0});
  if (!vcpu) return Fail(std::move(vcpu.error()));
  if (options.with_cpuid) {
    if (auto given = GiveCpuid(device, *vcpu); !given) return Fail(std::move(given.error()));
  }
  if (auto entered = internal::EnterFlatMode(*vcpu, mode); !entered) return Fail(std::move(entered.error()));
  auto board = std::make_unique<Board>();
  if (auto connected = board->Connect(); !connected) return Fail(std::move(connected.error()));
  FlatMachine machine(std::move(*vm), std::move(*vcpu), std::move(board), mode);
  machine.mailbox_ = *mailbox;
  return machine;
}

Result<Stop> FlatMachine::RunUntilStop() {
  const std::uint64_t rings_before = board_->doorbell.rings();
  for (;;) {
    if (auto offered = OfferInterrupt(); !offered) return Fail(std::move(offered.error()));
    if (halted_) {
      SleepUntilKicked();
      return StopForGood(InterruptedExit{});
    }
    auto entered = vcpu_.Enter();
    if (!entered) return Fail(std::move(entered.error()));
    if (!*entered) return StopForGood(InterruptedExit{});
    switch (vcpu_.run()->exit_reason) {
      case KVM_EXIT_IO: {
        const IoExit io = vcpu_.LastIoExit();
        // String instructions move `count` items of one width through one port, one after the other.
        for (std::size_t offset = 0; offset < io.data.size(); offset += io.width_bytes) {
          const auto item = io.data.subspan(offset, io.width_bytes);
          const auto status =
              io.is_write ? board_->ports.Write(PortAddr(io.port), item) : board_->ports.Read(PortAddr(io.port), item);
          CountAccess(status != AccessStatus::kOk);
        }
        if (board_->panic.count() != 0) return DescribeException();
        if (board_->doorbell.rings() != rings_before) return Stop{StopReason::kDoorbell, {}};
        break;
      }
      case KVM_EXIT_MMIO: {
        const MmioExit mmio = vcpu_.LastMmioExit();
        if (!mmio.is_write) (void)FailRead(mmio.data, AccessStatus::kUnclaimed);
        CountAccess(true);
        break;
      }
      case KVM_EXIT_X86_RDMSR:
      case KVM_EXIT_X86_WRMSR:
        vcpu_.run()->msr.data = 0;
        vcpu_.run()->msr.error = 0;
        CountAccess(true);
        break;
      case KVM_EXIT_HLT:
        ++traffic_.halts;
        halted_ = true;
        break;
      case KVM_EXIT_IRQ_WINDOW_OPEN:
        break;
      default:
        return StopForGood(vcpu_.LastExit());
    }
  }
}

// Without an in-kernel interrupt controller the vCPU says whether it takes an interrupt now, and leaves when it will.
// Kernel document "The Definitive KVM API Documentation", section "The kvm_run structure".
Result<void> FlatMachine::OfferInterrupt() {
  kvm_run* run = vcpu_.run();
  run->request_interrupt_window = held_interrupt_ ? 1 : 0;
  if (!held_interrupt_ || run->ready_for_interrupt_injection == 0 || run->if_flag == 0) return {};
  if (!Mutated("interrupt-counted-not-injected")) {
    if (auto injected = vcpu_.InjectInterrupt(*held_interrupt_); !injected) return injected;
  }
  run->ready_for_interrupt_injection = 0;  // until KVM says so again
  ++traffic_.interrupts;
  halted_ = false;
  return {};
}

// A kick sets immediate_exit and sends a signal, which ends the sleep. The interrupt line cannot change meanwhile: it
// is this thread that changes it.
void FlatMachine::SleepUntilKicked() {
  constexpr timespec kPause = {.tv_sec = 0, .tv_nsec = kSleepNs};
  while (__atomic_exchange_n(&vcpu_.run()->immediate_exit, 0, __ATOMIC_SEQ_CST) == 0) ::nanosleep(&kPause, nullptr);
}

void FlatMachine::CountAccess(bool is_refused) {
  ++traffic_.accesses;
  if (is_refused) ++traffic_.refused;
}

Stop FlatMachine::StopForGood(const Exit& exit) const {
  if (std::holds_alternative<InterruptedExit>(exit)) return {StopReason::kInterrupted, "interrupted"};
  const bool crashed = std::holds_alternative<ShutdownExit>(exit) || std::holds_alternative<FailEntryExit>(exit) ||
                       std::holds_alternative<InternalErrorExit>(exit);
  return {.reason = crashed ? StopReason::kCrashed : StopReason::kUnexpected,
          .text = ToString(exit),
          .exit_reason = vcpu_.run()->exit_reason};
}

Stop FlatMachine::DescribeException() const {
  const VcpuSnapshot snapshot = vcpu_.Snapshot();
  Stop stop = {StopReason::kException, "guest exception"};
  if (snapshot.regs) {
    // The stack pointer is the guest's word: an address outside memory just means no frame.
    switch (mode_) {
      case FlatMode::kReal16:
        stop.exception = ReadFrame<std::uint16_t>(vm_.memory(), snapshot.regs->rsp & 0xFFFF);
        break;
      case FlatMode::kProtected32:
        stop.exception = ReadFrame<std::uint32_t>(vm_.memory(), snapshot.regs->rsp);
        break;
      case FlatMode::kSupervisor64:
        stop.exception = ReadFrame<std::uint64_t>(vm_.memory(), snapshot.regs->rsp);
        break;
    }
  }
  if (stop.exception) {
    stop.exception->cr2 = snapshot.sregs ? snapshot.sregs->cr2 : 0;
    stop.text += fmt::format(", vector {}, error code {:#x}, rip {:#x}, cr2 {:#x}", stop.exception->vector,
                             stop.exception->error_code, stop.exception->instruction_pointer, stop.exception->cr2);
  }
  stop.text += fmt::format("\n{}", ToString(snapshot));
  return stop;
}

}  // namespace nestbench::vmm
