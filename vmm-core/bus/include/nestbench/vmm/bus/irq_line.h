// An interrupt line that a device drives. Who is behind it (an in-kernel irqchip, a test's counter) is not the
// device's business.
#pragma once

namespace nestbench::vmm {

// Set() may be called from any thread that accesses the device or feeds it, with the device's lock held: it must not
// call back into the device, block or throw. Devices call it only when the level changes; every line starts low.
class IrqLine {
 public:
  virtual ~IrqLine() = default;
  virtual void Set(bool level) = 0;
};

}  // namespace nestbench::vmm
