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
    auto file =
        virtio::FileDisk::Open(disk.path, {.direct = disk.kind == DiskKind::kDirect, .registered_buffers = buffers});
    if (!file) return Fail(std::move(file.error()));
    back_end = std::move(*file);
  }
  virtio::BlockOptions options;
  options.cpu = disk.io_cpu;
  if (disk.polling) options.polling.poll_for = virtio::PollPolicy::kAlways;
  return std::make_unique<virtio::Block>(std::move(back_end), options);
}

}  // namespace nestbench::substrates
