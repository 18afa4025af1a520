// The device's side of a split virtqueue. Source: Virtual I/O Device (VIRTIO) Version 1.2, section "Split Virtqueues";
// constants from <linux/virtio_ring.h>.
//
// Everything in the rings and tables is the guest's word and may change while it is read: each value is read once into
// a copy, the copy is checked, and what it leads to lies in guest memory or is a fault. After a fault the queue gives
// nothing more: its device asks for a reset.
//
// Used by one thread at a time. Refers to guest memory, which outlives it and keeps its regions.
#pragma once

// Its helpers for the old layout are C only.
#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>
#undef VIRTIO_RING_NO_LEGACY
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::vmm::virtio {

inline constexpr std::uint16_t kQueueMaxSize = 32768;  // section "Split Virtqueues"

// What a driver can get wrong in a queue.
enum class QueueFault : std::uint8_t {
  kNone,
  kBadSize,            // not a power of two, zero, or more than the device takes
  kUnalignedRing,      // descriptor table, driver area or device area not aligned as the section demands
  kRingOutsideMemory,  // one of the three is not all inside one region of guest memory, or the last is read-only there
  kIndexJumped,        // the driver's index moved by more than the queue's size
  kHeadOutOfRange,     // a chain begins at a descriptor that does not exist
  kNextOutOfRange,     // a chain goes on at a descriptor that does not exist
  kChainTooLong,       // more descriptors than the queue has: a loop
  kTooManyBytes,       // 2^32 bytes or more in one chain
  kReadableAfterWritable,
  kBufferOutsideMemory,  // not all inside one region, or not writable
  kBadIndirectTable,     // not negotiated, nested, empty, of odd size or longer than the queue
  kBadRequest,           // a chain that the device type has no use for: too short, without a status byte
};
inline constexpr std::size_t kQueueFaults = 13;

[[nodiscard]] std::string_view ToString(QueueFault fault);

struct QueueLayout {
  std::uint16_t size = 0;  // descriptors: a power of two
  abi::GuestPhysAddr descriptors;
  abi::GuestPhysAddr driver_area;  // the available ring
  abi::GuestPhysAddr device_area;  // the used ring
};

// One request: buffers that the device reads, then buffers that it writes. Reused from request to request, so that a
// steady flow allocates nothing.
struct Chain {
  std::uint16_t head = 0;
  std::vector<iovec> buffers;
  std::size_t readable_count = 0;  // of `buffers`, at the front
  std::uint64_t readable_bytes = 0;
  std::uint64_t writable_bytes = 0;

  [[nodiscard]] std::span<const iovec> readable() const { return std::span(buffers).first(readable_count); }
  [[nodiscard]] std::span<const iovec> writable() const { return std::span(buffers).subspan(readable_count); }
};

// Copies between a list of buffers and `bytes`, `offset` bytes into the list. How many bytes were there to copy.
std::size_t CopyOut(std::span<const iovec> buffers, std::uint64_t offset, std::span<std::byte> bytes);
std::size_t CopyIn(std::span<const iovec> buffers, std::uint64_t offset, std::span<const std::byte> bytes);

// The part [offset, offset + size_bytes) of a list of buffers, appended to `part`. False when the list is shorter.
[[nodiscard]] bool AppendPart(std::span<const iovec> buffers, std::uint64_t offset, std::uint64_t size_bytes,
                              std::vector<iovec>& part);

class Queue {
 public:
  enum class Popped : std::uint8_t { kEmpty, kChain, kFault };

  Queue() = default;

  // Checks the layout; the fault that it has, or kNone and the queue is ready.
  [[nodiscard]] QueueFault Configure(const GuestMemory& memory, const QueueLayout& layout, std::uint16_t max_size,
                                     bool event_index, bool indirect);

  // The next request, if there is one. On kFault, fault() tells why and nothing more will come.
  [[nodiscard]] Popped Pop(Chain& chain);

  // Hands a request back: `written_bytes` were written to its writable buffers.
  void Push(std::uint16_t head, std::uint32_t written_bytes);

  // Whether the driver wants to be told of what was pushed since the last call.
  [[nodiscard]] bool NotifyNeeded();

  // Asks the driver for doorbells, or spares it from them. After asking, look once more: true when something came
  // meanwhile, for which no doorbell may ring.
  [[nodiscard]] bool EnableDoorbells();
  void DisableDoorbells();

  // Ends the queue for a fault that the device type found in a request.
  void Break(QueueFault fault) { fault_ = fault; }

  [[nodiscard]] bool ready() const { return layout_.size != 0; }
  [[nodiscard]] QueueFault fault() const { return fault_; }
  [[nodiscard]] std::uint16_t size() const { return layout_.size; }
  // Requests that the driver offers and that were not popped; 0 after a fault.
  [[nodiscard]] std::uint16_t Waiting() const;

 private:
  [[nodiscard]] QueueFault Walk(std::uint16_t head, Chain& chain) const;
  [[nodiscard]] QueueFault AppendBuffer(const vring_desc& descriptor, Chain& chain) const;
  [[nodiscard]] QueueFault EnterIndirect(const vring_desc& descriptor, std::span<std::byte>& table) const;

  const GuestMemory* memory_ = nullptr;
  QueueLayout layout_;
  bool event_index_ = false;
  bool indirect_ = false;
  std::span<std::byte> descriptors_;
  std::span<std::byte> driver_area_;
  std::span<std::byte> device_area_;
  std::uint16_t next_available_ = 0;
  std::uint16_t next_used_ = 0;
  std::uint16_t notified_used_ = 0;  // next_used_ at the last NotifyNeeded()
  QueueFault fault_ = QueueFault::kNone;
};

}  // namespace nestbench::vmm::virtio
