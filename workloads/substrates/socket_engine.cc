#include "socket_engine.h"

#include <poll.h>

#include <cerrno>

namespace nestbench::substrates {

SocketEngine::SocketEngine(int socket, int stop_event)
    : socket_(socket), stop_event_(stop_event), memory_(2 * kBuffers * kBufferBytes) {
  for (std::uint32_t i = 0; i < kBuffers; ++i) {
    send_parts_[i] = {BufferAt(i), 0};
    sends_[i].msg_hdr.msg_iov = &send_parts_[i];
    sends_[i].msg_hdr.msg_iovlen = 1;
    receive_parts_[i] = {BufferAt(kBuffers + i), kBufferBytes};
    receives_[i].msg_hdr.msg_iov = &receive_parts_[i];
    receives_[i].msg_hdr.msg_iovlen = 1;
  }
}

void SocketEngine::Publish() {
  while (sent_ < offered_) {
    const int count = ::sendmmsg(socket_, &sends_[sent_], offered_ - sent_, MSG_DONTWAIT);
    if (count > 0) {
      sent_ += static_cast<std::uint32_t>(count);
    } else if (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS) {
      return;                                              // the rest goes with the next call
    } else if (errno != EINTR && errno != ECONNREFUSED) {  // the latter: of an earlier message, told once
      problem_ = "io_net: the socket refuses to send";
      return;
    }
  }
  sent_ = 0;
  offered_ = 0;
}

bool SocketEngine::Receive(payload::NetMessage& message) {
  if (taken_ == received_) {
    taken_ = 0;
    received_ = 0;
    const int count = ::recvmmsg(socket_, receives_.data(), kBuffers, MSG_DONTWAIT, nullptr);
    if (count < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR && errno != ECONNREFUSED) {
      problem_ = "io_net: the socket refuses to receive";
    }
    if (count <= 0) return false;
    received_ = static_cast<std::uint32_t>(count);
  }
  message.bytes = static_cast<const std::byte*>(receive_parts_[taken_].iov_base);
  message.size_bytes = receives_[taken_].msg_len;
  ++taken_;
  return true;
}

void SocketEngine::Sleep(std::uint32_t limit_ms) {
  if (sent_ < offered_) Publish();
  std::array<pollfd, 2> polled = {{{socket_, POLLIN, 0}, {stop_event_, POLLIN, 0}}};
  if (sent_ < offered_) polled[0].events |= POLLOUT;
  const int count = ::poll(polled.data(), polled.size(), limit_ms == 0 ? -1 : static_cast<int>(limit_ms));
  if (count < 0 && errno != EINTR) problem_ = "io_net: the socket refuses to wait";
  if (count > 0 && (polled[1].revents & POLLIN) != 0) stopping_ = true;
}

}  // namespace nestbench::substrates
