#include "vmm_faults.h"

#include <fmt/format.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <system_error>
#include <thread>
#include <vector>

#include "signals.h"

namespace nestbench::tenants {
namespace {

// Each frame is too large to be folded away. `stop` is never set: the compiler must not know.
[[gnu::noinline]] int Recurse(const volatile char* above, const volatile bool& stop) {  // NOLINT(misc-no-recursion)
  volatile char frame[4096];
  frame[0] = above == nullptr ? '\0' : above[0];
  if (stop) return frame[0];
  return Recurse(frame, stop) + frame[0];
}

VmmFaultOutcome ExhaustDescriptors() {
  std::vector<vmm::UniqueFd> opened;
  for (;;) {
    const int descriptor = ::eventfd(0, EFD_CLOEXEC);
    if (descriptor < 0) break;
    opened.emplace_back(descriptor);
  }
  const int error = errno;
  return {FaultClass::kHostResource, "descriptors exhausted",
          fmt::format("eventfd: {} after {} descriptors", std::strerror(error), opened.size()), error};
}

VmmFaultOutcome ExhaustThreads() {
  std::vector<std::thread> started;
  int error = 0;
  try {
    for (;;) {
      started.emplace_back([] {
        for (;;) ::pause();
      });
    }
  } catch (const std::system_error& refused) {
    error = refused.code().value();
  }
  VmmFaultOutcome outcome{FaultClass::kHostResource, "threads exhausted",
                          fmt::format("new thread: {} after {} threads", std::strerror(error), started.size()), error};
  for (std::thread& thread : started) thread.detach();  // they end with the process
  return outcome;
}

VmmFaultOutcome FillDisk(const vmm::UniqueFd& full_disk) {
  const char line[] = "a line of a log\n";
  if (::write(full_disk.get(), line, sizeof(line)) >= 0) {
    return {FaultClass::kUnsupported, "the disk took the write", "/dev/full is not what it should be", 0};
  }
  const int error = errno;
  return {FaultClass::kHostResource, "disk full", fmt::format("write: {}", std::strerror(error)), error};
}

}  // namespace

VmmFaultOutcome CommitVmmFault(const Inject& inject, const Inheritance& inheritance) {
  switch (static_cast<VmmFault>(inject.fault)) {
    case VmmFault::kSegmentationFault: {
      // Not the null page, which a compiler knows; an address that user space never has.
      auto* nowhere = reinterpret_cast<volatile int*>(0x0000'7000'DEAD'0000ULL);  // NOLINT(performance-no-int-to-ptr)
      *nowhere = 1;
      break;
    }
    case VmmFault::kAbort:
      ::syscall(SYS_tgkill, ::getpid(), ::syscall(SYS_gettid), SIGABRT);
      break;
    case VmmFault::kStackOverflow: {
      const volatile bool stop = false;
      Recurse(nullptr, stop);
      break;
    }
    case VmmFault::kForbiddenSystemCall:
      (void)::socket(AF_INET, SOCK_STREAM, 0);  // kills us
      break;
    case VmmFault::kDescriptorExhaustion:
      return ExhaustDescriptors();
    case VmmFault::kThreadExhaustion:
      return ExhaustThreads();
    case VmmFault::kDiskFull:
      return FillDisk(inheritance.full_disk);
    case VmmFault::kDiskInputOutput:  // the tenant's own: it knows the devices
    case VmmFault::kDiskNoSpace:
    case VmmFault::kLinkDown:
      break;
    case VmmFault::kBusyLoop:
      StopHeartbeats();
      for (volatile std::uint64_t spins = 0;;) spins = spins + 1;
  }
  return {FaultClass::kUnsupported, "nothing happened",
          fmt::format("fault {} left the process as it was", inject.fault), 0};
}

}  // namespace nestbench::tenants
