// The faults of the containment scenario: how each is brought about, and what it must be called. Private to the
// scenarios.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "nestbench/tenancy/judge.h"

namespace nestbench::scenarios {

enum class FaultMeans : std::uint8_t {
  kInject,          // the tenant does it to itself: Inject with `number`
  kSignal,          // the supervisor sends signal `number`
  kMemoryBomb,      // the guest touches more memory than its cgroup allows
  kSupervisorLoss,  // a supervisor of its own is killed, with its guests
};

struct Fault {
  std::string name;
  std::string summary;
  FaultMeans means = FaultMeans::kInject;
  std::uint32_t number = 0;
  tenancy::TroubleClass expected = tenancy::TroubleClass::kVmmFault;
  std::chrono::milliseconds deadline{1000};  // to be noticed
  bool guest_only = false;                   // a process or a zone has nothing of the kind
  bool survivable = false;                   // the guest may go on: it is told by what its VMM notes
  bool needs_threads = false;
  bool needs_disk = false;
  bool needs_network = false;
};

// Guest faults first, then those of the VMM's process, then those from outside.
const std::vector<Fault>& FaultCatalogue();

}  // namespace nestbench::scenarios
