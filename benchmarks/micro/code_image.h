// Payload images made of a few instructions, for guests that no payload of workloads/ is: a loop that spins, one that
// dirties pages.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "nestbench/abi/layout.h"

namespace nestbench::micro {

// Where the writable segment of a code image lies.
inline constexpr std::uint64_t kCodeImageData = abi::kImageBase + abi::kPageBytes;

// An ELF64 file: `code`, at most a page, is entered at abi::kImageBase; then `data_bytes` of zeroes, writable.
std::vector<std::byte> MakeCodeImage(const std::vector<std::uint8_t>& code, std::uint64_t data_bytes = 0);

}  // namespace nestbench::micro
