// Both buses and every device, driven by any sequence of accesses, against a simple model of what each must do.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include "devices/doorbell/doorbell.h"
#include "devices/panic/panic.h"
#include "devices/serial/serial.h"
#include "nestbench/abi/layout.h"
#include "nestbench/fuzz/input.h"
#include "nestbench/fuzz/require.h"
#include "nestbench/vmm/bus/bus.h"

namespace nestbench::vmm {
namespace {

using fuzz::Input;
using fuzz::Require;

constexpr std::size_t kMaxAccessBytes = 16;
constexpr std::size_t kMaxAddedRanges = 64;

class CheckedIrqLine final : public IrqLine {
 public:
  void Set(bool level) override {
    Require(level != level_, "an interrupt line is set only when it changes");
    level_ = level;
  }
  [[nodiscard]] bool level() const { return level_; }

 private:
  bool level_ = false;
};

class DiscardingSink final : public ByteSink {
 public:
  void Put(std::span<const std::byte> bytes) override { Require(bytes.size() == 1, "a byte sent is a byte put"); }
};

class CountingListener final : public RingListener {
 public:
  void OnRing() override { ++rings_; }
  [[nodiscard]] std::uint64_t rings() const { return rings_; }

 private:
  std::uint64_t rings_ = 0;
};

// Takes everything and remembers how it was reached.
class NotingDevice final : public Device {
 public:
  AccessStatus Read(std::uint64_t offset, std::span<std::byte> data) override {
    last_offset = offset;
    std::ranges::fill(data, std::byte{0});
    return AccessStatus::kOk;
  }
  AccessStatus Write(std::uint64_t offset, std::span<const std::byte> /*data*/) override {
    last_offset = offset;
    return AccessStatus::kOk;
  }
  std::optional<std::uint64_t> last_offset;
};

// A bus, and next to it the ranges it should have, searched one by one.
template <typename Addr>
class ModelledBus {
 public:
  explicit ModelledBus(std::uint64_t last_address) : last_address_(last_address) {}

  void Add(std::uint64_t start, std::uint64_t size_bytes, Device& device, const char* name) {
    const Range range{start, size_bytes};
    const bool fits = size_bytes != 0 && start <= last_address_ && size_bytes - 1 <= last_address_ - start;
    const bool free = std::ranges::none_of(ranges_, [&](const Range& other) {
      return start <= other.start + (other.size_bytes - 1) && other.start <= start + (size_bytes - 1);
    });
    const auto added = bus_.Add(Addr(start), size_bytes, device, name);
    Require(added.has_value() == (fits && free), "a range is taken exactly when it fits and overlaps none");
    if (added) ranges_.push_back(range);
    Require(bus_.size() == ranges_.size(), "a refused range changes nothing");
  }

  AccessStatus Access(bool is_write, std::uint64_t address, std::span<std::byte> data) {
    const Range* const owner = Find(address, data.size());
    const AccessStatus status = is_write ? bus_.Write(Addr(address), data) : bus_.Read(Addr(address), data);
    if (data.empty()) {
      Require(status == AccessStatus::kBadWidth, "an access of no bytes is refused");
    } else if (owner == nullptr) {
      Require(status == AccessStatus::kUnclaimed, "nobody's bytes are unclaimed");
    } else {
      Require(status != AccessStatus::kUnclaimed, "a device's bytes are claimed");
    }
    if (!is_write && status != AccessStatus::kOk) {
      Require(std::ranges::all_of(data, [](std::byte byte) { return byte == std::byte{0xFF}; }),
              "a failed read leaves all ones");
    }
    return status;
  }

  // The start of what has all these bytes.
  [[nodiscard]] std::optional<std::uint64_t> StartOf(std::uint64_t address, std::size_t bytes) const {
    const Range* const owner = Find(address, bytes);
    return owner == nullptr ? std::nullopt : std::optional(owner->start);
  }

 private:
  struct Range {
    std::uint64_t start;
    std::uint64_t size_bytes;
  };

  [[nodiscard]] const Range* Find(std::uint64_t address, std::size_t bytes) const {
    for (const Range& range : ranges_) {
      if (address < range.start || address - range.start >= range.size_bytes) continue;
      return bytes <= range.size_bytes - (address - range.start) ? &range : nullptr;
    }
    return nullptr;
  }

  std::uint64_t last_address_;
  Bus<Addr> bus_;
  std::vector<Range> ranges_;
};

class Board {
 public:
  Board() {
    ports_.Add(abi::kSerialPort, Serial16550::kPortCount, serial_, "serial");
    ports_.Add(abi::kDoorbellPort, Doorbell::kSizeBytes, doorbell_, "doorbell");
    ports_.Add(abi::kPanicPort, PanicPort::kSizeBytes, panic_, "panic");
    mmio_.Add(abi::kDoorbellPage, Doorbell::kSizeBytes, doorbell_, "doorbell page");
    mmio_.Add(kMmioSerial, Serial16550::kPortCount, serial_, "serial page");
  }

  void Step(Input& input) {
    const auto choice = input.Take<std::uint8_t>();
    switch (choice % 8) {
      case 0:
        SerialAccess(input, (choice & 0x80) != 0);
        break;
      case 1:
      case 2:
        Access(ports_, choice % 2 == 0, PickPort(input), input);
        break;
      case 3:
      case 4:
        Access(mmio_, choice % 2 == 0, PickAddress(input), input);
        break;
      case 5:
        PushToSerial(input);
        break;
      case 6: {
        const bool pushed = serial_.PushBreak();
        Require(!pushed || (Register(serial::kLsr) & serial::kLsrDataReady) != 0, "a break that was taken waits");
        break;
      }
      default:
        AddRange(input, (choice & 0x80) != 0);
        break;
    }
    CheckAll();
  }

