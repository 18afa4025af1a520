#include "nestbench/vmm/bus/bus.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <type_traits>
#include <utility>

#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm {
namespace {

// The highest address there is.
template <typename Addr>
constexpr std::uint64_t LastAddress() {
  if constexpr (std::is_same_v<Addr, PortAddr>) {
    return 0xFFFF;
  } else {
    return std::numeric_limits<std::uint64_t>::max();
  }
}

template <typename Addr>
constexpr std::string_view SpaceName() {
  return std::is_same_v<Addr, PortAddr> ? "port" : "MMIO";
}

}  // namespace

template <typename Addr>
Bus<Addr>::Bus(Bus&& other) noexcept : claims_(std::move(other.claims_)), names_(std::move(other.names_)) {}

template <typename Addr>
Bus<Addr>& Bus<Addr>::operator=(Bus&& other) noexcept {
  claims_ = std::move(other.claims_);
  names_ = std::move(other.names_);
  last_hit_.store(0, std::memory_order_relaxed);
  return *this;
}

template <typename Addr>
Result<void> Bus<Addr>::Add(Addr start, std::uint64_t size_bytes, Device& device, std::string name) {
  const std::string operation = fmt::format("add device to the {} bus", SpaceName<Addr>());
  if (size_bytes == 0) return Fail(Error::InvalidArgument(operation, fmt::format("{}: the range is empty", name)));
  if (start.value() > LastAddress<Addr>() || size_bytes - 1 > LastAddress<Addr>() - start.value()) {
    return Fail(Error::InvalidArgument(
        operation, fmt::format("{} [{:#x}, +{:#x}) leaves the address space", name, start.value(), size_bytes)));
  }
  const auto next = std::ranges::upper_bound(claims_, start.value(), {}, &Claim::start);
  const auto index = next - claims_.begin();
  const auto refuse = [&](std::ptrdiff_t other) {
    const Claim& claim = claims_[static_cast<std::size_t>(other)];
    return Fail(Error::InvalidArgument(
        operation, fmt::format("{} [{:#x}, +{:#x}) overlaps {} [{:#x}, +{:#x})", name, start.value(), size_bytes,
                               names_[static_cast<std::size_t>(other)], claim.start, claim.size_bytes)));
  };
  if (index > 0 && start.value() - claims_[static_cast<std::size_t>(index - 1)].start <
                       claims_[static_cast<std::size_t>(index - 1)].size_bytes) {
    return refuse(index - 1);
  }
  if (next != claims_.end() && next->start - start.value() < size_bytes) return refuse(index);
  claims_.insert(next,
                 Claim{start.value(), Mutated("bus-claims-a-byte-too-many") ? size_bytes + 1 : size_bytes, &device});
  names_.insert(names_.begin() + index, std::move(name));
  return {};
}

template <typename Addr>
const typename Bus<Addr>::Claim* Bus<Addr>::Search(std::uint64_t address, std::uint64_t bytes) {
  const auto next = std::ranges::upper_bound(claims_, address, {}, &Claim::start);
  if (next == claims_.begin()) return nullptr;
  const auto found = next - 1;
  if (!found->Contains(address, bytes)) return nullptr;
  last_hit_.store(static_cast<std::size_t>(found - claims_.begin()), std::memory_order_relaxed);
  return &*found;
}

template class Bus<PortAddr>;
template class Bus<abi::GuestPhysAddr>;

}  // namespace nestbench::vmm
