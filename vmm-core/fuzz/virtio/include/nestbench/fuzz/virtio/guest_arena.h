// A small guest memory with canaries around it: what a device may touch, and what it may not.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "nestbench/fuzz/require.h"
#include "nestbench/vmm/memory/guest_memory.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NESTBENCH_FUZZ_HAS_ASAN
#endif
#endif
#ifdef NESTBENCH_FUZZ_HAS_ASAN
#include <sanitizer/asan_interface.h>
#endif

namespace nestbench::vmm::virtio {

// In host memory: canary, writable memory, canary, read-only memory, canary. A canary is poisoned where there is
// AddressSanitizer, so that a read of it is noticed too, and compared where a kernel may have written.
class GuestArena {
 public:
  static constexpr std::uint64_t kMemoryBase = 0x10'0000;
  static constexpr std::uint64_t kMemoryBytes = 0x2'0000;
  static constexpr std::uint64_t kReadOnlyBase = 0x4000'0000;
  static constexpr std::uint64_t kReadOnlyBytes = 0x1000;

  GuestArena() {
    constexpr std::size_t kBytes = 3 * kCanaryBytes + kMemoryBytes + kReadOnlyBytes;
    void* const base = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    fuzz::Require(base != MAP_FAILED, "there is memory");
    auto* at = static_cast<std::byte*>(base);
    canaries_[0] = {at, kCanaryBytes};
    writable_ = Place(at + kCanaryBytes, kMemoryBase, kMemoryBytes, false);
    canaries_[1] = {writable_.data() + kMemoryBytes, kCanaryBytes};
    read_only_ = Place(canaries_[1].data() + kCanaryBytes, kReadOnlyBase, kReadOnlyBytes, true);
    canaries_[2] = {read_only_.data() + kReadOnlyBytes, kCanaryBytes};
    for (const auto canary : canaries_) std::ranges::fill(canary, kCanary);
    std::ranges::fill(read_only_, kUntouched);
    Poison();
  }
  GuestArena(const GuestArena&) = delete;
  GuestArena& operator=(const GuestArena&) = delete;

  // Zeroes, for the next program.
  void Clear() { std::memset(writable_.data(), 0, writable_.size()); }

  // Whether anything was written that no device may write.
  void Check() const {
    for (const auto canary : canaries_) {
      Unpoison(canary);
      fuzz::Require(IsAll(canary, kCanary), "no device writes outside guest memory");
    }
    Poison();
    fuzz::Require(IsAll(read_only_, kUntouched), "no device writes what the guest may only read");
  }

  // Not a loop of ours: without optimisation and with sanitizers that would be most of a fuzzer's time.
  [[nodiscard]] static bool IsAll(std::span<const std::byte> bytes, std::byte value) {
    return bytes[0] == value && std::memcmp(bytes.data(), bytes.data() + 1, bytes.size() - 1) == 0;
  }

  [[nodiscard]] const GuestMemory& memory() const { return memory_; }
  [[nodiscard]] std::span<std::byte> writable() const { return writable_; }
  [[nodiscard]] std::span<std::byte> read_only() const { return read_only_; }

  // The bytes behind an address, as many as there are: none outside the writable part.
  [[nodiscard]] std::span<std::byte> From(std::uint64_t address) const {
    if (address < kMemoryBase || address - kMemoryBase >= kMemoryBytes) return {};
    return writable_.subspan(address - kMemoryBase);
  }

 private:
  static constexpr std::size_t kCanaryBytes = 0x1000;
  static constexpr std::byte kCanary{0xA5};
  static constexpr std::byte kUntouched{0x5A};

  std::span<std::byte> Place(std::byte* host, std::uint64_t address, std::uint64_t size_bytes, bool read_only) {
    fuzz::Require(::munmap(host, size_bytes) == 0, "its place can be made free");
    auto region = MemoryRegion::Create(
        {abi::GuestPhysAddr(address), size_bytes},
        {.read_only_for_guest = read_only, .fixed_host_address = reinterpret_cast<std::uint64_t>(host)});
    fuzz::Require(region && memory_.Add(std::move(*region)), "a region can be had");
    return {host, size_bytes};
  }
  void Poison() const {
#ifdef NESTBENCH_FUZZ_HAS_ASAN
    for (const auto canary : canaries_) ASAN_POISON_MEMORY_REGION(canary.data(), canary.size());
#endif
  }
  static void Unpoison([[maybe_unused]] std::span<std::byte> canary) {
#ifdef NESTBENCH_FUZZ_HAS_ASAN
    ASAN_UNPOISON_MEMORY_REGION(canary.data(), canary.size());
#endif
  }

  GuestMemory memory_;
  std::span<std::byte> canaries_[3];
  std::span<std::byte> writable_;
  std::span<std::byte> read_only_;
};

}  // namespace nestbench::vmm::virtio
