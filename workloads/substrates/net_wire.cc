// Sources: network_namespaces(7), rtnetlink(7), netdevice(7), arp(7), veth(4).
#include "net_wire.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

#include "devices/virtio/net/port.h"
#include "devices/virtio/net/tap.h"
#include "nestbench/payload/datagram.h"
#include "nestbench/substrates/net_namespaces.h"

namespace nestbench::substrates {
namespace {

using payload::Station;
using vmm::Error;
using vmm::Result;
using vmm::UniqueFd;

constexpr const char* kInterface = "nestbench0";

Error CannotMakeNamespace(int error_number) {
  return Error::Unsupported("make a network namespace",
                            fmt::format("{}; run as root, or allow user namespaces "
                                        "(sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000)",
                                        std::strerror(error_number)));
}

// Leaves the network namespace for a fresh one; as somebody who may not, inside a fresh user namespace.
Result<void> EnterFreshNamespace() {
  if (::unshare(CLONE_NEWNET) == 0) return {};
  const int error_number = errno;
  if (error_number == EPERM && ::unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0) return {};
  return Fail(CannotMakeNamespace(error_number));
}

Result<UniqueFd> OpenNamespace() {
  UniqueFd fd(::open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC));
  if (!fd.valid()) return Fail(Error::System("open", errno, "/proc/thread-self/ns/net"));
  return fd;
}

sockaddr_in AddressOf(Station station) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(payload::kDatagramPort);
  address.sin_addr.s_addr = htonl(payload::Ipv4Of(station));
  return address;
}

void PutMac(Station station, sockaddr& out) {
  out.sa_family = ARPHRD_ETHER;
  for (unsigned i = 0; i < 6; ++i) out.sa_data[i] = static_cast<char>(payload::MacByte(station, i));
}

// Gives the interface of this namespace the station's addresses, tells it where the other station is, and brings it up.
Result<void> ConfigureInterface(Station station) {
  const UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return Fail(Error::System("socket", errno));
  const auto named = [] {
    ifreq request{};
    std::strncpy(request.ifr_name, kInterface, IFNAMSIZ - 1);
    return request;
  };
  const auto call = [&fd](unsigned long number, ifreq request, const char* name) -> Result<void> {
    if (::ioctl(fd.get(), number, &request) != 0) return Fail(Error::System(name, errno, kInterface));
    return {};
  };
  ifreq request = named();
  PutMac(station, request.ifr_hwaddr);
  if (auto done = call(SIOCSIFHWADDR, request, "SIOCSIFHWADDR"); !done) return done;
  sockaddr_in address = AddressOf(station);
  address.sin_port = 0;
  request = named();
  std::memcpy(&request.ifr_addr, &address, sizeof(address));
  if (auto done = call(SIOCSIFADDR, request, "SIOCSIFADDR"); !done) return done;
  address.sin_addr.s_addr = htonl(~0U << (32 - payload::kIpv4PrefixBits));
  request = named();
  std::memcpy(&request.ifr_netmask, &address, sizeof(address));
  if (auto done = call(SIOCSIFNETMASK, request, "SIOCSIFNETMASK"); !done) return done;
  request = named();
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  if (auto done = call(SIOCSIFFLAGS, request, "SIOCSIFFLAGS"); !done) return done;
  // Known for good: a guest of ours answers no ARP requests.
  arpreq neighbour{};
  address = AddressOf(Other(station));
  std::memcpy(&neighbour.arp_pa, &address, sizeof(address));
  PutMac(Other(station), neighbour.arp_ha);
  neighbour.arp_flags = ATF_COM | ATF_PERM;
  std::strncpy(neighbour.arp_dev, kInterface, sizeof(neighbour.arp_dev) - 1);
  if (::ioctl(fd.get(), SIOCSARP, &neighbour) != 0) return Fail(Error::System("SIOCSARP", errno, kInterface));
  return {};
}

