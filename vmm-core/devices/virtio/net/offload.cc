#include "devices/virtio/net/offload.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

#include "devices/virtio/core/function.h"
#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::size_t kEthernetBytes = 14;
constexpr std::size_t kEthernetTypeOffset = 12;
constexpr std::uint16_t kTypeIpv4 = 0x0800;
constexpr std::uint16_t kTypeIpv6 = 0x86DD;
constexpr std::size_t kIpv4MinBytes = 20;
constexpr std::size_t kIpv6Bytes = 40;
constexpr std::size_t kTcpMinBytes = 20;
constexpr std::uint8_t kProtocolTcp = 6;
constexpr std::size_t kTcpChecksumOffset = 16;
constexpr std::byte kTcpFin{0x01};
constexpr std::byte kTcpPush{0x08};
constexpr std::byte kTcpCwr{0x80};

std::uint16_t Load16(std::span<const std::byte> bytes, std::size_t offset) {
  return static_cast<std::uint16_t>(std::to_integer<unsigned>(bytes[offset]) << 8 |
                                    std::to_integer<unsigned>(bytes[offset + 1]));
}
void Store16(std::span<std::byte> bytes, std::size_t offset, std::uint16_t value) {
  bytes[offset] = static_cast<std::byte>(value >> 8);
  bytes[offset + 1] = static_cast<std::byte>(value & 0xFF);
}
std::uint32_t Load32(std::span<const std::byte> bytes, std::size_t offset) {
  return std::uint32_t{Load16(bytes, offset)} << 16 | Load16(bytes, offset + 2);
}
void Store32(std::span<std::byte> bytes, std::size_t offset, std::uint32_t value) {
  Store16(bytes, offset, static_cast<std::uint16_t>(value >> 16));
  Store16(bytes, offset + 2, static_cast<std::uint16_t>(value & 0xFFFF));
}

// RFC 1071: the sum of 16-bit words in network order.
std::uint64_t Sum(std::span<const std::byte> bytes) {
  std::uint64_t sum = 0;
  std::size_t i = 0;
  for (; i + 1 < bytes.size(); i += 2) sum += Load16(bytes, i);
  if (i < bytes.size()) sum += std::to_integer<unsigned>(bytes[i]) << 8;
  return sum;
}
std::uint16_t Fold(std::uint64_t sum) {
  while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
  return static_cast<std::uint16_t>(~sum & 0xFFFF);
}

bool ChecksumFits(const virtio_net_hdr& header, std::size_t frame_bytes) {
  return std::size_t{header.csum_start} + header.csum_offset + sizeof(std::uint16_t) <= frame_bytes;
}

struct Layers {
  bool ipv6 = false;
  std::size_t ip = kEthernetBytes;
  std::size_t tcp = 0;
  std::size_t payload = 0;
};

bool FindTcp(std::span<const std::byte> frame, Layers& layers) {
  if (frame.size() < kEthernetBytes + kIpv4MinBytes) return false;
  const std::uint16_t type = Load16(frame, kEthernetTypeOffset);
  if (type == kTypeIpv4) {
    const std::size_t header = (std::to_integer<std::size_t>(frame[layers.ip]) & 0xF) * 4;
    if (header < kIpv4MinBytes || std::to_integer<std::uint8_t>(frame[layers.ip + 9]) != kProtocolTcp) return false;
    layers.tcp = layers.ip + header;
  } else if (type == kTypeIpv6) {
    if (frame.size() < kEthernetBytes + kIpv6Bytes ||
        std::to_integer<std::uint8_t>(frame[layers.ip + 6]) != kProtocolTcp) {
      return false;
    }
    layers.ipv6 = true;
    layers.tcp = layers.ip + kIpv6Bytes;
  } else {
    return false;
  }
  if (frame.size() < layers.tcp + kTcpMinBytes) return false;
  const std::size_t header = (std::to_integer<std::size_t>(frame[layers.tcp + 12]) >> 4) * 4;
  layers.payload = layers.tcp + header;
  return header >= kTcpMinBytes && layers.payload <= frame.size();
}

