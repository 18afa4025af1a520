// Takes from a guest process what it does not need. Private to the guest program.
#pragma once

#include "nestbench/substrates/protocol.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::substrates {

// Dies with the supervisor, writes no core and no file, opens few descriptors, gains no privilege. At the start.
vmm::Result<void> Confine();

// Allows only the system calls that measuring needs; anything else ends the process with SIGSYS. Once everything is
// open and mapped, directly before the payload gets its first instruction.
vmm::Result<void> FilterSystemCalls();

}  // namespace nestbench::substrates
