// The network of a guest, or of the host process that is its twin: two stations (payload/datagram.h) and a wire. One is
// measured, the other is its peer.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>

#include "nestbench/vmm/base/error.h"

namespace nestbench::vmm::virtio {
class Net;
class NetPort;
}  // namespace nestbench::vmm::virtio
namespace nestbench::payload {
enum class Station : std::uint8_t;
}

namespace nestbench::substrates {

enum class NetPeer : std::uint8_t {
  kNone,
  kHost,   // of a guest: a socket of the host behind a tap interface
  kGuest,  // of a guest: another one in the same process, behind a switch
};
// The twin of both is a pair of sockets at the two ends of a veth pair, in two network namespaces.

// What can be done to a guest's network while it is used: its cable, out or in. Empty before the guest was made; to be
// called only as long as it lives, from any thread.
struct NetFaults {
  std::function<void(bool up)> set_link;
};

struct NetSetup {
  NetPeer peer = NetPeer::kNone;
  bool doorbell_exits = false;             // each doorbell an exit to user space, instead of an ioeventfd
  bool polling = false;                    // the devices' threads never sleep
  std::uint64_t bytes_per_s = 0;           // that the measured guest may send; 0: no limit
  int io_cpu = -1;                         // where the devices' threads run; -1: where their creator does
  int peer_cpu = -1;                       // where the peer does; -1: likewise
  std::chrono::nanoseconds peer_limit{0};  // for all that a peer does between two set-ups; 0: what the set-up has
  std::shared_ptr<NetFaults> faults = {};  // of the measured guest; null: its link stays up
};

// A guest's virtio network device at `port`, with the address of `station`. The limit of the setup is the measured
// station's.
vmm::Result<std::unique_ptr<vmm::virtio::Net>> MakeNetDevice(std::unique_ptr<vmm::virtio::NetPort> port,
                                                             payload::Station station, const NetSetup& setup);

}  // namespace nestbench::substrates
