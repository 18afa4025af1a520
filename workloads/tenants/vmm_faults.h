// Faults of the VMM's process itself, committed when asked. Private to the tenant's program.
#pragma once

#include <string>

#include "nestbench/tenants/protocol.h"
#include "tenant.h"

namespace nestbench::tenants {

// What a tenant that survived its fault says before it exits.
struct VmmFaultOutcome {
  FaultClass fault_class = FaultClass::kVmmFault;
  std::string cause;
  std::string evidence;
  int error_number = 0;
};

// Most do not return.
VmmFaultOutcome CommitVmmFault(const Inject& inject, const Inheritance& inheritance);

}  // namespace nestbench::tenants
