#include "devices/virtio/net/tap.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>

#include "devices/virtio/core/function.h"

namespace nestbench::vmm::virtio {

Result<std::unique_ptr<Tap>> Tap::Open(const std::string& name, std::uint16_t pairs) {
  if (name.empty() || name.size() >= IFNAMSIZ) {
    return Fail(
        Error::InvalidArgument("open tap", fmt::format("\"{}\": a name has 1 to {} characters", name, IFNAMSIZ - 1)));
  }
  std::vector<UniqueFd> fds;
  for (std::uint16_t i = 0; i < std::max<std::uint16_t>(pairs, 1); ++i) {
    UniqueFd fd(::open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK));
    if (!fd.valid()) return Fail(Error::System("open", errno, "/dev/net/tun"));
    ifreq request{};
    std::memcpy(request.ifr_name, name.data(), name.size());
    request.ifr_flags = static_cast<short>(IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | (pairs > 1 ? IFF_MULTI_QUEUE : 0));
    if (::ioctl(fd.get(), TUNSETIFF, &request) != 0) {
      return Fail(
          Error::System("TUNSETIFF", errno, fmt::format("{}: make it with `ip tuntap add {} mode tap`", name, name)));
    }
    int header_bytes = kFrameHeaderBytes;
    if (::ioctl(fd.get(), TUNSETVNETHDRSZ, &header_bytes) != 0) {
      return Fail(Error::System("TUNSETVNETHDRSZ", errno, name));
    }
    fds.push_back(std::move(fd));
  }
  return std::unique_ptr<Tap>(new Tap(std::move(fds)));
}

std::uint64_t Tap::offloads() const {
  return Feature(VIRTIO_NET_F_CSUM) | Feature(VIRTIO_NET_F_HOST_TSO4) | Feature(VIRTIO_NET_F_HOST_TSO6) |
         Feature(VIRTIO_NET_F_HOST_ECN) | Feature(VIRTIO_NET_F_GUEST_CSUM) | Feature(VIRTIO_NET_F_GUEST_TSO4) |
         Feature(VIRTIO_NET_F_GUEST_TSO6) | Feature(VIRTIO_NET_F_GUEST_ECN);
}

Result<void> Tap::Configure(std::uint64_t features) {
  unsigned offload = 0;
  const auto agreed = [features](unsigned bit) { return (features & Feature(bit)) != 0; };
  // The kernel takes segmentation only together with the checksum.
  if (agreed(VIRTIO_NET_F_GUEST_CSUM)) {
    offload = TUN_F_CSUM;
    if (agreed(VIRTIO_NET_F_GUEST_TSO4)) offload |= TUN_F_TSO4;
    if (agreed(VIRTIO_NET_F_GUEST_TSO6)) offload |= TUN_F_TSO6;
    if (agreed(VIRTIO_NET_F_GUEST_ECN) && offload != TUN_F_CSUM) offload |= TUN_F_TSO_ECN;
  }
  for (const UniqueFd& fd : fds_) {
    if (::ioctl(fd.get(), TUNSETOFFLOAD, offload) != 0) return Fail(Error::System("TUNSETOFFLOAD", errno));
  }
  return {};
}

bool Tap::Send(std::uint16_t pair, std::span<const iovec> frame) {
  return ::writev(fds_[pair].get(), frame.data(), static_cast<int>(frame.size())) > 0;
}

std::size_t Tap::Receive(std::uint16_t pair, std::span<std::byte> frame) {
  for (;;) {
    const ssize_t got = ::read(fds_[pair].get(), frame.data(), frame.size());
    if (got > 0) return static_cast<std::size_t>(got);
    if (got == 0 || errno != EINTR) return 0;
  }
}

}  // namespace nestbench::vmm::virtio
