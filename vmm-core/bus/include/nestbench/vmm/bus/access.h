// What came of one guest access to a device.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace nestbench::vmm {

// Nothing here ends the VMM: the guest is hostile and may do all of this at will.
enum class AccessStatus : std::uint8_t {
  kOk,
  kUnclaimed,  // no device has all of these bytes
  kBadWidth,   // the device does not take accesses of this width
  kBadOffset,  // the device has nothing at this offset
  kReadOnly,   // written, but can only be read
  kWriteOnly,  // read, but can only be written
};

[[nodiscard]] constexpr std::string_view ToString(AccessStatus status) {
  switch (status) {
    case AccessStatus::kOk:
      return "ok";
    case AccessStatus::kUnclaimed:
      return "unclaimed";
    case AccessStatus::kBadWidth:
      return "bad width";
    case AccessStatus::kBadOffset:
      return "bad offset";
    case AccessStatus::kReadOnly:
      return "read-only";
    case AccessStatus::kWriteOnly:
      return "write-only";
  }
  return "unknown";
}

// How a read fails: the guest sees all ones, as on a bus that nobody drives, and never a byte of the VMM.
constexpr AccessStatus FailRead(std::span<std::byte> data, AccessStatus status) {
  std::ranges::fill(data, std::byte{0xFF});
  return status;
}

}  // namespace nestbench::vmm