Result<UniqueFd> OpenSocket(Station station) {
  UniqueFd fd(::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return Fail(Error::System("socket", errno));
  // Room for every frame that may be under way, with what the kernel counts for each; its default has less.
  constexpr int kBufferBytes = 4 << 20;
  for (const auto& [forced, asked] : {std::pair{SO_RCVBUFFORCE, SO_RCVBUF}, std::pair{SO_SNDBUFFORCE, SO_SNDBUF}}) {
    if (::setsockopt(fd.get(), SOL_SOCKET, forced, &kBufferBytes, sizeof(kBufferBytes)) != 0) {
      ::setsockopt(fd.get(), SOL_SOCKET, asked, &kBufferBytes, sizeof(kBufferBytes));  // as much as is allowed
    }
  }
  const sockaddr_in own = AddressOf(station);
  const sockaddr_in other = AddressOf(Other(station));
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&own), sizeof(own)) != 0) {
    return Fail(Error::System("bind", errno, "the UDP socket of a private network"));
  }
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&other), sizeof(other)) != 0) {
    return Fail(Error::System("connect", errno, "the UDP socket of a private network"));
  }
  return fd;
}

// One rtnetlink message with nested attributes.
class LinkMessage {
 public:
  LinkMessage() {
    const std::size_t header = Append(nullptr, sizeof(nlmsghdr));
    nlmsghdr message{};
    message.nlmsg_type = RTM_NEWLINK;
    message.nlmsg_flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_EXCL | NLM_F_ACK;
    std::memcpy(bytes_.data() + header, &message, sizeof(message));
    AddInterface();
  }

  void AddInterface() {
    const ifinfomsg interface {};
    Append(&interface, sizeof(interface));
  }
  void Add(std::uint16_t type, const void* data, std::size_t size_bytes) {
    const std::size_t at = Begin(type);
    Append(data, size_bytes);
    End(at);
  }
  void AddText(std::uint16_t type, const char* text) { Add(type, text, std::strlen(text) + 1); }
  std::size_t Begin(std::uint16_t type) {
    const rtattr attribute = {0, type};
    return Append(&attribute, sizeof(attribute));
  }
  void End(std::size_t at) {
    const auto length = static_cast<unsigned short>(used_ - at);
    std::memcpy(bytes_.data() + at + offsetof(rtattr, rta_len), &length, sizeof(length));
    used_ = RTA_ALIGN(used_);
  }
  std::span<const std::byte> Finish() {
    const auto length = static_cast<std::uint32_t>(used_);
    std::memcpy(bytes_.data() + offsetof(nlmsghdr, nlmsg_len), &length, sizeof(length));
    return std::span(bytes_).first(used_);
  }

 private:
  std::size_t Append(const void* data, std::size_t size_bytes) {
    const std::size_t at = used_;
    if (data != nullptr) std::memcpy(bytes_.data() + at, data, size_bytes);
    used_ += size_bytes;  // the few that are sent here fit by far
    return at;
  }

  alignas(nlmsghdr) std::array<std::byte, 512> bytes_{};
  std::size_t used_ = 0;
};

