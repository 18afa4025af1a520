#include "devices/virtio/core/queue.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>

#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm::virtio {
namespace {

using abi::GuestPhysAddr;

// Section "Split Virtqueues", table of alignments, and the layouts of the two rings: flags, index, ring, event.
constexpr std::uint64_t kDescriptorAlign = VRING_DESC_ALIGN_SIZE;
constexpr std::uint64_t kDriverAreaAlign = VRING_AVAIL_ALIGN_SIZE;
constexpr std::uint64_t kDeviceAreaAlign = VRING_USED_ALIGN_SIZE;
constexpr std::size_t kFlagsOffset = 0;
constexpr std::size_t kIndexOffset = 2;
constexpr std::size_t kRingOffset = 4;
constexpr std::size_t kEventBytes = 2;
constexpr std::uint64_t kChainMaxBytes = 1ULL << 32;

// The alignments were checked when the queue was configured.
std::atomic_ref<std::uint16_t> Word(std::span<std::byte> area, std::size_t offset) {
  return std::atomic_ref(*reinterpret_cast<std::uint16_t*>(area.data() + offset));
}

vring_desc ReadDescriptor(std::span<const std::byte> table, std::size_t index) {
  vring_desc descriptor;
  std::memcpy(&descriptor, table.data() + index * sizeof(descriptor), sizeof(descriptor));
  // The copy is the value: the guest may change the table now, and the compiler may not read it a second time.
  asm volatile("" : "+m"(descriptor));
  return descriptor;
}

template <typename Byte, typename Copy>
std::size_t CopyParts(std::span<const iovec> buffers, std::uint64_t offset, std::span<Byte> bytes, Copy copy) {
  std::size_t done = 0;
  for (const iovec& buffer : buffers) {
    if (done == bytes.size()) break;
    if (offset >= buffer.iov_len) {
      offset -= buffer.iov_len;
      continue;
    }
    const std::size_t part = std::min<std::size_t>(buffer.iov_len - offset, bytes.size() - done);
    copy(static_cast<std::byte*>(buffer.iov_base) + offset, bytes.data() + done, part);
    done += part;
    offset = 0;
  }
  return done;
}

}  // namespace

std::string_view ToString(QueueFault fault) {
  switch (fault) {
    case QueueFault::kNone:
      return "none";
    case QueueFault::kBadSize:
      return "bad queue size";
    case QueueFault::kUnalignedRing:
      return "unaligned ring";
    case QueueFault::kRingOutsideMemory:
      return "ring outside memory";
    case QueueFault::kIndexJumped:
      return "index jumped";
    case QueueFault::kHeadOutOfRange:
      return "head out of range";
    case QueueFault::kNextOutOfRange:
      return "next descriptor out of range";
    case QueueFault::kChainTooLong:
      return "chain too long";
    case QueueFault::kTooManyBytes:
      return "too many bytes in a chain";
    case QueueFault::kReadableAfterWritable:
      return "readable buffer after a writable one";
    case QueueFault::kBufferOutsideMemory:
      return "buffer outside memory";
    case QueueFault::kBadIndirectTable:
      return "bad indirect table";
    case QueueFault::kBadRequest:
      return "bad request";
  }
  return "unknown";
}

std::size_t CopyOut(std::span<const iovec> buffers, std::uint64_t offset, std::span<std::byte> bytes) {
  return CopyParts(buffers, offset, bytes,
                   [](std::byte* guest, std::byte* host, std::size_t size) { std::memcpy(host, guest, size); });
}

std::size_t CopyIn(std::span<const iovec> buffers, std::uint64_t offset, std::span<const std::byte> bytes) {
  return CopyParts(buffers, offset, bytes,
                   [](std::byte* guest, const std::byte* host, std::size_t size) { std::memcpy(guest, host, size); });
}

bool AppendPart(std::span<const iovec> buffers, std::uint64_t offset, std::uint64_t size_bytes,
                std::vector<iovec>& part) {
  for (const iovec& buffer : buffers) {
    if (size_bytes == 0) break;
    if (offset >= buffer.iov_len) {
      offset -= buffer.iov_len;
      continue;
    }
    const std::size_t taken = std::min<std::uint64_t>(buffer.iov_len - offset, size_bytes);
    part.push_back({static_cast<std::byte*>(buffer.iov_base) + offset, taken});
    size_bytes -= taken;
    offset = 0;
  }
  return size_bytes == 0;
}

