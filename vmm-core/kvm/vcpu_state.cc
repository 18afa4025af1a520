// Access to a vCPU's architectural state: one ioctl each.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "ioctl.h"
#include "nestbench/vmm/base/mutant.h"
#include "nestbench/vmm/kvm/vcpu.h"

namespace nestbench::vmm {
namespace {

template <unsigned long kNumber, typename T>
Result<T> Get(int fd, std::string_view name) {
  T value = {};
  auto done = internal::CallWith<kNumber>(fd, name, &value);
  if (!done) return Fail(std::move(done.error()));
  return value;
}

template <unsigned long kNumber, typename T>
Result<void> Set(int fd, std::string_view name, const T& value, std::string detail = {}) {
  T copy = value;  // the ioctls take a pointer to non-const
  auto done = internal::CallWith<kNumber>(fd, name, &copy, std::move(detail));
  if (!done) return Fail(std::move(done.error()));
  return {};
}

}  // namespace

Result<kvm_regs> Vcpu::GetRegs() const { return Get<KVM_GET_REGS, kvm_regs>(fd_.get(), "KVM_GET_REGS"); }
Result<void> Vcpu::SetRegs(const kvm_regs& regs) {
  return Set<KVM_SET_REGS>(fd_.get(), "KVM_SET_REGS", regs, fmt::format("rip {:#x}", regs.rip));
}

Result<kvm_sregs> Vcpu::GetSregs() const { return Get<KVM_GET_SREGS, kvm_sregs>(fd_.get(), "KVM_GET_SREGS"); }
Result<void> Vcpu::SetSregs(const kvm_sregs& sregs) {
  return Set<KVM_SET_SREGS>(
      fd_.get(), "KVM_SET_SREGS", sregs,
      fmt::format("cr0 {:#x}, cr3 {:#x}, cr4 {:#x}, efer {:#x}", sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer));
}

Result<kvm_fpu> Vcpu::GetFpu() const { return Get<KVM_GET_FPU, kvm_fpu>(fd_.get(), "KVM_GET_FPU"); }
Result<void> Vcpu::SetFpu(const kvm_fpu& fpu) { return Set<KVM_SET_FPU>(fd_.get(), "KVM_SET_FPU", fpu); }

Result<kvm_xcrs> Vcpu::GetXcrs() const { return Get<KVM_GET_XCRS, kvm_xcrs>(fd_.get(), "KVM_GET_XCRS"); }
Result<void> Vcpu::SetXcr0(std::uint64_t value) {
  kvm_xcrs xcrs = {};
  xcrs.nr_xcrs = Mutated("xcr0-not-set") ? 0 : 1;
  xcrs.xcrs[0].xcr = 0;
  xcrs.xcrs[0].value = value;
  return Set<KVM_SET_XCRS>(fd_.get(), "KVM_SET_XCRS", xcrs, fmt::format("xcr0 {:#x}", value));
}

Result<std::vector<std::byte>> Vcpu::GetXsave() const {
  std::vector<std::byte> area(xsave_bytes_);
  const bool legacy = xsave_bytes_ == sizeof(kvm_xsave);
  if (::ioctl(fd_.get(), legacy ? KVM_GET_XSAVE : KVM_GET_XSAVE2, area.data()) != 0) {
    return Fail(Error::System(legacy ? "KVM_GET_XSAVE" : "KVM_GET_XSAVE2", errno));
  }
  return area;
}

Result<void> Vcpu::SetXsave(std::span<const std::byte> area) {
  if (area.size() < xsave_bytes_) {
    return Fail(Error::InvalidArgument("KVM_SET_XSAVE", fmt::format("{} bytes, not {}", area.size(), xsave_bytes_)));
  }
  std::vector<std::byte> copy(area.begin(), area.end());
  if (::ioctl(fd_.get(), KVM_SET_XSAVE, copy.data()) != 0) return Fail(Error::System("KVM_SET_XSAVE", errno));
  return {};
}

Result<kvm_debugregs> Vcpu::GetDebugRegs() const {
  return Get<KVM_GET_DEBUGREGS, kvm_debugregs>(fd_.get(), "KVM_GET_DEBUGREGS");
}
Result<void> Vcpu::SetDebugRegs(const kvm_debugregs& regs) {
  return Set<KVM_SET_DEBUGREGS>(fd_.get(), "KVM_SET_DEBUGREGS", regs);
}

Result<kvm_vcpu_events> Vcpu::GetEvents() const {
  return Get<KVM_GET_VCPU_EVENTS, kvm_vcpu_events>(fd_.get(), "KVM_GET_VCPU_EVENTS");
}
Result<void> Vcpu::SetEvents(const kvm_vcpu_events& events) {
  return Set<KVM_SET_VCPU_EVENTS>(fd_.get(), "KVM_SET_VCPU_EVENTS", events);
}

Result<kvm_mp_state> Vcpu::GetMpState() const {
  return Get<KVM_GET_MP_STATE, kvm_mp_state>(fd_.get(), "KVM_GET_MP_STATE");
}
Result<void> Vcpu::SetMpState(std::uint32_t state) {
  return Set<KVM_SET_MP_STATE>(fd_.get(), "KVM_SET_MP_STATE", kvm_mp_state{state}, fmt::format("state {}", state));
}

Result<kvm_lapic_state> Vcpu::GetLapic() const {
  return Get<KVM_GET_LAPIC, kvm_lapic_state>(fd_.get(), "KVM_GET_LAPIC");
}
Result<void> Vcpu::SetLapic(const kvm_lapic_state& state) {
  return Set<KVM_SET_LAPIC>(fd_.get(), "KVM_SET_LAPIC", state);
}

Result<std::uint64_t> Vcpu::ReadMsr(std::uint32_t index) const {
  internal::OneMsr request;
  request.entry.index = index;
  const int done = ::ioctl(fd_.get(), KVM_GET_MSRS, &request);
  if (done < 0) return Fail(Error::System("KVM_GET_MSRS", errno, fmt::format("MSR {:#x}", index)));
  if (done != 1 && !Mutated("msr-refusal-swallowed")) {
    return Fail(Error::Unsupported("KVM_GET_MSRS", fmt::format("MSR {:#x} is refused", index)));
  }
  return request.entry.data;
}

Result<void> Vcpu::WriteMsr(std::uint32_t index, std::uint64_t value) {
  internal::OneMsr request;
  request.entry.index = index;
  request.entry.data = Mutated("msr-upper-half-lost") ? static_cast<std::uint32_t>(value) : value;
  const int done = ::ioctl(fd_.get(), KVM_SET_MSRS, &request);
  if (done < 0) return Fail(Error::System("KVM_SET_MSRS", errno, fmt::format("MSR {:#x}", index)));
  if (done != 1) {
    return Fail(Error::Unsupported("KVM_SET_MSRS", fmt::format("MSR {:#x} = {:#x} is refused", index, value)));
  }
  return {};
}

Result<void> Vcpu::SetCpuid(const CpuidPolicy& policy) {
  const auto& entries = policy.entries();
  std::vector<std::byte> buffer(sizeof(kvm_cpuid2) + entries.size() * sizeof(kvm_cpuid_entry2));
  const auto count = static_cast<std::uint32_t>(entries.size());
  std::memcpy(buffer.data() + offsetof(kvm_cpuid2, nent), &count, sizeof(count));
  if (!entries.empty()) {
    std::memcpy(buffer.data() + sizeof(kvm_cpuid2), entries.data(), entries.size() * sizeof(kvm_cpuid_entry2));
  }
  if (::ioctl(fd_.get(), KVM_SET_CPUID2, buffer.data()) != 0) {
    return Fail(Error::System("KVM_SET_CPUID2", errno, fmt::format("{} leaves", count)));
  }
  return {};
}

Result<CpuidPolicy> Vcpu::GetCpuid() const { return CpuidPolicy::Read(fd_.get(), KVM_GET_CPUID2, "KVM_GET_CPUID2"); }

Result<void> Vcpu::SetGuestDebug(const kvm_guest_debug& debug) {
  return Set<KVM_SET_GUEST_DEBUG>(fd_.get(), "KVM_SET_GUEST_DEBUG", debug, fmt::format("control {:#x}", debug.control));
}

Result<void> Vcpu::InjectInterrupt(std::uint8_t vector) {
  return Set<KVM_INTERRUPT>(fd_.get(), "KVM_INTERRUPT", kvm_interrupt{vector}, fmt::format("vector {}", vector));
}

Result<void> Vcpu::InjectNmi() {
  auto done = internal::Call(fd_.get(), NESTBENCH_KVM_REQUEST(KVM_NMI));
  if (!done) return Fail(std::move(done.error()));
  return {};
}

Result<kvm_translation> Vcpu::Translate(abi::GuestVirtAddr address) const {
  kvm_translation translation = {};
  translation.linear_address = address.value();
  auto done =
      NESTBENCH_KVM_CALL(fd_.get(), KVM_TRANSLATE, &translation, [&] { return fmt::format("{:#x}", address.value()); });
  if (!done) return Fail(std::move(done.error()));
  return translation;
}

Result<std::uint64_t> Vcpu::TscKhz() const {
  auto khz = internal::Call(fd_.get(), NESTBENCH_KVM_REQUEST(KVM_GET_TSC_KHZ));
  if (!khz) return Fail(std::move(khz.error()));
  return static_cast<std::uint64_t>(*khz);
}

Result<BinaryStats> Vcpu::Stats() const {
  auto fd = internal::Call(fd_.get(), NESTBENCH_KVM_REQUEST(KVM_GET_STATS_FD), 0, "vCPU");
  if (!fd) return Fail(std::move(fd.error()));
  return BinaryStats::Open(UniqueFd(*fd));
}

}  // namespace nestbench::vmm
