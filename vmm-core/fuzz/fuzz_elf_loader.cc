// ParseElf on any bytes: it answers, and what it accepts is what its header promises.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "nestbench/abi/layout.h"
#include "nestbench/fuzz/require.h"
#include "nestbench/vmm/loader/elf.h"

namespace nestbench::vmm {
namespace {

using fuzz::Require;

constexpr abi::GuestPhysRange kAllowed{abi::GuestPhysAddr(abi::kImageBase), abi::kImageMaxBytes};

bool IsInExecutable(const ElfImage& image, std::uint64_t address) {
  return std::ranges::any_of(image.segments(), [address](const ElfSegment& segment) {
    return segment.executable && segment.memory.Contains(abi::GuestPhysAddr(address), 1);
  });
}

void CheckSegment(const ElfSegment& segment, const ElfImage& image, std::span<const std::byte> file) {
  Require(segment.memory.size_bytes != 0, "a segment has memory");
  Require(segment.memory.start.IsAligned(abi::kPageBytes), "a segment starts on a page");
  Require(kAllowed.Contains(segment.memory.start, segment.memory.size_bytes), "a segment is inside the allowed range");
  Require(image.range().Contains(segment.memory.start, segment.memory.size_bytes), "a segment is inside range()");
  Require(segment.file_bytes.size() <= segment.memory.size_bytes, "a segment's file part fits its memory");
  Require(!(segment.writable && segment.executable), "no segment is writable and executable");
  Require(segment.file_bytes.data() >= file.data() &&
              segment.file_bytes.data() + segment.file_bytes.size() <= file.data() + file.size(),
          "a segment's bytes are the file's");
}

void CheckImage(const ElfImage& image, std::span<const std::byte> file) {
  Require(!image.segments().empty(), "an image has a segment");
  for (const ElfSegment& segment : image.segments()) CheckSegment(segment, image, file);
  for (std::size_t i = 1; i < image.segments().size(); ++i) {
    const abi::GuestPhysRange& low = image.segments()[i - 1].memory;
    const abi::GuestPhysRange& high = image.segments()[i].memory;
    Require(low.start < high.start && !low.Overlaps(high), "segments ascend and do not overlap");
  }
  Require(IsInExecutable(image, image.entry().value()), "the entry is executable");
  if (const auto pvh_entry = image.pvh_entry()) {
    Require(IsInExecutable(image, pvh_entry->value()), "the PVH entry is executable");
  }
}

}  // namespace
}  // namespace nestbench::vmm

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench;
  const std::span<const std::byte> file = std::as_bytes(std::span(data, size));
  const auto image = vmm::ParseElf(file, vmm::kAllowed);
  if (image) {
    vmm::CheckImage(*image, file);
  } else {
    fuzz::Require(image.error().kind == vmm::ErrorKind::kMalformed, "a bad file is malformed, nothing else");
    fuzz::Require(!image.error().detail.empty(), "a refusal says why");
  }
  return 0;
}
