// What the VMM saw of a guest during one call: the raw material for saying what went wrong with it. Numbers that the
// guest can choose (registers, frames) are its word.
#pragma once

#include <cstdint>
#include <optional>

namespace nestbench::substrates {

enum class CrashKind : std::uint8_t {
  kException,      // its own stubs reported an exception that nobody handles
  kTripleFault,    // KVM_EXIT_SHUTDOWN
  kInternalError,  // KVM_EXIT_INTERNAL_ERROR: mostly an instruction that KVM could not emulate
  kFailedEntry,    // KVM_EXIT_FAIL_ENTRY: state that the hardware refuses
  kOther,          // an exit that the machine has no use for
};

// What stands where an instruction pointer points.
enum class CodeAt : std::uint8_t {
  kMemory,
  kNoMemory,   // mapped by the guest's tables, but to an address without memory
  kNotMapped,  // by the guest's tables; also when KVM could not tell
};

struct GuestCrash {
  CrashKind kind = CrashKind::kOther;
  std::uint64_t instruction_pointer = 0;
  CodeAt code = CodeAt::kNotMapped;
  std::optional<std::uint32_t> vector = {};  // of kException
  std::uint64_t error_code = 0;
  std::uint64_t fault_address = 0;  // CR2
};

// A guest that passed its limit was let run on for some very short times, and looked at after each.
struct GuestWatch {
  std::uint32_t samples = 0;
  std::uint64_t lowest_ip = 0;  // instruction pointers seen
  std::uint64_t highest_ip = 0;
  bool accepts_interrupts = false;           // at any sample
  bool is_halted = false;                    // at the last
  bool rang = false;                         // it was only slow
  std::uint64_t accesses = 0;                // to ports and addresses without memory while it was watched
  std::uint64_t interrupts = 0;              // delivered while it was watched
  std::uint32_t delivering = 0;              // samples at which an exception was just being delivered
  std::uint32_t in_exception = 0;            // samples inside the first instructions of an exception's handler
  std::uint32_t in_interrupt = 0;            // the same of an interrupt's
  std::optional<std::uint32_t> vector = {};  // of the handler or the delivery seen most
};

struct CallEvidence {
  std::uint64_t accesses = 0;  // to ports and addresses without memory, during the call; the ring included
  std::uint64_t refused = 0;   // of these, to nothing, or not as the device takes it
  std::uint64_t interrupts = 0;
  std::optional<GuestCrash> crash =
      {};  // of a call that ended as kCrashed, or whose guest crashed while it was watched
  std::optional<GuestWatch> watch = {};  // of a call that ended as kTimedOut
};

}  // namespace nestbench::substrates
