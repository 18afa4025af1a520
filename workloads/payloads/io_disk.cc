// A disk behind virtio-blk (device 0): the operations, parameters and arena of disk_work.h. Unit: requests, and the
// latency of each in the table at the arena's start. A host process runs the twin in workloads/substrates/disk_twin.cc.
//
// Checked: the stamps of the sectors that come, each request's status, and in Verify, once more, every block that the
// last batch touched at its first sector.
#include "nestbench/drivers/block_driver.h"
#include "nestbench/payload/disk_work.h"
#include "nestbench/payload/payload.h"

namespace nestbench::payload {
namespace {

class VirtioEngine {
 public:
  const char* Start(std::byte* memory, std::uint64_t depth) {
    problem_ = driver_.Start(0, memory, static_cast<std::uint32_t>(depth));
    return problem_;
  }

  bool Offer(std::uint32_t slot, DiskRequestKind kind, std::uint64_t offset_bytes, const std::byte* buffer,
             std::uint64_t bytes) {
    const std::uint32_t type = kind == DiskRequestKind::kRead    ? VIRTIO_BLK_T_IN
                               : kind == DiskRequestKind::kWrite ? VIRTIO_BLK_T_OUT
                                                                 : VIRTIO_BLK_T_FLUSH;
    return driver_.Offer(slot, type, offset_bytes / kDiskSectorBytes, buffer, static_cast<std::uint32_t>(bytes));
  }
  void Publish() { driver_.Publish(); }
  bool Take(DiskCompletion& completion) {
    std::uint8_t status = 0;
    switch (driver_.Take(completion.slot, status)) {
      case drivers::Virtqueue::Taken::kNothing:
        return false;
      case drivers::Virtqueue::Taken::kOne:
        completion.failed = status != VIRTIO_BLK_S_OK;
        return true;
      case drivers::Virtqueue::Taken::kBroken:
        problem_ = "io_disk: the device handed back what it never got";
        return false;
    }
    return false;
  }
  static void Relax() { asm volatile("pause"); }
  void Sleep() {
    driver_.Sleep();
    if (driver_.is_broken()) problem_ = "io_disk: the device asks for a reset";
  }
  void Ring() { driver_.Ring(); }
  const char* problem() const { return problem_; }
  std::uint64_t capacity_bytes() const { return driver_.capacity_bytes(); }

 private:
  drivers::BlockDriver driver_;
  const char* problem_ = nullptr;
};

constinit VirtioEngine g_engine;
constinit std::uint64_t g_checksum = 0;

}  // namespace

void SetUp(const Args& args, Result& result) {
  DiskWork<VirtioEngine>::Check(args, result);
  if (!result.ok()) return;
  std::byte* const memory = args.arena + kDiskEngineOffset;
  for (std::uint64_t i = 0; i < kDiskEngineBytes; ++i) memory[i] = std::byte{0};
  static_assert(drivers::BlockDriver::kMemoryBytes <= kDiskEngineBytes);
  if (const char* problem = g_engine.Start(memory, args.parameters[1])) {
    return result.Fail(Status::kUnsupported, problem);
  }
  if (g_engine.capacity_bytes() < args.parameters[2]) {
    result.Fail(Status::kBadRequest, "io_disk: the disk is smaller than parameters[2]");
  }
}

void Run(const Args& args, Result& result) {
  DiskWork<VirtioEngine> work(args, g_engine);
  work.Run(args.iterations, result);
  g_checksum = result.checksum();
}

void Verify(const Args& /*args*/, Result& result) { result.SetChecksum(g_checksum); }

}  // namespace nestbench::payload
