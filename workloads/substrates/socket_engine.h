// The engine of payload/net_work.h over a connected UDP socket: many messages for each system call, as the kernel
// offers. Private to this folder.
#pragma once

#include <sys/socket.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "nestbench/payload/net_work.h"

namespace nestbench::substrates {

class SocketEngine {
 public:
  // Both are borrowed. `stop_event`: once it is readable, stopping() comes true; -1: never.
  SocketEngine(int socket, int stop_event);
  SocketEngine(const SocketEngine&) = delete;
  SocketEngine& operator=(const SocketEngine&) = delete;

  std::byte* Reserve() {
    if (offered_ == kBuffers) Publish();
    return offered_ == kBuffers ? nullptr : BufferAt(offered_);
  }
  void Send(std::uint32_t size_bytes) { send_parts_[offered_++].iov_len = size_bytes; }
  void Publish();
  static constexpr std::uint32_t buffers() { return kBuffers; }
  std::byte* BufferAt(std::uint32_t index) { return memory_.data() + index * kBufferBytes; }

  bool Receive(payload::NetMessage& message);
  void Release() {}  // a message is valid until the next but kBuffers is taken
  void Sleep(std::uint32_t limit_ms);
  [[nodiscard]] bool stopping() const { return stopping_; }
  [[nodiscard]] const char* problem() const { return problem_; }

 private:
  static constexpr std::uint32_t kBuffers = 64;
  static constexpr std::size_t kBufferBytes = 2048;

  int socket_;
  int stop_event_;
  bool stopping_ = false;
  const char* problem_ = nullptr;
  std::vector<std::byte> memory_;  // buffers for sending, then those for receiving
  std::array<iovec, kBuffers> send_parts_{};
  std::array<iovec, kBuffers> receive_parts_{};
  std::array<mmsghdr, kBuffers> sends_{};
  std::array<mmsghdr, kBuffers> receives_{};
  std::uint32_t sent_ = 0;  // of those that are offered
  std::uint32_t offered_ = 0;
  std::uint32_t taken_ = 0;  // of those that were received
  std::uint32_t received_ = 0;
};

}  // namespace nestbench::substrates
