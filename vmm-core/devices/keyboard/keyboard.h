// The keyboard controller of a PC, for the one thing that a kernel without a keyboard asks it: to reset the machine.
//
// Emulated: a controller with nothing attached and nothing to say; the reset pulse.
// Not emulated: everything else. Commands are taken and never answered.
//
// Any number of threads may access it at once.
#pragma once

#include <functional>

#include "devices/keyboard/registers.h"
#include "nestbench/vmm/bus/device.h"

namespace nestbench::vmm {

class KeyboardController final : public Device {
 public:
  static constexpr std::uint64_t kPortCount = keyboard::kPortCount;

  // `reset` is called on the vCPU thread that asks for it, and may be called several times.
  explicit KeyboardController(std::function<void()> reset) : reset_(std::move(reset)) {}

  [[nodiscard]] AccessStatus Read(std::uint64_t offset, std::span<std::byte> data) override;
  [[nodiscard]] AccessStatus Write(std::uint64_t offset, std::span<const std::byte> data) override;

 private:
  std::function<void()> reset_;
};

}  // namespace nestbench::vmm
