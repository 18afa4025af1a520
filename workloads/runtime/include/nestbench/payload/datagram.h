// UDP datagrams of IPv4 over Ethernet, as bytes: what a network workload sends, so that a socket of any host can be its
// peer. Sources: RFC 768, RFC 791, RFC 894. Two stations with fixed addresses, of the range that RFC 2544 reserves for
// benchmarks.
//
// Freestanding.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nestbench::payload {

inline constexpr std::uint32_t kDatagramHeaderBytes = 14 + 20 + 8;  // Ethernet, IPv4, UDP
inline constexpr std::uint32_t kFrameMinBytes = 64;                 // without frame check sequence, as everywhere here
inline constexpr std::uint32_t kFrameMaxBytes = 1514;
inline constexpr std::uint16_t kDatagramPort = 9000;  // of both stations

enum class Station : std::uint8_t {
  kMeasured = 0,
  kPeer = 1,
};
constexpr Station Other(Station station) { return station == Station::kMeasured ? Station::kPeer : Station::kMeasured; }
constexpr std::uint32_t Ipv4Of(Station station) { return station == Station::kMeasured ? 0xC612'0001 : 0xC612'0002; }
inline constexpr std::uint32_t kIpv4PrefixBits = 24;
// Locally administered.
constexpr std::uint8_t MacByte(Station station, unsigned index) {
  constexpr std::uint8_t kFirst[6] = {0x02, 'n', 'e', 's', 't', 0x00};
  return index == 5 ? static_cast<std::uint8_t>(static_cast<std::uint8_t>(station) + 1) : kFirst[index];
}

// The headers of all datagrams of one size from one station to the other: they differ in nothing.
class DatagramHeader {
 public:
  DatagramHeader() = default;
  DatagramHeader(Station from, std::uint32_t payload_bytes) {
    const Station to = Other(from);
    for (unsigned i = 0; i < 6; ++i) {
      bytes_[i] = MacByte(to, i);
      bytes_[6 + i] = MacByte(from, i);
    }
    Put16(12, 0x0800);
    bytes_[14] = 0x45;
    Put16(16, 20 + 8 + payload_bytes);
    Put16(20, 0x4000);  // not to be fragmented: one identification then does for all
    bytes_[22] = 64;
    bytes_[23] = kUdp;
    Put32(26, Ipv4Of(from));
    Put32(30, Ipv4Of(to));
    std::uint32_t sum = 0;
    for (unsigned i = 14; i < 34; i += 2) sum += std::uint32_t{bytes_[i]} << 8 | bytes_[i + 1];
    while (sum >> 16 != 0) sum = (sum & 0xFFFF) + (sum >> 16);
    Put16(24, ~sum);
    Put16(34, kDatagramPort);
    Put16(36, kDatagramPort);
    Put16(38, 8 + payload_bytes);
    // The checksum of UDP over IPv4 may be left out (RFC 768): the payload has its own.
  }

  void CopyTo(std::byte* frame) const { __builtin_memcpy(frame, bytes_, sizeof(bytes_)); }

  // The payload's size of a frame of `frame_bytes` that is a datagram from the other station to `station`; 0: it is
  // something else. The payload stands at kDatagramHeaderBytes.
  static std::uint32_t PayloadBytes(Station station, const std::byte* frame, std::uint32_t frame_bytes) {
    if (frame_bytes <= kDatagramHeaderBytes) return 0;
    const auto at = [frame](unsigned index) { return static_cast<std::uint32_t>(frame[index]); };
    const auto at16 = [&at](unsigned index) { return at(index) << 8 | at(index + 1); };
    if (at16(12) != 0x0800 || at(14) != 0x45 || at(23) != kUdp || at16(36) != kDatagramPort) return 0;
    if ((at16(26) << 16 | at16(28)) != Ipv4Of(Other(station))) return 0;
    const std::uint32_t udp_bytes = at16(38);
    if (udp_bytes <= 8 || udp_bytes > frame_bytes - 34) return 0;  // a short frame may be padded
    return udp_bytes - 8;
  }

 private:
  static constexpr std::uint8_t kUdp = 17;

  void Put16(unsigned index, std::uint32_t value) {
    bytes_[index] = static_cast<std::uint8_t>(value >> 8);
    bytes_[index + 1] = static_cast<std::uint8_t>(value);
  }
  void Put32(unsigned index, std::uint32_t value) {
    Put16(index, value >> 16);
    Put16(index + 2, value & 0xFFFF);
  }

  std::uint8_t bytes_[kDatagramHeaderBytes] = {};
};

}  // namespace nestbench::payload
