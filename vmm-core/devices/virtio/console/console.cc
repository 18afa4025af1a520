#include "devices/virtio/console/console.h"

#include <linux/virtio_console.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <utility>

#include "devices/virtio/core/serve.h"
#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::size_t kToGuest = 0;
constexpr std::size_t kFromGuest = 1;

}  // namespace

Result<std::unique_ptr<Console>> Console::Create(ByteSink& output, ConsoleSize size) {
  auto event = CreateEventFd();
  if (!event) return Fail(std::move(event.error()));
  return std::unique_ptr<Console>(new Console(output, size, std::move(*event)));
}

std::uint32_t Console::device_id() const { return VIRTIO_ID_CONSOLE; }

std::uint64_t Console::features() const {
  return Feature(VIRTIO_CONSOLE_F_SIZE) | Feature(VIRTIO_CONSOLE_F_EMERG_WRITE);
}

AccessStatus Console::ReadConfig(std::uint64_t offset, std::span<std::byte> data) {
  virtio_console_config config{};
  config.cols = size_.columns;
  config.rows = size_.rows;
  config.max_nr_ports = 1;
  return ReadConfigStructure(config, offset, data);
}

AccessStatus Console::WriteConfig(std::uint64_t offset, std::span<const std::byte> data) {
  // Section "Emergency write": one character in the low byte, at any time.
  if (offset != offsetof(virtio_console_config, emerg_wr) || data.empty()) return AccessStatus::kReadOnly;
  const std::scoped_lock lock(output_mutex_);
  output_.Put(data.first(1));
  return AccessStatus::kOk;
}

std::size_t Console::Push(std::span<const std::byte> bytes) {
  const std::scoped_lock lock(input_mutex_);
  const auto taken = bytes.first(std::min(bytes.size(), kInputMaxBytes - input_.size()));
  input_.insert(input_.end(), taken.begin(), taken.end());
  RingEventFd(input_event_.get());
  return taken.size();
}

Result<void> Console::Activate(Activation activation) {
  active_ = std::move(activation);
  WorkerOptions options{.name = "virtio-console", .polling = {}, .eventfds = active_.doorbells, .descriptors = {}};
  options.eventfds.push_back(input_event_.get());
  auto worker = Worker::Start(std::move(options), [this](bool may_sleep) { return Serve(may_sleep); });
  if (!worker) return tl::unexpected<Error>(std::move(worker.error()));
  worker_ = std::move(*worker);
  return {};
}

void Console::Reset() {
  worker_.reset();
  active_ = Activation();
}

bool Console::Serve(bool may_sleep) {
  const bool printed = ServeQueue(
      active_.queues[kFromGuest], chain_, *active_.signals, may_sleep, [this](const Chain& chain) -> Handled {
        const bool is_long = chain.readable_bytes > kOutputMaxBytes && !Mutated("virtio-console-output-without-end");
        if (chain.buffers.size() != chain.readable_count || is_long) {
          return tl::unexpected(QueueFault::kBadRequest);
        }
        const std::scoped_lock lock(output_mutex_);
        // A copy: the sink may look at a byte twice, and the guest could change it in between.
        given_.resize(chain.readable_bytes);
        CopyOut(chain.readable(), 0, given_);
        if (!given_.empty()) output_.Put(given_);
        return 0U;
      });
  return GiveInput(may_sleep) || printed;
}

bool Console::GiveInput(bool may_sleep) {
  Queue& queue = active_.queues[kToGuest];
  if (!queue.ready() || queue.fault() != QueueFault::kNone) return false;
  bool worked = false;
  const std::scoped_lock lock(input_mutex_);
  queue.DisableDoorbells();
  do {
    while (!input_.empty()) {
      const Queue::Popped popped = queue.Pop(chain_);
      if (popped == Queue::Popped::kEmpty) break;
      if (popped == Queue::Popped::kChain && (chain_.readable_count != 0 || chain_.writable_bytes == 0)) {
        queue.Break(QueueFault::kBadRequest);
      }
      if (queue.fault() != QueueFault::kNone) {
        active_.signals->Fail(queue.fault());
        return worked;
      }
      const std::size_t count = CopyIn(chain_.writable(), 0, input_);
      input_.erase(input_.begin(), input_.begin() + static_cast<std::ptrdiff_t>(count));
      queue.Push(chain_.head, static_cast<std::uint32_t>(count));
      worked = true;
    }
    // Buffers are worth a doorbell only while there is something to put into them.
  } while (may_sleep && !input_.empty() && queue.EnableDoorbells());
  if (worked && queue.NotifyNeeded()) active_.signals->QueueUsed();
  return worked;
}

}  // namespace nestbench::vmm::virtio
