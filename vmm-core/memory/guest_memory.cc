#include "nestbench/vmm/memory/guest_memory.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm {

Result<const MemoryRegion*> GuestMemory::Add(MemoryRegion region) {
  for (const MemoryRegion& present : regions_) {
    if (!Mutated("memory-overlap-accepted") && present.range().Overlaps(region.range())) {
      return Fail(Error::InvalidArgument(
          "add guest memory",
          fmt::format("[{:#x}, +{:#x}) overlaps [{:#x}, +{:#x})", region.range().start.value(),
                      region.range().size_bytes, present.range().start.value(), present.range().size_bytes)));
    }
  }
  // A place that Remove emptied is used again, so that adding and removing for ever does not grow the list.
  for (MemoryRegion& place : regions_) {
    if (place.range().size_bytes != 0) continue;
    place = std::move(region);
    return &place;
  }
  return &regions_.emplace_back(std::move(region));
}

Result<void> GuestMemory::Remove(abi::GuestPhysAddr start) {
  const auto found = std::find_if(regions_.begin(), regions_.end(), [&](const auto& region) {
    return region.range().start == start && region.range().size_bytes != 0;
  });
  if (found == regions_.end()) {
    return Fail(Error::InvalidArgument("remove guest memory", fmt::format("no region starts at {:#x}", start.value())));
  }
  // Erasing from the middle of a deque would move other regions; emptying this one in place keeps every pointer valid.
  MemoryRegion dropped = std::move(*found);
  return {};
}

const MemoryRegion* GuestMemory::Find(abi::GuestPhysAddr address, std::uint64_t size_bytes) const {
  for (const MemoryRegion& region : regions_) {
    if (region.range().Contains(address, Mutated("memory-bound-off-by-one") ? size_bytes - 1 : size_bytes)) {
      return &region;
    }
  }
  return nullptr;
}

std::optional<abi::GuestPhysAddr> GuestMemory::AddressOf(const std::byte* host) const {
  const auto value = reinterpret_cast<std::uintptr_t>(host);
  for (const MemoryRegion& region : regions_) {
    const auto first = reinterpret_cast<std::uintptr_t>(region.bytes().data());
    if (value < first || value - first >= region.bytes().size()) continue;
    return abi::GuestPhysAddr(region.range().start.value() + (value - first));
  }
  return std::nullopt;
}

Result<std::span<std::byte>> GuestMemory::Slice(abi::GuestPhysAddr address, std::uint64_t size_bytes) const {
  if (const MemoryRegion* region = Find(address, size_bytes); region != nullptr) {
    return region->bytes().subspan(address.value() - region->range().start.value(), size_bytes);
  }
  return Fail(Error::InvalidArgument(
      "access guest memory", fmt::format("[{:#x}, +{:#x}) is not inside one region", address.value(), size_bytes)));
}

Result<void> GuestMemory::ReadBytes(abi::GuestPhysAddr address, std::span<std::byte> destination) const {
  auto source = Slice(address, destination.size());
  if (!source) return Fail(std::move(source.error()));
  if (!destination.empty()) std::memcpy(destination.data(), source->data(), destination.size());
  return {};
}

Result<void> GuestMemory::WriteBytes(abi::GuestPhysAddr address, std::span<const std::byte> source) const {
  auto destination = Slice(address, source.size());
  if (!destination) return Fail(std::move(destination.error()));
  if (!source.empty()) std::memcpy(destination->data(), source.data(), source.size());
  return {};
}

}  // namespace nestbench::vmm
