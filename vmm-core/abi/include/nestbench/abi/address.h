// Address and identifier types, so that a guest-physical address is never taken for a host or guest-virtual one.
//
// Arithmetic is checked: the only way to move an address is CheckedAdd, which fails on overflow. Ranges are start +
// size, never inclusive ends. Freestanding.
#pragma once

#include <compare>
#include <cstdint>

namespace nestbench::abi {

template <typename Tag>
class Address {
 public:
  constexpr Address() = default;
  constexpr explicit Address(std::uint64_t value) : value_(value) {}

  [[nodiscard]] constexpr std::uint64_t value() const { return value_; }
  constexpr auto operator<=>(const Address&) const = default;

  // Sets `sum` to this + `offset_bytes`; false, and `sum` untouched, when that does not fit 64 bits.
  [[nodiscard]] constexpr bool CheckedAdd(std::uint64_t offset_bytes, Address& sum) const {
    std::uint64_t result = 0;
    if (__builtin_add_overflow(value_, offset_bytes, &result)) return false;
    sum = Address(result);
    return true;
  }

  // Bytes from `start` up to this; false, and `distance_bytes` untouched, when this lies below `start`.
  [[nodiscard]] constexpr bool CheckedOffsetFrom(Address start, std::uint64_t& distance_bytes) const {
    if (value_ < start.value_) return false;
    distance_bytes = value_ - start.value_;
    return true;
  }

  [[nodiscard]] constexpr bool IsAligned(std::uint64_t alignment_bytes) const { return value_ % alignment_bytes == 0; }

 private:
  std::uint64_t value_ = 0;
};

using GuestPhysAddr = Address<struct GuestPhysTag>;
using GuestVirtAddr = Address<struct GuestVirtTag>;

// A run of guest-physical bytes. An empty range contains nothing and overlaps nothing.
struct GuestPhysRange {
  GuestPhysAddr start;
  std::uint64_t size_bytes = 0;

  // Whether all of [address, address + bytes) lies inside. False when that sum overflows.
  [[nodiscard]] constexpr bool Contains(GuestPhysAddr address, std::uint64_t bytes) const {
    std::uint64_t offset = 0;
    if (!address.CheckedOffsetFrom(start, offset)) return false;
    return offset <= size_bytes && bytes <= size_bytes - offset;
  }

  // Whether start + size_bytes can be formed at all.
  [[nodiscard]] constexpr bool IsValid() const {
    GuestPhysAddr end;
    return start.CheckedAdd(size_bytes, end);
  }

  [[nodiscard]] constexpr bool Overlaps(const GuestPhysRange& other) const {
    if (size_bytes == 0 || other.size_bytes == 0) return false;
    return start < other.start ? other.start.value() - start.value() < size_bytes
                               : start.value() - other.start.value() < other.size_bytes;
  }

  constexpr bool operator==(const GuestPhysRange&) const = default;
};

// Index of a virtual CPU inside its VM; also its APIC ID here.
enum class VcpuId : std::uint32_t {};

}  // namespace nestbench::abi
