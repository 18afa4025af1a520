#include "devices/virtio/block/block.h"

#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::size_t kStatusBytes = 1;
constexpr std::uint16_t kQueueSizeLimit = 1024;               // IOV_MAX: a chain is one readv
constexpr std::uint32_t kRangeMaxSectors = (1U << 30) / 512;  // of one discard or write-zeroes
constexpr std::size_t kWceOffset = offsetof(virtio_blk_config, wce);

std::uint16_t QueueSize(std::uint16_t wanted) {
  std::uint16_t size = 2;
  while (size < wanted && size < kQueueSizeLimit) size = static_cast<std::uint16_t>(size * 2);
  return size;
}

}  // namespace

Block::Block(std::unique_ptr<Disk> disk, const BlockOptions& options)
    : disk_(std::move(disk)),
      options_(options),
      limits_(disk_->limits()),
      queue_sizes_(std::max<std::uint16_t>(options.queue_count, 1), QueueSize(options.queue_size)) {
  const std::size_t slots = queue_sizes_.size() * queue_sizes_[0];
  requests_.resize(slots);
  for (Request& request : requests_) {
    request.disk.cookie = static_cast<std::uint64_t>(&request - requests_.data());
  }
}

Block::~Block() { Reset(); }

std::uint32_t Block::device_id() const { return VIRTIO_ID_BLOCK; }

std::uint64_t Block::features() const {
  std::uint64_t features = Feature(VIRTIO_BLK_F_SEG_MAX) | Feature(VIRTIO_BLK_F_BLK_SIZE) |
                           Feature(VIRTIO_BLK_F_FLUSH) | Feature(VIRTIO_BLK_F_CONFIG_WCE);
  if (queue_sizes_.size() > 1) features |= Feature(VIRTIO_BLK_F_MQ);
  if (limits_.read_only) return features | Feature(VIRTIO_BLK_F_RO);
  return features | Feature(VIRTIO_BLK_F_DISCARD) | Feature(VIRTIO_BLK_F_WRITE_ZEROES);
}

AccessStatus Block::ReadConfig(std::uint64_t offset, std::span<std::byte> data) {
  virtio_blk_config config{};
  config.capacity = limits_.size_bytes / kSectorBytes;
  config.seg_max = queue_sizes_[0] - 2U;  // a chain is never longer than the queue; two are header and status
  config.blk_size = limits_.block_bytes;
  config.wce = write_back_.load(std::memory_order_relaxed) ? 1 : 0;
  config.num_queues = static_cast<__virtio16>(queue_sizes_.size());
  config.max_discard_sectors = kRangeMaxSectors;
  config.max_discard_seg = 1;
  config.discard_sector_alignment = static_cast<std::uint32_t>(limits_.block_bytes / kSectorBytes);
  config.max_write_zeroes_sectors = kRangeMaxSectors;
  config.max_write_zeroes_seg = 1;
  config.write_zeroes_may_unmap = 1;
  return ReadConfigStructure(config, offset, data);
}

AccessStatus Block::WriteConfig(std::uint64_t offset, std::span<const std::byte> data) {
  if (offset != kWceOffset || data.size() != 1) return AccessStatus::kReadOnly;
  write_back_.store(data[0] != std::byte{0}, std::memory_order_relaxed);
  return AccessStatus::kOk;
}

Result<void> Block::Activate(Activation activation) {
  active_ = std::move(activation);
  durable_writes_ = (active_.features & (Feature(VIRTIO_BLK_F_FLUSH) | Feature(VIRTIO_BLK_F_CONFIG_WCE))) == 0;
  broken_ = false;
  free_requests_.clear();
  for (Request& request : requests_) free_requests_.push_back(&request);
  WorkerOptions options{.name = "virtio-blk",
                        .polling = options_.polling,
                        .cpu = options_.cpu,
                        .eventfds = active_.doorbells,
                        .descriptors = {}};
  if (disk_->completion_fd() >= 0) options.descriptors.push_back(disk_->completion_fd());
  auto worker = Worker::Start(std::move(options), [this](bool may_sleep) { return Serve(may_sleep); });
  if (!worker) return tl::unexpected<Error>(std::move(worker.error()));
  worker_ = std::move(*worker);
  return {};
}

void Block::Reset() {
  worker_.reset();
  // The kernel may still write into guest memory for requests under way: the reset waits for them.
  done_.clear();
  if (!Mutated("virtio-blk-reset-does-not-wait")) disk_->Drain(done_);
  done_.clear();
  active_ = Activation();
  write_back_.store(true, std::memory_order_relaxed);
}

bool Block::Serve(bool may_sleep) {
  if (broken_) {
    // No queue gives anything any more, but what is under way must still be collected.
    done_.clear();
    disk_->Collect(done_);
    return false;
  }
  // What came while a round was answered is taken by the next one, without a doorbell.
  const bool taken = TakeRequests(may_sleep);
  return FinishRequests() || taken;
}

