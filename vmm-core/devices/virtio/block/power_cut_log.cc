#include "devices/virtio/block/power_cut_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "nestbench/drivers/power_cut_block.h"

namespace nestbench::power_cut {
namespace {

using Words = std::array<std::uint64_t, kBlockWords>;

// The first word that is not what slot and generation demand; none: kBlockWords.
std::size_t FirstWrongWord(const Words& words, std::uint64_t slot) {
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i] != WordOf(slot, words[2], i)) return i;
  }
  return words.size();
}

}  // namespace

void PowerCutLog::Acknowledge(std::uint64_t generation) { acknowledged_ = std::max(acknowledged_, generation); }

PowerCutLog::Verdict PowerCutLog::Check(std::span<const std::byte> disk) const {
  Verdict verdict;
  if (disk.size() < slots_ * kBlockBytes) {
    verdict.findings.push_back(fmt::format("the disk has {} bytes for {} blocks", disk.size(), slots_));
    return verdict;
  }
  // The last slots_ acknowledged writes went to one slot each.
  std::vector<std::uint64_t> expected(slots_, 0);
  const std::uint64_t first = acknowledged_ > slots_ ? acknowledged_ - slots_ + 1 : 1;
  for (std::uint64_t generation = first; generation <= acknowledged_; ++generation) {
    expected[SlotOf(generation, slots_)] = generation;
  }
  for (std::uint64_t slot = 0; slot < slots_; ++slot) {
    Words words;
    std::memcpy(words.data(), disk.data() + slot * kBlockBytes, kBlockBytes);
    const bool is_empty = std::ranges::all_of(words, [](std::uint64_t word) { return word == 0; });
    if (is_empty && expected[slot] == 0) continue;
    const std::uint64_t generation = words[2];
    const std::size_t wrong = FirstWrongWord(words, slot);
    if (is_empty) {
      verdict.findings.push_back(fmt::format("block {}: lost write {}: it is empty", slot, expected[slot]));
    } else if (wrong != kBlockWords) {
      verdict.findings.push_back(
          fmt::format("block {}: torn: says that it is write {}, and its word {} is {:#x} where {:#x} belongs", slot,
                      generation, wrong, words[wrong], WordOf(slot, generation, wrong)));
    } else if (generation < expected[slot]) {
      verdict.findings.push_back(
          fmt::format("block {}: lost write {}: it still has write {}", slot, expected[slot], generation));
    } else if (generation > acknowledged_ + max_under_way_ || SlotOf(generation, slots_) != slot) {
      verdict.findings.push_back(fmt::format("block {}: has write {}, which nobody made there", slot, generation));
    } else {
      ++verdict.whole_blocks;
      if (generation > acknowledged_) ++verdict.newer_blocks;
    }
  }
  return verdict;
}

}  // namespace nestbench::power_cut
