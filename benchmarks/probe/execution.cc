#include "execution.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <utility>
#include <variant>

#include "nestbench/abi/address.h"
#include "nestbench/abi/layout.h"
#include "nestbench/abi/task_state.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/base/clock.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/kvm/exit.h"
#include "nestbench/vmm/kvm/segments.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"
#include "nestbench/vmm/machine/page_tables.h"

namespace nestbench::probe {
namespace {

using namespace abi::x86;
using abi::GuestPhysAddr;
using abi::GuestVirtAddr;
using vmm::Fail;

// The guest's memory, physical = virtual.
constexpr std::uint64_t kMemoryBytes = 256 << 10;
constexpr std::uint64_t kGdt = 0x1000;
constexpr std::uint64_t kTss = 0x2000;    // with its I/O permission bitmap, up to 0x4069
constexpr std::uint64_t kCount = 0x6000;  // the loop count, read by the guest
constexpr std::uint64_t kCode = 0x7000;
constexpr std::uint64_t kTables = 0x20000;
constexpr std::uint64_t kTablesBytes = 0x10000;

constexpr double kInstructionsPerPass = 3;
constexpr std::uint64_t kShortCount = 64;
constexpr std::uint64_t kTrialCount = 512;
constexpr std::uint64_t kLongCount = 400'000;
constexpr double kSlowNs = 20;  // above this the trial is long enough

constexpr std::array<std::uint8_t, 17> kLoop = {
    0x48, 0x8B, 0x0E,        // begin: mov rcx, [rsi]
    0x48, 0x8D, 0x40, 0x01,  // pass:  lea rax, [rax + 1]
    0x48, 0xFF, 0xC9,        //        dec rcx
    0x75, 0xF7,              //        jnz pass
    0xEF,                    //        out dx, eax
    0xEB, 0xF1,              //        jmp begin
    0x0F, 0x0B,              //        ud2: never reached
};

// Flat 64-bit descriptors for SYSRET-like order: code 0, data 0, data 3, code 3, then the TSS in two entries.
constexpr std::uint16_t kSupervisorCode = 0x08;
constexpr std::uint16_t kSupervisorData = 0x10;
constexpr std::uint16_t kUserData = 0x1B;
constexpr std::uint16_t kUserCode = 0x23;
constexpr std::uint16_t kTaskState = 0x28;
constexpr std::uint64_t kTssLimit = kTssBytes + kIoPermissionBitmapBytes;  // the bitmap ends in one byte of ones
constexpr std::array<std::uint64_t, 7> kGdtEntries = {
    0,
    kDescriptorCode64,
    kDescriptorData,
    kDescriptorUserData,
    kDescriptorUserCode64,
    0x0000'8B00'0000'0000 | kTssLimit | (kTss << 16),
    0,
};

Result<> WriteGuest(const vmm::GuestMemory& memory, PrivilegeLevel level) {
  if (auto done = memory.WriteBytes(GuestPhysAddr(kGdt), std::as_bytes(std::span(kGdtEntries))); !done) return done;
  if (auto done = memory.Write(GuestPhysAddr(kTss + kTssIoMapBaseOffset), static_cast<std::uint16_t>(kTssBytes));
      !done) {
    return done;
  }
  // A clear bit opens a port: all are closed but the doorbell's four bytes.
  std::array<std::uint8_t, kIoPermissionBitmapBytes + 1> bitmap{};
  bitmap.fill(0xFF);
  for (std::uint32_t port = abi::kDoorbellPort; port < abi::kDoorbellPort + 4U; ++port) {
    bitmap[port / 8] = static_cast<std::uint8_t>(bitmap[port / 8] & ~(1U << (port % 8)));
  }
  if (auto done = memory.WriteBytes(GuestPhysAddr(kTss + kTssBytes), std::as_bytes(std::span(bitmap))); !done)
    return done;
  if (auto done = memory.WriteBytes(GuestPhysAddr(kCode), std::as_bytes(std::span(kLoop))); !done) return done;

  auto tables = vmm::PageTableBuilder::Create(memory, {.start = GuestPhysAddr(kTables), .size_bytes = kTablesBytes});
  if (!tables) return Fail(std::move(tables.error()));
  return tables->Map(GuestVirtAddr(0), GuestPhysAddr(0), kTables, abi::kPageBytes,
                     {.user = level == PrivilegeLevel::kUser, .writable = true, .executable = true});
}

Result<> SetState(vmm::Vcpu& vcpu, PrivilegeLevel level) {
  auto sregs = vcpu.GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));
  const bool user = level == PrivilegeLevel::kUser;
  sregs->cs = vmm::FlatSegment(user ? kUserCode : kSupervisorCode, kSegmentTypeCodeReadAccessed, /*is_long_code=*/true);
  sregs->ss =
      vmm::FlatSegment(user ? kUserData : kSupervisorData, kSegmentTypeDataWriteAccessed, /*is_long_code=*/false);
  sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss;
  sregs->tr = vmm::TaskStateSegment(kTaskState, kTss, kTssLimit, TaskStateType());
  sregs->gdt.base = kGdt;
  sregs->gdt.limit = sizeof(kGdtEntries) - 1;
  sregs->idt = {};  // any exception is a triple fault: an exit, with its reason
  sregs->cr0 =
      kCr0ProtectedMode | kCr0MonitorCoprocessor | kCr0ExtensionType | kCr0NumericError | kCr0WriteProtect | kCr0Paging;
  sregs->cr3 = kTables;
  sregs->cr4 = kCr4Pae;
  sregs->efer = kEferLongModeEnable | kEferLongModeActive | kEferNoExecute;
  if (auto done = vcpu.SetSregs(*sregs); !done) return done;
  kvm_regs regs = {};
  regs.rip = kCode;
  regs.rsi = kCount;
  regs.rdx = abi::kDoorbellPort;
  regs.rsp = kCode;  // nothing uses the stack
  regs.rflags = kRflagsReserved1;
  return vcpu.SetRegs(regs);
}

