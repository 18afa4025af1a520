#include "nestbench/tenants/channel.h"

#include <sys/socket.h>
#include <sys/uio.h>

#include <cerrno>
#include <utility>

namespace nestbench::tenants {
namespace {

using vmm::Error;
using vmm::Fail;

MessageHeader HeaderOf(MessageType type, std::size_t body_bytes) {
  return {kMessageMagic, kMessageVersion, type, static_cast<std::uint32_t>(sizeof(MessageHeader) + body_bytes), 0};
}

constexpr std::size_t kMaxDescriptors = 4;  // received at once; more are dropped by the kernel

}  // namespace

bool SendRaw(int socket, MessageType type, const void* body, std::size_t bytes) noexcept {
  MessageHeader header = HeaderOf(type, bytes);
  iovec parts[] = {{&header, sizeof(header)}, {const_cast<void*>(body), bytes}};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  return ::sendmsg(socket, &message, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0;
}

vmm::Result<std::pair<Channel, Channel>> Channel::CreatePair() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) != 0) {
    return Fail(Error::System("socketpair", errno));
  }
  return std::pair{Channel(vmm::UniqueFd(ends[0])), Channel(vmm::UniqueFd(ends[1]))};
}

vmm::Result<> Channel::SendBytes(MessageType type, std::span<const std::byte> body, int descriptor) const {
  MessageHeader header = HeaderOf(type, body.size());
  iovec parts[] = {{&header, sizeof(header)}, {const_cast<std::byte*>(body.data()), body.size()}};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  if (descriptor >= 0) {
    message.msg_control = control;
    message.msg_controllen = sizeof(control);
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(part), &descriptor, sizeof(descriptor));
  }
  while (::sendmsg(socket_.get(), &message, MSG_NOSIGNAL) < 0) {
    if (errno != EINTR) return Fail(Error::System("sendmsg", errno, std::string(ToString(type))));
  }
  return {};
}

vmm::Result<Channel::Outcome> Channel::Receive(ReceivedMessage& received) const {
  iovec part = {received.bytes_.data(), received.bytes_.size()};
  msghdr message = {};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxDescriptors * sizeof(int))] = {};
  message.msg_control = control;
  message.msg_controllen = sizeof(control);
  ssize_t bytes = 0;
  do {
    bytes = ::recvmsg(socket_.get(), &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (bytes < 0 && errno == EINTR);
  if (bytes < 0) {
    if (errno == EAGAIN || errno == EWOULDBLOCK) return Outcome::kNothing;
    if (errno == ECONNRESET) return Outcome::kClosed;
    return Fail(Error::System("recvmsg", errno));
  }

  received.descriptor_.Reset();
  for (cmsghdr* extra = CMSG_FIRSTHDR(&message); extra != nullptr; extra = CMSG_NXTHDR(&message, extra)) {
    if (extra->cmsg_level != SOL_SOCKET || extra->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (extra->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int descriptor = -1;
      std::memcpy(&descriptor, CMSG_DATA(extra) + i * sizeof(int), sizeof(int));
      vmm::UniqueFd owned(descriptor);
      if (!received.descriptor_.valid()) received.descriptor_ = std::move(owned);
    }
  }
  if (bytes == 0) return Outcome::kClosed;
  if ((message.msg_flags & MSG_TRUNC) != 0) {
    return Fail(Error::Malformed("receive message", "it is longer than any message"));
  }
  auto type = CheckMessage(std::span(received.bytes_).first(static_cast<std::size_t>(bytes)));
  if (!type) return Fail(std::move(type.error()));
  received.type_ = *type;
  return Outcome::kMessage;
}

}  // namespace nestbench::tenants
