// What a switch does for frames that were sent unfinished, on any header and any frame: what is accepted can be
// finished, and a segment has what it should.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "devices/virtio/core/function.h"
#include "devices/virtio/net/offload.h"
#include "nestbench/fuzz/input.h"
#include "nestbench/fuzz/require.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench::vmm::virtio;
  using nestbench::fuzz::Require;
  nestbench::fuzz::Input input(data, size);
  const auto features = input.Take<std::uint8_t>() == 0 ? ~std::uint64_t{0} : input.Take<std::uint64_t>();
  const auto limit = 1 + std::size_t{input.Take<std::uint8_t>()};
  FrameHeader header{};
  const auto given = input.TakeBytes(sizeof(header));
  if (!given.empty()) std::memcpy(&header, given.data(), given.size());
  const auto rest = input.TakeBytes(size);
  std::vector<std::byte> frame(rest.begin(), rest.end());

  FrameHeader checked = header;
  const bool honest = CheckOffloads(checked, frame, features);
  std::size_t segments = 0;
  std::size_t bytes = 0;
  const bool cut = SegmentTcp(header, frame, [&](std::span<const std::byte> segment) {
    Require(segment.size() >= 54 && segment.size() <= frame.size(), "a segment is no longer than the frame");
    Require(std::ranges::equal(segment.first(14), std::span(frame).first(14)), "a segment goes to the same place");
    ++segments;
    bytes += segment.size();
    Require(segments <= limit, "nothing comes after the last that was taken");
    return segments < limit;
  });
  Require(cut == (segments != 0), "segments come exactly when it works");
  Require(bytes <= frame.size() + 134 * segments, "no byte is sent twice but those of headers");
  Require(std::ranges::equal(frame, rest), "a frame that is cut stays as it is");

  if (honest && checked.hdr.gso_type != VIRTIO_NET_HDR_GSO_NONE) Require(cut, "an honest frame can be cut");
  FrameHeader finished = header;
  const bool done = CompleteChecksum(finished, frame);
  if (honest && checked.hdr.flags != 0) Require(done, "an honest checksum can be completed");
  std::size_t changed = 0;
  for (std::size_t i = 0; i < frame.size(); ++i) changed += frame[i] != rest[i] ? 1 : 0;
  Require(changed <= (done ? 2 : 0), "nothing but a checksum is written");
  return 0;
}
