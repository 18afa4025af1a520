// A fuzzer's bytes as a stream of choices.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace nestbench::fuzz {

// Borrows the bytes. What is asked for past their end is zero, so that every input is a valid one.
class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : rest_(std::as_bytes(std::span(data, size))) {}

  [[nodiscard]] bool empty() const { return rest_.empty(); }

  // The next sizeof(T) bytes, little-endian.
  template <typename T>
    requires std::is_integral_v<T>
  T Take() {
    T value = 0;
    const std::span<const std::byte> bytes = TakeBytes(sizeof(T));
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }

  // The next `count` bytes, or what is left of them.
  std::span<const std::byte> TakeBytes(std::size_t count) {
    const std::span<const std::byte> taken = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace nestbench::fuzz
