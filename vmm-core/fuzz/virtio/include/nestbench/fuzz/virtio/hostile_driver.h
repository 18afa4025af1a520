// A driver whose every step is a fuzzer's choice: it sets the device up anywhere, writes rings, tables and registers,
// offers chains good and bad, rings, resets, and lets the device work. What must hold whatever it does is required
// after each step; at the end the device must serve a driver that does everything right.
#pragma once

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "devices/virtio/core/mmio.h"
#include "nestbench/drivers/virtqueue.h"
#include "nestbench/fuzz/input.h"
#include "nestbench/fuzz/require.h"
#include "nestbench/fuzz/virtio/guest_arena.h"
#include "nestbench/fuzz/virtio/stepped_workers.h"

namespace nestbench::vmm::virtio {

class CheckedIrqLine final : public IrqLine {
 public:
  void Set(bool level) override {
    fuzz::Require(level != level_, "an interrupt line is set only when it changes");
    level_ = level;
  }
  [[nodiscard]] bool level() const { return level_; }

 private:
  bool level_ = false;
};

class HostileDriver {
 public:
  static constexpr std::uint64_t kDataBase = GuestArena::kMemoryBase + 0x8000;
  static constexpr std::size_t kMaxSteps = 200;  // of one program: what is longer finds nothing more, only later
  static constexpr std::uint64_t kRingFeatures =
      Feature(VIRTIO_F_VERSION_1) | Feature(VIRTIO_RING_F_INDIRECT_DESC) | Feature(VIRTIO_RING_F_EVENT_IDX);

  // `max_queue_size`: that it sets up on purpose. Large queues take time and show nothing that small ones do not.
  HostileDriver(GuestArena& arena, Function& function, std::uint16_t max_queue_size = 16)
      : arena_(arena), function_(function), max_queue_size_(max_queue_size) {
    auto made = MmioTransport::Create(function, arena.memory(), irq_);
    fuzz::Require(made.has_value(), "a transport can be had");
    transport_ = std::move(*made);
    rings_.resize(transport_->queue_count());
  }

  [[nodiscard]] MmioTransport& transport() { return *transport_; }
  [[nodiscard]] GuestArena& arena() { return arena_; }

  // One step. Those from kOwnSteps up to 15 are the device's: the caller gets them back.
  static constexpr std::uint8_t kOwnSteps = 12;
  std::optional<std::uint8_t> Step(fuzz::Input& input) {
    const auto choice = static_cast<std::uint8_t>(input.Take<std::uint8_t>() % 16);
    switch (choice) {
      case 0:
        SetUp(input);
        break;
      case 1:
      case 2:
        OfferChain(input);
        break;
      case 3:
        PokeMemory(input);
        break;
      case 4:
        PokeDescriptor(input);
        break;
      case 5:
        PokeRing(input);
        break;
      case 6:
        (void)TryWrite(VIRTIO_MMIO_QUEUE_NOTIFY, input.Take<std::uint8_t>());
        break;
      case 7:
        WriteRegister(input);
        break;
      case 8:
        AccessAnything(input);
        break;
      case 9:
        RunWorkers(1 + input.Take<std::uint8_t>() % 4);
        break;
      case 10:
        (void)TryWrite(VIRTIO_MMIO_INTERRUPT_ACK, input.Take<std::uint8_t>());
        break;
      case 11:
        Reset();
        break;
      default:
        return choice;
    }
    return std::nullopt;
  }

  // What holds after any step.
  void Check() {
    const std::uint32_t status = Read(VIRTIO_MMIO_STATUS);
    const bool needs_reset = (status & VIRTIO_CONFIG_S_NEEDS_RESET) != 0;
    const bool is_broken = Faults() != faults_at_reset_ || transport_->failure().has_value();
    fuzz::Require(needs_reset == is_broken, "a device asks for a reset exactly when a fault was counted");
    fuzz::Require(irq_.level() == (Read(VIRTIO_MMIO_INTERRUPT_STATUS) != 0),
                  "the line is high exactly while an interrupt is pending");
    fuzz::Require(!needs_reset || irq_.level() || acknowledged_, "a device that needs a reset says so");
  }

