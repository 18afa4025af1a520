// The MMIO transport (core/mmio.h) with a function behind it that checks how it is used, and signals when it likes.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>

#include "nestbench/fuzz/virtio/hostile_driver.h"

namespace nestbench::vmm::virtio {
namespace {

using fuzz::Require;

class ProbeFunction final : public Function {
 public:
  static constexpr std::uint64_t kFeatures = 0x8000'00F0'0000'0055;  // any

  [[nodiscard]] std::uint32_t device_id() const override { return 42; }
  [[nodiscard]] std::uint64_t features() const override { return kFeatures; }
  [[nodiscard]] bool Accepts(std::uint64_t features) const override { return (features & 3) != 1; }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override { return kSizes; }
  [[nodiscard]] AccessStatus ReadConfig(std::uint64_t offset, std::span<std::byte> data) override {
    return ReadConfigStructure(config_, offset, data);
  }
  [[nodiscard]] AccessStatus WriteConfig(std::uint64_t offset, std::span<const std::byte> data) override {
    if (offset >= sizeof(config_) || data.size() > sizeof(config_) - offset) return AccessStatus::kBadOffset;
    std::ranges::copy(data, config_.begin() + static_cast<std::ptrdiff_t>(offset));
    return AccessStatus::kOk;
  }
  Result<void> Activate(Activation activation) override {
    Require(!active_, "a function is started once until it is reset");
    Require((activation.features & ~(kFeatures | HostileDriver::kRingFeatures)) == 0,
            "only what was offered is agreed");
    Require((activation.features & Feature(VIRTIO_F_VERSION_1)) != 0, "every driver is a modern one");
    Require(Accepts(activation.features), "what a function does not accept is not agreed");
    Require(activation.queues.size() == kSizes.size() && activation.doorbells.size() == kSizes.size(),
            "every queue is there");
    for (std::size_t i = 0; i < kSizes.size(); ++i) {
      Require(activation.queues[i].size() <= kSizes[i], "no queue is larger than it may be");
    }
    if (refuses) return Fail(Error::Unsupported("start the probe", "it does not want to"));
    signals_ = activation.signals;
    active_ = true;
    return {};
  }
  void Reset() override {
    active_ = false;
    signals_ = nullptr;
  }

  void Signal(std::uint8_t choice) {
    if (signals_ == nullptr) return;
    if (choice % 4 == 0) signals_->QueueUsed();
    if (choice % 4 == 1) signals_->ConfigChanged();
    if (choice % 4 == 2) signals_->Fail(static_cast<QueueFault>(1 + choice / 4 % (kQueueFaults - 1)));
  }
  [[nodiscard]] bool active() const { return active_; }

  bool refuses = false;

 private:
  static constexpr std::array<std::uint16_t, 3> kSizes = {16, 1, 256};
  std::array<std::byte, 24> config_{};
  DriverSignals* signals_ = nullptr;
  bool active_ = false;
};

}  // namespace
}  // namespace nestbench::vmm::virtio

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench::vmm::virtio;
  static GuestArena arena;
  nestbench::fuzz::Input input(data, size);
  arena.Clear();
  ProbeFunction probe;
  HostileDriver driver(arena, probe);
  for (std::size_t i = 0; i < HostileDriver::kMaxSteps && !input.empty(); ++i) {
    const auto own = driver.Step(input);
    if (own == HostileDriver::kOwnSteps) probe.refuses = (input.Take<std::uint8_t>() & 1) != 0;
    if (own > HostileDriver::kOwnSteps) probe.Signal(input.Take<std::uint8_t>());
    driver.Check();
    nestbench::fuzz::Require(probe.active() == driver.transport().active(), "both agree on whether it runs");
  }
  probe.refuses = false;
  driver.StartProperly(0);
  arena.Check();
  return 0;
}
