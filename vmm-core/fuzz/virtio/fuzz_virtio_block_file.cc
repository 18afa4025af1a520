// The disk device under a hostile driver, on a file through io_uring: a file in memory, which the program also makes
// shorter under the disk's feet. Writing zeroes takes the long way there: such a file system cannot do it by itself.

#include <linux/virtio_blk.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "devices/virtio/block/block.h"
#include "devices/virtio/block/file_disk.h"
#include "nestbench/fuzz/virtio/block_requests.h"
#include "nestbench/fuzz/virtio/hostile_driver.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr off_t kDiskBytes = 64 * 1024;

// One disk for all programs: a ring costs more to make than a program takes.
struct File {
  File() : fd(::memfd_create("fuzz", MFD_CLOEXEC)) {
    fuzz::Require(fd.valid() && Restore(), "a file can be had");
    auto opened = FileDisk::Open("/proc/self/fd/" + std::to_string(fd.get()), {.queue_depth = 8});
    fuzz::Require(opened.has_value(), "a file is a disk");
    disk = std::move(*opened);
  }
  // Empty, and as long as it was.
  [[nodiscard]] bool Restore() const { return ::ftruncate(fd.get(), 0) == 0 && ::ftruncate(fd.get(), kDiskBytes) == 0; }

  UniqueFd fd;
  std::unique_ptr<FileDisk> disk;
};

class BorrowedDisk final : public Disk {
 public:
  explicit BorrowedDisk(Disk& disk) : disk_(disk) {}
  [[nodiscard]] DiskLimits limits() const override { return disk_.limits(); }
  void Submit(DiskRequest& request) override { disk_.Submit(request); }
  void Start() override { disk_.Start(); }
  void Collect(std::vector<DiskRequest*>& done) override { disk_.Collect(done); }
  void Drain(std::vector<DiskRequest*>& done) override { disk_.Drain(done); }
  [[nodiscard]] int completion_fd() const override { return disk_.completion_fd(); }

 private:
  Disk& disk_;
};

}  // namespace
}  // namespace nestbench::vmm::virtio

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench::vmm::virtio;
  using nestbench::fuzz::Require;
  static GuestArena arena;
  static File file;
  nestbench::fuzz::Input input(data, size);
  arena.Clear();
  Require(file.Restore(), "the file can be made empty");
  Block block(std::make_unique<BorrowedDisk>(*file.disk),
              {.queue_count = 1, .queue_size = 16, .polling = {}, .serial = "fuzzed"});
  HostileDriver driver(arena, block);
  for (std::size_t i = 0; i < HostileDriver::kMaxSteps && !input.empty(); ++i) {
    const auto own = driver.Step(input);
    if (own == HostileDriver::kOwnSteps) {
      Require(::ftruncate(file.fd.get(), input.Take<std::uint16_t>()) == 0, "the file can be cut");
    } else if (own) {
      OfferBlockRequest(driver, 1, input);
    }
    driver.Check();
  }
  driver.Reset();
  Require(file.Restore(), "the file can be made whole");
  driver.StartProperly(~std::uint64_t{0});
  CheckBlock(driver, false, [] {});
  driver.Check();
  arena.Check();
  return 0;
}
