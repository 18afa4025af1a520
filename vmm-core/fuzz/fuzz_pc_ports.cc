// The small devices of a PC (clock, keyboard controller, power management), driven by any accesses, against what each
// must do.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "devices/keyboard/keyboard.h"
#include "devices/power/power.h"
#include "devices/rtc/rtc.h"
#include "nestbench/fuzz/input.h"
#include "nestbench/fuzz/require.h"

namespace nestbench::vmm {
namespace {

using fuzz::Require;

class Board {
 public:
  void Step(fuzz::Input& input) {
    const auto choice = input.Take<std::uint8_t>();
    const bool is_write = (choice & 0x80) != 0;
    const std::uint64_t offset = (choice & 0x40) != 0 ? input.Take<std::uint64_t>() : input.Take<std::uint8_t>() % 16U;
    std::array<std::byte, 8> data{};
    const auto bytes = std::span(data).first(1 + input.Take<std::uint8_t>() % data.size());
    if (is_write) std::ranges::copy(input.TakeBytes(bytes.size()), bytes.begin());
    switch (choice % 3) {
      case 0:
        // The clock has two ports, and a bus keeps all others away from it.
        Clock(is_write, offset % RealTimeClock::kPortCount, bytes);
        break;
      case 1:
        Keyboard(is_write, offset, bytes);
        break;
      default:
        Power(is_write, offset, bytes);
        break;
    }
  }

 private:
  AccessStatus Access(Device& device, bool is_write, std::uint64_t offset, std::span<std::byte> bytes) {
    const AccessStatus status = is_write ? device.Write(offset, bytes) : device.Read(offset, bytes);
    if (!is_write && status != AccessStatus::kOk) {
      Require(std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0xFF}; }),
              "a failed read leaves all ones");
    }
    return status;
  }

  void Clock(bool is_write, std::uint64_t offset, std::span<std::byte> bytes) {
    const AccessStatus status = Access(clock_, is_write, offset, bytes);
    Require((status == AccessStatus::kBadWidth) == (bytes.size() != 1), "the clock takes bytes");
    if (status != AccessStatus::kOk) return;
    const auto value = std::to_integer<std::uint8_t>(bytes[0]);
    if (offset == rtc::kIndexPort) {
      Require(is_write, "the index cannot be read");
      index_ = value & rtc::kIndexMask;
    } else if (index_ > rtc::kRegisterD && index_ != rtc::kCentury) {
      if (is_write) ram_[index_] = value;
      Require(ram_[index_] == value, "RAM keeps what it gets");
    } else {
      Require(!is_write, "the time cannot be set");
      const bool is_time = index_ <= rtc::kYear && index_ % 2 == 0;
      Require(!is_time || (value % 16 < 10 && value / 16 < 10), "the time is told in decimal");
    }
  }

  void Keyboard(bool is_write, std::uint64_t offset, std::span<std::byte> bytes) {
    const AccessStatus status = Access(keyboard_, is_write, offset, bytes);
    const bool exists = offset == keyboard::kDataOffset || offset == keyboard::kCommandOffset;
    Require((status == AccessStatus::kOk) == (exists && bytes.size() == 1), "two bytes are all that there is");
    const bool pulse = status == AccessStatus::kOk && is_write && offset == keyboard::kCommandOffset &&
                       bytes[0] == std::byte{keyboard::kCommandPulseReset};
    if (pulse) ++expected_resets_;
    Require(resets_ == expected_resets_, "the pulse resets, and nothing else");
  }

  void Power(bool is_write, std::uint64_t offset, std::span<std::byte> bytes) {
    const AccessStatus status = Access(power_, is_write, offset, bytes);
    if (status == AccessStatus::kOk && is_write && offset == power::kControl) {
      std::uint16_t value = 0;
      std::memcpy(&value, bytes.data(), sizeof(value));
      if ((value & power::kControlSleepEnable) != 0 && (value >> 10 & 7) == power::kSleepTypeOff) ++expected_offs_;
    }
    Require(status != AccessStatus::kOk || offset + bytes.size() <= power::kPortCount, "an access lies in its ports");
    Require(offs_ == expected_offs_, "soft off switches off, and nothing else");
  }

  RealTimeClock clock_;
  std::uint8_t index_ = 0;
  std::array<std::uint8_t, rtc::kRegisters> ram_{};
  int resets_ = 0;
  int expected_resets_ = 0;
  KeyboardController keyboard_{[this] { ++resets_; }};
  int offs_ = 0;
  int expected_offs_ = 0;
  PowerManagement power_{[this] { ++offs_; }};
};

}  // namespace
}  // namespace nestbench::vmm

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  nestbench::fuzz::Input input(data, size);
  nestbench::vmm::Board board;
  while (!input.empty()) board.Step(input);
  return 0;
}
