// Wires between the two stations of a network workload, in network namespaces of this process alone: what is made here
// goes with its last descriptor, and nothing of it is seen on the host. Private to this folder.
//
// For processes of one thread, which is left in a network namespace of its own.
#pragma once

#include <memory>

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::vmm::virtio {
class NetPort;
}

namespace nestbench::substrates {

// A veth pair between two namespaces, a connected UDP socket at each end.
struct VethWire {
  vmm::UniqueFd measured;
  vmm::UniqueFd peer;
};
// kUnsupported, with what to do, where namespaces may not be made.
vmm::Result<VethWire> MakeVethWire();

// A tap interface, and a connected UDP socket of the host behind it.
struct TapWire {
  std::unique_ptr<vmm::virtio::NetPort> measured;
  vmm::UniqueFd peer;
};
// kUnsupported, with what to do, where namespaces may not be made or there is no /dev/net/tun.
vmm::Result<TapWire> MakeTapWire();

}  // namespace nestbench::substrates
