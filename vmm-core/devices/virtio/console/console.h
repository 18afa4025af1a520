// virtio-console: one terminal. Source: Virtual I/O Device (VIRTIO) Version 1.2, section "Console Device"; constants
// from <linux/virtio_console.h>.
//
// Emulated: one port with its size, and the emergency write.
// Not emulated: several ports (VIRTIO_CONSOLE_F_MULTIPORT).
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

#include "devices/virtio/core/function.h"
#include "devices/virtio/core/worker.h"
#include "nestbench/vmm/base/unique_fd.h"
#include "nestbench/vmm/bus/byte_sink.h"

namespace nestbench::vmm::virtio {

struct ConsoleSize {
  std::uint16_t columns = 80;
  std::uint16_t rows = 25;
};

class Console final : public Function {
 public:
  static constexpr std::size_t kInputMaxBytes = 64 * 1024;
  // Of one request to print. More is a fault of the queue: a guest could keep the thread for as long as it likes.
  static constexpr std::size_t kOutputMaxBytes = 1024 * 1024;

  // Borrows `output`, which is called on the device's thread, and for an emergency write on a vCPU's.
  static Result<std::unique_ptr<Console>> Create(ByteSink& output, ConsoleSize size = {});
  ~Console() override { Reset(); }

  // Host to guest, from any thread: takes as many of `bytes` as there is room for and returns how many.
  [[nodiscard]] std::size_t Push(std::span<const std::byte> bytes);

  [[nodiscard]] std::uint32_t device_id() const override;
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override { return kQueueSizes; }
  [[nodiscard]] AccessStatus ReadConfig(std::uint64_t offset, std::span<std::byte> data) override;
  [[nodiscard]] AccessStatus WriteConfig(std::uint64_t offset, std::span<const std::byte> data) override;
  Result<void> Activate(Activation activation) override;
  void Reset() override;

 private:
  static constexpr std::uint16_t kQueueSizes[] = {64, 64};  // to the guest, from it

  Console(ByteSink& output, ConsoleSize size, UniqueFd input_event)
      : output_(output), size_(size), input_event_(std::move(input_event)) {}
  bool Serve(bool may_sleep);
  bool GiveInput(bool may_sleep);

  ByteSink& output_;
  std::mutex output_mutex_;
  ConsoleSize size_;
  UniqueFd input_event_;

  std::mutex input_mutex_;
  std::vector<std::byte> input_;

  Activation active_;
  Chain chain_;
  std::vector<std::byte> given_;
  std::unique_ptr<Worker> worker_;
};

}  // namespace nestbench::vmm::virtio
