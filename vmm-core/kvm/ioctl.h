// Typed ioctl calls: the argument's size is checked against the request at compile time, and a failure names the
// request. Private to this layer.
#pragma once

#include <sys/ioctl.h>

#include <cerrno>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/mutant.h"
#include "nestbench/vmm/kvm/linux_kvm.h"

namespace nestbench::vmm::internal {

// A request together with its name: `constexpr Request kGetRegs = NESTBENCH_KVM_REQUEST(KVM_GET_REGS)`.
struct Request {
  unsigned long number;
  std::string_view name;
};

#define NESTBENCH_KVM_REQUEST(request) (::nestbench::vmm::internal::Request{request, #request})

// What a failure is described with: a text, or a function that formats one and is called only then. A guest that starts
// makes dozens of calls that succeed.
template <typename Detail>
Error CallFailed(std::string_view name, int error_number, const Detail& detail) {
  if constexpr (std::invocable<Detail>) {
    return Error::System(name, error_number, detail());
  } else {
    return Error::System(name, error_number, std::string(detail));
  }
}

// For requests whose argument is a plain integer (or none). Returns the ioctl's result.
template <typename Detail = std::string_view>
Result<int> Call(int fd, const Request& request, unsigned long argument = 0, const Detail& detail = {}) {
  const int result = ::ioctl(fd, request.number, argument);
  if (result < 0) return Fail(CallFailed(request.name, errno, detail));
  return result;
}

// For requests that take a pointer to exactly T.
template <unsigned long kNumber, typename T, typename Detail = std::string_view>
Result<int> CallWith(int fd, std::string_view name, T* argument, const Detail& detail = {}) {
  static_assert(_IOC_SIZE(kNumber) == sizeof(T), "the argument's type is not the one this ioctl takes");
  const int result = ::ioctl(fd, kNumber, argument);
  if (result < 0 && !Mutated("ioctl-error-swallowed")) return Fail(CallFailed(name, errno, detail));
  return result;
}

// The macro only adds the name; it evaluates each argument once.
#define NESTBENCH_KVM_CALL(fd, request, ...) \
  (::nestbench::vmm::internal::CallWith<request>((fd), #request, __VA_ARGS__))

// kvm_msrs with room for one entry (its own array is flexible).
struct OneMsr {
  std::uint32_t count = 1;
  std::uint32_t padding = 0;
  kvm_msr_entry entry = {};
};
static_assert(sizeof(kvm_msrs) == offsetof(OneMsr, entry));

}  // namespace nestbench::vmm::internal
