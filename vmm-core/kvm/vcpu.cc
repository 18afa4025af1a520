// Creation, Run() and the decoding of exits. State access is in vcpu_state.cc.
#include "nestbench/vmm/kvm/vcpu.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "ioctl.h"
#include "nestbench/abi/layout.h"
#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm {
namespace {

// Exits that Debian 12's headers (Linux 6.1) do not name. Kernel document "The Definitive KVM API Documentation",
// section "The kvm_run structure".
constexpr std::uint32_t kExitMemoryFault = 39;
struct MemoryFaultData {
  std::uint64_t flags;
  std::uint64_t address;
  std::uint64_t size_bytes;
};

// Bit 0 of the flags of KVM_INTERNAL_ERROR_EMULATION: instruction bytes follow.
constexpr std::uint64_t kEmulationHasInstruction = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
constexpr std::size_t kLegacyXsaveBytes = sizeof(kvm_xsave);

InternalErrorExit DecodeInternalError(const kvm_run& run, std::unique_ptr<VcpuSnapshot> snapshot) {
  InternalErrorExit exit;
  exit.suberror = run.internal.suberror;
  const std::uint32_t words = std::min<std::uint32_t>(run.internal.ndata, std::size(run.internal.data));
  exit.data.assign(run.internal.data, run.internal.data + words);
  if (exit.suberror == KVM_INTERNAL_ERROR_EMULATION && words >= 1 &&
      (run.emulation_failure.flags & kEmulationHasInstruction) != 0) {
    const auto& failure = run.emulation_failure;
    const std::size_t size = std::min<std::size_t>(failure.insn_size, sizeof(failure.insn_bytes));
    const auto* bytes = reinterpret_cast<const std::byte*>(failure.insn_bytes);
    exit.instruction.assign(bytes, bytes + size);
  }
  exit.snapshot = std::move(snapshot);
  return exit;
}

}  // namespace

Result<Vcpu> Vcpu::Create(const Vm& vm, abi::VcpuId id) {
  if (auto installed = InstallKickHandler(); !installed) return Fail(std::move(installed.error()));
  const auto number = static_cast<std::uint32_t>(id);
  auto fd = internal::Call(vm.fd(), NESTBENCH_KVM_REQUEST(KVM_CREATE_VCPU), number,
                           [&] { return fmt::format("vCPU {}", number); });
  if (!fd) return Fail(std::move(fd.error()));
  UniqueFd owned(*fd);
  void* base = ::mmap(nullptr, vm.vcpu_mmap_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, owned.get(), 0);
  if (base == MAP_FAILED) return Fail(Error::System("mmap", errno, fmt::format("kvm_run of vCPU {}", number)));
  Vcpu vcpu(std::move(owned), {static_cast<std::byte*>(base), vm.vcpu_mmap_bytes()}, vm, id);

  if (vm.dirty_ring_entries() != 0) {
    const std::size_t ring_bytes = vm.dirty_ring_entries() * sizeof(kvm_dirty_gfn);
    void* ring = ::mmap(nullptr, ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu.fd_.get(),
                        static_cast<off_t>(KVM_DIRTY_LOG_PAGE_OFFSET * abi::kPageBytes));
    if (ring == MAP_FAILED) return Fail(Error::System("mmap", errno, fmt::format("dirty ring of vCPU {}", number)));
    vcpu.dirty_ring_ = {static_cast<kvm_dirty_gfn*>(ring), vm.dirty_ring_entries()};
  }
  return vcpu;
}

Vcpu::Vcpu(UniqueFd fd, std::span<std::byte> mapping, const Vm& vm, abi::VcpuId id)
    : fd_(std::move(fd)),
      mapping_(mapping),
      run_(reinterpret_cast<kvm_run*>(mapping.data())),
      memory_(&vm.memory()),
      id_(id),
      xsave_bytes_(std::max(kLegacyXsaveBytes, static_cast<std::size_t>(vm.CheckCapability(KVM_CAP_XSAVE2)))) {}

