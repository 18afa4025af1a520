// Guests of other kinds than the 64-bit user payload: the same mailbox and doorbell in 16-bit real mode, in 32-bit
// protected mode without paging, and in 64-bit mode at CPL0. Each does the same fixed work, so that one host program
// drives all of them and knows their checksums (workloads/flat/guest.S).
//
// They know operation 0, take no parameters and have no arena; iterations go up to 2^32 - 1. One iteration costs a few
// nanoseconds where the mode runs natively, and about 2 us on a KVM that emulates it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "nestbench/substrates/substrate.h"

namespace nestbench::substrates {

enum class FlatMode : std::uint8_t { kReal16, kProtected32, kSupervisor64 };

struct FlatOptions {
  const vmm::KvmDevice* device = nullptr;  // borrowed; nullptr: /dev/kvm is opened
};

// "real16", "protected32", "supervisor64"
std::string_view ToString(FlatMode mode);

// The guest's binary, embedded in the program: for its digest. Lives as long as the program.
std::span<const std::byte> FlatImage(FlatMode mode);

// What the guest must answer in every mode.
std::uint64_t FlatChecksum(std::uint64_t seed, std::uint32_t iterations);

// kUnsupported, with the cause, when /dev/kvm is missing or may not be opened; else what failed.
Result<std::unique_ptr<Substrate>> CreateFlat(FlatMode mode, const FlatOptions& options);

}  // namespace nestbench::substrates
