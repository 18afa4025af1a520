// A driver for virtio-blk that polls, with many requests under way. Source: Virtual I/O Device (VIRTIO) Version 1.2,
// section "Block Device"; constants from <linux/virtio_blk.h>.
//
// Freestanding. One thread, one queue. A request is known by its slot, 0 to depth - 1: its header, status byte and
// table of descriptors stay in place, so that a request costs one descriptor of the ring.
#pragma once

#include <linux/virtio_blk.h>
#include <linux/virtio_ids.h>

#include <cstddef>
#include <cstdint>

#include "nestbench/drivers/mmio_device.h"
#include "nestbench/drivers/virtqueue.h"

namespace nestbench::drivers {

class BlockDriver {
 public:
  static constexpr std::uint32_t kMaxDepth = 128;
  static constexpr std::uint64_t kSectorBytes = 512;
  static constexpr std::uint64_t kSlotBytes = 128;
  static constexpr std::uint64_t kSlotsOffset = 16384;  // behind the queue
  static constexpr std::uint64_t kMemoryBytes = kSlotsOffset + kMaxDepth * kSlotBytes;

  // `memory`: kMemoryBytes zeroed bytes, page-aligned, virtual = guest-physical. `depth`: requests under way at most.
  // Null, or what is wrong.
  const char* Start(std::uint64_t device_index, std::byte* memory, std::uint32_t depth) {
    if (depth == 0 || depth > kMaxDepth) return "virtio-blk driver: a depth of 1 to 128";
    memory_ = memory;
    device_ = MmioDevice(device_index);
    const auto bit = [](unsigned feature) { return 1ULL << feature; };
    if (const char* wrong = device_.Begin(VIRTIO_ID_BLOCK, bit(VIRTIO_BLK_F_FLUSH) | bit(VIRTIO_BLK_F_CONFIG_WCE) |
                                                               bit(VIRTIO_BLK_F_RO) | bit(VIRTIO_RING_F_EVENT_IDX) |
                                                               bit(VIRTIO_RING_F_INDIRECT_DESC))) {
      return wrong;
    }
    if (!device_.has(VIRTIO_RING_F_INDIRECT_DESC)) return "virtio-blk driver: no indirect descriptors";
    std::uint16_t size = 4;  // a table is no longer than the queue (section "Indirect Descriptors"): three entries
    while (size < depth) size = static_cast<std::uint16_t>(size * 2);
    if (const char* wrong = device_.GiveQueue(0, queue_, memory, size)) return wrong;
    capacity_sectors_ = device_.ReadConfig(0) | std::uint64_t{device_.ReadConfig(4)} << 32;
    if (const char* wrong = device_.Go()) return wrong;
    queue_.WantInterrupts(false);
    return nullptr;
  }

  void Stop() { device_.Reset(); }

  // Offers a request; seen by the device after Publish(). `type`: VIRTIO_BLK_T_IN, _OUT or _FLUSH (without a buffer).
  bool Offer(std::uint32_t slot, std::uint32_t type, std::uint64_t sector, const std::byte* buffer,
             std::uint32_t size_bytes) {
    Slot& place = SlotAt(slot);
    place.header.type = type;
    place.header.ioprio = 0;
    place.header.sector = sector;
    place.status = kNoStatus;
    std::uint16_t count = 0;
    const auto add = [&place, &count](const void* at, std::uint32_t bytes, std::uint16_t flags) {
      vring_desc& entry = place.table[count];
      entry.addr = reinterpret_cast<std::uint64_t>(at);
      entry.len = bytes;
      entry.flags = flags;
      entry.next = ++count;
    };
    add(&place.header, sizeof(place.header), VRING_DESC_F_NEXT);
    if (type != VIRTIO_BLK_T_FLUSH) {
      add(buffer, size_bytes,
          static_cast<std::uint16_t>(VRING_DESC_F_NEXT | (type == VIRTIO_BLK_T_IN ? VRING_DESC_F_WRITE : 0)));
    }
    add(const_cast<std::uint8_t*>(&place.status), 1, VRING_DESC_F_WRITE);
    return queue_.AddIndirect(reinterpret_cast<std::uint64_t>(place.table), count, slot);
  }

  // Shows the device what was offered, and rings where it wants that. Whether it rang.
  bool Publish() {
    queue_.Publish();
    if (!queue_.KickNeeded()) return false;
    device_.Ring(0);
    return true;
  }

  // Takes back one request that is done: its slot and VIRTIO_BLK_S_*.
  Virtqueue::Taken Take(std::uint32_t& slot, std::uint8_t& status) {
    std::uint32_t written_bytes = 0;
    const Virtqueue::Taken taken = queue_.Take(slot, written_bytes);
    if (taken == Virtqueue::Taken::kOne) status = SlotAt(slot).status;
    return taken;
  }

  // Sleeps until a request is done. Returns at once when one is.
  void Sleep() {
    queue_.WantInterrupts(true);
    if (!queue_.HasUsed()) device_.Sleep();
    queue_.WantInterrupts(false);
  }

  void Ring() { device_.Ring(0); }
  std::uint64_t capacity_bytes() const { return capacity_sectors_ * kSectorBytes; }
  bool is_read_only() const { return device_.has(VIRTIO_BLK_F_RO); }
  bool is_broken() const { return device_.is_broken(); }

 private:
  static constexpr std::uint8_t kNoStatus = 0xFF;  // no device answers with it

  struct Slot {
    vring_desc table[3];
    virtio_blk_outhdr header;
    volatile std::uint8_t status;
  };
  static_assert(sizeof(Slot) <= kSlotBytes);
  static_assert(Virtqueue::BytesNeeded(kMaxDepth) <= kSlotsOffset);

  Slot& SlotAt(std::uint32_t slot) { return *reinterpret_cast<Slot*>(memory_ + kSlotsOffset + slot * kSlotBytes); }

  MmioDevice device_;
  Virtqueue queue_;
  std::byte* memory_ = nullptr;
  std::uint64_t capacity_sectors_ = 0;
};

}  // namespace nestbench::drivers
