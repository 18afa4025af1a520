// Writes numbered blocks to a disk behind virtio-blk (device 0), several at a time, flushes now and then, and says on
// the serial port what each flush has acknowledged: for a test that kills the VMM meanwhile. One operation (0); no
// unit: it is not measured. An operation is a flush.
//
// Parameters: [0] slots of 4 KiB that the disk has, a power of two, at most 4096; [1] the number of the first write.
// Arena: the driver's memory, then a block for each write under way.
// Serial port: after each flush, the number of the last write that it covers, 8 bytes, the lowest first.
//
// Checked: the status of every request.
#include "nestbench/drivers/block_driver.h"
#include "nestbench/drivers/power_cut_block.h"
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {
namespace {

constexpr std::uint32_t kDepth = 16;      // writes under way
constexpr std::uint32_t kFlush = kDepth;  // slot of the flush
constexpr std::uint64_t kMaxSlots = 4096;
constexpr std::uint64_t kBlocksOffset = 65536;
constexpr std::uint64_t kArenaBytes = kBlocksOffset + kDepth * power_cut::kBlockBytes;
static_assert(drivers::BlockDriver::kMemoryBytes <= kBlocksOffset);

void Say(std::uint64_t number) {
  for (int i = 0; i < 8; ++i) {
    asm volatile("outb %%al, %%dx" : : "a"(static_cast<std::uint8_t>(number >> (8 * i))), "d"(abi::kSerialPort));
  }
}

class Writer {
 public:
  const char* Start(const Args& args) {
    slots_ = args.parameters[0];
    arena_ = args.arena;
    next_ = args.parameters[1];
    completed_ = acknowledged_ = next_ - 1;
    flushing_ = false;
    for (std::uint64_t& word : done_) word = 0;
    free_count_ = 0;
    for (std::uint32_t slot = 0; slot < kDepth; ++slot) free_[free_count_++] = slot;
    return driver_.Start(0, arena_, kDepth + 1);
  }

  // Null, or what went wrong.
  const char* Run(std::uint64_t flushes, Random& random) {
    for (std::uint64_t flushed = 0; flushed < flushes;) {
      while (free_count_ != 0 && next_ - acknowledged_ <= slots_ / 2) Write();
      if (!flushing_ && (random.Below(8) == 0 || free_count_ == kDepth)) Flush();
      driver_.Publish();
      std::uint32_t slot = 0;
      std::uint8_t status = 0;
      bool took = false;
      for (;;) {
        const drivers::Virtqueue::Taken taken = driver_.Take(slot, status);
        if (taken == drivers::Virtqueue::Taken::kBroken) return "io_power_cut: the device hands back what it never got";
        if (taken == drivers::Virtqueue::Taken::kNothing) break;
        if (status != VIRTIO_BLK_S_OK) return "io_power_cut: a request failed";
        took = true;
        if (slot == kFlush) {
          flushing_ = false;
          acknowledged_ = covered_;
          Say(covered_);
          ++flushed;
        } else {
          Finish(slot);
        }
      }
      if (!took) driver_.Sleep();
    }
    return nullptr;
  }

 private:
  static constexpr std::uint64_t kWordBits = 64;

  void Write() {
    const std::uint32_t slot = free_[--free_count_];
    generation_[slot] = next_;
    const std::uint64_t place = power_cut::SlotOf(next_, slots_);
    std::byte* const block = arena_ + kBlocksOffset + slot * power_cut::kBlockBytes;
    power_cut::FillBlock(reinterpret_cast<std::uint64_t*>(block), place, next_);
    constexpr std::uint64_t kSectors = power_cut::kBlockBytes / drivers::BlockDriver::kSectorBytes;
    driver_.Offer(slot, VIRTIO_BLK_T_OUT, place * kSectors, block, power_cut::kBlockBytes);
    ++next_;
  }
  void Flush() {
    flushing_ = true;
    covered_ = completed_;
    driver_.Offer(kFlush, VIRTIO_BLK_T_FLUSH, 0, nullptr, 0);
  }
  void Finish(std::uint32_t slot) {
    free_[free_count_++] = slot;
    Bit(generation_[slot]) |= MaskOf(generation_[slot]);
    while (completed_ + 1 < next_ && (Bit(completed_ + 1) & MaskOf(completed_ + 1)) != 0) {
      ++completed_;
      Bit(completed_) &= ~MaskOf(completed_);
    }
  }
  // Of the writes between completed_ and next_, fewer than kMaxSlots: which were answered.
  std::uint64_t& Bit(std::uint64_t generation) { return done_[generation % kMaxSlots / kWordBits]; }
  static std::uint64_t MaskOf(std::uint64_t generation) { return 1ULL << (generation % kWordBits); }

  drivers::BlockDriver driver_;
  std::byte* arena_ = nullptr;
  std::uint64_t slots_ = 0;
  std::uint64_t next_ = 0;       // write to send
  std::uint64_t completed_ = 0;  // it and all before it were answered
  std::uint64_t acknowledged_ = 0;
  std::uint64_t covered_ = 0;  // by the flush that is under way
  bool flushing_ = false;
  std::uint32_t free_[kDepth] = {};
  std::uint32_t free_count_ = 0;
  std::uint64_t generation_[kDepth] = {};
  std::uint64_t done_[kMaxSlots / kWordBits] = {};
};

constinit Writer g_writer;

}  // namespace

void SetUp(const Args& args, Result& result) {
  const std::uint64_t slots = args.parameters[0];
  if (args.operation != 0) return result.Fail(Status::kBadRequest, "io_power_cut: operation must be 0");
  if (slots < 2 * kDepth || slots > kMaxSlots || (slots & (slots - 1)) != 0 || args.parameters[1] == 0) {
    return result.Fail(Status::kBadRequest, "io_power_cut: a power of two of 32 to 4096 slots, and a write from 1 on");
  }
  if (args.arena_bytes < kArenaBytes) return result.Fail(Status::kBadRequest, "io_power_cut: the arena is too small");
  if (const char* problem = g_writer.Start(args)) result.Fail(Status::kUnsupported, problem);
}

void Run(const Args& args, Result& result) {
  Random random(args.seed);
  result.Begin();
  const char* const problem = g_writer.Run(args.iterations, random);
  result.End();
  result.SetOperations(args.iterations);
  result.SetChecksum(Combine(args.seed, args.iterations));
  if (problem != nullptr) result.Fail(Status::kWrongResult, problem);
}

void Verify(const Args& args, Result& result) { result.SetChecksum(Combine(args.seed, args.iterations)); }

}  // namespace nestbench::payload
