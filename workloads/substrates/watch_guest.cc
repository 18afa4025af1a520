#include "watch_guest.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/deadline.h"

namespace nestbench::substrates {
namespace {

using abi::GuestPhysAddr;
using abi::GuestVirtAddr;
using vmm::Fail;
using vmm::Result;
using vmm::StopReason;

constexpr std::uint32_t kSamples = 64;
constexpr std::uint64_t kShortestNs = 20'000;
constexpr std::uint64_t kLongestNs = 180'000;
// How far into a handler a sample still counts: the longest instruction. Intel SDM, volume 2, section "Instruction
// Format".
constexpr std::uint64_t kHandlerBytes = 15;
constexpr unsigned kVectors = 256;

CodeAt FindCode(std::uint64_t instruction_pointer, const vmm::Vcpu& vcpu, const vmm::GuestMemory& memory) {
  auto translated = vcpu.Translate(GuestVirtAddr(instruction_pointer));
  if (!translated || translated->valid == 0) return CodeAt::kNotMapped;
  return memory.Read<std::uint8_t>(GuestPhysAddr(translated->physical_address)) ? CodeAt::kMemory : CodeAt::kNoMemory;
}

// Where the guest's interrupt table sends it, by vector; empty for a table that cannot be read. AMD APM, sections
// "Real-Mode Interrupt Control Transfers", "Legacy Gate Descriptors", "Long-Mode Gate Descriptors".
std::vector<std::uint64_t> ReadHandlers(const vmm::Vcpu& vcpu, const vmm::GuestMemory& memory) {
  using namespace abi::x86;
  std::vector<std::uint64_t> handlers;
  auto sregs = vcpu.GetSregs();
  if (!sregs) return handlers;
  auto table = vcpu.Translate(GuestVirtAddr(sregs->idt.base));
  if (!table || table->valid == 0) return handlers;
  const bool is_protected = (sregs->cr0 & kCr0ProtectedMode) != 0;
  const bool is_long = (sregs->efer & kEferLongModeActive) != 0;
  const std::uint64_t entry_bytes = is_long ? 16 : is_protected ? 8 : 4;
  for (unsigned vector = 0; vector < kVectors && (vector + 1) * entry_bytes <= sregs->idt.limit + 1ULL; ++vector) {
    GuestPhysAddr address;
    if (!GuestPhysAddr(table->physical_address).CheckedAdd(vector * entry_bytes, address)) break;
    if (!is_protected) {
      auto entry = memory.Read<std::uint32_t>(address);
      if (!entry) break;
      handlers.push_back((*entry & 0xFFFF) + ((*entry >> 16) << 4));
      continue;
    }
    auto low = memory.Read<std::uint64_t>(address);
    if (!low) break;
    std::uint64_t handler = (*low & 0xFFFF) | ((*low >> 32) & 0xFFFF'0000);
    if (is_long) {
      GuestPhysAddr upper;
      if (!address.CheckedAdd(sizeof(*low), upper)) break;
      auto high = memory.Read<std::uint32_t>(upper);
      if (!high) break;
      handler |= std::uint64_t{*high} << 32;
    }
    handlers.push_back(handler);
  }
  return handlers;
}

// The vector in whose handler's beginning the guest is: the nearest handler at or before it.
std::optional<std::uint32_t> HandlerAt(std::uint64_t instruction_pointer, const std::vector<std::uint64_t>& handlers) {
  std::optional<std::uint32_t> found;
  std::uint64_t nearest = kHandlerBytes + 1;
  for (std::uint32_t vector = 0; vector < handlers.size(); ++vector) {
    const std::uint64_t distance = instruction_pointer - handlers[vector];  // wraps when it lies before
    if (distance >= nearest) continue;
    nearest = distance;
    found = vector;
  }
  return found;
}

std::optional<std::uint32_t> MostSeen(const std::map<std::uint32_t, std::uint32_t>& seen) {
  const auto most = std::ranges::max_element(seen, {}, [](const auto& entry) { return entry.second; });
  if (most == seen.end()) return std::nullopt;
  return most->first;
}

std::string Describe(const GuestWatch& watch, const vmm::Vcpu& vcpu) {
  std::string text = fmt::format(
      "no answer in time; then in {} looks: rip {:#x} to {:#x}, interrupts {}, {}{} accesses to ports and addresses "
      "without memory, {} interrupts delivered",
      watch.samples, watch.lowest_ip, watch.highest_ip, watch.accepts_interrupts ? "accepted" : "off",
      watch.is_halted ? "halted, " : "", watch.accesses, watch.interrupts);
  if (watch.vector) {
    text += fmt::format(
        ", {} times an exception was being delivered, {} times in an exception's and {} times in an interrupt's "
        "handler, "
        "mostly of vector {}",
        watch.delivering, watch.in_exception, watch.in_interrupt, *watch.vector);
  }
  if (watch.rang) text += ", and then it answered";
  return fmt::format("{}\n{}", text, ToString(vcpu.Snapshot()));
}

}  // namespace

GuestCrash DescribeCrash(const vmm::Stop& stop, const vmm::Vcpu& vcpu, const vmm::GuestMemory& memory) {
  GuestCrash crash;
  if (stop.reason == StopReason::kException) {
    crash.kind = CrashKind::kException;
  } else if (stop.exit_reason == std::uint32_t{KVM_EXIT_SHUTDOWN}) {
    crash.kind = CrashKind::kTripleFault;
  } else if (stop.exit_reason == std::uint32_t{KVM_EXIT_INTERNAL_ERROR}) {
    crash.kind = CrashKind::kInternalError;
  } else if (stop.exit_reason == std::uint32_t{KVM_EXIT_FAIL_ENTRY}) {
    crash.kind = CrashKind::kFailedEntry;
  }
  if (stop.exception) {
    crash.instruction_pointer = stop.exception->instruction_pointer;
    crash.vector = stop.exception->vector;
    crash.error_code = stop.exception->error_code;
    crash.fault_address = stop.exception->cr2;
  } else if (auto regs = vcpu.GetRegs()) {
    crash.instruction_pointer = regs->rip;
  }
  crash.code = FindCode(crash.instruction_pointer, vcpu, memory);
  return crash;
}

Result<std::string> WatchGuest(const WatchedGuest& guest, CallEvidence& evidence) {
  const std::vector<std::uint64_t> handlers = ReadHandlers(guest.vcpu, guest.memory);
  const WatchedGuest::Counts before = guest.counts();
  GuestWatch watch;
  watch.lowest_ip = ~0ULL;
  std::map<std::uint32_t, std::uint32_t> seen;
  std::uint32_t noise = 1;  // of lengths that do not beat in step with what the guest does
  while (watch.samples < kSamples) {
    noise = noise * 1664525U + 1013904223U;
    const std::chrono::nanoseconds length(kShortestNs + noise % (kLongestNs - kShortestNs));
    auto deadline = vmm::RunDeadline::Start(guest.vcpu, length);
    if (!deadline) return Fail(std::move(deadline.error()));
    auto stop = guest.run();
    if (!stop) return Fail(std::move(stop.error()));
    if (stop->reason == StopReason::kDoorbell) {
      watch.rang = true;
      break;
    }
    if (stop->reason != StopReason::kInterrupted) {
      evidence.crash = DescribeCrash(*stop, guest.vcpu, guest.memory);
      evidence.watch = watch;
      return std::move(stop->text);
    }
    auto regs = guest.vcpu.GetRegs();
    if (!regs) return Fail(std::move(regs.error()));
    ++watch.samples;
    watch.lowest_ip = std::min<std::uint64_t>(watch.lowest_ip, regs->rip);
    watch.highest_ip = std::max<std::uint64_t>(watch.highest_ip, regs->rip);
    constexpr std::uint64_t kInterruptFlag = 1ULL << 9;  // AMD APM, section "RFLAGS Register"
    watch.accepts_interrupts = watch.accepts_interrupts || (regs->rflags & kInterruptFlag) != 0;
    // Where instructions are emulated one by one, the guest is looked at between them: an exception that was raised
    // still waits, and its handler is never seen.
    auto events = guest.vcpu.GetEvents();
    if (events && (events->exception.injected != 0 || events->exception.pending != 0)) {
      ++watch.delivering;
      ++seen[events->exception.nr];
    } else if (const auto vector = HandlerAt(regs->rip, handlers)) {
      ++seen[*vector];
      ++(*vector < abi::x86::kExceptionVectors ? watch.in_exception : watch.in_interrupt);
    }
  }
  const WatchedGuest::Counts after = guest.counts();
  watch.accesses = after.accesses - before.accesses;
  watch.interrupts = after.interrupts - before.interrupts;
  watch.is_halted = after.is_halted;
  watch.vector = MostSeen(seen);
  evidence.watch = watch;
  return Describe(watch, guest.vcpu);
}

}  // namespace nestbench::substrates