QueueFault Queue::Configure(const GuestMemory& memory, const QueueLayout& layout, std::uint16_t max_size,
                            bool event_index, bool indirect) {
  if (!std::has_single_bit(layout.size) || layout.size > max_size) return QueueFault::kBadSize;
  if (layout.descriptors.value() % kDescriptorAlign != 0 || layout.driver_area.value() % kDriverAreaAlign != 0 ||
      layout.device_area.value() % kDeviceAreaAlign != 0) {
    return QueueFault::kUnalignedRing;
  }
  const std::size_t size = layout.size;
  const std::uint64_t device_area_bytes = kRingOffset + size * sizeof(vring_used_elem) + kEventBytes;
  const auto descriptors = memory.Slice(layout.descriptors, size * sizeof(vring_desc));
  const auto driver_area = memory.Slice(layout.driver_area, kRingOffset + size * sizeof(std::uint16_t) + kEventBytes);
  const auto device_area = memory.Slice(layout.device_area, device_area_bytes);
  if (!descriptors || !driver_area || !device_area) return QueueFault::kRingOutsideMemory;
  // The device writes there, and may no more than the guest could.
  if (memory.Find(layout.device_area, device_area_bytes)->read_only_for_guest() &&
      !Mutated("virtio-ring-in-read-only-memory")) {
    return QueueFault::kRingOutsideMemory;
  }
  *this = Queue();
  memory_ = &memory;
  layout_ = layout;
  event_index_ = event_index;
  indirect_ = indirect;
  descriptors_ = *descriptors;
  driver_area_ = *driver_area;
  device_area_ = *device_area;
  return QueueFault::kNone;
}

std::uint16_t Queue::Waiting() const {
  if (!ready() || fault_ != QueueFault::kNone) return 0;
  return static_cast<std::uint16_t>(Word(driver_area_, kIndexOffset).load(std::memory_order_acquire) - next_available_);
}

Queue::Popped Queue::Pop(Chain& chain) {
  if (fault_ != QueueFault::kNone) return Popped::kFault;
  const std::uint16_t waiting = Waiting();
  if (waiting == 0) return Popped::kEmpty;
  if (waiting > layout_.size && !Mutated("virtio-index-jump-accepted")) {
    fault_ = QueueFault::kIndexJumped;
    return Popped::kFault;
  }
  const std::size_t slot = next_available_ % layout_.size;
  const std::uint16_t head =
      Word(driver_area_, kRingOffset + slot * sizeof(std::uint16_t)).load(std::memory_order_relaxed);
  fault_ = Walk(head, chain);
  if (fault_ != QueueFault::kNone) return Popped::kFault;
  ++next_available_;
  return Popped::kChain;
}

QueueFault Queue::Walk(std::uint16_t head, Chain& chain) const {
  chain.head = head;
  chain.buffers.clear();
  chain.readable_count = 0;
  chain.readable_bytes = 0;
  chain.writable_bytes = 0;
  if (head >= layout_.size && !Mutated("virtio-head-unchecked")) return QueueFault::kHeadOutOfRange;
  std::span<std::byte> table = descriptors_;
  std::size_t table_size = layout_.size;
  bool inside_indirect = false;
  std::size_t index = head;
  // Section "The Virtqueue Descriptor Table": no chain is longer than the queue, wherever its parts lie, so that more
  // is a loop. Disks count on it: a chain is one vector of the kernel, which has a limit.
  std::size_t seen = 0;
  for (;;) {
    const vring_desc descriptor = ReadDescriptor(table, index);
    if ((descriptor.flags & VRING_DESC_F_INDIRECT) != 0) {
      // A table inside a table, and one that goes on behind it, are forbidden ("Indirect Descriptors").
      if (inside_indirect || (descriptor.flags & VRING_DESC_F_NEXT) != 0) return QueueFault::kBadIndirectTable;
      if (const QueueFault bad = EnterIndirect(descriptor, table); bad != QueueFault::kNone) return bad;
      table_size = table.size() / sizeof(vring_desc);
      inside_indirect = true;
      index = 0;
      continue;
    }
    if (++seen > layout_.size) return QueueFault::kChainTooLong;
    if (const QueueFault bad = AppendBuffer(descriptor, chain); bad != QueueFault::kNone) return bad;
    if ((descriptor.flags & VRING_DESC_F_NEXT) == 0) return QueueFault::kNone;
    index = descriptor.next;
    if (index >= table_size) return QueueFault::kNextOutOfRange;
  }
}

