// What a disk workload does, apart from how requests reach the disk: the payload io_disk runs it over a virtio-blk
// driver in a guest, its twin over io_uring in a host process. Same offsets, same order, same checks.
//
// Parameters: [0] bytes of a block, [1] requests under way, [2] bytes of the disk that are used, [3] ticks of the time
// stamp counter to look for completions before it sleeps.
// Arena: a latency table (abi/latency_table.h), room for the engine, then a buffer for each request under way.
//
// Each sector begins with a stamp of its number. A read that brings another one has failed; a write writes the right
// ones, so that the disk stays what it was. The checksum adds up the stamps of what was moved.
//
// Freestanding.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestbench/abi/latency_table.h"
#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"
#include "nestbench/payload/ticks.h"

namespace nestbench::payload {

enum class DiskOperation : std::uint64_t {
  kSequentialRead = 0,
  kRandomRead = 1,
  kSequentialWrite = 2,
  kRandomWrite = 3,
  kWriteFlush = 4,  // a random write, then a flush: the pair is one operation
  kRing = 5,        // only rings the doorbell; there is nothing behind it
};
inline constexpr std::uint64_t kDiskOperationCount = 6;

inline constexpr std::uint64_t kDiskSectorBytes = 512;
inline constexpr std::uint64_t kDiskMaxDepth = 128;
inline constexpr std::uint64_t kDiskMaxBlockBytes = 1ULL << 20;
inline constexpr std::uint64_t kDiskEngineOffset = abi::kLatencyTableBytes;
inline constexpr std::uint64_t kDiskEngineBytes = 57344;
inline constexpr std::uint64_t kDiskBuffersOffset = kDiskEngineOffset + kDiskEngineBytes;

// The arena that a workload needs.
constexpr std::uint64_t DiskArenaBytes(std::uint64_t block_bytes, std::uint64_t depth) {
  return kDiskBuffersOffset + depth * (block_bytes < abi::kPageBytes ? abi::kPageBytes : block_bytes);
}

// The first eight bytes of sector `number` of every disk that these workloads use.
constexpr std::uint64_t DiskStamp(std::uint64_t number) { return Mix(number + 0x6E65'7374'6469'736BULL); }

enum class DiskRequestKind : std::uint8_t { kRead, kWrite, kFlush };

struct DiskCompletion {
  std::uint32_t slot = 0;
  bool failed = false;
};

// Engine:
//   bool Offer(slot, kind, offset_bytes, std::byte* buffer, bytes)   another request; it need not start before Publish
//   void Publish()                                                   start what was offered
//   bool Take(DiskCompletion&)                                       one that is done, if any; never waits
//   void Relax()                                                     between two looks, as long as it is not to sleep
//   void Sleep()                                                     until one may be done
//   void Ring()                                                      of kRing
//   const char* problem()                                            null, or why the engine cannot go on
template <typename Engine>
class DiskWork {
 public:
  // Checks the request and prepares the buffers. The engine is started by the caller.
  static void Check(const Args& args, Result& result) {
    const std::uint64_t block = args.parameters[0];
    const std::uint64_t depth = args.parameters[1];
    if (args.operation >= kDiskOperationCount) return result.Fail(Status::kBadRequest, "io_disk: unknown operation");
    if (block < kDiskSectorBytes || block > kDiskMaxBlockBytes || (block & (block - 1)) != 0) {
      return result.Fail(Status::kBadRequest, "io_disk: parameters[0] (block) must be a power of two, 512 to 2^20");
    }
    if (depth == 0 || depth > kDiskMaxDepth) {
      return result.Fail(Status::kBadRequest, "io_disk: parameters[1] (requests under way) must be 1 to 128");
    }
    if (args.parameters[2] < block || args.arena_bytes < DiskArenaBytes(block, depth)) {
      return result.Fail(Status::kBadRequest, "io_disk: the disk is smaller than a block, or the arena than needed");
    }
  }

  DiskWork(const Args& args, Engine& engine)
      : operation_(static_cast<DiskOperation>(args.operation)),
        block_bytes_(args.parameters[0]),
        depth_(args.parameters[1]),
        blocks_(args.parameters[2] / args.parameters[0]),
        spin_ticks_(args.parameters[3]),
        seed_(args.seed),
        latencies_(reinterpret_cast<abi::LatencyTable*>(args.arena)),
        buffers_(args.arena + kDiskBuffersOffset),
        engine_(engine) {}

  void Run(std::uint64_t iterations, Result& result) {
    result.Begin();
    if (operation_ == DiskOperation::kRing) {
      for (std::uint64_t i = 0; i < iterations; ++i) engine_.Ring();
    } else {
      Move(iterations, result);
    }
    result.End();
    result.SetOperations(iterations);
    result.SetBytes(operation_ == DiskOperation::kRing ? 0 : iterations * block_bytes_);
    result.SetChecksum(Combine(Combine(seed_, static_cast<std::uint64_t>(operation_)), sum_));
  }

 private:
  struct Pending {
    std::uint64_t block = 0;
    std::uint64_t began = 0;
    bool flushing = false;
  };

  [[nodiscard]] bool writes() const {
    return operation_ == DiskOperation::kSequentialWrite || operation_ == DiskOperation::kRandomWrite ||
           operation_ == DiskOperation::kWriteFlush;
  }
  [[nodiscard]] std::byte* BufferOf(std::uint64_t slot) const {
    return buffers_ + slot * (block_bytes_ < abi::kPageBytes ? abi::kPageBytes : block_bytes_);
  }
  [[nodiscard]] std::uint64_t BlockOf(std::uint64_t index) const {
    const bool sequential =
        operation_ == DiskOperation::kSequentialRead || operation_ == DiskOperation::kSequentialWrite;
    return sequential ? index % blocks_ : Mix(seed_ + index * 0x9E3779B97F4A7C15ULL) % blocks_;
  }

  void Move(std::uint64_t iterations, Result& result) {
    std::uint64_t offered = 0;
    std::uint64_t done = 0;
    for (; offered < depth_ && offered < iterations; ++offered) Start(static_cast<std::uint32_t>(offered), offered);
    engine_.Publish();
    std::uint64_t idle_since = 0;
    while (done < iterations) {
      bool took = false;
      DiskCompletion completion;
      // As many as there are, then one look whether the disk wants to be told.
      for (std::uint64_t i = 0; i < depth_ && engine_.Take(completion); ++i) {
        took = true;
        if (completion.slot >= depth_ || completion.failed) {
          return result.Fail(Status::kWrongResult, "io_disk: a request failed");
        }
        if (!Finish(completion.slot, result)) continue;
        ++done;
        if (offered < iterations) Start(completion.slot, offered++);
      }
      if (took) {
        engine_.Publish();
        idle_since = 0;
        continue;
      }
      if (const char* problem = engine_.problem()) return result.Fail(Status::kWrongResult, problem);
      const std::uint64_t now = ReadTicks();
      if (idle_since == 0) idle_since = now;
      if (now - idle_since >= spin_ticks_) {
        engine_.Sleep();
        idle_since = 0;
      } else {
        engine_.Relax();
      }
    }
  }

  void Start(std::uint32_t slot, std::uint64_t index) {
    Pending& pending = pending_[slot];
    pending.block = BlockOf(index);
    pending.flushing = false;
    std::byte* const buffer = BufferOf(slot);
    const std::uint64_t first = pending.block * (block_bytes_ / kDiskSectorBytes);
    if (writes()) {
      for (std::uint64_t sector = 0; sector < block_bytes_ / kDiskSectorBytes; ++sector) {
        const std::uint64_t stamp = DiskStamp(first + sector);
        *reinterpret_cast<std::uint64_t*>(buffer + sector * kDiskSectorBytes) = stamp;
      }
      sum_ += DiskStamp(first);
    }
    pending.began = ReadTicks();
    engine_.Offer(slot, writes() ? DiskRequestKind::kWrite : DiskRequestKind::kRead, pending.block * block_bytes_,
                  buffer, block_bytes_);
  }

  // Whether the operation is complete.
  bool Finish(std::uint32_t slot, Result& result) {
    Pending& pending = pending_[slot];
    if (operation_ == DiskOperation::kWriteFlush && !pending.flushing) {
      pending.flushing = true;
      engine_.Offer(slot, DiskRequestKind::kFlush, 0, nullptr, 0);
      return false;
    }
    latencies_->Record(ReadTicks() - pending.began);
    if (!writes()) {
      // The first and the last sector: a transfer that fell short lacks the last.
      const std::uint64_t sectors = block_bytes_ / kDiskSectorBytes;
      const std::uint64_t first = pending.block * sectors;
      const std::byte* const buffer = BufferOf(slot);
      const std::uint64_t stamp = *reinterpret_cast<const std::uint64_t*>(buffer);
      const std::uint64_t last = *reinterpret_cast<const std::uint64_t*>(buffer + (sectors - 1) * kDiskSectorBytes);
      if (stamp != DiskStamp(first) || last != DiskStamp(first + sectors - 1)) {
        result.Fail(Status::kWrongResult, "io_disk: a read brought another sector's data");
      }
      sum_ += stamp;
    }
    return true;
  }

  DiskOperation operation_;
  std::uint64_t block_bytes_;
  std::uint64_t depth_;
  std::uint64_t blocks_;
  std::uint64_t spin_ticks_;
  std::uint64_t seed_;
  abi::LatencyTable* latencies_;
  std::byte* buffers_;
  Engine& engine_;
  std::uint64_t sum_ = 0;
  Pending pending_[kDiskMaxDepth] = {};
};

}  // namespace nestbench::payload
