#include "devices/panic/panic.h"

#include <cstring>

namespace nestbench::vmm {

using panic::kVector;
using panic::kVectorWidthBytes;

std::optional<std::uint32_t> PanicPort::vector() const {
  const std::uint64_t first = first_.load(std::memory_order_acquire);
  if (first == 0) return std::nullopt;
  return static_cast<std::uint32_t>(first);
}

AccessStatus PanicPort::Read(std::uint64_t offset, std::span<std::byte> data) {
  return FailRead(data, offset == kVector ? AccessStatus::kWriteOnly : AccessStatus::kBadOffset);
}

AccessStatus PanicPort::Write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset != kVector) return AccessStatus::kBadOffset;
  if (data.size() != kVectorWidthBytes) return AccessStatus::kBadWidth;
  std::uint32_t vector = 0;
  std::memcpy(&vector, data.data(), sizeof(vector));
  std::uint64_t none = 0;
  first_.compare_exchange_strong(none, kRecorded | vector, std::memory_order_acq_rel);
  count_.fetch_add(1, std::memory_order_release);
  return AccessStatus::kOk;
}

}  // namespace nestbench::vmm