void FinishHeaders(const Layers& layers, std::span<std::byte> segment) {
  const auto tcp_bytes = static_cast<std::uint16_t>(segment.size() - layers.tcp);
  std::uint64_t pseudo = std::uint64_t{kProtocolTcp} + tcp_bytes;
  if (layers.ipv6) {
    Store16(segment, layers.ip + 4, tcp_bytes);
    pseudo += Sum(segment.subspan(layers.ip + 8, 32));
  } else {
    Store16(segment, layers.ip + 2, static_cast<std::uint16_t>(segment.size() - layers.ip));
    Store16(segment, layers.ip + 10, 0);
    Store16(segment, layers.ip + 10, Fold(Sum(segment.subspan(layers.ip, layers.tcp - layers.ip))));
    pseudo += Sum(segment.subspan(layers.ip + 12, 8));
  }
  Store16(segment, layers.tcp + kTcpChecksumOffset, 0);
  Store16(segment, layers.tcp + kTcpChecksumOffset, Fold(pseudo + Sum(segment.subspan(layers.tcp))));
}

}  // namespace

bool CheckOffloads(FrameHeader& header, std::span<const std::byte> frame, std::uint64_t features) {
  const auto agreed = [features](unsigned bit) { return (features & Feature(bit)) != 0; };
  const virtio_net_hdr said = header.hdr;
  header = FrameHeader();
  // VIRTIO_NET_HDR_F_DATA_VALID is a device's word, which no driver may give.
  if ((said.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0) {
    if (!agreed(VIRTIO_NET_F_CSUM) || !ChecksumFits(said, frame.size())) return false;
    header.hdr.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
    header.hdr.csum_start = said.csum_start;
    header.hdr.csum_offset = said.csum_offset;
  }
  if (said.gso_type == VIRTIO_NET_HDR_GSO_NONE) return true;
  const bool is_ipv6 = said.gso_type == VIRTIO_NET_HDR_GSO_TCPV6;
  if (!is_ipv6 && said.gso_type != VIRTIO_NET_HDR_GSO_TCPV4) return false;
  Layers layers;
  if (!agreed(is_ipv6 ? VIRTIO_NET_F_HOST_TSO6 : VIRTIO_NET_F_HOST_TSO4) || header.hdr.flags == 0 ||
      said.gso_size == 0 || !FindTcp(frame, layers) || layers.ipv6 != is_ipv6) {
    return false;
  }
  header.hdr.gso_type = said.gso_type;
  header.hdr.gso_size = said.gso_size;
  header.hdr.hdr_len = static_cast<__virtio16>(layers.payload);
  return true;
}

bool CompleteChecksum(FrameHeader& header, std::span<std::byte> frame) {
  if (!ChecksumFits(header.hdr, frame.size())) return false;
  const std::size_t start = header.hdr.csum_start;
  const std::size_t place = start + header.hdr.csum_offset;
  // The field already holds the sum of the pseudo header.
  std::uint16_t sum = Fold(Sum(frame.subspan(start)));
  if (sum == 0) sum = 0xFFFF;  // RFC 768: for UDP zero means that there is none; for TCP both are right
  Store16(frame, place, sum);
  header.hdr.flags &= static_cast<std::uint8_t>(~VIRTIO_NET_HDR_F_NEEDS_CSUM);
  return true;
}

bool SegmentTcp(const FrameHeader& header, std::span<const std::byte> frame,
                const std::function<bool(std::span<const std::byte>)>& send) {
  Layers layers;
  const std::size_t size = header.hdr.gso_size;
  if (size == 0 || !FindTcp(frame, layers)) return false;
  const auto payload = frame.subspan(layers.payload);
  const std::uint32_t sequence = Load32(frame, layers.tcp + 4);
  const std::uint16_t identification = layers.ipv6 ? std::uint16_t{0} : Load16(frame, layers.ip + 4);
  std::vector<std::byte> segment;
  std::uint16_t index = 0;
  for (std::size_t offset = 0; offset < payload.size() || offset == 0; offset += size, ++index) {
    const auto part = payload.subspan(offset, std::min(size, payload.size() - offset));
    segment.assign(frame.begin(), frame.begin() + static_cast<std::ptrdiff_t>(layers.payload));
    segment.insert(segment.end(), part.begin(), part.end());
    Store32(segment, layers.tcp + 4, static_cast<std::uint32_t>(sequence + offset));
    if (!layers.ipv6) Store16(segment, layers.ip + 4, static_cast<std::uint16_t>(identification + index));
    std::byte& flags = segment[layers.tcp + 13];
    if (offset + part.size() < payload.size()) flags &= ~(kTcpFin | kTcpPush);  // only the last one says these
    if (index != 0) flags &= ~kTcpCwr;                                          // and only the first one this
    FinishHeaders(layers, segment);
    const bool more = send(segment) || Mutated("virtio-net-segments-without-end");
    if (!more || part.empty()) break;
  }
  return true;
}

}  // namespace nestbench::vmm::virtio
