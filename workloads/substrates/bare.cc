// The substrate `bare`: the image in this process, at the same addresses and with the same backing as in a guest.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "nestbench/abi/layout.h"
#include "nestbench/substrates/substrate.h"
#include "nestbench/vmm/base/clock.h"
#include "nestbench/vmm/loader/elf.h"

namespace nestbench::substrates {
namespace {

using abi::GuestPhysAddr;
using abi::GuestPhysRange;
using vmm::Backing;
using vmm::ElfImage;
using vmm::ElfSegment;
using vmm::MemoryRegion;

using EntryFunction = void (*)(abi::Mailbox*);

std::uint64_t RoundUp(std::uint64_t value, std::uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Maps a range of layout.h at its own address in this process.
Result<MemoryRegion> MapInPlace(std::uint64_t start, std::uint64_t size_bytes, Backing backing) {
  return MemoryRegion::Create({GuestPhysAddr(start), size_bytes}, {.backing = backing, .fixed_host_address = start});
}

// Calls `entry` on the payload's own stack, so that its alignment and cache sets are those of the guest. RBX keeps our
// stack pointer: the System V ABI has the callee preserve it.
[[gnu::noinline]] void CallOnPayloadStack(EntryFunction entry, abi::Mailbox* mailbox) {
  asm volatile(
      "movq %%rsp, %%rbx\n\t"
      "movq %[stack], %%rsp\n\t"
      "callq *%[entry]\n\t"
      "movq %%rbx, %%rsp"
      : "+D"(mailbox)
      : [entry] "r"(entry), [stack] "r"(abi::kStackTop)
      : "rbx", "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r11", "cc", "memory", "xmm0", "xmm1", "xmm2", "xmm3",
        "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
}

class Bare final : public Substrate {
 public:
  static Result<std::unique_ptr<Substrate>> Create(const SubstrateOptions& options) {
    auto image = vmm::ParseElf(options.image, {GuestPhysAddr(abi::kImageBase), abi::kImageMaxBytes});
    if (!image) return Fail(std::move(image.error()));
    auto low = MapInPlace(abi::kMailboxBase, abi::kStackTop - abi::kMailboxBase, Backing::kSmallPages);
    if (!low) return Fail(std::move(low.error()));
    auto mapped_image = MapImage(*image);
    if (!mapped_image) return Fail(std::move(mapped_image.error()));
    std::optional<MemoryRegion> arena;
    if (options.arena_bytes != 0) {
      const Backing backing =
          options.host_page_bytes == abi::kLargePageBytes ? Backing::kTransparentHuge : Backing::kSmallPages;
      auto region = MapInPlace(abi::kArenaBase, RoundUp(options.arena_bytes, options.host_page_bytes), backing);
      if (!region) return Fail(std::move(region.error()));
      arena = std::move(*region);
    }
    return std::unique_ptr<Substrate>(
        new Bare(std::move(*low), std::move(*mapped_image), std::move(arena), image->entry().value()));
  }

  Result<CallOutcome> Call(const abi::MailboxRequest& request, std::chrono::nanoseconds /*limit*/) override {
    // No limit from inside: a process cannot interrupt its own payload and go on. The supervisor ends the process.
    auto* mailbox = reinterpret_cast<abi::Mailbox*>(low_.bytes().data());
    std::memcpy(&mailbox->request, &request, sizeof(request));
    const std::uint64_t begin_ns = vmm::MonotonicRawNs();
    CallOnPayloadStack(entry_, mailbox);
    const std::uint64_t end_ns = vmm::MonotonicRawNs();
    return CallOutcome{CallEnd::kRang, {}, end_ns - begin_ns};
  }

  [[nodiscard]] std::span<const std::byte> mailbox() const override { return low_.bytes().first(abi::kMailboxBytes); }
  [[nodiscard]] const MemoryRegion* arena() const override { return arena_ ? &*arena_ : nullptr; }
  [[nodiscard]] abi::Doorbell doorbell() const override { return abi::Doorbell::kReturn; }
  [[nodiscard]] std::optional<std::uint64_t> exits() const override { return std::nullopt; }

 private:
  Bare(MemoryRegion low, MemoryRegion image, std::optional<MemoryRegion> arena, std::uint64_t entry)
      : low_(std::move(low)),
        image_(std::move(image)),
        arena_(std::move(arena)),
        entry_(reinterpret_cast<EntryFunction>(entry)) {}

  static Result<MemoryRegion> MapImage(const ElfImage& image) {
    const std::uint64_t end = image.range().start.value() + image.range().size_bytes;
    auto region = MapInPlace(abi::kImageBase, RoundUp(end - abi::kImageBase, abi::kPageBytes), Backing::kSmallPages);
    if (!region) return region;
    const auto at = [&region](const ElfSegment& segment) {
      return region->bytes().subspan(segment.memory.start.value() - abi::kImageBase,
                                     RoundUp(segment.memory.size_bytes, abi::kPageBytes));
    };
    for (const ElfSegment& segment : image.segments()) {
      std::ranges::copy(segment.file_bytes, at(segment).begin());
    }
    for (const ElfSegment& segment : image.segments()) {
      const int protection = (segment.readable ? PROT_READ : 0) | (segment.writable ? PROT_WRITE : 0) |
                             (segment.executable ? PROT_EXEC : 0);
      const auto pages = at(segment);
      if (::mprotect(pages.data(), pages.size(), protection) != 0) {
        return Fail(
            Error::System("mprotect", errno, fmt::format("image segment at {:#x}", segment.memory.start.value())));
      }
    }
    return region;
  }

  MemoryRegion low_;
  MemoryRegion image_;
  std::optional<MemoryRegion> arena_;
  EntryFunction entry_;
};

}  // namespace

Result<std::unique_ptr<Substrate>> CreateBare(const SubstrateOptions& options) { return Bare::Create(options); }

}  // namespace nestbench::substrates
