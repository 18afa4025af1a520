// The guest of one operation: a flat binary with two loops, of which one holds the operation.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "operations.h"

namespace nestbench::costs {

// What the host writes into the mailbox page before each run.
struct Order {
  std::uint64_t passes;          // at least 1
  std::uint64_t with_operation;  // 0: the empty loop
};

// For vmm::FlatMachine in FlatMode::kSupervisor64. After `passes` passes the guest writes to the doorbell, then reads
// its next order. An exception that the operation does not handle ends at the panic port.
std::vector<std::byte> GuestCode(const Operation& operation);

// The same loops for vmm::UserMachine, at CPL3 and without handlers.
std::vector<std::byte> UserCode(const Operation& operation);

}  // namespace nestbench::costs
