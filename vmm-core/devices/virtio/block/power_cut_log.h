// The book of a power-cut test, kept by whoever survives: which writes a flush has acknowledged, and whether a disk
// still has them. Knows nothing of who wrote (power_cut_block.h has the format): a driver in a process, or a guest.
//
// The writer counts its writes from first_generation() on, goes through the slots as SlotOf() says, and reports, when a
// flush is answered, the last write such that it and all before it were answered before the flush was sent. After a cut
// it goes on behind the last one reported: what was written and not acknowledged is written again, with the same bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace nestbench::power_cut {

class PowerCutLog {
 public:
  // `slots`: blocks of the disk, a power of two. `max_under_way`: the most writes that are not acknowledged at one
  // time.
  PowerCutLog(std::uint64_t slots, std::uint64_t max_under_way) : slots_(slots), max_under_way_(max_under_way) {}

  // A flush was answered: this write and all before it are on stable storage from now on.
  void Acknowledge(std::uint64_t generation);

  [[nodiscard]] std::uint64_t acknowledged() const { return acknowledged_; }
  [[nodiscard]] std::uint64_t first_generation() const { return acknowledged_ + 1; }

  struct Verdict {
    std::uint64_t whole_blocks = 0;     // as they were written
    std::uint64_t newer_blocks = 0;     // of those, written after the last flush that was acknowledged
    std::vector<std::string> findings;  // a sentence for each block that is lost, torn or not its own
  };
  // Holds the disk's bytes, `slots` blocks, against the book.
  [[nodiscard]] Verdict Check(std::span<const std::byte> disk) const;

 private:
  std::uint64_t slots_;
  std::uint64_t max_under_way_;
  std::uint64_t acknowledged_ = 0;
};

}  // namespace nestbench::power_cut
