// Looks at a guest that does not answer, or no longer can. Private to the substrates.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "nestbench/substrates/call_evidence.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/machine/stop.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::substrates {

// One guest, whatever its machine is.
struct WatchedGuest {
  struct Counts {
    std::uint64_t accesses = 0;
    std::uint64_t interrupts = 0;
    bool is_halted = false;
  };

  vmm::Vcpu& vcpu;
  const vmm::GuestMemory& memory;
  std::function<vmm::Result<vmm::Stop>()> run;  // until it stops
  std::function<Counts()> counts;               // so far
};

// Lets the guest run for some milliseconds in all, in short pieces, and sets `evidence.watch`, and `evidence.crash`
// when it crashes meanwhile. The thread holds no RunDeadline. Returns a text for people, with registers. Errors: from
// the ioctls.
vmm::Result<std::string> WatchGuest(const WatchedGuest& guest, CallEvidence& evidence);

// What a stop of kException, kCrashed or kUnexpected says.
GuestCrash DescribeCrash(const vmm::Stop& stop, const vmm::Vcpu& vcpu, const vmm::GuestMemory& memory);

}  // namespace nestbench::substrates
