// A driver for the tests of virtio devices: sets a device up through its registers and moves buffers, or lies.
#pragma once

#include <gtest/gtest.h>
#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <thread>
#include <vector>

#include "devices/virtio/core/mmio.h"
#include "nestbench/drivers/virtqueue.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::vmm::virtio {

class CountingIrq final : public IrqLine {
 public:
  void Set(bool level) override {
    if (level) rises_.fetch_add(1);
    level_.store(level);
  }
  [[nodiscard]] int rises() const { return rises_.load(); }
  [[nodiscard]] bool level() const { return level_.load(); }

 private:
  std::atomic<int> rises_{0};
  std::atomic<bool> level_{false};
};

// Waits, at most for 20 s, until `condition` holds.
template <typename Condition>
[[nodiscard]] bool Eventually(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(50));
  }
  return true;
}

class TestDriver {
 public:
  static constexpr std::uint64_t kMemoryBase = 0x10'0000;
  static constexpr std::uint64_t kMemoryBytes = 8ULL << 20;
  static constexpr std::uint64_t kReadOnlyBase = 0x4000'0000;
  static constexpr std::uint64_t kQueueBytes = 0x4000;                       // a place for each queue
  static constexpr std::uint64_t kDataBase = kMemoryBase + 8 * kQueueBytes;  // free for a test
  static constexpr std::uint32_t kDefaultFeatures =
      (1U << VIRTIO_RING_F_EVENT_IDX) | (1U << VIRTIO_RING_F_INDIRECT_DESC);

  explicit TestDriver(Function& function) {
    auto region = MemoryRegion::Create({abi::GuestPhysAddr(kMemoryBase), kMemoryBytes}, {});
    auto fixed = MemoryRegion::Create({abi::GuestPhysAddr(kReadOnlyBase), 4096}, {.read_only_for_guest = true});
    if (!region || !fixed || !memory_.Add(std::move(*region)) || !memory_.Add(std::move(*fixed))) std::abort();
    auto made = MmioTransport::Create(function, memory_, irq_);
    if (!made) std::abort();
    transport_ = std::move(*made);
  }

  [[nodiscard]] std::uint32_t Read(std::uint64_t offset) {
    std::uint32_t value = 0;
    EXPECT_EQ(transport_->Read(offset, std::as_writable_bytes(std::span(&value, 1))), AccessStatus::kOk) << offset;
    return value;
  }
  AccessStatus TryWrite(std::uint64_t offset, std::uint32_t value) {
    return transport_->Write(offset, std::as_bytes(std::span(&value, 1)));
  }
  void Write(std::uint64_t offset, std::uint32_t value) {
    EXPECT_EQ(TryWrite(offset, value), AccessStatus::kOk) << offset;
  }

  [[nodiscard]] std::uint64_t OfferedFeatures() {
    Write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    const std::uint64_t high = Read(VIRTIO_MMIO_DEVICE_FEATURES);
    Write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    return high << 32 | Read(VIRTIO_MMIO_DEVICE_FEATURES);
  }

  // Section "Driver Initialization": everything up to DRIVER_OK. `features` without VERSION_1, which it adds.
  void Start(std::uint64_t features = kDefaultFeatures, std::uint16_t queue_size = 64) {
    Write(VIRTIO_MMIO_STATUS, 0);
    Write(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    features |= Feature(VIRTIO_F_VERSION_1);
    for (const unsigned word : {0U, 1U}) {
      Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
      Write(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<std::uint32_t>(features >> (32 * word)));
    }
    constexpr std::uint32_t kAgreed =
        VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;
    Write(VIRTIO_MMIO_STATUS, kAgreed);
    ASSERT_EQ(Read(VIRTIO_MMIO_STATUS), kAgreed);
    queues_.clear();
    const bool event_index = (features & Feature(VIRTIO_RING_F_EVENT_IDX)) != 0;
    for (std::uint32_t i = 0; i < transport_->queue_count(); ++i) {
      Write(VIRTIO_MMIO_QUEUE_SEL, i);
      const auto size =
          static_cast<std::uint16_t>(std::min<std::uint32_t>(Read(VIRTIO_MMIO_QUEUE_NUM_MAX), queue_size));
      const std::uint64_t base = QueueBase(i);
      std::memset(Host(base), 0, kQueueBytes);
      Write(VIRTIO_MMIO_QUEUE_NUM, size);
      Write(VIRTIO_MMIO_QUEUE_DESC_LOW, static_cast<std::uint32_t>(base));
      Write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, static_cast<std::uint32_t>(base + drivers::Virtqueue::DriverAreaOffset(size)));
      Write(VIRTIO_MMIO_QUEUE_USED_LOW, static_cast<std::uint32_t>(base + drivers::Virtqueue::DeviceAreaOffset(size)));
      Write(VIRTIO_MMIO_QUEUE_READY, 1);
      queues_.emplace_back().Init(Host(base), size, event_index);
    }
    Write(VIRTIO_MMIO_STATUS, kAgreed | VIRTIO_CONFIG_S_DRIVER_OK);
  }

  static std::uint64_t QueueBase(std::size_t queue) { return kMemoryBase + queue * kQueueBytes; }
  std::byte* Host(std::uint64_t address) {
    auto slice = memory_.Slice(abi::GuestPhysAddr(address), 1);
    return slice ? slice->data() : nullptr;
  }

  void Offer(std::size_t queue, std::vector<drivers::Buffer> buffers, std::uint32_t cookie = 0) {
    ASSERT_TRUE(queues_[queue].Add(buffers.data(), static_cast<std::uint16_t>(buffers.size()), cookie));
    queues_[queue].Publish();
    if (queues_[queue].KickNeeded()) Write(VIRTIO_MMIO_QUEUE_NOTIFY, static_cast<std::uint32_t>(queue));
  }

  struct Done {
    bool came = false;
    std::uint32_t cookie = 0;
    std::uint32_t written_bytes = 0;
  };
  [[nodiscard]] Done Await(std::size_t queue) {
    Done done;
    done.came = Eventually(
        [&] { return queues_[queue].Take(done.cookie, done.written_bytes) == drivers::Virtqueue::Taken::kOne; });
    return done;
  }

  // Whether the device asked for a reset, and for this reason alone.
  [[nodiscard]] bool BrokeWith(QueueFault fault) {
    const bool broke = Eventually([&] { return (Read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; });
    const auto faults = transport_->counters().faults;
    std::uint64_t all = 0;
    for (const std::uint64_t count : faults) all += count;
    return broke && all == 1 && faults[static_cast<std::size_t>(fault)] == 1;
  }

  MmioTransport& transport() { return *transport_; }
  CountingIrq& irq() { return irq_; }
  GuestMemory& memory() { return memory_; }
  drivers::Virtqueue& queue(std::size_t index) { return queues_[index]; }

 private:
  GuestMemory memory_;
  CountingIrq irq_;
  std::unique_ptr<MmioTransport> transport_;
  std::vector<drivers::Virtqueue> queues_;
};

}  // namespace nestbench::vmm::virtio
