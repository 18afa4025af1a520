// Operations of the image `exits`, shared with the host that handles what they cause. Freestanding.
#pragma once

#include <cstdint>

namespace nestbench::payload {

// Each is done `iterations` times in a loop between the two time stamps; the batch then ends with the usual doorbell.
enum class ExitOperation : std::uint64_t {
  kDoorbellPio = 0,   // OUT of 4 bytes to abi::kDoorbellPort: the host must enter again each time
  kDoorbellMmio = 1,  // store of 4 bytes to abi::kDoorbellPage: likewise
  kEventPio = 2,      // OUT of 4 bytes to abi::kEventPort, an ioeventfd
  kEventMmio = 3,     // store of 4 bytes to abi::kEventPage, an ioeventfd
  kCpuid = 4,         // CPUID leaf 0, subleaf 0
  kPageFault = 5,     // load of 8 bytes from abi::kFaultPage; the guest's #PF stub resumes at the address in RCX
  kRdtsc = 6,         // the control, which should not exit
};

inline constexpr std::uint64_t kExitOperationCount = 7;

}  // namespace nestbench::payload
