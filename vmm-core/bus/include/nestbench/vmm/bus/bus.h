// An address space full of devices: Bus<PortAddr> is the I/O ports, Bus<GuestPhysAddr> the MMIO space. One class for
// both, and a port cannot be taken for an address.
//
// Thread rule: Add() only while no other thread uses the bus (before the vCPUs start). Read() and Write() from any
// number of threads at once; the bus takes no lock and devices are called as concurrently as the vCPUs run.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/bus/access.h"
#include "nestbench/vmm/bus/device.h"

namespace nestbench::vmm {

// An x86 I/O port: 0 to 0xFFFF.
using PortAddr = abi::Address<struct PortTag>;

// Devices are borrowed: each must outlive the bus. Movable while no other thread uses it.
template <typename Addr>
class Bus {
 public:
  Bus() = default;
  Bus(Bus&& other) noexcept;
  Bus& operator=(Bus&& other) noexcept;

  // Claims [start, start + size_bytes) for `device`; `name` is for error messages. kInvalidArgument, and nothing
  // changed, when the range is empty, leaves the address space or overlaps another (the error names both).
  Result<void> Add(Addr start, std::uint64_t size_bytes, Device& device, std::string name);

  // One guest access, on the hot path of every exit: no allocation, no exception, no lock. kUnclaimed when no single
  // device has all of the bytes (an access that straddles a device's end is nobody's); kBadWidth when `data` is
  // empty; else what the device says. A read that is not kOk leaves all ones in `data`.
  [[nodiscard]] AccessStatus Read(Addr address, std::span<std::byte> data);
  [[nodiscard]] AccessStatus Write(Addr address, std::span<const std::byte> data);

  // How many ranges are claimed.
  [[nodiscard]] std::size_t size() const { return claims_.size(); }

 private:
  struct Claim {
    std::uint64_t start;
    std::uint64_t size_bytes;
    Device* device;

    [[nodiscard]] bool Contains(std::uint64_t address, std::uint64_t bytes) const {
      const std::uint64_t offset = address - start;  // wraps below `start` to what no size reaches
      return offset < size_bytes && bytes <= size_bytes - offset;
    }
  };

  // Inline, like Read and Write: after an exit the caches are cold, and each further page of code costs a walk.
  [[nodiscard]] const Claim* Find(std::uint64_t address, std::uint64_t bytes) {
    const std::size_t hint = last_hit_.load(std::memory_order_relaxed);
    if (hint < claims_.size() && claims_[hint].Contains(address, bytes)) return &claims_[hint];
    return Search(address, bytes);
  }
  [[nodiscard]] const Claim* Search(std::uint64_t address, std::uint64_t bytes);

  std::vector<Claim> claims_;       // by start; they never overlap
  std::vector<std::string> names_;  // of claims_, apart so that the lookup touches fewer cache lines
  // Index of the claim that was hit last: a guest mostly polls one device. A hint only, hence relaxed.
  std::atomic<std::size_t> last_hit_{0};
};

template <typename Addr>
inline AccessStatus Bus<Addr>::Read(Addr address, std::span<std::byte> data) {
  if (data.empty()) return AccessStatus::kBadWidth;
  const Claim* claim = Find(address.value(), data.size());
  if (claim == nullptr) return FailRead(data, AccessStatus::kUnclaimed);
  const AccessStatus status = claim->device->Read(address.value() - claim->start, data);
  return status == AccessStatus::kOk ? status : FailRead(data, status);
}

template <typename Addr>
inline AccessStatus Bus<Addr>::Write(Addr address, std::span<const std::byte> data) {
  if (data.empty()) return AccessStatus::kBadWidth;
  const Claim* claim = Find(address.value(), data.size());
  if (claim == nullptr) return AccessStatus::kUnclaimed;
  return claim->device->Write(address.value() - claim->start, data);
}

extern template class Bus<PortAddr>;
extern template class Bus<abi::GuestPhysAddr>;

using PortBus = Bus<PortAddr>;
using MmioBus = Bus<abi::GuestPhysAddr>;

}  // namespace nestbench::vmm
