// What a payload file defines and what it may use. A payload is one file in workloads/payloads/ that defines SetUp, Run
// and Verify; the runtime (entry.cc) turns mailbox commands into calls of these three.
//
// The host compares the time between Begin() and End() with the time it saw pass around the whole of Run, and drops a
// sample on which the two differ. So Run does its work and next to nothing else: what takes time but is not to be
// measured belongs in SetUp (before the batches) or in Verify (after a batch).
//
// State that lives from SetUp to Verify is kept in constant-initialised variables of the payload's file (an image has
// no constructors) or in the arena. Freestanding, one thread, CPL3.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestbench/abi/mailbox.h"

namespace nestbench::payload {

using Status = abi::PayloadStatus;

// One request, already checked by the runtime: iterations >= 1, the arena in its place.
struct Args {
  std::uint64_t operation = 0;
  std::uint64_t iterations = 0;
  std::uint64_t seed = 0;  // everything random follows from it
  std::uint64_t parameters[abi::kMailboxParameters] = {};
  std::byte* arena = nullptr;     // abi::kArenaBase; zero before first use
  std::uint64_t arena_bytes = 0;  // may be 0: check it
};

// The answer to one command.
class Result {
 public:
  // Takes the time stamp directly before the first operation of the batch. LFENCE on both sides: RDTSC executes after
  // everything before it and before everything after it. (Intel SDM, volume 2, "RDTSC-Read Time-Stamp Counter";
  // AMD APM, volume 3, "LFENCE". CPUID would serialise too, but leaves a guest.)
  void Begin() {
    asm volatile("lfence\n\trdtsc\n\tshl $32, %%rdx\n\tor %%rdx, %%rax\n\tmov %%rax, %0\n\tlfence"
                 : "=m"(begin_tsc_)
                 :
                 : "rax", "rdx", "cc", "memory");
  }

  // Takes the time stamp directly after the last operation. Stores may still be in the store buffer; a payload for
  // which that matters (non-temporal stores) fences before it calls this.
  void End() {
    asm volatile("lfence\n\trdtsc\n\tshl $32, %%rdx\n\tor %%rdx, %%rax\n\tmov %%rax, %0\n\tlfence"
                 : "=m"(end_tsc_)
                 :
                 : "rax", "rdx", "cc", "memory");
  }

  // Operations done between Begin() and End(): what "per operation" divides by.
  void SetOperations(std::uint64_t operations) { operations_ = operations; }

  // Bytes moved between Begin() and End(), counted as the payload's head comment says.
  void SetBytes(std::uint64_t bytes) { bytes_ = bytes; }

  // Of the result. Follows from seed, iterations, operation and parameters alone: the same on every substrate.
  void SetChecksum(std::uint64_t checksum) { checksum_ = checksum; }

  // The command failed: `text` (a string literal) says what is wrong. The first call counts.
  void Fail(Status status, const char* text) {
    if (status_ != Status::kOk) return;
    status_ = status;
    text_ = text;
  }

  [[nodiscard]] bool ok() const { return status_ == Status::kOk; }
  [[nodiscard]] Status status() const { return status_; }
  [[nodiscard]] const char* text() const { return text_; }
  [[nodiscard]] std::uint64_t begin_tsc() const { return begin_tsc_; }
  [[nodiscard]] std::uint64_t end_tsc() const { return end_tsc_; }
  [[nodiscard]] std::uint64_t operations() const { return operations_; }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }
  [[nodiscard]] std::uint64_t checksum() const { return checksum_; }

 private:
  std::uint64_t begin_tsc_ = 0;
  std::uint64_t end_tsc_ = 0;
  std::uint64_t operations_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t checksum_ = 0;
  Status status_ = Status::kOk;
  const char* text_ = "";
};

// Defined by each payload.
//
// SetUp checks operation, parameters and arena (kBadRequest) and the CPU (kUnsupported), then prepares the working set.
// `iterations` is not to be relied on: batches of other lengths follow.
void SetUp(const Args& args, Result& result);

// One batch. Called only after a SetUp that succeeded with the same operation, parameters, seed and arena; may be
// called any number of times. Sets operations, bytes (where there are any) and checksum.
void Run(const Args& args, Result& result);

// Checks what the last Run computed (kWrongResult when it is wrong) and leaves everything ready for another Run. Called
// only directly after a Run that succeeded, with the same request; not after every Run. May take as long as that Run.
void Verify(const Args& args, Result& result);

// Makes the compiler believe that `value` is used and changed here: it can neither remove, fold nor vectorise what
// computed it. No instruction.
template <typename T>
inline void Opaque(T& value) {
  asm volatile("" : "+r"(value));
}

}  // namespace nestbench::payload
