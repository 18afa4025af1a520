// All memory of one guest, by guest-physical address.
//
// Owns its regions; they keep their place for the life of this object. Every access is bounds-checked and copies:
// the guest changes its memory at will, so a value is read once and then checked, never checked and read again.
// Access from several threads is safe as long as no region is being added.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <deque>
#include <optional>
#include <span>
#include <type_traits>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/memory/memory_region.h"

namespace nestbench::vmm {

class GuestMemory {
 public:
  GuestMemory() = default;

  // Takes the region. kInvalidArgument when it overlaps one that is there. The pointer stays valid until Remove of it.
  Result<const MemoryRegion*> Add(MemoryRegion region);

  // Unmaps the region that starts at `start`; kInvalidArgument when there is none.
  Result<void> Remove(abi::GuestPhysAddr start);

  [[nodiscard]] const std::deque<MemoryRegion>& regions() const { return regions_; }

  // The region that has all of [address, address + size_bytes); nullptr when none has.
  [[nodiscard]] const MemoryRegion* Find(abi::GuestPhysAddr address, std::uint64_t size_bytes) const;

  // The guest-physical address behind a host byte of a region; none for any other.
  [[nodiscard]] std::optional<abi::GuestPhysAddr> AddressOf(const std::byte* host) const;

  // The host bytes of [address, address + size_bytes), all inside one region. kInvalidArgument otherwise. The span is
  // hostile: copy out of it before deciding anything.
  [[nodiscard]] Result<std::span<std::byte>> Slice(abi::GuestPhysAddr address, std::uint64_t size_bytes) const;

  Result<void> ReadBytes(abi::GuestPhysAddr address, std::span<std::byte> destination) const;
  Result<void> WriteBytes(abi::GuestPhysAddr address, std::span<const std::byte> source) const;

  template <typename T>
    requires std::is_trivially_copyable_v<T>
  [[nodiscard]] Result<T> Read(abi::GuestPhysAddr address) const {
    T value;
    if (auto done = ReadBytes(address, std::as_writable_bytes(std::span(&value, 1))); !done) {
      return Fail(std::move(done.error()));
    }
    return value;
  }

  template <typename T>
    requires std::is_trivially_copyable_v<T>
  Result<void> Write(abi::GuestPhysAddr address, const T& value) const {
    return WriteBytes(address, std::as_bytes(std::span(&value, 1)));
  }

 private:
  std::deque<MemoryRegion> regions_;
};

}  // namespace nestbench::vmm
