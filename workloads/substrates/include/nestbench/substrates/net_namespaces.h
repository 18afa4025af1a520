// Two network namespaces with a veth pair between them, as the stations of payload/datagram.h: addresses, routes and
// neighbours are set. They live as long as a descriptor, socket or thread of theirs, and nothing of them is seen on the
// host.
#pragma once

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::substrates {

struct VethNamespaces {
  vmm::UniqueFd measured;
  vmm::UniqueFd peer;
};

// The calling thread is left in `measured`. kUnsupported, with what to do, where namespaces may not be made: without
// CAP_SYS_ADMIN only a process of one thread may, where user namespaces are allowed.
vmm::Result<VethNamespaces> MakeVethNamespaces();

// Moves the calling thread there.
vmm::Result<void> EnterNamespace(const vmm::UniqueFd& network_namespace);

}  // namespace nestbench::substrates
