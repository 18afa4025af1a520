// From a Spawn message to the guest it asks for. Private to the tenant's program.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "nestbench/substrates/substrate.h"
#include "nestbench/tenants/protocol.h"
#include "tenant.h"

namespace nestbench::tenants {

// What can be done to the devices of a guest; null for those that it has not.
struct DeviceFaults {
  std::shared_ptr<substrates::DiskFaults> disk;
  std::shared_ptr<substrates::NetFaults> network;
};

vmm::Result<std::unique_ptr<substrates::Substrate>> CreateGuest(const Inheritance& inheritance, const Spawn& spawn,
                                                                const DeviceFaults& faults);

// A guest whose next command is the fault `inject.fault` (from kFirstGuestFault on).
vmm::Result<std::unique_ptr<substrates::Substrate>> CreateFaultyGuest(const Inheritance& inheritance,
                                                                      const Inject& inject);

struct Judgement {
  FaultClass fault_class = FaultClass::kGuestFault;
  std::string cause;
  bool survives = false;  // the guest could go on
};

// What is wrong with a guest whose command ended like this; `refused` is why its reply cannot be believed, or null.
// Empty when nothing is. By the evidence alone: what was injected is not known here.
std::optional<Judgement> Judge(const substrates::CallOutcome& outcome, const vmm::Error* refused);

}  // namespace nestbench::tenants
