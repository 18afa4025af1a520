// The device's side of a virtqueue (core/queue.h) over any memory: what it hands out lies where a driver may point, and
// the helpers that copy through it agree with a plain copy.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "devices/virtio/core/queue.h"
#include "nestbench/fuzz/input.h"
#include "nestbench/fuzz/require.h"
#include "nestbench/fuzz/virtio/guest_arena.h"
#include "nestbench/fuzz/virtio/hostile_driver.h"

namespace nestbench::vmm::virtio {
namespace {

using fuzz::Require;

constexpr std::size_t kMaxSteps = 64;

bool IsIn(std::span<const std::byte> memory, const iovec& buffer) {
  const auto* const begin = static_cast<const std::byte*>(buffer.iov_base);
  return begin >= memory.data() && begin < memory.data() + memory.size() &&
         buffer.iov_len <= static_cast<std::size_t>(memory.data() + memory.size() - begin);
}

void CheckChain(const GuestArena& arena, const Queue& queue, const Chain& chain) {
  Require(chain.head < queue.size(), "a head is one of the queue's");
  Require(chain.buffers.size() <= queue.size(), "no chain is longer than the queue");
  std::uint64_t readable = 0;
  std::uint64_t writable = 0;
  for (const iovec& buffer : chain.readable()) {
    Require(IsIn(arena.writable(), buffer) || IsIn(arena.read_only(), buffer), "what is read is guest memory");
    readable += buffer.iov_len;
  }
  for (const iovec& buffer : chain.writable()) {
    Require(IsIn(arena.writable(), buffer), "what is written is memory that the guest may write");
    writable += buffer.iov_len;
  }
  Require(readable == chain.readable_bytes && writable == chain.writable_bytes, "the sums are those of the buffers");
  Require(readable + writable < 1ULL << 32, "no chain has 2^32 bytes");
}

// Only of short lists: a plain copy of each would be most of the fuzzer's time.
void CheckCopies(const Chain& chain, std::uint64_t offset, std::size_t size) {
  constexpr std::uint64_t kMaxBytes = 0x4000;
  if (chain.readable_bytes > kMaxBytes) return;
  std::vector<std::byte> whole;
  for (const iovec& buffer : chain.readable()) {
    const auto* const begin = static_cast<const std::byte*>(buffer.iov_base);
    whole.insert(whole.end(), begin, begin + buffer.iov_len);
  }
  const std::size_t first = std::min<std::uint64_t>(offset, whole.size());
  const auto expected = std::span(whole).subspan(first, std::min(size, whole.size() - first));
  std::vector<std::byte> copy(size);
  Require(CopyOut(chain.readable(), offset, copy) == expected.size(), "as much is copied as there is");
  Require(std::ranges::equal(std::span(copy).first(expected.size()), expected), "the copy is the part");
  std::vector<iovec> part;
  Require(AppendPart(chain.readable(), offset, size, part) == (expected.size() == size), "a part is there or not");
  std::size_t bytes = 0;
  for (const iovec& buffer : part) bytes += buffer.iov_len;
  Require(bytes == expected.size(), "a part has its bytes");
}

void Step(GuestArena& arena, Queue& queue, Chain& chain, fuzz::Input& input) {
  switch (input.Take<std::uint8_t>() % 8) {
    case 0: {
      const std::uint64_t address = HostileDriver::PickAddress(input);
      const auto place = arena.From(address);
      const auto bytes = input.TakeBytes(std::min<std::size_t>(input.Take<std::uint8_t>(), place.size()));
      if (!bytes.empty()) std::ranges::copy(bytes, place.begin());
      break;
    }
    case 1:
    case 2:
    case 3: {
      const bool was_broken = queue.fault() != QueueFault::kNone;
      const std::uint16_t waiting = queue.Waiting();
      const Queue::Popped popped = queue.Pop(chain);
      Require((popped == Queue::Popped::kFault) == (queue.fault() != QueueFault::kNone), "a fault is said and kept");
      Require(!was_broken || popped == Queue::Popped::kFault, "a broken queue gives nothing");
      if (popped == Queue::Popped::kEmpty) Require(waiting == 0, "a queue is empty when nothing waits");
      if (popped != Queue::Popped::kChain) break;
      Require(waiting != 0 && queue.Waiting() == waiting - 1, "one request is taken");
      CheckChain(arena, queue, chain);
      CheckCopies(chain, input.Take<std::uint8_t>(), input.Take<std::uint8_t>());
      const std::byte mark{0x77};
      CopyIn(chain.writable(), input.Take<std::uint16_t>(), std::span(&mark, 1));
      break;
    }
    case 4:
      queue.Push(chain.head, input.Take<std::uint32_t>());
      break;
    case 5:
      (void)queue.NotifyNeeded();
      break;
    case 6:
      Require(queue.EnableDoorbells() == (queue.Waiting() != 0), "what waits needs no doorbell");
      break;
    default:
      queue.DisableDoorbells();
      break;
  }
}

}  // namespace
}  // namespace nestbench::vmm::virtio

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench::vmm::virtio;
  static GuestArena arena;
  nestbench::fuzz::Input input(data, size);
  arena.Clear();
  const auto how = input.Take<std::uint8_t>();
  QueueLayout layout;
  layout.size = how >= 0xF0 ? input.Take<std::uint16_t>() : static_cast<std::uint16_t>(1U << how % 8);
  const std::uint64_t base = GuestArena::kMemoryBase;
  const auto pick = [&](unsigned bit, std::uint64_t usual) {
    return nestbench::abi::GuestPhysAddr((how & bit) != 0 ? HostileDriver::PickAddress(input) : usual);
  };
  layout.descriptors = pick(0x08, base);
  layout.driver_area = pick(0x10, base + 0x1000);
  layout.device_area = pick(0x20, base + 0x2000);
  Queue queue;
  const QueueFault bad = queue.Configure(arena.memory(), layout, 256, (how & 0x40) != 0, (how & 0x80) == 0);
  nestbench::fuzz::Require(queue.ready() == (bad == QueueFault::kNone), "a queue is ready when nothing is wrong");
  Chain chain;
  for (std::size_t i = 0; i < kMaxSteps && queue.ready() && !input.empty(); ++i) Step(arena, queue, chain, input);
  arena.Check();
  return 0;
}
