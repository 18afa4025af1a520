// One end of a control channel. Move-only; one thread, but for SendRaw(), which a signal handler may call.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstring>
#include <optional>
#include <span>
#include <utility>

#include "nestbench/tenants/protocol.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::tenants {

// Async-signal-safe: one send(2) that neither waits nor raises SIGPIPE. False when the other end is gone or its queue
// is full; a heartbeat that is lost that way is one.
bool SendRaw(int socket, MessageType type, const void* body, std::size_t bytes) noexcept;

// A message that has passed CheckMessage().
class ReceivedMessage {
 public:
  [[nodiscard]] MessageType type() const { return type_; }

  // Body must be the one of type().
  template <typename Body>
  [[nodiscard]] Body As() const {
    Body body;
    std::memcpy(&body, bytes_.data() + sizeof(MessageHeader), sizeof(body));
    return body;
  }

  // The descriptor that came with it; invalid when none did.
  vmm::UniqueFd TakeDescriptor() { return std::move(descriptor_); }

 private:
  friend class Channel;
  MessageType type_{};
  alignas(8) std::array<std::byte, kMaxMessageBytes> bytes_;
  vmm::UniqueFd descriptor_;
};

class Channel {
 public:
  Channel() = default;
  explicit Channel(vmm::UniqueFd socket) : socket_(std::move(socket)) {}

  // Both ends, close-on-exec.
  static vmm::Result<std::pair<Channel, Channel>> CreatePair();

  // Waits until the message is queued. kSystem (EPIPE, ECONNRESET) when the other end is gone.
  vmm::Result<> Send(MessageType type) const { return SendBytes(type, {}, -1); }
  template <typename Body>
  vmm::Result<> Send(MessageType type, const Body& body, int descriptor = -1) const {
    return SendBytes(type, std::as_bytes(std::span(&body, 1)), descriptor);
  }

  // What receiving came to, when it was no error.
  enum class Outcome { kMessage, kNothing, kClosed };

  // Takes the next message if there is one; never waits. kMalformed for what is no message: the sender is not to be
  // trusted any further. Descriptors beyond the one that the type may carry are closed.
  vmm::Result<Outcome> Receive(ReceivedMessage& received) const;

  [[nodiscard]] int get() const { return socket_.get(); }
  [[nodiscard]] bool valid() const { return socket_.valid(); }
  void Close() { socket_.Reset(); }
  vmm::UniqueFd Release() { return std::move(socket_); }

 private:
  vmm::Result<> SendBytes(MessageType type, std::span<const std::byte> body, int descriptor) const;

  vmm::UniqueFd socket_;
};

}  // namespace nestbench::tenants
