// Errors as values: Result<T> is what every fallible function of vmm-core returns. No exception crosses it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <tl/expected.hpp>

namespace nestbench::vmm {

enum class ErrorKind : std::uint8_t {
  kSystem,           // a system call or ioctl failed: `operation` names it, `error_number` is its errno
  kInvalidArgument,  // the caller passed something out of range
  kUnsupported,      // this host cannot: a capability or a right is missing
  kMalformed,        // a file or a guest structure does not hold what it must
  kTimedOut,         // a deadline passed
};

// What went wrong, fit to be printed as it is. Copyable; owns its text.
struct Error {
  ErrorKind kind = ErrorKind::kSystem;
  int error_number = 0;   // errno of a kSystem error, else 0
  std::string operation;  // "KVM_SET_USER_MEMORY_REGION", "open", "load ELF image"
  std::string detail;     // the argument that mattered, or the condition that failed

  // "KVM_CREATE_VM (type 0): Permission denied (errno 13)"
  [[nodiscard]] std::string ToString() const;

  static Error System(std::string_view operation, int error_number, std::string detail = {});
  static Error InvalidArgument(std::string_view operation, std::string detail);
  static Error Unsupported(std::string_view operation, std::string detail);
  static Error Malformed(std::string_view operation, std::string detail);
  static Error TimedOut(std::string_view operation, std::string detail);
};

template <typename T = void>
using Result = tl::expected<T, Error>;

// `return Fail(Error::Malformed(...));` from a function that returns any Result<T>.
[[nodiscard]] inline tl::unexpected<Error> Fail(Error error) { return tl::unexpected<Error>(std::move(error)); }

}  // namespace nestbench::vmm
