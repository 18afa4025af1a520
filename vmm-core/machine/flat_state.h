// What a FlatMachine's guest finds: descriptor tables, page tables and the vCPU's state of each mode. Private to this
// layer.
#pragma once

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/machine/flat_machine.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::vmm::internal {

// Interrupt table, and where the mode has them GDT, TSS and page tables.
Result<void> WriteFlatTables(const GuestMemory& memory, FlatMode mode);

// Points the vCPU at kFlatEntry in `mode`, with interrupts off.
Result<void> EnterFlatMode(Vcpu& vcpu, FlatMode mode);

}  // namespace nestbench::vmm::internal
