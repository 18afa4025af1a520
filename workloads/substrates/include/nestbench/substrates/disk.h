// The disk of a guest, or of the host process that is its twin.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::vmm::virtio {
class Function;
}
namespace nestbench::vmm {
class GuestMemory;
}

namespace nestbench::substrates {

enum class DiskKind : std::uint8_t {
  kNone,
  kRam,     // of a guest: memory of its VMM; of the twin: a file in memory (memfd)
  kDirect,  // a file or block device, past the host's page cache (O_DIRECT)
  kCached,  // a file or block device through it
};

// What can be done to a guest's disk while it is used. From any thread.
struct DiskFaults {
  std::atomic<int> error_number{0};  // that each request ends with from now on (EIO, ENOSPC); 0: none
  std::atomic<std::uint64_t> failed_requests{0};
};

struct DiskSetup {
  DiskKind kind = DiskKind::kNone;
  std::string path;              // of kDirect and kCached; `size_bytes` or larger
  int fd = -1;                   // instead of a path: open for reading and writing, O_DIRECT for kDirect; borrowed
  std::uint64_t size_bytes = 0;  // that is used
  bool doorbell_exits = false;   // each doorbell an exit to user space, instead of an ioeventfd
  bool polling = false;          // the device's thread never sleeps
  int io_cpu = -1;               // where the device's thread runs; -1: where its creator does
  std::shared_ptr<DiskFaults> faults = {};  // of a guest; null: its disk cannot be made to fail
};

// Writes the stamps of payload/disk_work.h to all of an open file. `size_bytes`: a multiple of 4096.
vmm::Result<void> StampDisk(int fd, std::uint64_t size_bytes);

// The file of kDirect and kCached.
vmm::Result<vmm::UniqueFd> OpenDisk(const DiskSetup& disk);

// The virtio block device of a guest. `memory` is registered for the I/O where the host permits.
vmm::Result<std::unique_ptr<vmm::virtio::Function>> MakeDiskDevice(const DiskSetup& disk,
                                                                   const vmm::GuestMemory& memory);

}  // namespace nestbench::substrates
