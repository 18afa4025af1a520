// The system calls a tenant may make. Private to the tenant's program.
#pragma once

#include <linux/filter.h>

#include <vector>

#include "nestbench/vmm/base/error.h"

namespace nestbench::tenants {

// A compiled filter: made once by the zygote, loaded by each tenant with one system call. Anything that is not on its
// list kills the process with SIGSYS.
class SystemCallFilter {
 public:
  // `may_fork`: processes and threads as well, for the tenants that test what becomes of those.
  static vmm::Result<SystemCallFilter> Compile(bool may_fork);

  // From here on; no way back. Needs PR_SET_NO_NEW_PRIVS, which it sets.
  [[nodiscard]] vmm::Result<> Load() const;

 private:
  explicit SystemCallFilter(std::vector<sock_filter> program) : program_(std::move(program)) {}
  std::vector<sock_filter> program_;  // empty under a sanitizer, whose runtime needs calls of its own
};

}  // namespace nestbench::tenants
