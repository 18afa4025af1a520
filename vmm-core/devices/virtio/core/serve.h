// The loop of a device that answers each request at once.
#pragma once

#include <cstdint>
#include <tl/expected.hpp>

#include "devices/virtio/core/function.h"
#include "devices/virtio/core/queue.h"

namespace nestbench::vmm::virtio {

// How a request ended: the bytes that were written to its buffers, or what is wrong with it.
using Handled = tl::expected<std::uint32_t, QueueFault>;

// Takes the requests that wait, a queue's size of them at most, calls `handle(chain)` for it and hands it back; then
// tells the driver once. Asks for doorbells when the thread may sleep. Returns whether there was any. A queue that
// broke is reported, and from then on gives nothing. `chain` is room that is used again from call to call.
template <typename Handle>
bool ServeQueue(Queue& queue, Chain& chain, DriverSignals& signals, bool may_sleep, Handle handle) {
  if (!queue.ready() || queue.fault() != QueueFault::kNone) return false;
  bool worked = false;
  std::size_t left = queue.size();
  queue.DisableDoorbells();
  do {
    for (; left != 0; --left) {
      const Queue::Popped popped = queue.Pop(chain);
      if (popped == Queue::Popped::kEmpty) break;
      if (popped == Queue::Popped::kChain) {
        const Handled handled = handle(chain);
        if (handled) {
          queue.Push(chain.head, *handled);
          worked = true;
          continue;
        }
        queue.Break(handled.error());
      }
      signals.Fail(queue.fault());
      return worked;
    }
  } while (may_sleep && left != 0 && queue.EnableDoorbells());
  if (worked && queue.NotifyNeeded()) signals.QueueUsed();
  return worked;
}

}  // namespace nestbench::vmm::virtio
