// The driver's side of a split virtqueue, for guests that poll. Source: Virtual I/O Device (VIRTIO) Version 1.2,
// section "Split Virtqueues"; constants from <linux/virtio_ring.h>.
//
// Freestanding, without allocation: the caller gives the memory. One thread. Trusts its device, as a guest has to, as
// far as indices go: a device that hands back what it never got is noticed (Taken::kBroken) and nothing more.
#pragma once

#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>
#undef VIRTIO_RING_NO_LEGACY

#include <cstddef>
#include <cstdint>

namespace nestbench::drivers {

struct Buffer {
  std::uint64_t address = 0;  // guest-physical
  std::uint32_t size_bytes = 0;
  bool device_writes = false;
};

class Virtqueue {
 public:
  static constexpr std::uint16_t kMaxSize = 256;

  // Where the three parts lie, from the start of the memory that the queue gets (aligned to 16).
  static constexpr std::uint64_t DriverAreaOffset(std::uint16_t size) { return size * sizeof(vring_desc); }
  static constexpr std::uint64_t DeviceAreaOffset(std::uint16_t size) {
    return (DriverAreaOffset(size) + 4 + size * 2ULL + 2 + 3) / 4 * 4;
  }
  static constexpr std::uint64_t BytesNeeded(std::uint16_t size) {
    return DeviceAreaOffset(size) + 4 + size * sizeof(vring_used_elem) + 2;
  }

  // `memory`: BytesNeeded(size) zeroed bytes; `size`: a power of two, at most kMaxSize.
  void Init(std::byte* memory, std::uint16_t size, bool event_index) {
    memory_ = memory;
    size_ = size;
    event_index_ = event_index;
    next_available_ = 0;
    kicked_ = 0;
    next_used_ = 0;
    free_count_ = size;
    for (std::uint16_t i = 0; i < size; ++i) {
      descriptors()[i].next = static_cast<std::uint16_t>(i + 1);
      chain_length_[i] = 0;
    }
    first_free_ = 0;
  }

  // Offers a chain, to be known by `cookie`. False when there are not enough free descriptors. The device sees it after
  // Publish().
  bool Add(const Buffer* buffers, std::uint16_t count, std::uint32_t cookie) {
    if (count == 0 || count > free_count_) return false;
    const std::uint16_t head = first_free_;
    std::uint16_t index = head;
    for (std::uint16_t i = 0; i < count; ++i) {
      vring_desc& descriptor = descriptors()[index];
      descriptor.addr = buffers[i].address;
      descriptor.len = buffers[i].size_bytes;
      descriptor.flags = static_cast<std::uint16_t>((buffers[i].device_writes ? VRING_DESC_F_WRITE : 0) |
                                                    (i + 1 < count ? VRING_DESC_F_NEXT : 0));
      first_free_ = descriptor.next;
      index = descriptor.next;
    }
    free_count_ = static_cast<std::uint16_t>(free_count_ - count);
    chain_length_[head] = count;
    cookies_[head] = cookie;
    *Half(DriverAreaOffset(size_) + 4 + 2ULL * (next_available_ % size_)) = head;
    ++next_available_;
    return true;
  }

  // Offers a chain of `count` descriptors that stand in a table of their own at guest-physical `table`.
  bool AddIndirect(std::uint64_t table, std::uint16_t count, std::uint32_t cookie) {
    if (count == 0 || free_count_ == 0) return false;
    const std::uint16_t head = first_free_;
    vring_desc& descriptor = descriptors()[head];
    first_free_ = descriptor.next;
    descriptor.addr = table;
    descriptor.len = static_cast<std::uint32_t>(count * sizeof(vring_desc));
    descriptor.flags = VRING_DESC_F_INDIRECT;
    free_count_ = static_cast<std::uint16_t>(free_count_ - 1);
    chain_length_[head] = 1;
    cookies_[head] = cookie;
    *Half(DriverAreaOffset(size_) + 4 + 2ULL * (next_available_ % size_)) = head;
    ++next_available_;
    return true;
  }