std::string FirstLine(const std::string& text) { return text.substr(0, text.find('\n')); }

// Runs the guest up to its next doorbell, through a loop of `count` passes. Returns how long that took.
Result<double> RunLoop(const vmm::Vm& vm, vmm::Vcpu& vcpu, const vmm::RunDeadline& deadline, std::uint64_t count) {
  if (auto done = vm.memory().Write(GuestPhysAddr(kCount), count); !done) return Fail(std::move(done.error()));
  const std::uint64_t begin = vmm::MonotonicRawNs();
  while (true) {
    auto exit = vcpu.Run();
    if (!exit) return Fail(std::move(exit.error()));
    if (const auto* io = std::get_if<vmm::IoExit>(&*exit); io != nullptr && io->port == abi::kDoorbellPort) {
      return static_cast<double>(vmm::MonotonicRawNs() - begin);
    }
    if (!std::holds_alternative<vmm::InterruptedExit>(*exit)) {
      return Fail(Error::Unsupported("run a loop in a guest", FirstLine(vmm::ToString(*exit))));
    }
    if (deadline.Expired()) {
      return Fail(Error::TimedOut("run a loop in a guest", fmt::format("{} passes did not end in time", count)));
    }
  }
}

// ns per instruction: the least of several differences between a loop of `count` passes and a short one.
Result<double> NsPerInstruction(const vmm::Vm& vm, vmm::Vcpu& vcpu, const vmm::RunDeadline& deadline,
                                std::uint64_t count, int runs) {
  double least_short = 1e18;
  double least_long = 1e18;
  for (int run = 0; run < runs; ++run) {
    auto short_ns = RunLoop(vm, vcpu, deadline, kShortCount);
    if (!short_ns) return short_ns;
    auto long_ns = RunLoop(vm, vcpu, deadline, count);
    if (!long_ns) return long_ns;
    least_short = std::min(least_short, *short_ns);
    least_long = std::min(least_long, *long_ns);
  }
  return std::max(0.0, least_long - least_short) / (kInstructionsPerPass * static_cast<double>(count - kShortCount));
}