// One end here, the other in the namespace `other`.
Result<void> MakeVethPair(int other) {
  LinkMessage message;
  message.AddText(IFLA_IFNAME, kInterface);
  const std::size_t info = message.Begin(IFLA_LINKINFO);
  message.AddText(IFLA_INFO_KIND, "veth");
  const std::size_t data = message.Begin(IFLA_INFO_DATA);
  const std::size_t peer = message.Begin(VETH_INFO_PEER);
  message.AddInterface();
  message.AddText(IFLA_IFNAME, kInterface);
  const auto fd = static_cast<std::uint32_t>(other);
  message.Add(IFLA_NET_NS_FD, &fd, sizeof(fd));
  message.End(peer);
  message.End(data);
  message.End(info);
  const UniqueFd link(::socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE));
  if (!link.valid()) return Fail(Error::System("socket", errno, "rtnetlink"));
  const auto bytes = message.Finish();
  if (::send(link.get(), bytes.data(), bytes.size(), 0) < 0) return Fail(Error::System("RTM_NEWLINK", errno, "veth"));
  std::array<std::byte, 1024> answer{};
  const ssize_t got = ::recv(link.get(), answer.data(), answer.size(), 0);
  if (got < 0) return Fail(Error::System("recv", errno, "rtnetlink"));
  nlmsgerr result{};
  if (static_cast<std::size_t>(got) < NLMSG_HDRLEN + sizeof(result)) {
    return Fail(Error::System("RTM_NEWLINK", EPROTO, "veth"));
  }
  std::memcpy(&result, answer.data() + NLMSG_HDRLEN, sizeof(result));
  if (result.error == -EOPNOTSUPP) {
    return Fail(Error::Unsupported("make a veth pair", "the kernel has no veth; as root: modprobe veth"));
  }
  if (result.error != 0) return Fail(Error::System("RTM_NEWLINK", -result.error, "veth"));
  return {};
}

}  // namespace

Result<void> EnterNamespace(const UniqueFd& network_namespace) {
  if (::setns(network_namespace.get(), CLONE_NEWNET) != 0)
    return Fail(Error::System("setns", errno, "network namespace"));
  return {};
}

Result<VethNamespaces> MakeVethNamespaces() {
  if (auto entered = EnterFreshNamespace(); !entered) return Fail(std::move(entered.error()));
  auto peer = OpenNamespace();
  if (!peer) return Fail(std::move(peer.error()));
  if (auto entered = EnterFreshNamespace(); !entered) return Fail(std::move(entered.error()));
  auto measured = OpenNamespace();
  if (!measured) return Fail(std::move(measured.error()));
  if (auto made = MakeVethPair(peer->get()); !made) return Fail(std::move(made.error()));
  if (auto done = ConfigureInterface(Station::kMeasured); !done) return Fail(std::move(done.error()));
  if (auto entered = EnterNamespace(*peer); !entered) return Fail(std::move(entered.error()));
  if (auto done = ConfigureInterface(Station::kPeer); !done) return Fail(std::move(done.error()));
  if (auto entered = EnterNamespace(*measured); !entered) return Fail(std::move(entered.error()));
  return VethNamespaces{std::move(*measured), std::move(*peer)};
}

Result<VethWire> MakeVethWire() {
  auto namespaces = MakeVethNamespaces();
  if (!namespaces) return Fail(std::move(namespaces.error()));
  auto measured = OpenSocket(Station::kMeasured);
  if (!measured) return Fail(std::move(measured.error()));
  if (auto entered = EnterNamespace(namespaces->peer); !entered) return Fail(std::move(entered.error()));
  auto peer = OpenSocket(Station::kPeer);
  if (!peer) return Fail(std::move(peer.error()));
  if (auto entered = EnterNamespace(namespaces->measured); !entered) return Fail(std::move(entered.error()));
  return VethWire{std::move(*measured), std::move(*peer)};
}

Result<TapWire> MakeTapWire() {
  if (auto entered = EnterFreshNamespace(); !entered) return Fail(std::move(entered.error()));
  auto tap = vmm::virtio::Tap::Open(kInterface);
  if (!tap) {
    const int error_number = tap.error().error_number;
    if (error_number == ENOENT || error_number == ENODEV || error_number == EACCES || error_number == EPERM) {
      return Fail(Error::Unsupported(
          "open a tap interface",
          fmt::format("{}; as root: modprobe tun; chmod 0666 /dev/net/tun", tap.error().ToString())));
    }
    return Fail(std::move(tap.error()));
  }
  if (auto done = ConfigureInterface(Station::kPeer); !done) return Fail(std::move(done.error()));
  auto peer = OpenSocket(Station::kPeer);
  if (!peer) return Fail(std::move(peer.error()));
  return TapWire{std::move(*tap), std::move(*peer)};
}

}  // namespace nestbench::substrates