QueueFault Queue::EnterIndirect(const vring_desc& descriptor, std::span<std::byte>& table) const {
  if (!indirect_ || descriptor.len == 0 || descriptor.len % sizeof(vring_desc) != 0 ||
      descriptor.len / sizeof(vring_desc) > layout_.size) {
    return QueueFault::kBadIndirectTable;
  }
  const auto found = memory_->Slice(GuestPhysAddr(descriptor.addr), descriptor.len);
  if (!found) return QueueFault::kBufferOutsideMemory;
  table = *found;
  return QueueFault::kNone;
}

QueueFault Queue::AppendBuffer(const vring_desc& descriptor, Chain& chain) const {
  const bool writable = (descriptor.flags & VRING_DESC_F_WRITE) != 0;
  if (!writable && chain.buffers.size() != chain.readable_count && !Mutated("virtio-buffers-mixed")) {
    return QueueFault::kReadableAfterWritable;
  }
  if (descriptor.len == 0) return QueueFault::kNone;
  const GuestPhysAddr address(descriptor.addr);
  const MemoryRegion* region = memory_->Find(address, descriptor.len);
  // What is read-only for the guest's own stores is so for a device that it sends.
  if (region == nullptr && !Mutated("virtio-buffer-bound-unchecked")) return QueueFault::kBufferOutsideMemory;
  if (region == nullptr) region = &memory_->regions().front();
  if (writable && region->read_only_for_guest() && !Mutated("virtio-read-only-buffer-written")) {
    return QueueFault::kBufferOutsideMemory;
  }
  const auto bytes = region->bytes().subspan(address.value() - region->range().start.value(), descriptor.len);
  if (chain.readable_bytes + chain.writable_bytes + descriptor.len >= kChainMaxBytes) return QueueFault::kTooManyBytes;
  chain.buffers.push_back({bytes.data(), bytes.size()});
  if (writable) {
    chain.writable_bytes += descriptor.len;
  } else {
    ++chain.readable_count;
    chain.readable_bytes += descriptor.len;
  }
  return QueueFault::kNone;
}

void Queue::Push(std::uint16_t head, std::uint32_t written_bytes) {
  const std::size_t slot = next_used_ % layout_.size;
  const vring_used_elem element{head, written_bytes};
  std::memcpy(device_area_.data() + kRingOffset + slot * sizeof(element), &element, sizeof(element));
  ++next_used_;
  Word(device_area_, kIndexOffset).store(next_used_, std::memory_order_release);
}

bool Queue::NotifyNeeded() {
  // Section "Used Buffer Notification Suppression": the driver asks, then looks; we publish, then look whether it
  // asked.
  std::atomic_thread_fence(std::memory_order_seq_cst);
  const std::uint16_t before = std::exchange(notified_used_, next_used_);
  if (before == next_used_) return false;
  if (Mutated("virtio-event-index-ignored")) return true;
  if (!event_index_) {
    const std::uint16_t flags = Word(driver_area_, kFlagsOffset).load(std::memory_order_relaxed);
    return (flags & VRING_AVAIL_F_NO_INTERRUPT) == 0;
  }
  const std::size_t event_offset = kRingOffset + layout_.size * sizeof(std::uint16_t);
  const std::uint16_t event = Word(driver_area_, event_offset).load(std::memory_order_relaxed);
  return vring_need_event(event, next_used_, before) != 0;
}

bool Queue::EnableDoorbells() {
  if (!ready()) return false;
  if (event_index_) {
    const std::size_t event_offset = kRingOffset + layout_.size * sizeof(vring_used_elem);
    Word(device_area_, event_offset).store(next_available_, std::memory_order_relaxed);
  } else {
    Word(device_area_, kFlagsOffset).store(0, std::memory_order_relaxed);
  }
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return Waiting() != 0;
}

void Queue::DisableDoorbells() {
  // With the event index nothing need be written: an event that stays behind is not passed again for 2^16 requests.
  if (ready() && !event_index_) {
    Word(device_area_, kFlagsOffset).store(VRING_USED_F_NO_NOTIFY, std::memory_order_relaxed);
  }
}

}  // namespace nestbench::vmm::virtio