 private:
  static constexpr std::uint64_t kMmioSerial = abi::kMmioPagesEnd;

  static std::uint64_t PickPort(Input& input) {
    constexpr std::uint16_t kPorts[] = {abi::kSerialPort, abi::kDoorbellPort, abi::kEventPort, abi::kPanicPort};
    const auto choice = input.Take<std::uint8_t>();
    if (choice % 8 == 7) return input.Take<std::uint64_t>();  // not even a port
    if (choice % 8 == 6) return input.Take<std::uint16_t>();
    return kPorts[choice % 4] + (choice >> 5) - 2U;  // at the device, and across both of its ends
  }

  static std::uint64_t PickAddress(Input& input) {
    constexpr std::uint64_t kAddresses[] = {abi::kDoorbellPage, abi::kEventPage, kMmioSerial, 0};
    const auto choice = input.Take<std::uint8_t>();
    if (choice % 8 == 7) return input.Take<std::uint64_t>();
    return kAddresses[choice % 4] + (choice >> 5) - 2U;
  }

  template <typename Addr>
  void Access(ModelledBus<Addr>& bus, bool is_write, std::uint64_t address, Input& input) {
    std::array<std::byte, kMaxAccessBytes> data{};
    const std::size_t width = input.Take<std::uint8_t>() % (data.size() + 1);
    std::ranges::copy(input.TakeBytes(is_write ? width : 0), data.begin());
    const std::span<std::byte> bytes = std::span(data).first(width);

    for (NotingDevice& device : added_) device.last_offset.reset();
    const AccessStatus status = bus.Access(is_write, address, bytes);
    for (const NotingDevice& device : added_) {
      if (!device.last_offset) continue;
      Require(status == AccessStatus::kOk && bus.StartOf(address, width) == address - *device.last_offset,
              "a device gets the offset from its own start");
    }
    if (!is_write || status != AccessStatus::kOk || width != 4) return;
    // Nothing but doorbell and panic port takes four bytes, apart from what AddRange put there.
    const auto start = bus.StartOf(address, width);
    if (std::is_same_v<Addr, PortAddr> ? start == abi::kDoorbellPort : start == abi::kDoorbellPage) ++rings_;
    if (std::is_same_v<Addr, PortAddr> && start == abi::kPanicPort) {
      std::uint32_t vector = 0;
      std::memcpy(&vector, data.data(), sizeof(vector));
      if (panics_++ == 0) first_vector_ = vector;
    }
  }

  void SerialAccess(Input& input, bool is_write) {
    const std::uint64_t offset = input.Take<std::uint8_t>() % serial::kPortCount;
    const bool raised = irq_.level();
    std::array<std::byte, 1> data{std::byte{input.Take<std::uint8_t>()}};
    const AccessStatus status = ports_.Access(is_write, abi::kSerialPort + offset, data);
    const bool read_only = is_write && (offset == serial::kLsr || offset == serial::kMsr);
    Require(status == (read_only ? AccessStatus::kReadOnly : AccessStatus::kOk),
            "one byte is what the serial port takes");
    if (!is_write && offset == serial::kIir) {
      Require(((std::to_integer<unsigned>(data[0]) & serial::kIirNone) == 0) == raised,
              "IIR reports an interrupt exactly while the line is up");
    }
  }

  void PushToSerial(Input& input) {
    const std::span<const std::byte> bytes = input.TakeBytes(input.Take<std::uint8_t>() % 32);
    const std::size_t taken = serial_.Push(bytes);
    Require(taken <= bytes.size() && taken <= serial::kFifoBytes, "no more is taken than offered or has room");
  }

  void AddRange(Input& input, bool port) {
    if (added_count_ == added_.size()) return;
    NotingDevice& device = added_[added_count_++];
    if (port) {
      const auto start = PickPort(input);
      ports_.Add(start, input.Take<std::uint8_t>(), device, "added");
    } else {
      const auto start = PickAddress(input);
      mmio_.Add(start, input.Take<std::uint64_t>(), device, "added");
    }
  }

  std::uint8_t Register(std::uint64_t offset) {
    std::array<std::byte, 1> data{};
    Require(serial_.Read(offset, data) == AccessStatus::kOk, "a serial register can be read");
    return std::to_integer<std::uint8_t>(data[0]);
  }

  void CheckAll() const {
    Require(doorbell_.rings() == rings_ && listener_.rings() == rings_, "every ring is counted and reported, no more");
    Require(panic_.count() == panics_ && panic_.vector() == first_vector_, "the first of all panics is kept");
  }

  CheckedIrqLine irq_;
  DiscardingSink output_;
  CountingListener listener_;
  Serial16550 serial_{irq_, output_};
  Doorbell doorbell_{&listener_};
  PanicPort panic_;
  std::array<NotingDevice, kMaxAddedRanges> added_;
  std::size_t added_count_ = 0;

  // Declared after the devices: a bus borrows them.
  ModelledBus<PortAddr> ports_{0xFFFF};
  ModelledBus<abi::GuestPhysAddr> mmio_{~std::uint64_t{0}};

  std::uint64_t rings_ = 0;
  std::uint64_t panics_ = 0;
  std::optional<std::uint32_t> first_vector_;
};

}  // namespace
}  // namespace nestbench::vmm

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  nestbench::fuzz::Input input(data, size);
  nestbench::vmm::Board board;
  while (!input.empty()) board.Step(input);
  return 0;
}
