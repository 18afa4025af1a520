// A driver for virtio-net that polls: one pair of queues, a buffer of fixed size for each frame. Source: Virtual I/O
// Device (VIRTIO) Version 1.2, section "Network Device"; constants from <linux/virtio_net.h>.
//
// Agrees on the event index, the MAC address, the MTU and the link status; on checksums that the device need not
// finish, since what runs here checks its own data. Not on mergeable buffers: each buffer holds any frame of the wire.
//
// Freestanding. One thread. A frame that is sent is known by its slot until the device has returned it.
#pragma once

#include <linux/if_ether.h>
#include <linux/virtio_ids.h>

// The kernel's header has a member whose name is a keyword.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#ifdef __clang__
#pragma GCC diagnostic ignored "-Wkeyword-macro"
#endif
#define class class_
#include <linux/virtio_net.h>
#undef class
#pragma GCC diagnostic pop

#include <cstddef>
#include <cstdint>

#include "nestbench/drivers/mmio_device.h"
#include "nestbench/drivers/virtqueue.h"

namespace nestbench::drivers {

class NetDriver {
 public:
  static constexpr std::uint16_t kReceiveBuffers = 256;
  static constexpr std::uint16_t kSendBuffers = 256;
  static constexpr std::uint32_t kFrameMaxBytes = ETH_FRAME_LEN;  // without frame check sequence
  static constexpr std::uint64_t kBufferBytes = 2048;
  // Where the device's header begins in a buffer: 64 bytes in, behind Ethernet, IPv4 and UDP headers, stands the
  // payload, on a cache line.
  static constexpr std::uint64_t kHeaderOffset = 10;
  static constexpr std::uint64_t kFrameOffset = kHeaderOffset + sizeof(virtio_net_hdr_v1);
  static constexpr std::uint64_t kQueueBytes = 8192;
  static constexpr std::uint64_t kMemoryBytes = 2 * kQueueBytes + (kReceiveBuffers + kSendBuffers) * kBufferBytes;

  // `memory`: kMemoryBytes zeroed bytes, page-aligned, virtual = guest-physical. Null, or what is wrong.
  const char* Start(std::uint64_t device_index, std::byte* memory) {
    memory_ = memory;
    device_ = MmioDevice(device_index);
    const auto bit = [](unsigned feature) { return 1ULL << feature; };
    if (const char* wrong =
            device_.Begin(VIRTIO_ID_NET, bit(VIRTIO_NET_F_MAC) | bit(VIRTIO_NET_F_MTU) | bit(VIRTIO_NET_F_STATUS) |
                                             bit(VIRTIO_NET_F_GUEST_CSUM) | bit(VIRTIO_RING_F_EVENT_IDX))) {
      return wrong;
    }
    // Section "Device configuration layout": one queue pair, the receive queue first.
    if (const char* wrong = device_.GiveQueue(0, receive_, memory, kReceiveBuffers)) return wrong;
    if (const char* wrong = device_.GiveQueue(1, send_, memory + kQueueBytes, kSendBuffers)) return wrong;
    if (device_.has(VIRTIO_NET_F_MTU) && mtu_bytes() + ETH_HLEN > kFrameMaxBytes) {
      return "virtio-net driver: frames are longer than its buffers";
    }
    if (const char* wrong = device_.Go()) return wrong;
    receive_.WantInterrupts(false);
    send_.WantInterrupts(false);
    for (std::uint32_t slot = 0; slot < kReceiveBuffers; ++slot) GiveBack(slot);
    PublishBuffers();
    for (std::uint32_t slot = 0; slot < kSendBuffers; ++slot) free_[slot] = static_cast<std::uint16_t>(slot);
    free_count_ = kSendBuffers;
    return nullptr;
  }

  void Stop() { device_.Reset(); }

  // A buffer for a frame that is to be sent. False when the device has all of them.
  bool TakeSendSlot(std::uint32_t& slot) {
    if (free_count_ == 0) Reclaim();
    if (free_count_ == 0) return false;
    slot = free_[--free_count_];
    return true;
  }
  std::byte* SendFrameAt(std::uint32_t slot) {
    return memory_ + 2 * kQueueBytes + (kReceiveBuffers + slot) * kBufferBytes + kFrameOffset;
  }
  // Offers the frame in `slot`; seen by the device after Publish(). Its buffer is the device's from here on.
  void Offer(std::uint32_t slot, std::uint32_t frame_bytes) {
    // The header in front stays as it was zeroed: nothing to finish, nothing to cut.
    const Buffer buffer = {reinterpret_cast<std::uint64_t>(SendFrameAt(slot)) - sizeof(virtio_net_hdr_v1),
                           static_cast<std::uint32_t>(sizeof(virtio_net_hdr_v1)) + frame_bytes, false};
    send_.Add(&buffer, 1, slot);  // as many descriptors as slots: there is one
  }
  // Shows the device what was offered, and rings where it wants that. Whether it rang.
  bool Publish() {
    send_.Publish();
    if (!send_.KickNeeded()) return false;
    device_.Ring(1);
    return true;
  }

