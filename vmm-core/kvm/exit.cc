#include "nestbench/vmm/kvm/exit.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <iterator>
#include <type_traits>

namespace nestbench::vmm {
namespace {

// By number, as in the kernel's headers. The last three are newer than Debian 12's (Linux 6.1).
constexpr std::string_view kReasonNames[] = {
    "KVM_EXIT_UNKNOWN",
    "KVM_EXIT_EXCEPTION",
    "KVM_EXIT_IO",
    "KVM_EXIT_HYPERCALL",
    "KVM_EXIT_DEBUG",
    "KVM_EXIT_HLT",
    "KVM_EXIT_MMIO",
    "KVM_EXIT_IRQ_WINDOW_OPEN",
    "KVM_EXIT_SHUTDOWN",
    "KVM_EXIT_FAIL_ENTRY",
    "KVM_EXIT_INTR",
    "KVM_EXIT_SET_TPR",
    "KVM_EXIT_TPR_ACCESS",
    "KVM_EXIT_S390_SIEIC",
    "KVM_EXIT_S390_RESET",
    "KVM_EXIT_DCR",
    "KVM_EXIT_NMI",
    "KVM_EXIT_INTERNAL_ERROR",
    "KVM_EXIT_OSI",
    "KVM_EXIT_PAPR_HCALL",
    "KVM_EXIT_S390_UCONTROL",
    "KVM_EXIT_WATCHDOG",
    "KVM_EXIT_S390_TSCH",
    "KVM_EXIT_EPR",
    "KVM_EXIT_SYSTEM_EVENT",
    "KVM_EXIT_S390_STSI",
    "KVM_EXIT_IOAPIC_EOI",
    "KVM_EXIT_HYPERV",
    "KVM_EXIT_ARM_NISV",
    "KVM_EXIT_X86_RDMSR",
    "KVM_EXIT_X86_WRMSR",
    "KVM_EXIT_DIRTY_RING_FULL",
    "KVM_EXIT_AP_RESET_HOLD",
    "KVM_EXIT_X86_BUS_LOCK",
    "KVM_EXIT_XEN",
    "KVM_EXIT_RISCV_SBI",
    "KVM_EXIT_RISCV_CSR",
    "KVM_EXIT_NOTIFY",
    "KVM_EXIT_LOONGARCH_IOCSR",
    "KVM_EXIT_MEMORY_FAULT",
    "KVM_EXIT_TDX",
};
static_assert(kReasonNames[KVM_EXIT_NOTIFY] == "KVM_EXIT_NOTIFY");

std::string HexBytes(std::span<const std::byte> bytes) {
  std::string text;
  for (const std::byte value : bytes)
    text += fmt::format("{}{:02x}", text.empty() ? "" : " ", static_cast<unsigned>(value));
  return text;
}

// Up to eight bytes as one little-endian number, which is how a register is read.
std::uint64_t AsNumber(std::span<const std::byte> bytes) {
  std::uint64_t value = 0;
  std::memcpy(&value, bytes.data(), std::min(bytes.size(), sizeof(value)));
  return value;
}

std::string SegmentText(std::string_view name, const kvm_segment& segment) {
  return fmt::format("{} {:#06x} base {:#x} limit {:#x} type {:#x} dpl {} {}", name, segment.selector, segment.base,
                     segment.limit, segment.type, segment.dpl, segment.present != 0 ? "present" : "absent");
}

std::string_view SuberrorName(std::uint32_t suberror) {
  switch (suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
      return "emulation failed";
    case KVM_INTERNAL_ERROR_SIMUL_EX:
      return "simultaneous exceptions";
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
      return "event delivery failed";
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
      return "unexpected exit reason";
    default:
      return "unknown suberror";
  }
}

std::string WithSnapshot(std::string text, const std::unique_ptr<VcpuSnapshot>& snapshot) {
  if (snapshot) text.append("\n").append(ToString(*snapshot));
  return text;
}

struct Printer {
  std::string operator()(const IoExit& exit) const {
    return fmt::format("KVM_EXIT_IO: {} port {:#x}, {} x {} bytes{}", exit.is_write ? "out" : "in", exit.port,
                       exit.count, exit.width_bytes, exit.is_write ? fmt::format(", {}", HexBytes(exit.data)) : "");
  }
  std::string operator()(const MmioExit& exit) const {
    return fmt::format("KVM_EXIT_MMIO: {} {:#x}, {} bytes{}", exit.is_write ? "write to" : "read from",
                       exit.address.value(), exit.data.size(),
                       exit.is_write ? fmt::format(", {:#x}", AsNumber(exit.data)) : "");
  }
  std::string operator()(const HaltExit&) const { return "KVM_EXIT_HLT"; }
  std::string operator()(const InterruptedExit&) const { return "KVM_EXIT_INTR: interrupted by a signal or a kick"; }
  std::string operator()(const HypercallExit& exit) const {
    return fmt::format("KVM_EXIT_HYPERCALL: number {:#x}, arguments {:#x}", exit.number,
                       fmt::join(exit.arguments, ", "));
  }
  std::string operator()(const DebugExit& exit) const {
    return fmt::format("KVM_EXIT_DEBUG: vector {}, rip {:#x}, dr6 {:#x}, dr7 {:#x}", exit.exception,
                       exit.program_counter, exit.dr6, exit.dr7);
  }
  std::string operator()(const IrqWindowExit&) const { return "KVM_EXIT_IRQ_WINDOW_OPEN"; }
  std::string operator()(const SetTprExit&) const { return "KVM_EXIT_SET_TPR"; }
  std::string operator()(const TprAccessExit& exit) const {
    return fmt::format("KVM_EXIT_TPR_ACCESS: {} at rip {:#x}", exit.is_write ? "write" : "read", exit.rip);
  }
  std::string operator()(const NmiExit&) const { return "KVM_EXIT_NMI"; }
  std::string operator()(const ExceptionExit& exit) const {
    return fmt::format("KVM_EXIT_EXCEPTION: vector {}, error code {:#x}", exit.vector, exit.error_code);
  }
  std::string operator()(const RdmsrExit& exit) const {
    return fmt::format("KVM_EXIT_X86_RDMSR: MSR {:#x}, reason {:#x}", exit.index, exit.reason);
  }
  std::string operator()(const WrmsrExit& exit) const {
    return fmt::format("KVM_EXIT_X86_WRMSR: MSR {:#x} = {:#x}, reason {:#x}", exit.index, exit.data, exit.reason);
  }
  std::string operator()(const IoapicEoiExit& exit) const {
    return fmt::format("KVM_EXIT_IOAPIC_EOI: vector {}", exit.vector);
  }
  std::string operator()(const HypervExit& exit) const { return fmt::format("KVM_EXIT_HYPERV: type {}", exit.type); }
  std::string operator()(const XenExit& exit) const { return fmt::format("KVM_EXIT_XEN: type {}", exit.type); }
  std::string operator()(const SystemEventExit& exit) const {
    return fmt::format("KVM_EXIT_SYSTEM_EVENT: type {}, data {:#x}", exit.type, fmt::join(exit.data, ", "));
  }
  std::string operator()(const DirtyRingFullExit&) const { return "KVM_EXIT_DIRTY_RING_FULL"; }
  std::string operator()(const ApResetHoldExit&) const { return "KVM_EXIT_AP_RESET_HOLD"; }
  std::string operator()(const BusLockExit&) const { return "KVM_EXIT_X86_BUS_LOCK"; }
  std::string operator()(const NotifyExit& exit) const {
    return fmt::format("KVM_EXIT_NOTIFY: flags {:#x}", exit.flags);
  }
  std::string operator()(const WatchdogExit&) const { return "KVM_EXIT_WATCHDOG"; }
  std::string operator()(const EprExit&) const { return "KVM_EXIT_EPR"; }
  std::string operator()(const MemoryFaultExit& exit) const {
    return fmt::format("KVM_EXIT_MEMORY_FAULT: guest-physical [{:#x}, +{:#x}), flags {:#x}", exit.range.start.value(),
                       exit.range.size_bytes, exit.flags);
  }
  std::string operator()(const ShutdownExit& exit) const {
    return WithSnapshot("KVM_EXIT_SHUTDOWN: the guest triple-faulted", exit.snapshot);
  }
  std::string operator()(const FailEntryExit& exit) const {
    return WithSnapshot(
        fmt::format("KVM_EXIT_FAIL_ENTRY: hardware reason {:#x} on CPU {}", exit.hardware_reason, exit.cpu),
        exit.snapshot);
  }
  std::string operator()(const InternalErrorExit& exit) const {
    std::string text =
        fmt::format("KVM_EXIT_INTERNAL_ERROR: suberror {} ({})", exit.suberror, SuberrorName(exit.suberror));
    if (!exit.instruction.empty()) text += fmt::format(", instruction {}", HexBytes(exit.instruction));
    if (!exit.data.empty()) text += fmt::format(", data {:#x}", fmt::join(exit.data, " "));
    return WithSnapshot(std::move(text), exit.snapshot);
  }
  std::string operator()(const UnknownExit& exit) const {
    return fmt::format("KVM_EXIT_UNKNOWN: hardware reason {:#x}", exit.hardware_reason);
  }
  std::string operator()(const ForeignExit& exit) const {
    return fmt::format("{}: not an exit this library handles", ExitReasonName(exit.reason));
  }
};

}  // namespace

std::string ExitReasonName(std::uint32_t reason) {
  if (reason < std::size(kReasonNames)) return std::string(kReasonNames[reason]);
  return fmt::format("KVM_EXIT_{}", reason);
}

std::string ToString(const Exit& exit) { return std::visit(Printer{}, exit); }

std::string ToString(const VcpuSnapshot& snapshot) {
  std::string text;
  if (snapshot.regs) {
    const kvm_regs& r = *snapshot.regs;
    text += fmt::format(
        "  rip {:#018x}  rflags {:#x}\n"
        "  rax {:#018x}  rbx {:#018x}  rcx {:#018x}  rdx {:#018x}\n"
        "  rsi {:#018x}  rdi {:#018x}  rsp {:#018x}  rbp {:#018x}\n"
        "  r8  {:#018x}  r9  {:#018x}  r10 {:#018x}  r11 {:#018x}\n"
        "  r12 {:#018x}  r13 {:#018x}  r14 {:#018x}  r15 {:#018x}\n",
        r.rip, r.rflags, r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rsp, r.rbp, r.r8, r.r9, r.r10, r.r11, r.r12, r.r13,
        r.r14, r.r15);
  } else {
    text += "  registers could not be read\n";
  }
  if (snapshot.sregs) {
    const kvm_sregs& s = *snapshot.sregs;
    text += fmt::format("  cr0 {:#x}  cr2 {:#x}  cr3 {:#x}  cr4 {:#x}  efer {:#x}\n  {}\n  {}\n", s.cr0, s.cr2, s.cr3,
                        s.cr4, s.efer, SegmentText("cs", s.cs), SegmentText("ss", s.ss));
  }
  if (snapshot.events && snapshot.events->exception.injected != 0) {
    text += fmt::format("  exception {} was being delivered, error code {:#x}\n", snapshot.events->exception.nr,
                        snapshot.events->exception.error_code);
  }
  if (snapshot.rip_physical) {
    text += fmt::format("  code at guest-physical {:#x}: {}", *snapshot.rip_physical,
                        snapshot.code.empty() ? "no memory there" : HexBytes(snapshot.code));
  } else {
    text += "  rip is not mapped";
  }
  return text;
}

}  // namespace nestbench::vmm
