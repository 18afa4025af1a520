#include "devices/virtio/core/mmio.h"

#include <linux/virtio_config.h>
#include <linux/virtio_mmio.h>

#include <cstring>
#include <utility>

#include "devices/virtio/core/worker.h"
#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::uint32_t kMagic = 0x7472'6976;  // "virt", section "MMIO Device Register Layout"
constexpr std::uint32_t kVersion = 2;
constexpr std::uint32_t kNoSharedMemory = 0xFFFF'FFFF;  // length and base of a region that does not exist
constexpr std::size_t kRegisterBytes = 4;

constexpr std::uint64_t kRingFeatures =
    Feature(VIRTIO_F_VERSION_1) | Feature(VIRTIO_RING_F_INDIRECT_DESC) | Feature(VIRTIO_RING_F_EVENT_IDX);

// Section "Device Status Field": a driver adds bits and never takes one away, except by writing 0.
constexpr std::uint32_t kDriverBits = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK |
                                      VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED;

abi::GuestPhysAddr WithLow(abi::GuestPhysAddr address, std::uint32_t low) {
  return abi::GuestPhysAddr((address.value() & ~0xFFFF'FFFFULL) | low);
}
abi::GuestPhysAddr WithHigh(abi::GuestPhysAddr address, std::uint32_t high) {
  return abi::GuestPhysAddr((address.value() & 0xFFFF'FFFFULL) | std::uint64_t{high} << 32);
}

}  // namespace

Result<std::unique_ptr<MmioTransport>> MmioTransport::Create(Function& function, const GuestMemory& memory,
                                                             IrqLine& irq) {
  std::vector<UniqueFd> doorbells;
  for (std::size_t i = 0; i < function.queue_sizes().size(); ++i) {
    auto doorbell = CreateEventFd();
    if (!doorbell) return tl::unexpected<Error>(std::move(doorbell.error()));
    doorbells.push_back(std::move(*doorbell));
  }
  return std::unique_ptr<MmioTransport>(new MmioTransport(function, memory, irq, std::move(doorbells)));
}

MmioTransport::MmioTransport(Function& function, const GuestMemory& memory, IrqLine& irq,
                             std::vector<UniqueFd> doorbells)
    : function_(function),
      memory_(memory),
      irq_(irq),
      doorbells_(std::move(doorbells)),
      queues_(function.queue_sizes().size()) {}

MmioTransport::~MmioTransport() { function_.Reset(); }

AccessStatus MmioTransport::Read(std::uint64_t offset, std::span<std::byte> data) {
  const std::scoped_lock lock(mutex_);
  if (offset >= VIRTIO_MMIO_CONFIG) return function_.ReadConfig(offset - VIRTIO_MMIO_CONFIG, data);
  if (data.size() != kRegisterBytes) return FailRead(data, AccessStatus::kBadWidth);
  const auto value = ReadRegister(offset);
  if (!value) return FailRead(data, AccessStatus::kBadOffset);
  std::memcpy(data.data(), &*value, sizeof(*value));
  return AccessStatus::kOk;
}

AccessStatus MmioTransport::Write(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset < VIRTIO_MMIO_CONFIG && data.size() != kRegisterBytes) return AccessStatus::kBadWidth;
  std::uint32_t value = 0;
  if (offset < VIRTIO_MMIO_CONFIG) std::memcpy(&value, data.data(), sizeof(value));
  // The one register of the hot path, and it needs no lock.
  if (offset == VIRTIO_MMIO_QUEUE_NOTIFY) {
    doorbell_exits_.fetch_add(1, std::memory_order_relaxed);
    if (value < doorbells_.size()) RingEventFd(doorbells_[value].get());
    return value < doorbells_.size() ? AccessStatus::kOk : AccessStatus::kBadOffset;
  }
  const std::scoped_lock lock(mutex_);
  if (offset >= VIRTIO_MMIO_CONFIG) return function_.WriteConfig(offset - VIRTIO_MMIO_CONFIG, data);
  return WriteRegister(offset, value);
}

std::uint32_t MmioTransport::DeviceStatus() const {
  const std::scoped_lock lock(interrupt_mutex_);
  return status_ | (needs_reset_ ? VIRTIO_CONFIG_S_NEEDS_RESET : 0U);
}

std::optional<std::uint32_t> MmioTransport::ReadRegister(std::uint64_t offset) {
  const auto sizes = function_.queue_sizes();
  switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
      return kMagic;
    case VIRTIO_MMIO_VERSION:
      return kVersion;
    case VIRTIO_MMIO_DEVICE_ID:
      return function_.device_id();
    case VIRTIO_MMIO_VENDOR_ID:
      return kVendorId;
    case VIRTIO_MMIO_DEVICE_FEATURES:
      if (device_features_select_ > 1) return 0;
      return static_cast<std::uint32_t>((function_.features() | kRingFeatures) >> (32 * device_features_select_));
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
      return queue_select_ < sizes.size() ? sizes[queue_select_] : 0;
    case VIRTIO_MMIO_QUEUE_READY:
      return queue_select_ < queues_.size() && queues_[queue_select_].ready ? 1 : 0;
    case VIRTIO_MMIO_INTERRUPT_STATUS: {
      const std::scoped_lock lock(interrupt_mutex_);
      return interrupt_status_;
    }
    case VIRTIO_MMIO_STATUS:
      return DeviceStatus();
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
      return kNoSharedMemory;
    case VIRTIO_MMIO_CONFIG_GENERATION: {
      const std::scoped_lock lock(interrupt_mutex_);
      return config_generation_;
    }
    default:
      return std::nullopt;
  }
}

AccessStatus MmioTransport::WriteRegister(std::uint64_t offset, std::uint32_t value) {
  switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
      device_features_select_ = value;
      return AccessStatus::kOk;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
      driver_features_select_ = value;
      return AccessStatus::kOk;
    case VIRTIO_MMIO_DRIVER_FEATURES: {
      if ((status_ & VIRTIO_CONFIG_S_FEATURES_OK) != 0) return AccessStatus::kReadOnly;
      // Words above the second hold no feature that is offered: setting one there spoils FEATURES_OK.
      if (driver_features_select_ > 1) {
        unknown_features_ |= value != 0;
        return AccessStatus::kOk;
      }
      const unsigned shift = 32 * driver_features_select_;
      driver_features_ = (driver_features_ & ~(0xFFFF'FFFFULL << shift)) | std::uint64_t{value} << shift;
      return AccessStatus::kOk;
    }
    case VIRTIO_MMIO_QUEUE_SEL:
      queue_select_ = value;
      return AccessStatus::kOk;
    case VIRTIO_MMIO_INTERRUPT_ACK:
      Acknowledge(value);
      return AccessStatus::kOk;
    case VIRTIO_MMIO_STATUS:
      return WriteStatus(value);
    case VIRTIO_MMIO_SHM_SEL:
      return AccessStatus::kOk;  // no region exists: each one reads as absent
    case VIRTIO_MMIO_QUEUE_NUM:
    case VIRTIO_MMIO_QUEUE_READY:
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
      return WriteQueue(offset, value);
    case VIRTIO_MMIO_MAGIC_VALUE:
    case VIRTIO_MMIO_VERSION:
    case VIRTIO_MMIO_DEVICE_ID:
    case VIRTIO_MMIO_VENDOR_ID:
    case VIRTIO_MMIO_DEVICE_FEATURES:
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
    case VIRTIO_MMIO_INTERRUPT_STATUS:
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
    case VIRTIO_MMIO_CONFIG_GENERATION:
      return AccessStatus::kReadOnly;
    default:
      return AccessStatus::kBadOffset;
  }
}

AccessStatus MmioTransport::WriteQueue(std::uint64_t offset, std::uint32_t value) {
  if (queue_select_ >= queues_.size()) return AccessStatus::kBadOffset;
  // Section "MMIO Device Register Layout": nothing of a queue changes while it is ready, but a driver may take it back.
  // Once the device runs, that is the reset of a single queue, which is not offered.
  QueueState& queue = queues_[queue_select_];
  const bool is_running = (status_ & VIRTIO_CONFIG_S_DRIVER_OK) != 0;
  const bool may_change = !is_running && (!queue.ready || offset == VIRTIO_MMIO_QUEUE_READY);
  if (!may_change && !Mutated("virtio-ready-queue-changed")) return AccessStatus::kReadOnly;
  QueueLayout& layout = queue.layout;
  switch (offset) {
    case VIRTIO_MMIO_QUEUE_NUM:
      layout.size = value > kQueueMaxSize ? 0 : static_cast<std::uint16_t>(value);
      break;
    case VIRTIO_MMIO_QUEUE_READY:
      queue.ready = (value & 1) != 0;
      break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
      layout.descriptors = WithLow(layout.descriptors, value);
      break;
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
      layout.descriptors = WithHigh(layout.descriptors, value);
      break;
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
      layout.driver_area = WithLow(layout.driver_area, value);
      break;
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
      layout.driver_area = WithHigh(layout.driver_area, value);
      break;
    case VIRTIO_MMIO_QUEUE_USED_LOW:
      layout.device_area = WithLow(layout.device_area, value);
      break;
    default:
      layout.device_area = WithHigh(layout.device_area, value);
      break;
  }
  return AccessStatus::kOk;
}

AccessStatus MmioTransport::WriteStatus(std::uint32_t value) {
  if (value == 0) {
    ResetDevice();
    return AccessStatus::kOk;
  }
  // A driver may write back what it read, NEEDS_RESET included.
  value &= ~static_cast<std::uint32_t>(VIRTIO_CONFIG_S_NEEDS_RESET);
  if ((value & ~kDriverBits) != 0 || (status_ & ~value) != 0) return AccessStatus::kReadOnly;
  std::uint32_t added = value & ~status_;
  if ((added & VIRTIO_CONFIG_S_FEATURES_OK) != 0) {
    // Section "Device Initialization": the driver reads the status again and sees that the bit did not hold.
    const bool known = (driver_features_ & ~(function_.features() | kRingFeatures)) == 0;
    const bool modern = (driver_features_ & Feature(VIRTIO_F_VERSION_1)) != 0;
    const bool good = known && modern && !unknown_features_ && function_.Accepts(driver_features_);
    if (!good && !Mutated("virtio-features-unchecked"))
      added &= ~static_cast<std::uint32_t>(VIRTIO_CONFIG_S_FEATURES_OK);
  }
  // Without agreed features there is nothing to drive.
  const bool agreed = ((status_ | added) & VIRTIO_CONFIG_S_FEATURES_OK) != 0;
  if (!agreed) added &= ~static_cast<std::uint32_t>(VIRTIO_CONFIG_S_DRIVER_OK);
  status_ |= added;
  if ((added & VIRTIO_CONFIG_S_DRIVER_OK) != 0) Activate();
  return AccessStatus::kOk;
}

void MmioTransport::Activate() {
  Activation activation{
      .features = driver_features_, .queues = {}, .doorbells = {}, .memory = &memory_, .signals = this};
  const auto sizes = function_.queue_sizes();
  const bool event_index = (driver_features_ & Feature(VIRTIO_RING_F_EVENT_IDX)) != 0;
  const bool indirect = (driver_features_ & Feature(VIRTIO_RING_F_INDIRECT_DESC)) != 0;
  activation.queues.resize(queues_.size());
  for (std::size_t i = 0; i < queues_.size(); ++i) {
    activation.doorbells.push_back(doorbells_[i].get());
    if (!queues_[i].ready) continue;
    const QueueFault bad = activation.queues[i].Configure(memory_, queues_[i].layout, sizes[i], event_index, indirect);
    if (bad != QueueFault::kNone) return Fail(bad);
  }
  if (auto started = function_.Activate(std::move(activation)); !started) {
    const std::scoped_lock lock(interrupt_mutex_);
    failure_ = std::move(started.error());
    needs_reset_ = true;
    RaiseLocked(VIRTIO_MMIO_INT_CONFIG);
    return;
  }
  active_.store(true, std::memory_order_release);
}

void MmioTransport::ResetDevice() {
  active_.store(false, std::memory_order_release);
  function_.Reset();
  for (const UniqueFd& doorbell : doorbells_) DrainEventFd(doorbell.get());
  status_ = 0;
  device_features_select_ = 0;
  driver_features_select_ = 0;
  driver_features_ = 0;
  unknown_features_ = false;
  queue_select_ = 0;
  std::ranges::fill(queues_, QueueState());
  const std::scoped_lock lock(interrupt_mutex_);
  if (interrupt_status_ != 0) irq_.Set(false);
  interrupt_status_ = 0;
  needs_reset_ = needs_reset_ && Mutated("virtio-reset-keeps-fault");
  failure_.reset();
  ++counters_.resets;
}

void MmioTransport::Acknowledge(std::uint32_t bits) {
  const std::scoped_lock lock(interrupt_mutex_);
  if (interrupt_status_ == 0) return;
  interrupt_status_ &= ~bits;
  irq_.Set(false);
  // What is left, or came meanwhile, needs an edge of its own where the controller looks at edges.
  if (interrupt_status_ != 0 && !Mutated("virtio-second-interrupt-lost")) {
    ++counters_.interrupts;
    irq_.Set(true);
  }
}

void MmioTransport::RaiseLocked(std::uint32_t bits) {
  const bool was_low = interrupt_status_ == 0;
  interrupt_status_ |= bits;
  if (!was_low) return;
  ++counters_.interrupts;
  irq_.Set(true);
}

void MmioTransport::QueueUsed() {
  const std::scoped_lock lock(interrupt_mutex_);
  RaiseLocked(VIRTIO_MMIO_INT_VRING);
}

void MmioTransport::ConfigChanged() {
  const std::scoped_lock lock(interrupt_mutex_);
  ++config_generation_;
  RaiseLocked(VIRTIO_MMIO_INT_CONFIG);
}

void MmioTransport::Fail(QueueFault fault) {
  const std::scoped_lock lock(interrupt_mutex_);
  ++counters_.faults[static_cast<std::size_t>(fault)];
  needs_reset_ = !Mutated("virtio-needs-reset-not-raised");
  RaiseLocked(VIRTIO_MMIO_INT_CONFIG);
}

MmioTransport::Counters MmioTransport::counters() const {
  const std::scoped_lock lock(interrupt_mutex_);
  Counters counters = counters_;
  counters.doorbell_exits = doorbell_exits_.load(std::memory_order_relaxed);
  return counters;
}

bool MmioTransport::needs_reset() const {
  const std::scoped_lock lock(interrupt_mutex_);
  return needs_reset_;
}

std::optional<Error> MmioTransport::failure() const {
  const std::scoped_lock lock(interrupt_mutex_);
  return failure_;
}

}  // namespace nestbench::vmm::virtio
