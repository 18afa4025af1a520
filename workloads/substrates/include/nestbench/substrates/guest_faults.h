// Guests that go wrong on purpose, and how to tell from the evidence alone what is wrong with a guest.
//
// A faulty guest is one of our own (workloads/flat/faults.S), in its own VM: whatever it does is its own harm, and its
// VMM goes on. Faults run in 64-bit mode at CPL0, where a guest can do the most.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "nestbench/substrates/flat.h"
#include "nestbench/substrates/substrate.h"

namespace nestbench::substrates {

// Numbers are stable: messages between processes carry them.
enum class GuestFault : std::uint32_t {
  kTripleFault = 1,
  kExceptionLoop = 2,
  kWildJump = 3,
  kPageTableGarbage = 4,
  kSpinInterruptsOff = 5,
  kHungVcpu = 6,
  kExitStorm = 7,
  kInterruptStorm = 8,
  kWriteUnmapped = 9,
  kMailboxLies = 10,
};

enum class GuestFaultClass : std::uint8_t {
  kNone,        // nothing is wrong
  kGuestFault,  // the guest did what no guest may
  kHang,        // it does not answer
};

// What is wrong with a guest, as far as its VMM can see.
enum class GuestCause : std::uint8_t {
  kNone,
  kTripleFault,
  kBadPageTables,  // a triple fault, and its tables do not map where it was
  kException,      // one that it does not handle
  kWildJump,       // it executed where there is no code
  kInternalError,  // KVM could not go on, mostly for an instruction that it cannot emulate
  kUnknownExit,    // an exit that nobody expects, or an entry that the hardware refuses
  kSpinInterruptsOff,
  kSpin,    // interrupts would have been accepted
  kHalted,  // and nothing woke it
  kExceptionLoop,
  kExitStorm,
  kInterruptStorm,
  kSlow,          // it answered after its limit
  kSilent,        // no more is known: a substrate without evidence
  kLies,          // its reply cannot be true
  kWildAccesses,  // it touched ports or addresses where there is nothing; it goes on
};

struct GuestVerdict {
  GuestFaultClass fault_class = GuestFaultClass::kNone;
  GuestCause cause = GuestCause::kNone;
  bool survives = true;  // it could serve the next command
  std::string words;     // one line for people: the cause and its numbers; empty when nothing is wrong
};

// By the evidence alone: what was injected is not known here. `refused` is why ReadReply() did not believe the reply,
// or null. Evidence that the guest can forge (registers, its own interrupt table) decides between causes, never whether
// there is a fault.
GuestVerdict ClassifyGuestFault(const CallOutcome& outcome, const Error* refused);

struct GuestFaultInfo {
  GuestFault fault;
  std::string_view name;      // as in measurement ids: "triple_fault"
  std::string_view summary;   // one sentence without a full stop
  std::string_view guest;     // which guest does it
  std::string_view vmm_help;  // what the VMM does so that it happens; empty: nothing
  GuestFaultClass expected;
  CallEnd expected_end;
  std::span<const GuestCause> causes;  // any of these is right
  bool survives;                       // the guest goes on and serves the next command
};

// All of them, in the order of their numbers. Lives as long as the program.
std::span<const GuestFaultInfo> GuestFaults();

// nullptr for a number or a name that is no fault.
const GuestFaultInfo* FindGuestFault(std::uint32_t number);
const GuestFaultInfo* FindGuestFault(std::string_view name);

// Whether the verdict is the one that the fault deserves.
bool IsRight(const GuestFaultInfo& fault, const GuestVerdict& verdict);

std::string_view ToString(GuestFaultClass fault_class);
std::string_view ToString(GuestCause cause);

// A guest whose every Call() commits the fault, whatever the request asks for; only its sequence number and its
// iterations are kept. `seed` chooses what the fault leaves open: where a wild jump goes, which table becomes garbage,
// which lie is told. Errors as of CreateFlat().
Result<std::unique_ptr<Substrate>> CreateFaulty(GuestFault fault, std::uint64_t seed, const FlatOptions& options);

// Commits the fault once in a guest of its own, for at most `limit` and some milliseconds, to find out whether it can
// be produced here: kUnsupported with the exact reason when this KVM cannot execute what it takes.
Result<void> TryGuestFault(GuestFault fault, const FlatOptions& options, std::chrono::nanoseconds limit);

}  // namespace nestbench::substrates
