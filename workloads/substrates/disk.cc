#include "nestbench/substrates/disk.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "devices/virtio/block/block.h"
#include "devices/virtio/block/faulting_disk.h"
#include "devices/virtio/block/file_disk.h"
#include "devices/virtio/block/ram_disk.h"
#include "nestbench/payload/disk_work.h"
#include "nestbench/vmm/base/unique_fd.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::substrates {
namespace {

using vmm::Error;
using vmm::Result;
namespace virtio = vmm::virtio;

void Stamp(std::span<std::byte> bytes, std::uint64_t first_sector) {
  for (std::uint64_t at = 0; at < bytes.size(); at += payload::kDiskSectorBytes) {
    const std::uint64_t stamp = payload::DiskStamp(first_sector + at / payload::kDiskSectorBytes);
    std::memcpy(bytes.data() + at, &stamp, sizeof(stamp));
  }
}

// Passes requests on, but for the time of a fault.
class FaultyDisk final : public virtio::Disk {
 public:
  FaultyDisk(std::unique_ptr<virtio::Disk> disk, std::shared_ptr<DiskFaults> faults)
      : faults_(std::move(faults)), disk_(std::move(disk)) {}

  [[nodiscard]] virtio::DiskLimits limits() const override { return disk_.limits(); }
  void Submit(virtio::DiskRequest& request) override {
    const int error = faults_->error_number.load(std::memory_order_relaxed);
    disk_.FailReads(error);
    disk_.FailWrites(error);
    disk_.FailFlushes(error);
    disk_.Submit(request);
    faults_->failed_requests.store(disk_.failed_requests(), std::memory_order_relaxed);
  }
  void Start() override { disk_.Start(); }
  void Collect(std::vector<virtio::DiskRequest*>& done) override { disk_.Collect(done); }
  void Drain(std::vector<virtio::DiskRequest*>& done) override { disk_.Drain(done); }
  [[nodiscard]] int completion_fd() const override { return disk_.completion_fd(); }

 private:
  std::shared_ptr<DiskFaults> faults_;
  virtio::FaultingDisk disk_;
};

}  // namespace

Result<void> StampDisk(int fd, std::uint64_t size_bytes) {
  std::vector<std::byte> buffer(std::min<std::uint64_t>(size_bytes, 1U << 20));
  for (std::uint64_t at = 0; at < size_bytes;) {
    const std::uint64_t part = std::min<std::uint64_t>(buffer.size(), size_bytes - at);
    Stamp(std::span(buffer).first(part), at / payload::kDiskSectorBytes);
    for (std::uint64_t written = 0; written < part;) {
      const ssize_t got = ::pwrite(fd, buffer.data() + written, part - written, static_cast<off_t>(at + written));
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return Fail(Error::System("pwrite", got < 0 ? errno : EIO, "the disk of the measurement"));
      written += static_cast<std::uint64_t>(got);
    }
    at += part;
  }
  return {};
}

Result<vmm::UniqueFd> OpenDisk(const DiskSetup& disk) {
  if (disk.fd >= 0) {
    vmm::UniqueFd copy(::fcntl(disk.fd, F_DUPFD_CLOEXEC, 0));
    if (!copy.valid()) return Fail(Error::System("fcntl", errno, "F_DUPFD_CLOEXEC"));
    return copy;
  }
  const int direct = disk.kind == DiskKind::kDirect ? O_DIRECT : 0;
  vmm::UniqueFd fd(::open(disk.path.c_str(), O_RDWR | O_CLOEXEC | O_NOCTTY | direct));
  if (fd.valid()) return fd;
  if (errno == EINVAL && direct != 0) {
    return Fail(Error::Unsupported("open", disk.path + ": its file system has no O_DIRECT"));
  }
  return Fail(Error::System("open", errno, disk.path));
}

Result<std::unique_ptr<virtio::Function>> MakeDiskDevice(const DiskSetup& disk, const vmm::GuestMemory& memory) {
  std::unique_ptr<virtio::Disk> back_end;
  if (disk.kind == DiskKind::kRam) {
    auto ram = virtio::RamDisk::Create(disk.size_bytes);
    if (!ram) return Fail(std::move(ram.error()));
    Stamp((*ram)->bytes(), 0);
    back_end = std::move(*ram);
  } else {
    std::vector<iovec> buffers;
    for (const vmm::MemoryRegion& region : memory.regions()) {
      buffers.push_back({region.bytes().data(), region.bytes().size()});
    }
    auto fd = OpenDisk(disk);
    if (!fd) return Fail(std::move(fd.error()));
    auto file = virtio::FileDisk::Adopt(std::move(*fd), disk.path,
                                        {.direct = disk.kind == DiskKind::kDirect, .registered_buffers = buffers});
    if (!file) return Fail(std::move(file.error()));
    back_end = std::move(*file);
  }
  if (disk.faults != nullptr) back_end = std::make_unique<FaultyDisk>(std::move(back_end), disk.faults);
  virtio::BlockOptions options;
  options.cpu = disk.io_cpu;
  if (disk.polling) options.polling.poll_for = virtio::PollPolicy::kAlways;
  return std::make_unique<virtio::Block>(std::move(back_end), options);
}

}  // namespace nestbench::substrates
