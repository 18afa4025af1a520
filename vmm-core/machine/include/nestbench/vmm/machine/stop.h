// Why a machine gave control back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace nestbench::vmm {

enum class StopReason : std::uint8_t {
  kDoorbell,     // the payload rang
  kException,    // an exception that nobody handles; the payload cannot go on
  kCrashed,      // shutdown, failed entry, internal error: `text` holds registers and code
  kInterrupted,  // the deadline passed or somebody kicked
  kUnexpected,   // an exit that this machine has no use for
};

// As the exception stubs found it. The frame lies in the guest's memory: its numbers are the guest's word.
struct GuestException {
  std::uint32_t vector = 0;
  std::uint64_t error_code = 0;  // 0 where the vector has none
  std::uint64_t instruction_pointer = 0;
  std::uint64_t cr2 = 0;
};

struct Stop {
  StopReason reason = StopReason::kUnexpected;
  std::string text;                               // empty for kDoorbell
  std::optional<GuestException> exception = {};   // of kException, as far as the frame could be read
  std::optional<std::uint32_t> exit_reason = {};  // KVM_EXIT_* of kCrashed and kUnexpected
};

}  // namespace nestbench::vmm
