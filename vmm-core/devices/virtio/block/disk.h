// What stands behind a virtio block device: something that reads and writes sectors, at once or later.
#pragma once

#include <sys/uio.h>

#include <cstdint>
#include <span>
#include <vector>

#include "nestbench/vmm/base/error.h"

namespace nestbench::vmm::virtio {

inline constexpr std::uint64_t kSectorBytes = 512;  // the unit of every number of virtio-blk's protocol

enum class DiskOperation : std::uint8_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes };

// One request on its way. The caller owns it and leaves it alone until the disk hands it back.
struct DiskRequest {
  DiskOperation operation = DiskOperation::kRead;
  std::uint64_t offset_bytes = 0;
  std::uint64_t size_bytes = 0;
  std::vector<iovec> buffers;  // of kRead and kWrite: `size_bytes` in all, and stay until the request is done
  bool durable = false;        // of kWrite and kWriteZeroes: done only when it is on stable storage
  bool may_unmap = false;      // of kWriteZeroes: the blocks may be given back
  int error_number = 0;        // the outcome: 0, or an errno; then any part may or may not have been done
  std::uint64_t cookie = 0;    // the caller's
};

struct DiskLimits {
  std::uint64_t size_bytes = 0;
  std::uint32_t block_bytes = 512;  // offsets and sizes are multiples of it
  bool read_only = false;
};

// A request lies within the limits when it comes here: the device has checked it. One thread at a time.
class Disk {
 public:
  virtual ~Disk() = default;

  [[nodiscard]] virtual DiskLimits limits() const = 0;

  // Takes a request. It may be done when this returns, but is handed back by Collect only.
  virtual void Submit(DiskRequest& request) = 0;

  // Starts what Submit collected: requests are cheaper in bunches.
  virtual void Start() {}

  // Appends the requests that are done. Never waits.
  virtual void Collect(std::vector<DiskRequest*>& done) = 0;

  // Waits until every request is done and appends those too.
  virtual void Drain(std::vector<DiskRequest*>& done) = 0;

  // A descriptor that becomes readable when something is done later; -1 where Submit finishes everything.
  [[nodiscard]] virtual int completion_fd() const { return -1; }
};

}  // namespace nestbench::vmm::virtio
