// virtio-rng: random bytes from the host. Source: Virtual I/O Device (VIRTIO) Version 1.2, section "Entropy Device".
//
// The bytes come from getrandom(2), which cannot run dry; a request is filled up to 64 KiB.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "devices/virtio/core/function.h"
#include "devices/virtio/core/worker.h"

namespace nestbench::vmm::virtio {

class Rng final : public Function {
 public:
  Rng() = default;
  ~Rng() override { Reset(); }

  [[nodiscard]] std::uint64_t bytes_given() const { return bytes_given_.load(std::memory_order_relaxed); }

  [[nodiscard]] std::uint32_t device_id() const override;
  [[nodiscard]] std::uint64_t features() const override { return 0; }
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override { return kQueueSizes; }
  [[nodiscard]] AccessStatus ReadConfig(std::uint64_t /*offset*/, std::span<std::byte> data) override {
    return FailRead(data, AccessStatus::kBadOffset);  // it has no configuration space
  }
  Result<void> Activate(Activation activation) override;
  void Reset() override;

 private:
  static constexpr std::uint16_t kQueueSizes[] = {64};

  bool Serve(bool may_sleep);

  Activation active_;
  Chain chain_;
  std::unique_ptr<Worker> worker_;
  std::atomic<std::uint64_t> bytes_given_{0};
};

}  // namespace nestbench::vmm::virtio