  void Reset() {
    (void)TryWrite(VIRTIO_MMIO_STATUS, 0);
    fuzz::Require(Read(VIRTIO_MMIO_STATUS) == 0, "a device is reset when its status reads as zero");
    fuzz::Require(!irq_.level() && !transport_->active(), "nothing is left after a reset");
  }

  // The well-behaved driver. Everything is agreed on that `features` and the device have in common.
  void StartProperly(std::uint64_t features) {
    Reset();
    (void)TryWrite(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    features = (features & function_.features()) | kRingFeatures;
    WriteFeatures(features);
    (void)TryWrite(VIRTIO_MMIO_STATUS, kAgreed);
    fuzz::Require(Read(VIRTIO_MMIO_STATUS) == kAgreed, "features that were offered are agreed on");
    queues_.clear();
    for (std::uint32_t i = 0; i < transport_->queue_count(); ++i) {
      const std::uint64_t base = QueueBase(i);
      (void)TryWrite(VIRTIO_MMIO_QUEUE_SEL, i);
      const auto size = static_cast<std::uint16_t>(std::min(Read(VIRTIO_MMIO_QUEUE_NUM_MAX), kProperQueueSize));
      std::memset(arena_.From(base).data(), 0, kQueueBytes);
      PlaceQueue(size, base, base + drivers::Virtqueue::DriverAreaOffset(size),
                 base + drivers::Virtqueue::DeviceAreaOffset(size));
      queues_.emplace_back().Init(arena_.From(base).data(), size, true);
    }
    (void)TryWrite(VIRTIO_MMIO_STATUS, kAgreed | VIRTIO_CONFIG_S_DRIVER_OK);
    fuzz::Require(transport_->active(), "a device that was set up right runs");
  }
  void Offer(std::size_t queue, std::initializer_list<drivers::Buffer> buffers, std::uint32_t cookie = 0) {
    fuzz::Require(queues_[queue].Add(buffers.begin(), static_cast<std::uint16_t>(buffers.size()), cookie),
                  "there is room for a request");
    queues_[queue].Publish();
    if (queues_[queue].KickNeeded()) (void)TryWrite(VIRTIO_MMIO_QUEUE_NOTIFY, static_cast<std::uint32_t>(queue));
  }
  // The number of bytes that the device says it wrote. A back end of the kernel's has its time, on a busy machine too.
  std::uint32_t Await(std::size_t queue, std::chrono::seconds patience = {}) {
    std::uint32_t cookie = 0;
    std::uint32_t written_bytes = 0;
    const auto end = std::chrono::steady_clock::now() + patience;
    RunWorkers(100);
    drivers::Virtqueue::Taken taken = queues_[queue].Take(cookie, written_bytes);
    while (taken == drivers::Virtqueue::Taken::kNothing && std::chrono::steady_clock::now() < end) {
      std::this_thread::yield();
      RunWorkers(100);
      taken = queues_[queue].Take(cookie, written_bytes);
    }
    fuzz::Require(taken == drivers::Virtqueue::Taken::kOne, "a good request is answered after a reset");
    return written_bytes;
  }

  [[nodiscard]] std::uint32_t Read(std::uint64_t offset) {
    std::uint32_t value = 0;
    fuzz::Require(transport_->Read(offset, std::as_writable_bytes(std::span(&value, 1))) == AccessStatus::kOk,
                  "a register can be read");
    return value;
  }
  AccessStatus TryWrite(std::uint64_t offset, std::uint32_t value) {
    if (offset == VIRTIO_MMIO_INTERRUPT_ACK) acknowledged_ = true;
    const auto before = transport_->counters().resets;
    const AccessStatus status = transport_->Write(offset, std::as_bytes(std::span(&value, 1)));
    NoteReset(before);
    return status;
  }

  // Places and sizes of buffers, mostly such as make sense.
  static std::uint64_t PickAddress(fuzz::Input& input) {
    switch (input.Take<std::uint8_t>() % 8) {
      case 4:
        return GuestArena::kMemoryBase + GuestArena::kMemoryBytes - input.Take<std::uint8_t>();
      case 5:
        return GuestArena::kReadOnlyBase + 16ULL * input.Take<std::uint8_t>();
      case 6:
        return GuestArena::kMemoryBase + input.Take<std::uint16_t>() % 0x8000U;
      case 7:
        return input.Take<std::uint64_t>();
      default:
        return kDataBase + input.Take<std::uint16_t>();
    }
  }
  static std::uint32_t PickLength(fuzz::Input& input) {
    switch (input.Take<std::uint8_t>() % 8) {
      case 4:
        return input.Take<std::uint16_t>();
      case 5:
        return 512U * input.Take<std::uint8_t>();
      case 6:
        return 4096;
      case 7:
        return input.Take<std::uint32_t>();
      default:
        return input.Take<std::uint8_t>();
    }
  }

  // Appends a descriptor to the chain that is being built, and offers the chain.
  void Append(std::uint64_t address, std::uint32_t size_bytes, bool device_writes, std::uint16_t extra_flags = 0) {
    chain_.push_back(
        {address, size_bytes, static_cast<std::uint16_t>((device_writes ? VRING_DESC_F_WRITE : 0) | extra_flags), 0});
  }
  void OfferAppended(std::size_t queue, bool rings, bool indirect = false) {
    Ring& ring = rings_[queue];
    if (ring.size != 0 && !chain_.empty()) {
      if (indirect) MoveToTable();
      const std::uint16_t head = ring.next_descriptor % ring.size;
      for (std::size_t i = 0; i < chain_.size(); ++i) {
        const auto index = static_cast<std::uint16_t>(ring.next_descriptor++ % ring.size);
        chain_[i].next = ring.next_descriptor % ring.size;
        if (i + 1 < chain_.size()) chain_[i].flags |= VRING_DESC_F_NEXT;
        Put(ring.descriptors + index * sizeof(vring_desc), chain_[i]);
      }
      Put(ring.driver_area + 4 + 2ULL * (ring.next_available++ % ring.size), head);
      Put(ring.driver_area + 2, ring.next_available);
    }
    chain_.clear();
    if (rings) (void)TryWrite(VIRTIO_MMIO_QUEUE_NOTIFY, static_cast<std::uint32_t>(queue));
  }

  // Writes to guest memory, as far as it is some.
  template <typename Value>
  void Put(std::uint64_t address, const Value& value) {
    PutBytes(address, std::as_bytes(std::span(&value, 1)));
  }
  void PutBytes(std::uint64_t address, std::span<const std::byte> bytes) {
    const auto place = arena_.From(address);
    if (place.empty() || bytes.empty()) return;
    std::memcpy(place.data(), bytes.data(), std::min(place.size(), bytes.size()));
  }

 private:
  static constexpr std::uint64_t kQueueBytes = 0x1000;  // a place for each queue
  static constexpr std::uint32_t kProperQueueSize = 8;
  static constexpr std::uint32_t kAgreed =
      VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK;

  // Where this driver thinks that a queue is.
  struct Ring {
    std::uint16_t size = 0;
    std::uint64_t descriptors = 0;
    std::uint64_t driver_area = 0;
    std::uint64_t device_area = 0;
    std::uint16_t next_descriptor = 0;
    std::uint16_t next_available = 0;
  };

  static std::uint64_t QueueBase(std::size_t queue) { return GuestArena::kMemoryBase + queue * kQueueBytes; }

  [[nodiscard]] std::uint64_t Faults() const {
    std::uint64_t all = 0;
    for (const std::uint64_t count : transport_->counters().faults) all += count;
    return all;
  }
  void NoteReset(std::uint64_t resets_before) {
    if (transport_->counters().resets == resets_before) return;
    faults_at_reset_ = Faults();
    acknowledged_ = false;
  }

  void WriteFeatures(std::uint64_t features) {
    for (const unsigned word : {0U, 1U}) {
      (void)TryWrite(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
      (void)TryWrite(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<std::uint32_t>(features >> (32 * word)));
    }
  }
  void PlaceQueue(std::uint32_t size, std::uint64_t descriptors, std::uint64_t driver_area, std::uint64_t device_area) {
    const auto write = [this](std::uint64_t offset, std::uint64_t address) {
      (void)TryWrite(offset, static_cast<std::uint32_t>(address));
      (void)TryWrite(offset + 4, static_cast<std::uint32_t>(address >> 32));
    };
    (void)TryWrite(VIRTIO_MMIO_QUEUE_NUM, size);
    write(VIRTIO_MMIO_QUEUE_DESC_LOW, descriptors);
    write(VIRTIO_MMIO_QUEUE_AVAIL_LOW, driver_area);
    write(VIRTIO_MMIO_QUEUE_USED_LOW, device_area);
    (void)TryWrite(VIRTIO_MMIO_QUEUE_READY, 1);
  }

  // From the reset to DRIVER_OK, with odd choices now and then.
  void SetUp(fuzz::Input& input) {
    Reset();
    const auto how = input.Take<std::uint8_t>();
    (void)TryWrite(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER);
    std::uint64_t features = function_.features() | kRingFeatures;
    if ((how & 1) != 0) features &= ~Feature(VIRTIO_RING_F_EVENT_IDX);
    if ((how & 2) != 0) features &= ~Feature(VIRTIO_RING_F_INDIRECT_DESC);
    if ((how & 4) != 0) features &= ~input.Take<std::uint64_t>() | Feature(VIRTIO_F_VERSION_1);
    if ((how & 0x70) == 0x70) features = input.Take<std::uint64_t>();
    WriteFeatures(features);
    (void)TryWrite(VIRTIO_MMIO_STATUS, kAgreed);
    for (std::uint32_t i = 0; i < rings_.size(); ++i) {
      Ring& ring = rings_[i];
      ring = {};
      const auto choice = input.Take<std::uint8_t>();
      if (choice == 0xFF) continue;  // not ready
      (void)TryWrite(VIRTIO_MMIO_QUEUE_SEL, i);
      const std::uint32_t most = std::min<std::uint32_t>(Read(VIRTIO_MMIO_QUEUE_NUM_MAX), max_queue_size_);
      std::uint32_t size = most >> (choice % 4);
      if (size == 0) size = 1;
      if ((choice & 0xF0) == 0xF0) size = input.Take<std::uint16_t>();
      ring.descriptors = QueueBase(i);
      ring.driver_area = ring.descriptors + drivers::Virtqueue::DriverAreaOffset(static_cast<std::uint16_t>(size));
      ring.device_area = ring.descriptors + drivers::Virtqueue::DeviceAreaOffset(static_cast<std::uint16_t>(size));
      if ((choice & 0xF0) == 0xE0) ring.descriptors = PickAddress(input);
      if ((choice & 0xF0) == 0xD0) ring.driver_area = PickAddress(input);
      if ((choice & 0xF0) == 0xC0) ring.device_area = PickAddress(input);
      ring.size = static_cast<std::uint16_t>(size);
      std::memset(arena_.From(QueueBase(i)).data(), 0, kQueueBytes);
      PlaceQueue(size, ring.descriptors, ring.driver_area, ring.device_area);
    }
    if ((how & 8) != 0) return;
    (void)TryWrite(VIRTIO_MMIO_STATUS, kAgreed | VIRTIO_CONFIG_S_DRIVER_OK);
  }

  void OfferChain(fuzz::Input& input) {
    const auto how = input.Take<std::uint8_t>();
    const std::size_t count = 1 + how % 4;
    const std::size_t queue = input.Take<std::uint8_t>() % rings_.size();
    for (std::size_t i = 0; i < count; ++i) {
      const auto kind = input.Take<std::uint8_t>();
      const std::uint64_t address = PickAddress(input);
      Append(address, PickLength(input), (kind & 1) != 0, kind >= 0xF0 ? VRING_DESC_F_INDIRECT : 0);
    }
    OfferAppended(queue, (how & 0x80) == 0, (how & 0x40) != 0);
  }
  // The chain goes into an indirect table at the end of the memory, and one descriptor takes its place.
  void MoveToTable() {
    const std::uint64_t table =
        GuestArena::kMemoryBase + GuestArena::kMemoryBytes - 0x800 + sizeof(vring_desc) * (tables_++ % 8) * 16;
    for (std::size_t i = 0; i < chain_.size(); ++i) {
      chain_[i].next = static_cast<std::uint16_t>(i + 1);
      if (i + 1 < chain_.size()) chain_[i].flags |= VRING_DESC_F_NEXT;
      Put(table + i * sizeof(vring_desc), chain_[i]);
    }
    chain_ = {{table, static_cast<std::uint32_t>(chain_.size() * sizeof(vring_desc)), VRING_DESC_F_INDIRECT, 0}};
  }

  void PokeMemory(fuzz::Input& input) {
    const std::uint64_t address = PickAddress(input);
    PutBytes(address, input.TakeBytes(input.Take<std::uint8_t>() % 64));
  }
  void PokeDescriptor(fuzz::Input& input) {
    const Ring& ring = rings_[input.Take<std::uint8_t>() % rings_.size()];
    const std::uint64_t place = ring.descriptors + sizeof(vring_desc) * (input.Take<std::uint8_t>() % 32);
    vring_desc descriptor{};
    descriptor.addr = PickAddress(input);
    descriptor.len = PickLength(input);
    descriptor.flags = input.Take<std::uint8_t>();
    descriptor.next = input.Take<std::uint8_t>();
    Put(place, descriptor);
  }
  // Flags, index, an entry or the event of the available ring.
  void PokeRing(fuzz::Input& input) {
    Ring& ring = rings_[input.Take<std::uint8_t>() % rings_.size()];
    const auto place = input.Take<std::uint8_t>();
    auto value = input.Take<std::uint16_t>();
    if (place == 1 && value < 0x100) value = static_cast<std::uint16_t>(ring.next_available + value);
    if (place == 1) ring.next_available = value;
    Put(ring.driver_area + 2ULL * place, value);
  }

  void WriteRegister(fuzz::Input& input) {
    const std::uint64_t offset = 4ULL * input.Take<std::uint8_t>();
    const auto value = input.Take<std::uint32_t>();
    if (offset < MmioTransport::kSizeBytes) (void)TryWrite(offset, value);
  }
  void AccessAnything(fuzz::Input& input) {
    const auto how = input.Take<std::uint8_t>();
    const std::uint64_t offset = input.Take<std::uint16_t>() % (MmioTransport::kSizeBytes + 16);
    std::array<std::byte, 16> data{};
    const auto bytes = std::span(data).first(how % (data.size() + 1));
    if ((how & 0x80) != 0) {
      std::ranges::copy(input.TakeBytes(bytes.size()), data.begin());
      if (offset == VIRTIO_MMIO_INTERRUPT_ACK) acknowledged_ = true;
      const auto before = transport_->counters().resets;
      (void)transport_->Write(offset, bytes);
      NoteReset(before);
    } else if (transport_->Read(offset, bytes) != AccessStatus::kOk) {
      fuzz::Require(std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0xFF}; }),
                    "a failed read leaves all ones");
    }
  }

  GuestArena& arena_;
  Function& function_;
  std::uint16_t max_queue_size_;
  CheckedIrqLine irq_;
  std::unique_ptr<MmioTransport> transport_;
  std::vector<Ring> rings_;
  std::vector<vring_desc> chain_;
  std::uint64_t tables_ = 0;
  std::uint64_t faults_at_reset_ = 0;
  bool acknowledged_ = false;
  std::vector<drivers::Virtqueue> queues_;
};

}  // namespace nestbench::vmm::virtio