Vcpu::Vcpu(Vcpu&& other) noexcept
    : fd_(std::move(other.fd_)),
      mapping_(std::exchange(other.mapping_, {})),
      run_(other.run_),
      memory_(other.memory_),
      id_(other.id_),
      dirty_ring_(std::exchange(other.dirty_ring_, {})),
      dirty_ring_next_(other.dirty_ring_next_),
      xsave_bytes_(other.xsave_bytes_) {}

Vcpu::~Vcpu() {
  if (!dirty_ring_.empty()) ::munmap(dirty_ring_.data(), dirty_ring_.size_bytes());
  if (!mapping_.empty()) ::munmap(mapping_.data(), mapping_.size());
}

VcpuKicker Vcpu::Kicker() const { return {run_, static_cast<pid_t>(::syscall(SYS_gettid))}; }

[[gnu::hot]] Result<bool> Vcpu::Enter() {
  if (::ioctl(fd_.get(), KVM_RUN, 0) != 0) {
    if (errno == EINTR) {
      __atomic_store_n(&run_->immediate_exit, 0, __ATOMIC_SEQ_CST);
      return false;
    }
    // EFAULT with KVM_EXIT_MEMORY_FAULT describes itself; EAGAIN: a vCPU that INIT left waiting.
    if (!(errno == EFAULT && run_->exit_reason == kExitMemoryFault)) {
      return Fail(Error::System("KVM_RUN", errno, fmt::format("vCPU {}", static_cast<std::uint32_t>(id_))));
    }
  }
  return true;
}

Result<Exit> Vcpu::Run() {
  auto entered = Enter();
  if (!entered) return Fail(std::move(entered.error()));
  if (!*entered) return InterruptedExit{};
  return LastExit();
}

Exit Vcpu::LastExit() {
  switch (run_->exit_reason) {
    case KVM_EXIT_IO: {
      IoExit exit = LastIoExit();
      if (Mutated("pio-first-item-only")) exit.data = exit.data.first(exit.width_bytes);
      return exit;
    }
    case KVM_EXIT_MMIO: {
      MmioExit exit = LastMmioExit();
      if (Mutated("mmio-width-lost")) exit.data = exit.data.first(1);
      return exit;
    }
    case KVM_EXIT_HLT:
      return HaltExit{};
    default:
      return DecodeRareExit();
  }
}