bool Block::TakeRequests(bool may_sleep) {
  bool taken = false;
  for (std::size_t queue = 0; queue < active_.queues.size() && !broken_; ++queue)
    taken |= TakeFromQueue(queue, may_sleep);
  if (taken) {
    batch_count_.fetch_add(1, std::memory_order_relaxed);
    disk_->Start();
  }
  return taken;
}

bool Block::TakeFromQueue(std::size_t index, bool may_sleep) {
  Queue& queue = active_.queues[index];
  if (!queue.ready()) return false;
  bool taken = false;
  std::size_t left = requests_.size();
  queue.DisableDoorbells();
  do {
    for (; left != 0 && !free_requests_.empty(); --left) {
      Request& request = *free_requests_.back();
      const Queue::Popped popped = queue.Pop(request.chain);
      if (popped == Queue::Popped::kEmpty) break;
      QueueFault bad = queue.fault();
      if (popped == Queue::Popped::kChain) {
        taken = true;
        free_requests_.pop_back();
        request.queue = index;
        request_count_.fetch_add(1, std::memory_order_relaxed);
        bad = Begin(request);
      }
      if (bad != QueueFault::kNone) {
        BreakQueue(index, bad);
        return taken;
      }
    }
    // With no request left to hold more, the completions bring us back here.
  } while (may_sleep && left != 0 && !free_requests_.empty() && queue.EnableDoorbells());
  return taken;
}

void Block::BreakQueue(std::size_t queue, QueueFault fault) {
  active_.queues[queue].Break(fault);
  broken_ = true;
  disk_->Start();
  active_.signals->Fail(fault);
}

QueueFault Block::Begin(Request& request) {
  // Section "Device Operation": a header of 16 bytes that the device reads, data, and a status byte that it writes.
  virtio_blk_outhdr header{};
  const auto header_bytes = std::as_writable_bytes(std::span(&header, 1));
  if (CopyOut(request.chain.readable(), 0, header_bytes) != sizeof(header)) return QueueFault::kBadRequest;
  const bool has_status = request.chain.writable_bytes >= kStatusBytes;
  if (!has_status && !Mutated("virtio-blk-status-missing")) return QueueFault::kBadRequest;
  const std::uint8_t status = Prepare(request, header.type, header.sector);
  if (request.written_bytes == ~0U) return QueueFault::kNone;  // under way
  Answer(request, status, request.written_bytes);
  return QueueFault::kNone;
}

// Starts the request, or says how it ends. While it is under way, `written_bytes` is all ones.
std::uint8_t Block::Prepare(Request& request, std::uint32_t type, std::uint64_t sector) {
  request.written_bytes = 0;
  switch (type) {
    case VIRTIO_BLK_T_IN:
      return PrepareTransfer(request, false, sector);
    case VIRTIO_BLK_T_OUT:
      return PrepareTransfer(request, true, sector);
    case VIRTIO_BLK_T_FLUSH:
      flush_count_.fetch_add(1, std::memory_order_relaxed);
      request.disk.operation = DiskOperation::kFlush;
      request.disk.offset_bytes = 0;
      request.disk.size_bytes = 0;
      break;
    case VIRTIO_BLK_T_DISCARD:
      return PrepareRange(request, true);
    case VIRTIO_BLK_T_WRITE_ZEROES:
      return PrepareRange(request, false);
    case VIRTIO_BLK_T_GET_ID: {
      std::array<std::byte, VIRTIO_BLK_ID_BYTES> id{};
      std::memcpy(id.data(), options_.serial.data(), std::min(options_.serial.size(), id.size()));
      const std::uint64_t room = request.chain.writable_bytes - kStatusBytes;
      if (room < id.size()) return VIRTIO_BLK_S_IOERR;
      request.written_bytes = static_cast<std::uint32_t>(CopyIn(request.chain.writable(), 0, id));
      return VIRTIO_BLK_S_OK;
    }
    default:
      return VIRTIO_BLK_S_UNSUPP;
  }
  request.written_bytes = ~0U;
  disk_->Submit(request.disk);
  return VIRTIO_BLK_S_OK;
}

