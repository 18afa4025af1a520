// The driver's side of virtio over MMIO: finds a device, agrees on features, gives it queues, rings and waits. Source:
// Virtual I/O Device (VIRTIO) Version 1.2, sections "Virtio Over MMIO" and "Device Initialization"; constants from
// <linux/virtio_mmio.h> and <linux/virtio_config.h>.
//
// Freestanding, for CPL3 with the devices' pages mapped (nestbench/abi/layout.h). One thread. Every register access is
// one MOV of 4 bytes: emulators of instructions know that one.
#pragma once

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <cstddef>
#include <cstdint>

#include "nestbench/abi/layout.h"
#include "nestbench/drivers/virtqueue.h"

namespace nestbench::drivers {

inline std::uint32_t MmioRead(std::uint64_t address) {
  std::uint32_t value = 0;
  asm volatile("movl (%[address]), %[value]" : [value] "=r"(value) : [address] "r"(address) : "memory");
  return value;
}
inline void MmioWrite(std::uint64_t address, std::uint32_t value) {
  asm volatile("movl %[value], (%[address])" : : [value] "r"(value), [address] "r"(address) : "memory");
}

class MmioDevice {
 public:
  MmioDevice() = default;
  // The device in slot `index` of layout.h.
  explicit MmioDevice(std::uint64_t index) : base_(abi::kVirtioBase + index * abi::kVirtioStride) {}

  // Resets the device and agrees on those of `wanted` that it offers (VERSION_1 is always asked for). Null, or what is
  // wrong, as a string literal.
  const char* Begin(std::uint32_t device_id, std::uint64_t wanted) {
    constexpr std::uint32_t kMagic = 0x7472'6976;  // "virt"
    if (Read(VIRTIO_MMIO_MAGIC_VALUE) != kMagic) return "there is no virtio device";
    if (Read(VIRTIO_MMIO_VERSION) != 2) return "the virtio device has another interface than version 2";
    if (Read(VIRTIO_MMIO_DEVICE_ID) != device_id) return "the virtio device is of another type";
    Reset();
    AddStatus(VIRTIO_CONFIG_S_ACKNOWLEDGE);
    AddStatus(VIRTIO_CONFIG_S_DRIVER);
    wanted |= 1ULL << VIRTIO_F_VERSION_1;
    for (std::uint32_t word = 0; word < 2; ++word) {
      Write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, word);
      const std::uint64_t offered = Read(VIRTIO_MMIO_DEVICE_FEATURES);
      features_ |= (offered << (32 * word)) & wanted;
      Write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, word);
      Write(VIRTIO_MMIO_DRIVER_FEATURES, static_cast<std::uint32_t>(features_ >> (32 * word)));
    }
    AddStatus(VIRTIO_CONFIG_S_FEATURES_OK);
    if ((Read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK) == 0) return "the virtio device refuses the features";
    return nullptr;
  }

  // Gives queue `index` to the device: `size` descriptors (a power of two), in `memory`, which is
  // Virtqueue::BytesNeeded(size) zeroed bytes, aligned to 16, at a virtual address that is the guest-physical one.
  const char* GiveQueue(std::uint32_t index, Virtqueue& queue, std::byte* memory, std::uint16_t size) {
    Write(VIRTIO_MMIO_QUEUE_SEL, index);
    if (Read(VIRTIO_MMIO_QUEUE_NUM_MAX) < size) return "the virtio device takes no queue of this size";
    queue.Init(memory, size, has(VIRTIO_RING_F_EVENT_IDX));
    const auto start = reinterpret_cast<std::uint64_t>(memory);
    Write(VIRTIO_MMIO_QUEUE_NUM, size);
    WriteAddress(VIRTIO_MMIO_QUEUE_DESC_LOW, start);
    WriteAddress(VIRTIO_MMIO_QUEUE_AVAIL_LOW, start + Virtqueue::DriverAreaOffset(size));
    WriteAddress(VIRTIO_MMIO_QUEUE_USED_LOW, start + Virtqueue::DeviceAreaOffset(size));
    Write(VIRTIO_MMIO_QUEUE_READY, 1);
    return nullptr;
  }

  // The device may work from here on.
  const char* Go() {
    AddStatus(VIRTIO_CONFIG_S_DRIVER_OK);
    return is_broken() ? "the virtio device asks for a reset at once" : nullptr;
  }

  void Reset() {
    Write(VIRTIO_MMIO_STATUS, 0);
    status_ = 0;
    features_ = 0;
  }

  void Ring(std::uint32_t queue) { Write(VIRTIO_MMIO_QUEUE_NOTIFY, queue); }

  // Sleeps until a device has raised its interrupt since the last sleep, and acknowledges it. Ask the queue for an
  // interrupt first, and look at it once more: what came before that wakes nobody. `limit_ms`: not longer than that; 0:
  // as long as it takes.
  void Sleep(std::uint32_t limit_ms = 0) {
    MmioWrite(abi::kWaitPage, limit_ms);
    Acknowledge();
  }
  void Acknowledge() { Write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG); }

  bool has(unsigned feature) const { return (features_ >> feature & 1) != 0; }
  bool is_broken() const { return (Read(VIRTIO_MMIO_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET) != 0; }
  std::uint32_t ReadConfig(std::uint64_t offset) const { return Read(VIRTIO_MMIO_CONFIG + offset); }

 private:
  std::uint32_t Read(std::uint64_t offset) const { return MmioRead(base_ + offset); }
  void Write(std::uint64_t offset, std::uint32_t value) { MmioWrite(base_ + offset, value); }
  void WriteAddress(std::uint64_t low_offset, std::uint64_t address) {
    Write(low_offset, static_cast<std::uint32_t>(address));
    Write(low_offset + 4, static_cast<std::uint32_t>(address >> 32));
  }
  void AddStatus(std::uint32_t bit) {
    status_ |= bit;
    Write(VIRTIO_MMIO_STATUS, status_);
  }

  std::uint64_t base_ = abi::kVirtioBase;
  std::uint32_t status_ = 0;
  std::uint64_t features_ = 0;
};

}  // namespace nestbench::drivers
