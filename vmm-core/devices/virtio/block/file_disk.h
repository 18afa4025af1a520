// A disk on a file or a block device of the host, through io_uring. Sources: io_uring_enter(2), open(2) O_DIRECT,
// fallocate(2), statx(2) STATX_DIOALIGN.
//
// A short transfer is continued, and one that cannot be (the file ends, the host's disk is full) is an error of the
// request: nothing is reported as done that is not. A buffer that O_DIRECT does not take goes through a copy. When the
// kernel takes no more requests, those that it has not taken, and all that follow, fail with EIO.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio/block/disk.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::vmm::virtio {

struct FileDiskOptions {
  bool direct = false;  // O_DIRECT: past the host's page cache
  bool read_only = false;
  unsigned queue_depth = 256;  // requests under way at most; more wait for their turn
  // Memory that requests read and write, registered with the kernel once instead of being pinned for each request.
  // Where the host refuses (RLIMIT_MEMLOCK), requests work as without. Not with a balloon, nor with anything else that
  // gives pages of that memory back: the kernel would go on with the old pages.
  std::span<const iovec> registered_buffers = {};
};

class FileDisk final : public Disk {
 public:
  // Opens `path`, a regular file or a block device. kSystem when that or io_uring is refused; kInvalidArgument for
  // anything else than those two, or one smaller than a block; kUnsupported when the file system has no O_DIRECT.
  static Result<std::unique_ptr<FileDisk>> Open(const std::string& path, const FileDiskOptions& options);
  // The same of a file that is open already, as `options` say: for a process that may open none. `path` is for errors.
  static Result<std::unique_ptr<FileDisk>> Adopt(UniqueFd fd, const std::string& path, const FileDiskOptions& options);
  ~FileDisk() override;

  [[nodiscard]] DiskLimits limits() const override;
  void Submit(DiskRequest& request) override;
  void Start() override;
  void Collect(std::vector<DiskRequest*>& done) override;
  void Drain(std::vector<DiskRequest*>& done) override;
  [[nodiscard]] int completion_fd() const override;

  // Whether transfers use the registered file and, where a buffer lies in them, the registered buffers.
  [[nodiscard]] bool has_registered_file() const;
  [[nodiscard]] bool has_registered_buffers() const;

 private:
  struct State;
  explicit FileDisk(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace nestbench::vmm::virtio
