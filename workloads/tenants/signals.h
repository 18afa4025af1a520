// What a tenant does from signal handlers: heartbeats while its guest runs, and last words when its own code faults.
// Private to the tenant's program. One tenant for each process: handlers can reach nothing but globals.
#pragma once

#include <chrono>
#include <cstdint>

#include "nestbench/tenants/protocol.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::tenants {

// What heartbeats tell; written by the main loop, read by the handler. Plain words: a torn moment is no harm.
struct Pulse {
  volatile TenantState state = TenantState::kIdle;
  volatile std::uint64_t requests = 0;
  volatile std::uint64_t request_since_ns = 0;
};

// Handlers of SIGSEGV, SIGBUS, SIGILL, SIGFPE and SIGABRT on a stack of their own: they send a Fault and let the
// signal kill the process. Once, for this process and those that it forks; each says over which socket.
vmm::Result<> InstallLastWords();
void SetLastWordsSocket(int socket);

// Sends a heartbeat now and every `interval` from a timer signal, whatever the process does. Zero: none.
vmm::Result<> StartHeartbeats(int socket, const Pulse* pulse, std::chrono::nanoseconds interval);
void StopHeartbeats();

// A flood of timer signals at this thread, each of which takes its vCPU out of the guest. Zero: stops it.
vmm::Result<> SetTimerStorm(std::chrono::nanoseconds interval);

}  // namespace nestbench::tenants