  void Publish() { __atomic_store_n(Half(DriverAreaOffset(size_) + 2), next_available_, __ATOMIC_RELEASE); }

  // Whether the device wants a doorbell for what was published since the last call.
  bool KickNeeded() {
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    const std::uint16_t before = kicked_;
    kicked_ = next_available_;
    if (before == next_available_) return false;
    const std::uint64_t device_area = DeviceAreaOffset(size_);
    if (!event_index_) return (__atomic_load_n(Half(device_area), __ATOMIC_RELAXED) & VRING_USED_F_NO_NOTIFY) == 0;
    const std::uint16_t event =
        __atomic_load_n(Half(device_area + 4 + size_ * sizeof(vring_used_elem)), __ATOMIC_RELAXED);
    return vring_need_event(event, next_available_, before) != 0;
  }

  enum class Taken : std::uint8_t { kNothing, kOne, kBroken };

  // Takes back one chain that the device is done with.
  Taken Take(std::uint32_t& cookie, std::uint32_t& written_bytes) {
    const std::uint64_t device_area = DeviceAreaOffset(size_);
    if (__atomic_load_n(Half(device_area + 2), __ATOMIC_ACQUIRE) == next_used_) return Taken::kNothing;
    const auto* element = reinterpret_cast<const vring_used_elem*>(memory_ + device_area + 4) + next_used_ % size_;
    const std::uint32_t head = element->id;
    if (head >= size_ || chain_length_[head] == 0) return Taken::kBroken;
    cookie = cookies_[head];
    written_bytes = element->len;
    std::uint16_t last = static_cast<std::uint16_t>(head);
    for (std::uint16_t i = 1; i < chain_length_[head]; ++i) last = descriptors()[last].next;
    descriptors()[last].next = first_free_;
    first_free_ = static_cast<std::uint16_t>(head);
    free_count_ = static_cast<std::uint16_t>(free_count_ + chain_length_[head]);
    chain_length_[head] = 0;
    ++next_used_;
    return Taken::kOne;
  }

  // Asks for an interrupt for the next chain that comes back, or for none.
  void WantInterrupts(bool wanted) {
    const std::uint64_t driver_area = DriverAreaOffset(size_);
    __atomic_store_n(Half(driver_area), static_cast<std::uint16_t>(wanted ? 0 : VRING_AVAIL_F_NO_INTERRUPT),
                     __ATOMIC_RELAXED);
    // An event half the range away is not passed before the caller looks again.
    const auto event = static_cast<std::uint16_t>(wanted ? next_used_ : next_used_ + 0x8000);
    __atomic_store_n(Half(driver_area + 4 + 2ULL * size_), event, __ATOMIC_RELAXED);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
  }

  // Whether Take() has something to give.
  bool HasUsed() const { return __atomic_load_n(Half(DeviceAreaOffset(size_) + 2), __ATOMIC_ACQUIRE) != next_used_; }

  std::uint16_t free_count() const { return free_count_; }

 private:
  vring_desc* descriptors() const { return reinterpret_cast<vring_desc*>(memory_); }
  std::uint16_t* Half(std::uint64_t offset) const { return reinterpret_cast<std::uint16_t*>(memory_ + offset); }

  std::byte* memory_ = nullptr;
  std::uint16_t size_ = 0;
  bool event_index_ = false;
  std::uint16_t next_available_ = 0;
  std::uint16_t kicked_ = 0;  // next_available_ at the last KickNeeded()
  std::uint16_t next_used_ = 0;
  std::uint16_t first_free_ = 0;
  std::uint16_t free_count_ = 0;
  std::uint16_t chain_length_[kMaxSize] = {};
  std::uint32_t cookies_[kMaxSize] = {};
};

}  // namespace nestbench::drivers
