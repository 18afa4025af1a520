// One virtual CPU: owns its descriptor and its kvm_run mapping.
//
// Source: kernel document "The Definitive KVM API Documentation" (vCPU ioctls). Move-only. All calls come from the
// thread that created it, except through VcpuKicker. The Vm outlives it. Run() makes one system call and allocates
// nothing, unless the guest stopped for good.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"
#include "nestbench/vmm/kvm/cpuid.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/kvm/exit.h"
#include "nestbench/vmm/kvm/linux_kvm.h"
#include "nestbench/vmm/kvm/stats.h"
#include "nestbench/vmm/kvm/vm.h"

namespace nestbench::vmm {

// A page that the guest wrote, as the dirty ring tells it.
struct DirtyPage {
  std::uint32_t slot = 0;
  std::uint64_t page = 0;  // index inside the slot
};

class Vcpu {
 public:
  static Result<Vcpu> Create(const Vm& vm, abi::VcpuId id);

  Vcpu(Vcpu&& other) noexcept;
  Vcpu& operator=(Vcpu&&) = delete;
  Vcpu(const Vcpu&) = delete;
  Vcpu& operator=(const Vcpu&) = delete;
  ~Vcpu();

  // Enters the guest until it leaves. A signal or Kick() is InterruptedExit, not an error. Errors: kSystem from KVM_RUN
  // itself (EFAULT: guest memory without a host page; EINVAL: state that cannot be entered).
  Result<Exit> Run();

  // The two halves of Run(), for a loop that handles port and MMIO exits by the million: Enter() leaves the exit in
  // run(), and the one of the three that run()->exit_reason asks for decodes it. False: interrupted, as
  // InterruptedExit. A variant that owns what the rare exits hold costs the frequent ones more than everything else
  // that is done for them.
  Result<bool> Enter();
  [[nodiscard]] IoExit LastIoExit() const {  // KVM_EXIT_IO
    return {run_->io.direction == KVM_EXIT_IO_OUT, run_->io.size, run_->io.port, run_->io.count,
            RunBytes(run_->io.data_offset, std::uint64_t{run_->io.size} * run_->io.count)};
  }
  [[nodiscard]] MmioExit LastMmioExit() const {  // KVM_EXIT_MMIO
    const std::size_t width = std::min<std::size_t>(run_->mmio.len, sizeof(run_->mmio.data));
    return {run_->mmio.is_write != 0, abi::GuestPhysAddr(run_->mmio.phys_addr),
            std::as_writable_bytes(std::span(run_->mmio.data).first(width))};
  }
  [[nodiscard]] Exit LastExit();  // any

  // For another thread. Valid as long as this vCPU and the calling thread of Kicker() live.
  [[nodiscard]] VcpuKicker Kicker() const;

  [[nodiscard]] Result<kvm_regs> GetRegs() const;
  Result<void> SetRegs(const kvm_regs& regs);
  [[nodiscard]] Result<kvm_sregs> GetSregs() const;
  Result<void> SetSregs(const kvm_sregs& sregs);
  [[nodiscard]] Result<kvm_fpu> GetFpu() const;
  Result<void> SetFpu(const kvm_fpu& fpu);
  [[nodiscard]] Result<kvm_xcrs> GetXcrs() const;
  Result<void> SetXcr0(std::uint64_t value);
  // The XSAVE area: as many bytes as KVM_CAP_XSAVE2 says, 4096 where it does not exist.
  [[nodiscard]] Result<std::vector<std::byte>> GetXsave() const;
  Result<void> SetXsave(std::span<const std::byte> area);
  [[nodiscard]] Result<kvm_debugregs> GetDebugRegs() const;
  Result<void> SetDebugRegs(const kvm_debugregs& regs);
  [[nodiscard]] Result<kvm_vcpu_events> GetEvents() const;
  Result<void> SetEvents(const kvm_vcpu_events& events);
  [[nodiscard]] Result<kvm_mp_state> GetMpState() const;
  Result<void> SetMpState(std::uint32_t state);
  [[nodiscard]] Result<kvm_lapic_state> GetLapic() const;
  Result<void> SetLapic(const kvm_lapic_state& state);
  // kUnsupported, with the MSR's number, when KVM refuses it.
  [[nodiscard]] Result<std::uint64_t> ReadMsr(std::uint32_t index) const;
  Result<void> WriteMsr(std::uint32_t index, std::uint64_t value);
  Result<void> SetCpuid(const CpuidPolicy& policy);
  [[nodiscard]] Result<CpuidPolicy> GetCpuid() const;
  Result<void> SetGuestDebug(const kvm_guest_debug& debug);
  Result<void> InjectInterrupt(std::uint8_t vector);  // only without an in-kernel irqchip
  Result<void> InjectNmi();
  [[nodiscard]] Result<kvm_translation> Translate(abi::GuestVirtAddr address) const;
  [[nodiscard]] Result<std::uint64_t> TscKhz() const;  // what the guest's TSC counts

  // Dirty ring: takes what the guest wrote since the last call, up to `destination.size()` pages, and hands the entries
  // back; Vm::ResetDirtyRings then protects those pages again. kUnsupported without EnableDirtyRing.
  [[nodiscard]] Result<std::size_t> HarvestDirtyRing(std::span<DirtyPage> destination);

  // Registers, events and code bytes, as far as they can be read.
  [[nodiscard]] VcpuSnapshot Snapshot() const;

  [[nodiscard]] Result<BinaryStats> Stats() const;
  [[nodiscard]] abi::VcpuId id() const { return id_; }
  [[nodiscard]] kvm_run* run() const { return run_; }
  [[nodiscard]] int fd() const { return fd_.get(); }

 private:
  Vcpu(UniqueFd fd, std::span<std::byte> mapping, const Vm& vm, abi::VcpuId id);
  Exit DecodeRareExit();
  // KVM fills these fields, not the guest; an empty span for nonsense still keeps every device in bounds.
  [[nodiscard]] std::span<std::byte> RunBytes(std::uint64_t offset, std::uint64_t size) const {
    if (offset > mapping_.size() || size > mapping_.size() - offset) return {};
    return mapping_.subspan(offset, size);
  }

  UniqueFd fd_;
  std::span<std::byte> mapping_;
  kvm_run* run_;
  const GuestMemory* memory_;
  abi::VcpuId id_;
  std::span<kvm_dirty_gfn> dirty_ring_;
  std::uint32_t dirty_ring_next_ = 0;
  std::size_t xsave_bytes_;
};

}  // namespace nestbench::vmm
