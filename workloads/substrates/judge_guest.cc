// From what a VMM saw of a guest to what is wrong with it.
#include <fmt/format.h>

#include "nestbench/abi/x86.h"
#include "nestbench/substrates/guest_faults.h"

namespace nestbench::substrates {
namespace {

// Of 64 looks at a guest. A guest in a loop of two instructions, one of them the handler's, is seen in the handler
// every other time; one that leaves for its VMM without end does so some hundred times while it is watched. Even where
// the host gives it a tenth of a CPU these are passed, and a guest that only spins has none of them.
constexpr std::uint32_t kLoopSamples = 3;
constexpr std::uint64_t kStormAccesses = 16;
constexpr std::uint64_t kStormInterrupts = 16;

constexpr std::uint64_t kErrorCodeFetch = 1ULL << 4;  // AMD APM, section "Page-Fault Error Code"

GuestVerdict Of(GuestFaultClass fault_class, GuestCause cause, std::string numbers = {}) {
  GuestVerdict verdict = {fault_class, cause, false, std::string(ToString(cause))};
  if (!numbers.empty()) verdict.words += fmt::format(": {}", numbers);
  return verdict;
}

std::string_view CodeText(CodeAt code) {
  switch (code) {
    case CodeAt::kMemory:
      return "";
    case CodeAt::kNoMemory:
      return ", where there is no memory";
    case CodeAt::kNotMapped:
      break;
  }
  return ", which its tables do not map";
}

bool IsWild(const GuestCrash& crash) {
  if (crash.code != CodeAt::kMemory) return true;
  return crash.vector == abi::x86::kVectorPageFault &&
         ((crash.error_code & kErrorCodeFetch) != 0 || crash.fault_address == crash.instruction_pointer);
}

GuestVerdict OfCrash(const GuestCrash& crash) {
  const std::string where = fmt::format("rip {:#x}{}", crash.instruction_pointer, CodeText(crash.code));
  switch (crash.kind) {
    case CrashKind::kTripleFault:
      return Of(GuestFaultClass::kGuestFault,
                crash.code == CodeAt::kNotMapped ? GuestCause::kBadPageTables : GuestCause::kTripleFault, where);
    case CrashKind::kException: {
      const std::string vector = crash.vector ? fmt::format("vector {}, error code {:#x}, cr2 {:#x}, ", *crash.vector,
                                                            crash.error_code, crash.fault_address)
                                              : std::string();
      return Of(GuestFaultClass::kGuestFault, IsWild(crash) ? GuestCause::kWildJump : GuestCause::kException,
                vector + where);
    }
    case CrashKind::kInternalError:
      return Of(GuestFaultClass::kGuestFault,
                crash.code == CodeAt::kMemory ? GuestCause::kInternalError : GuestCause::kWildJump, where);
    case CrashKind::kFailedEntry:
    case CrashKind::kOther:
      break;
  }
  return Of(GuestFaultClass::kGuestFault, GuestCause::kUnknownExit, where);
}

GuestVerdict OfWatch(const GuestWatch& watch) {
  const auto hang = [](GuestCause cause, std::string numbers) {
    return Of(GuestFaultClass::kHang, cause, std::move(numbers));
  };
  const std::string where = watch.lowest_ip == watch.highest_ip
                                ? fmt::format("rip {:#x}", watch.lowest_ip)
                                : fmt::format("rip {:#x} to {:#x}", watch.lowest_ip, watch.highest_ip);
  if (watch.rang) {
    GuestVerdict verdict = hang(GuestCause::kSlow, fmt::format("after {} looks", watch.samples));
    verdict.survives = true;
    return verdict;
  }
  if (watch.is_halted) {
    return hang(GuestCause::kHalted,
                fmt::format("{}, interrupts {}", where, watch.accepts_interrupts ? "accepted" : "off"));
  }
  // Handlers ask their devices, so that a storm of interrupts is one of exits as well.
  if (watch.interrupts >= kStormInterrupts && watch.interrupts >= watch.accesses / 4) {
    return hang(GuestCause::kInterruptStorm,
                fmt::format("{} interrupts in {} looks, {}", watch.interrupts, watch.samples, where));
  }
  // A handler that itself stands still is no loop of exceptions.
  const std::uint32_t in_handler = watch.lowest_ip == watch.highest_ip ? 0 : watch.in_exception;
  if (watch.delivering + in_handler >= kLoopSamples) {
    return hang(GuestCause::kExceptionLoop, fmt::format("vector {} in {} of {} looks, {}", watch.vector.value_or(0),
                                                        watch.delivering + in_handler, watch.samples, where));
  }
  if (watch.accesses >= kStormAccesses) {
    return hang(GuestCause::kExitStorm,
                fmt::format("{} accesses in {} looks, {}", watch.accesses, watch.samples, where));
  }
  return hang(watch.accepts_interrupts ? GuestCause::kSpin : GuestCause::kSpinInterruptsOff, where);
}

}  // namespace

GuestVerdict ClassifyGuestFault(const CallOutcome& outcome, const Error* refused) {
  const CallEvidence none;
  const CallEvidence& evidence = outcome.evidence ? *outcome.evidence : none;
  if (outcome.end != CallEnd::kRang) {
    if (evidence.crash) return OfCrash(*evidence.crash);
    if (outcome.end == CallEnd::kCrashed) return Of(GuestFaultClass::kGuestFault, GuestCause::kUnknownExit);
    if (evidence.watch) return OfWatch(*evidence.watch);
    return Of(GuestFaultClass::kHang, GuestCause::kSilent);
  }
  if (refused != nullptr) {
    GuestVerdict verdict = Of(GuestFaultClass::kGuestFault, GuestCause::kLies, refused->ToString());
    verdict.survives = true;
    return verdict;
  }
  if (evidence.refused != 0) {
    GuestVerdict verdict = Of(GuestFaultClass::kGuestFault, GuestCause::kWildAccesses,
                              fmt::format("{} of {}", evidence.refused, evidence.accesses));
    verdict.survives = true;
    return verdict;
  }
  return {};
}

std::string_view ToString(GuestFaultClass fault_class) {
  switch (fault_class) {
    case GuestFaultClass::kNone:
      return "none";
    case GuestFaultClass::kGuestFault:
      return "guest_fault";
    case GuestFaultClass::kHang:
      break;
  }
  return "hang";
}

std::string_view ToString(GuestCause cause) {
  switch (cause) {
    case GuestCause::kNone:
      return "nothing";
    case GuestCause::kTripleFault:
      return "triple fault";
    case GuestCause::kBadPageTables:
      return "triple fault on broken page tables";
    case GuestCause::kException:
      return "unhandled exception";
    case GuestCause::kWildJump:
      return "wild jump";
    case GuestCause::kInternalError:
      return "KVM could not go on";
    case GuestCause::kUnknownExit:
      return "unexpected exit";
    case GuestCause::kSpinInterruptsOff:
      return "spins with interrupts off";
    case GuestCause::kSpin:
      return "spins";
    case GuestCause::kHalted:
      return "halted, and nothing wakes it";
    case GuestCause::kExceptionLoop:
      return "exception loop";
    case GuestCause::kExitStorm:
      return "exit storm";
    case GuestCause::kInterruptStorm:
      return "interrupt storm";
    case GuestCause::kSlow:
      return "answered after its limit";
    case GuestCause::kSilent:
      return "no answer in time";
    case GuestCause::kLies:
      return "lies in the mailbox";
    case GuestCause::kWildAccesses:
      break;
  }
  return "accesses to nothing";
}

}  // namespace nestbench::substrates
