// What stands behind a virtio network device: one end of a wire.
#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "devices/virtio/net/linux_virtio_net.h"

#include "nestbench/vmm/base/error.h"

namespace nestbench::vmm::virtio {

// Every frame travels with this header in front, in both directions (section "Device Operation" of the network device;
// its num_buffers is the device's business).
using FrameHeader = virtio_net_hdr_mrg_rxbuf;
inline constexpr std::size_t kFrameHeaderBytes = sizeof(FrameHeader);
// The longest that segmentation offload makes: an IP packet of 64 KiB, an Ethernet header with a VLAN tag.
inline constexpr std::size_t kFrameMaxBytes = kFrameHeaderBytes + 65535 + 18;

class NetPort {
 public:
  virtual ~NetPort() = default;

  // The VIRTIO_NET_F_* of offloads that this wire can carry, in either direction.
  [[nodiscard]] virtual std::uint64_t offloads() const = 0;
  // How many pairs of queues it has: frames come and go on any of them.
  [[nodiscard]] virtual std::uint16_t pairs() const { return 1; }
  // What the driver agreed to; called before frames move, and again after each reset.
  virtual Result<void> Configure(std::uint64_t features) = 0;

  // Becomes readable (edge) when Receive may find a frame.
  [[nodiscard]] virtual int receive_fd(std::uint16_t pair) const = 0;

  // Sends header and frame. False: dropped, as a wire does.
  [[nodiscard]] virtual bool Send(std::uint16_t pair, std::span<const iovec> frame) = 0;
  // Receives header and frame into `frame` (kFrameMaxBytes of room); how many bytes, 0 when nothing waits.
  [[nodiscard]] virtual std::size_t Receive(std::uint16_t pair, std::span<std::byte> frame) = 0;
};

}  // namespace nestbench::vmm::virtio
