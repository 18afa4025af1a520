// A random cycle through memory: nodes of one cache line, each pointing to the next, all in one cycle whose order is
// random. What memory_chase and memory_tlb walk. Freestanding.
//
// The order is a Fisher-Yates shuffle whose ends are joined: every cycle is equally likely, as by Sattolo's algorithm,
// and each node can hold its position in the order. So the end of a walk can be checked without walking again.
#pragma once

#include <cstdint>

#include "nestbench/payload/payload.h"
#include "nestbench/payload/random.h"

namespace nestbench::payload {

class RandomCycle {
 public:
  static constexpr std::uint64_t kNodeBytes = 64;

  struct alignas(kNodeBytes) Node {
    Node* next;
    std::uint64_t position;  // in the order of the walk
    std::uint64_t shuffled;  // of the node with this number: which node has that position
  };
  static_assert(sizeof(Node) == kNodeBytes);

  constexpr RandomCycle() = default;

  // Writes `count` nodes (2 to 2^32 - 1), `stride_bytes` apart from `base`; within its stride, node i lies on line
  // 65 i modulo the lines of a stride, so that nodes a power of two apart do not share a cache set.
  void Build(std::byte* base, std::uint64_t count, std::uint64_t stride_bytes, std::uint64_t seed) {
    base_ = base;
    count_ = count;
    stride_bytes_ = stride_bytes;
    for (std::uint64_t i = 0; i < count; ++i) At(i).shuffled = i;
    Random random(seed);
    for (std::uint64_t i = count - 1; i != 0; --i) {
      std::uint64_t& other = At(random.Below(i + 1)).shuffled;
      const std::uint64_t mine = At(i).shuffled;
      At(i).shuffled = other;
      other = mine;
    }
    shape_ = Combine(seed, count);
    Node* const first = &At(At(0).shuffled);
    Node* node = first;
    for (std::uint64_t i = 0; i < count; ++i) {
      Node* const next = i + 1 < count ? &At(At(i + 1).shuffled) : first;
      node->position = i;
      node->next = next;
      shape_ = shape_ * 31 + static_cast<std::uint64_t>(reinterpret_cast<std::byte*>(node) - base);
      node = next;
    }
    cursor_ = first;
  }

  // `steps` dependent loads between the time stamps, from where the last walk ended: short batches, too, come to see
  // all of a large cycle.
  void Walk(std::uint64_t steps, Result& result) {
    Node* const begin = cursor_;
    Node* at = begin;
    std::uint64_t left = steps;
    result.Begin();
    asm volatile(
        ".p2align 6\n"
        "1: mov (%[at]), %[at]\n"
        "dec %[left]\n"
        "jnz 1b\n"
        : [at] "+r"(at), [left] "+r"(left)
        :
        : "cc", "memory");
    result.End();
    cursor_ = at;
    distance_ = (at->position + count_ - begin->position) % count_;
  }

  // Of the last walk. Where in the cycle it began is not part of it.
  [[nodiscard]] std::uint64_t Checksum() const { return Combine(shape_, distance_); }

  // Whether the last walk ended where `steps` steps lead, and whether the first nodes follow each other in order.
  [[nodiscard]] bool IsRight(std::uint64_t steps) {
    if (distance_ != steps % count_) return false;
    constexpr std::uint64_t kChecked = 1 << 16;
    const Node* node = &At(At(0).shuffled);
    for (std::uint64_t i = 0; i < (count_ < kChecked ? count_ : kChecked); ++i, node = node->next) {
      if (node->position != i) return false;
    }
    return count_ > kChecked || node->position == 0;
  }

 private:
  Node& At(std::uint64_t index) const {
    const std::uint64_t lines = stride_bytes_ / kNodeBytes;
    return *reinterpret_cast<Node*>(base_ + index * stride_bytes_ + (index * 65 & (lines - 1)) * kNodeBytes);
  }

  std::byte* base_ = nullptr;
  std::uint64_t count_ = 0;
  std::uint64_t stride_bytes_ = kNodeBytes;  // a power of two
  std::uint64_t shape_ = 0;
  std::uint64_t distance_ = 0;
  Node* cursor_ = nullptr;
};

}  // namespace nestbench::payload
