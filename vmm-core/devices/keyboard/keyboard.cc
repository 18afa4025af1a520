#include "devices/keyboard/keyboard.h"

namespace nestbench::vmm {

using namespace keyboard;

AccessStatus KeyboardController::Read(std::uint64_t offset, std::span<std::byte> data) {
  if (data.size() != 1) return FailRead(data, AccessStatus::kBadWidth);
  if (offset != kDataOffset && offset != kCommandOffset) return FailRead(data, AccessStatus::kBadOffset);
  data[0] = std::byte{offset == kCommandOffset ? kStatusSystemFlag : std::uint8_t{0}};
  return AccessStatus::kOk;
}

AccessStatus KeyboardController::Write(std::uint64_t offset, std::span<const std::byte> data) {
  if (data.size() != 1) return AccessStatus::kBadWidth;
  if (offset != kDataOffset && offset != kCommandOffset) return AccessStatus::kBadOffset;
  if (offset == kCommandOffset && data[0] == std::byte{kCommandPulseReset}) reset_();
  return AccessStatus::kOk;
}

}  // namespace nestbench::vmm
