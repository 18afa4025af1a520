#include "devices/virtio/rng/rng.h"

#include <linux/virtio_ids.h>
#include <sys/random.h>

#include <algorithm>
#include <array>
#include <utility>

#include "devices/virtio/core/serve.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::uint64_t kRequestMaxBytes = 64 * 1024;

}  // namespace

std::uint32_t Rng::device_id() const { return VIRTIO_ID_RNG; }

Result<void> Rng::Activate(Activation activation) {
  active_ = std::move(activation);
  auto worker = Worker::Start({.name = "virtio-rng", .polling = {}, .eventfds = active_.doorbells, .descriptors = {}},
                              [this](bool may_sleep) { return Serve(may_sleep); });
  if (!worker) return tl::unexpected<Error>(std::move(worker.error()));
  worker_ = std::move(*worker);
  return {};
}

void Rng::Reset() {
  worker_.reset();
  active_ = Activation();
}

bool Rng::Serve(bool may_sleep) {
  return ServeQueue(active_.queues[0], chain_, *active_.signals, may_sleep, [this](const Chain& chain) -> Handled {
    // Section "Device Operation" of the device: the driver gives buffers to write, and nothing to read.
    if (chain.readable_count != 0 || chain.writable_bytes == 0) return tl::unexpected(QueueFault::kBadRequest);
    const std::uint64_t wanted = std::min(chain.writable_bytes, kRequestMaxBytes);
    std::array<std::byte, 256> bytes{};  // getrandom gives up to 256 bytes without a break
    std::uint64_t done = 0;
    while (done < wanted) {
      const ssize_t got = ::getrandom(bytes.data(), std::min<std::uint64_t>(bytes.size(), wanted - done), 0);
      if (got <= 0) break;
      done += CopyIn(chain.writable(), done, std::span(bytes).first(static_cast<std::size_t>(got)));
    }
    bytes_given_.fetch_add(done, std::memory_order_relaxed);
    return static_cast<std::uint32_t>(done);
  });
}

}  // namespace nestbench::vmm::virtio