Exit Vcpu::DecodeRareExit() {
  const kvm_run& run = *run_;
  const auto snapshot = [this] { return std::make_unique<VcpuSnapshot>(Snapshot()); };
  switch (run.exit_reason) {
    case KVM_EXIT_UNKNOWN:
      return UnknownExit{run.hw.hardware_exit_reason};
    case KVM_EXIT_EXCEPTION:
      return ExceptionExit{run.ex.exception, run.ex.error_code};
    case KVM_EXIT_HYPERCALL: {
      HypercallExit exit;
      exit.number = run.hypercall.nr;
      std::copy(std::begin(run.hypercall.args), std::end(run.hypercall.args), exit.arguments.begin());
      return exit;
    }
    case KVM_EXIT_DEBUG:
      return DebugExit{run.debug.arch.exception, run.debug.arch.pc, run.debug.arch.dr6, run.debug.arch.dr7};
    case KVM_EXIT_IRQ_WINDOW_OPEN:
      return IrqWindowExit{};
    case KVM_EXIT_SHUTDOWN:
      return ShutdownExit{snapshot()};
    case KVM_EXIT_FAIL_ENTRY:
      return FailEntryExit{run.fail_entry.hardware_entry_failure_reason, run.fail_entry.cpu, snapshot()};
    case KVM_EXIT_INTR:
      return InterruptedExit{};
    case KVM_EXIT_SET_TPR:
      return SetTprExit{};
    case KVM_EXIT_TPR_ACCESS:
      return TprAccessExit{run.tpr_access.rip, run.tpr_access.is_write != 0};
    case KVM_EXIT_NMI:
      return NmiExit{};
    case KVM_EXIT_INTERNAL_ERROR:
      return DecodeInternalError(run, snapshot());
    case KVM_EXIT_WATCHDOG:
      return WatchdogExit{};
    case KVM_EXIT_EPR:
      return EprExit{};
    case KVM_EXIT_SYSTEM_EVENT: {
      SystemEventExit exit;
      exit.type = run.system_event.type;
      const std::uint32_t words = std::min<std::uint32_t>(run.system_event.ndata, std::size(run.system_event.data));
      exit.data.assign(run.system_event.data, run.system_event.data + words);
      return exit;
    }
    case KVM_EXIT_IOAPIC_EOI:
      return IoapicEoiExit{run.eoi.vector};
    case KVM_EXIT_HYPERV:
      return HypervExit{run.hyperv.type};
    case KVM_EXIT_XEN:
      return XenExit{run.xen.type};
    case KVM_EXIT_X86_RDMSR:
      return RdmsrExit{run.msr.index, run.msr.reason, &run_->msr.data, &run_->msr.error};
    case KVM_EXIT_X86_WRMSR:
      return WrmsrExit{run.msr.index, run.msr.reason, run.msr.data, &run_->msr.error};
    case KVM_EXIT_DIRTY_RING_FULL:
      return DirtyRingFullExit{};
    case KVM_EXIT_AP_RESET_HOLD:
      return ApResetHoldExit{};
    case KVM_EXIT_X86_BUS_LOCK:
      return BusLockExit{};
    case KVM_EXIT_NOTIFY:
      return NotifyExit{run.notify.flags};
    case kExitMemoryFault: {
      MemoryFaultData data = {};
      std::memcpy(&data, &run.hw, sizeof(data));
      return MemoryFaultExit{data.flags, {abi::GuestPhysAddr(data.address), data.size_bytes}};
    }
    default:
      return ForeignExit{run.exit_reason};
  }
}

Result<std::size_t> Vcpu::HarvestDirtyRing(std::span<DirtyPage> destination) {
  if (dirty_ring_.empty()) {
    return Fail(Error::Unsupported("harvest dirty ring", "the VM was made without EnableDirtyRing"));
  }
  // Kernel document, KVM_CAP_DIRTY_LOG_RING: the flags are read with acquire, and RESET is written with release, in
  // ring order; everything else in the entry is the kernel's.
  std::size_t taken = 0;
  while (taken < destination.size()) {
    kvm_dirty_gfn& entry = dirty_ring_[dirty_ring_next_ % dirty_ring_.size()];
    if ((__atomic_load_n(&entry.flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY) == 0) break;
    destination[taken++] = {entry.slot, entry.offset};
    if (!Mutated("dirty-ring-entry-kept")) {
      __atomic_store_n(&entry.flags, std::uint32_t{KVM_DIRTY_GFN_F_RESET}, __ATOMIC_RELEASE);
    }
    ++dirty_ring_next_;
  }
  return taken;
}

VcpuSnapshot Vcpu::Snapshot() const {
  constexpr std::size_t kCodeBytes = 16;  // the longest x86 instruction has 15
  VcpuSnapshot snapshot;
  if (auto regs = GetRegs()) snapshot.regs = *regs;
  if (auto sregs = GetSregs()) snapshot.sregs = *sregs;
  if (auto events = GetEvents()) snapshot.events = *events;
  if (!snapshot.regs || !snapshot.sregs) return snapshot;
  // In real and protected mode the linear address is CS base + RIP; in long mode the base is 0.
  const std::uint64_t linear = snapshot.sregs->cs.base + snapshot.regs->rip;
  auto translation = Translate(abi::GuestVirtAddr(linear));
  if (!translation || translation->valid == 0) return snapshot;
  snapshot.rip_physical = translation->physical_address;
  const std::size_t on_this_page = abi::kPageBytes - translation->physical_address % abi::kPageBytes;
  std::vector<std::byte> code(std::min(kCodeBytes, on_this_page));
  if (memory_->ReadBytes(abi::GuestPhysAddr(translation->physical_address), code)) snapshot.code = std::move(code);
  return snapshot;
}

}  // namespace nestbench::vmm