  // Takes one frame that came: its slot and size. It is to be given back.
  Virtqueue::Taken Take(std::uint32_t& slot, std::uint32_t& frame_bytes) {
    std::uint32_t written_bytes = 0;
    const Virtqueue::Taken taken = receive_.Take(slot, written_bytes);
    if (taken != Virtqueue::Taken::kOne) return taken;
    constexpr auto kHeaderBytes = static_cast<std::uint32_t>(sizeof(virtio_net_hdr_v1));
    if (written_bytes < kHeaderBytes || written_bytes > kBufferBytes - kHeaderOffset) return Virtqueue::Taken::kBroken;
    frame_bytes = written_bytes - kHeaderBytes;
    return taken;
  }
  std::byte* ReceivedAt(std::uint32_t slot) { return memory_ + 2 * kQueueBytes + slot * kBufferBytes + kFrameOffset; }
  void GiveBack(std::uint32_t slot) {
    const Buffer buffer = {reinterpret_cast<std::uint64_t>(ReceivedAt(slot)) - sizeof(virtio_net_hdr_v1),
                           static_cast<std::uint32_t>(kBufferBytes - kHeaderOffset), true};
    receive_.Add(&buffer, 1, slot);
  }
  // Shows the device the buffers that were given back, and rings where it waits for some.
  void PublishBuffers() {
    receive_.Publish();
    if (receive_.KickNeeded()) device_.Ring(0);
  }

  // Sleeps until a frame comes, or also until a buffer for sending returns; not longer than `limit_ms` (0: as long as
  // it takes). Returns at once when there is something.
  void Sleep(std::uint32_t limit_ms, bool for_send_buffers) {
    receive_.WantInterrupts(true);
    if (for_send_buffers) send_.WantInterrupts(true);
    if (!receive_.HasUsed() && !(for_send_buffers && send_.HasUsed())) device_.Sleep(limit_ms);
    receive_.WantInterrupts(false);
    if (for_send_buffers) send_.WantInterrupts(false);
  }

  bool HasReceived() const { return receive_.HasUsed(); }
  bool is_broken() const { return is_broken_ || device_.is_broken(); }
  // Registers: each of these leaves the guest.
  std::uint32_t mtu_bytes() const { return Config(offsetof(virtio_net_config, mtu)) & 0xFFFF; }
  bool is_link_up() const {
    return !device_.has(VIRTIO_NET_F_STATUS) ||
           (Config(offsetof(virtio_net_config, status)) & VIRTIO_NET_S_LINK_UP) != 0;
  }
  void ReadMac(std::uint8_t (&mac)[ETH_ALEN]) const {
    for (std::uint32_t i = 0; i < ETH_ALEN; ++i) mac[i] = static_cast<std::uint8_t>(Config(i));
  }

 private:
  static_assert(Virtqueue::BytesNeeded(kReceiveBuffers) <= kQueueBytes &&
                Virtqueue::BytesNeeded(kSendBuffers) <= kQueueBytes);
  static_assert(kFrameOffset + kFrameMaxBytes <= kBufferBytes);

  // The configuration from `offset` on. By the one access that emulators of instructions know, hence aligned to 4.
  std::uint32_t Config(std::uint64_t offset) const { return device_.ReadConfig(offset & ~3ULL) >> (8 * (offset & 3)); }

  void Reclaim() {
    std::uint32_t slot = 0;
    std::uint32_t written_bytes = 0;
    Virtqueue::Taken taken = Virtqueue::Taken::kNothing;
    while ((taken = send_.Take(slot, written_bytes)) == Virtqueue::Taken::kOne) {
      free_[free_count_++] = static_cast<std::uint16_t>(slot);
    }
    if (taken == Virtqueue::Taken::kBroken) is_broken_ = true;
  }

  MmioDevice device_;
  Virtqueue receive_;
  Virtqueue send_;
  std::byte* memory_ = nullptr;
  bool is_broken_ = false;
  std::uint16_t free_[kSendBuffers] = {};
  std::uint16_t free_count_ = 0;
};

}  // namespace nestbench::drivers