std::uint8_t Block::PrepareTransfer(Request& request, bool is_write, std::uint64_t sector) {
  const Chain& chain = request.chain;
  const std::uint64_t size =
      is_write ? chain.readable_bytes - sizeof(virtio_blk_outhdr) : chain.writable_bytes - kStatusBytes;
  const std::uint64_t capacity = limits_.size_bytes / kSectorBytes;
  const std::uint64_t sectors = size / kSectorBytes;
  if (size == 0 || size % limits_.block_bytes != 0 || sector % (limits_.block_bytes / kSectorBytes) != 0) {
    return VIRTIO_BLK_S_IOERR;
  }
  const bool outside =
      Mutated("virtio-blk-end-unchecked") ? sector >= capacity : sector > capacity || sectors > capacity - sector;
  if (outside) return VIRTIO_BLK_S_IOERR;
  if (is_write && limits_.read_only && !Mutated("virtio-blk-read-only-written")) return VIRTIO_BLK_S_IOERR;
  DiskRequest& disk = request.disk;
  disk.operation = is_write ? DiskOperation::kWrite : DiskOperation::kRead;
  disk.offset_bytes = sector * kSectorBytes;
  disk.size_bytes = size;
  disk.durable = is_write && WritesThrough() && !Mutated("virtio-blk-write-not-durable");
  disk.buffers.clear();
  const bool whole = is_write ? AppendPart(chain.readable(), sizeof(virtio_blk_outhdr), size, disk.buffers)
                              : AppendPart(chain.writable(), 0, size, disk.buffers);
  if (!whole) return VIRTIO_BLK_S_IOERR;
  request.written_bytes = ~0U;
  disk_->Submit(disk);
  return VIRTIO_BLK_S_OK;
}

std::uint8_t Block::PrepareRange(Request& request, bool discard) {
  if (limits_.read_only) return VIRTIO_BLK_S_UNSUPP;
  virtio_blk_discard_write_zeroes range{};
  const auto bytes = std::as_writable_bytes(std::span(&range, 1));
  // Exactly one range: that is what max_*_seg promise.
  if (request.chain.readable_bytes != sizeof(virtio_blk_outhdr) + sizeof(range) ||
      CopyOut(request.chain.readable(), sizeof(virtio_blk_outhdr), bytes) != sizeof(range)) {
    return VIRTIO_BLK_S_IOERR;
  }
  constexpr std::uint32_t kUnmap = VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
  const std::uint32_t allowed = discard ? 0 : kUnmap;
  if ((range.flags & ~allowed) != 0) return VIRTIO_BLK_S_UNSUPP;
  const std::uint64_t capacity = limits_.size_bytes / kSectorBytes;
  const std::uint64_t block_sectors = limits_.block_bytes / kSectorBytes;
  if (range.num_sectors == 0 || range.num_sectors > kRangeMaxSectors || range.sector > capacity ||
      range.num_sectors > capacity - range.sector || range.sector % block_sectors != 0 ||
      range.num_sectors % block_sectors != 0) {
    return VIRTIO_BLK_S_IOERR;
  }
  DiskRequest& disk = request.disk;
  disk.operation = discard ? DiskOperation::kDiscard : DiskOperation::kWriteZeroes;
  disk.offset_bytes = range.sector * kSectorBytes;
  disk.size_bytes = range.num_sectors * kSectorBytes;
  disk.durable = !discard && WritesThrough() && !Mutated("virtio-blk-zeroes-not-durable");
  disk.may_unmap = (range.flags & kUnmap) != 0;
  disk.buffers.clear();
  request.written_bytes = ~0U;
  disk_->Submit(disk);
  return VIRTIO_BLK_S_OK;
}

// Section "Device Operation": whether a write must be on stable storage when it is answered.
bool Block::WritesThrough() const { return durable_writes_ || !write_back_.load(std::memory_order_relaxed); }

bool Block::FinishRequests() {
  done_.clear();
  disk_->Collect(done_);
  for (DiskRequest* done : done_) {
    Request& request = requests_[done->cookie];
    const bool good = done->error_number == 0 || Mutated("virtio-blk-error-is-ok");
    const bool reads = done->operation == DiskOperation::kRead;
    Answer(request, good ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR,
           good && reads ? static_cast<std::uint32_t>(done->size_bytes) : 0);
  }
  // One question for a batch: the driver is told once of all that was pushed.
  bool notify = false;
  for (Queue& queue : active_.queues) {
    if (queue.ready() && queue.fault() == QueueFault::kNone) notify |= queue.NotifyNeeded();
  }
  if (notify) active_.signals->QueueUsed();
  return !done_.empty();
}

void Block::Answer(Request& request, std::uint8_t status, std::uint32_t written_bytes) {
  const auto byte = std::byte{status};
  CopyIn(request.chain.writable(), request.chain.writable_bytes - kStatusBytes, std::span(&byte, 1));
  if (status != VIRTIO_BLK_S_OK) error_count_.fetch_add(1, std::memory_order_relaxed);
  Queue& queue = active_.queues[request.queue];
  queue.Push(request.chain.head, written_bytes + kStatusBytes);
  free_requests_.push_back(&request);
}

Block::Counters Block::counters() const {
  return {request_count_.load(std::memory_order_relaxed), error_count_.load(std::memory_order_relaxed),
          batch_count_.load(std::memory_order_relaxed), flush_count_.load(std::memory_order_relaxed)};
}

}  // namespace nestbench::vmm::virtio
