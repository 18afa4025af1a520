#include "devices/doorbell/doorbell.h"

namespace nestbench::vmm {

using doorbell::kRing;
using doorbell::kRingWidthBytes;

AccessStatus Doorbell::Read(std::uint64_t offset, std::span<std::byte> data) {
  return FailRead(data, offset == kRing ? AccessStatus::kWriteOnly : AccessStatus::kBadOffset);
}

[[gnu::hot]] AccessStatus Doorbell::Write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset != kRing) return AccessStatus::kBadOffset;
  if (data.size() != kRingWidthBytes) return AccessStatus::kBadWidth;
  rings_.fetch_add(1, std::memory_order_release);
  if (listener_ != nullptr) listener_->OnRing();
  return AccessStatus::kOk;
}

}  // namespace nestbench::vmm
