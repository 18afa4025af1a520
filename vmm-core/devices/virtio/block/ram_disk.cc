#include "devices/virtio/block/ram_disk.h"

#include <fmt/format.h>
#include <sys/mman.h>

#include <cerrno>
#include <cstring>

namespace nestbench::vmm::virtio {

Result<std::unique_ptr<RamDisk>> RamDisk::Create(std::uint64_t size_bytes, bool read_only) {
  if (size_bytes == 0 || size_bytes % 512 != 0) {
    return Fail(Error::InvalidArgument("create RAM disk", fmt::format("{} bytes: not whole sectors", size_bytes)));
  }
  void* const address =
      ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (address == MAP_FAILED) return Fail(Error::System("mmap", errno, fmt::format("a RAM disk of {} B", size_bytes)));
  return std::unique_ptr<RamDisk>(new RamDisk({static_cast<std::byte*>(address), size_bytes}, read_only));
}

RamDisk::~RamDisk() { ::munmap(bytes_.data(), bytes_.size()); }

void RamDisk::Submit(DiskRequest& request) {
  std::byte* place = bytes_.data() + request.offset_bytes;
  request.error_number = 0;
  switch (request.operation) {
    case DiskOperation::kRead:
      for (const iovec& buffer : request.buffers) {
        std::memcpy(buffer.iov_base, place, buffer.iov_len);
        place += buffer.iov_len;
      }
      break;
    case DiskOperation::kWrite:
      for (const iovec& buffer : request.buffers) {
        std::memcpy(place, buffer.iov_base, buffer.iov_len);
        place += buffer.iov_len;
      }
      break;
    case DiskOperation::kDiscard:
    case DiskOperation::kWriteZeroes:
      std::memset(place, 0, request.size_bytes);
      break;
    case DiskOperation::kFlush:
      break;
  }
  done_.push_back(&request);
}

void RamDisk::Collect(std::vector<DiskRequest*>& done) {
  done.insert(done.end(), done_.begin(), done_.end());
  done_.clear();
}

}  // namespace nestbench::vmm::virtio
