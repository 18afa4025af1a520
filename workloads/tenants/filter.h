// The system calls a tenant may make. Private to the tenant's program.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <vector>

#include "nestbench/vmm/base/error.h"

namespace nestbench::tenants {

// What a tenant does besides running its guest once that is set up.
enum class TenantMay : std::uint8_t {
  kNothingMore,
  kFork,          // processes and threads, for the tenants that test what becomes of those
  kDriveDevices,  // threads, and the I/O of the devices of its guest
};

// A compiled filter. What it forbids kills the process with SIGSYS. A process ends up with two: the kernel takes long
// to load a list of all that is allowed, so the zygote does that once; a short one of what goes is loaded by each
// tenant.
class SystemCallFilter {
 public:
  // Allows all that the zygote and the set-up of any tenant need, and forbids everything else.
  static vmm::Result<SystemCallFilter> CompileOuter();

  // Forbids what a tenant does not need once its guest is set up, and allows everything else: for on top of the outer.
  static vmm::Result<SystemCallFilter> CompileAfterSetUp(TenantMay may);

  // From here on; no way back. Needs PR_SET_NO_NEW_PRIVS, which it sets.
  [[nodiscard]] vmm::Result<> Load() const;

 private:
  static vmm::Result<SystemCallFilter> Export(void* context);
  explicit SystemCallFilter(std::vector<sock_filter> program) : program_(std::move(program)) {}
  std::vector<sock_filter> program_;  // empty under a sanitizer, whose runtime needs calls of its own
};

}  // namespace nestbench::tenants
