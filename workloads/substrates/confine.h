// Takes from a guest process what it does not need. Private to the guest program.
#pragma once

#include <cstdint>

#include "nestbench/substrates/protocol.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::substrates {

// Dies with the supervisor, writes no core, opens few descriptors, gains no privilege. At the start.
vmm::Result<void> Confine();

// Writes no file beyond `size_bytes`; 0: none at all. Once it is known whether there is a disk.
vmm::Result<void> LimitFileSize(std::uint64_t size_bytes);

// What a measurement does besides computing.
struct Needs {
  bool devices = false;  // threads that move data
  bool sockets = false;  // that are open already
};

// Allows only the system calls that measuring needs, and those of `needs`; anything else ends the process with SIGSYS.
// For all threads. Once everything is open and mapped, directly before the payload gets its first instruction.
vmm::Result<void> FilterSystemCalls(const Needs& needs);

}  // namespace nestbench::substrates
