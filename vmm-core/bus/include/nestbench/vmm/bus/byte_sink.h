// Where a device's output goes: a console, a log, a test's string.
#pragma once

#include <cstddef>
#include <span>

namespace nestbench::vmm {

// Put() is called on the vCPU thread that made the output, with the device's lock held: it must not call back into
// the device or throw, and for as long as it blocks, the guest stands still. `bytes` is valid during the call only and
// is whatever the guest wrote: text is not promised.
class ByteSink {
 public:
  virtual ~ByteSink() = default;
  virtual void Put(std::span<const std::byte> bytes) = 0;
};

}  // namespace nestbench::vmm
