// What a network card does for a frame that was sent unfinished: the checksum, and the cutting of a long TCP segment.
// For a receiver that did not agree to do without. Sources: Virtual I/O Device (VIRTIO) Version 1.2, section "Packet
// Transmission"; RFC 791, RFC 793, RFC 1071, RFC 8200.
//
// Frames come from guests: every offset in header and packet is checked against the frame.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

#include "devices/virtio/net/port.h"

namespace nestbench::vmm::virtio {

// Whether a frame from a driver that agreed to `features` is what its header says; the header then holds nothing but
// what was checked, fit for another guest: the receiver's kernel will act on it.
[[nodiscard]] bool CheckOffloads(FrameHeader& header, std::span<const std::byte> frame, std::uint64_t features);

// Writes the checksum that the header asks for into `frame` (header not included) and clears the request. False, and
// nothing changed, when it points outside.
[[nodiscard]] bool CompleteChecksum(FrameHeader& header, std::span<std::byte> frame);

// Cuts a TCP segment into those of header.hdr.gso_size bytes, each with checksums and a header of its own. False when
// the frame is not what its header says; then nothing was given to `send`. Ends early when `send` says that it takes no
// more: a frame may ask for as many segments as it has bytes.
[[nodiscard]] bool SegmentTcp(const FrameHeader& header, std::span<const std::byte> frame,
                              const std::function<bool(std::span<const std::byte>)>& send);

}  // namespace nestbench::vmm::virtio