Result<> Measure(const vmm::KvmDevice& device, PrivilegeLevel level, std::chrono::nanoseconds limit,
                 Execution& execution) {
  auto vm = vmm::Vm::Create(device);
  if (!vm) return Fail(std::move(vm.error()));
  auto region = vmm::MemoryRegion::Create({.start = GuestPhysAddr(0), .size_bytes = kMemoryBytes}, {});
  if (!region) return Fail(std::move(region.error()));
  if (auto slot = vm->AddMemory(std::move(*region)); !slot) return Fail(std::move(slot.error()));
  if (auto done = WriteGuest(vm->memory(), level); !done) return done;
  auto vcpu = vmm::Vcpu::Create(*vm, abi::VcpuId{0});
  if (!vcpu) return Fail(std::move(vcpu.error()));
  auto cpuid = device.SupportedCpuid();
  if (!cpuid) return Fail(std::move(cpuid.error()));
  if (auto done = vcpu->SetCpuid(*cpuid); !done) return done;
  if (auto done = SetState(*vcpu, level); !done) return done;
  auto deadline = vmm::RunDeadline::Start(*vcpu, limit);
  if (!deadline) return Fail(std::move(deadline.error()));

  // Three rounds of a short trial tell whether a long one can be afforded.
  std::uint64_t count = kTrialCount;
  auto ns = NsPerInstruction(*vm, *vcpu, *deadline, count, 3);
  if (!ns) return Fail(std::move(ns.error()));
  if (*ns < kSlowNs) {
    count = kLongCount;
    ns = NsPerInstruction(*vm, *vcpu, *deadline, count, 5);
    if (!ns) return Fail(std::move(ns.error()));
  }
  execution.guest_ns_per_instruction = *ns;

  auto stats = vcpu->Stats();
  const auto emulated = [&stats] {
    return stats ? stats->Get("insn_emulation") : Result<std::uint64_t>(Fail(stats.error()));
  };
  const auto before = emulated();
  if (!before) return {};  // a kernel without this statistic: the speed alone has to tell
  if (auto again = RunLoop(*vm, *vcpu, *deadline, count); !again) return Fail(std::move(again.error()));
  const auto after = emulated();
  if (after) {
    execution.emulations_per_instruction =
        static_cast<double>(*after - *before) / (kInstructionsPerPass * static_cast<double>(count));
  }
  return {};
}

}  // namespace

void JudgeExecution(Execution& execution) {
  constexpr double kEmulatedRatio = 10;
  constexpr double kNativeRatio = 3;
  constexpr double kManyEmulations = 0.5;
  constexpr double kFewEmulations = 0.01;  // the doorbell itself may be emulated
  const double ratio = execution.host_ns_per_instruction > 0
                           ? execution.guest_ns_per_instruction / execution.host_ns_per_instruction
                           : 0;
  const double emulations = execution.emulations_per_instruction.value_or(-1);
  execution.reason.clear();
  if (ratio >= kEmulatedRatio || emulations >= kManyEmulations) {
    execution.mode = "emulated";
  } else if (ratio > 0 && ratio <= kNativeRatio && emulations <= kFewEmulations) {
    execution.mode = "native";
  } else {
    execution.mode = "unknown";
    execution.reason = fmt::format("guest {:.2f} ns per instruction against {:.2f} ns on the host decides nothing",
                                   execution.guest_ns_per_instruction, execution.host_ns_per_instruction);
  }
}

Execution MeasureExecution(const vmm::KvmDevice& device, PrivilegeLevel level, std::chrono::nanoseconds deadline,
                           double host_ns_per_instruction) {
  Execution execution;
  execution.host_ns_per_instruction = host_ns_per_instruction;
  if (auto measured = Measure(device, level, deadline, execution); !measured) {
    execution.mode = "unknown";
    execution.reason = measured.error().ToString();
    return execution;
  }
  JudgeExecution(execution);
  return execution;
}

}  // namespace nestbench::probe
