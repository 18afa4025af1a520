// A switch between guests of one process: frames go from port to port by MAC address, in memory.
//
// It learns which address is behind which port, sends what it does not know to all, and drops what a port has no room
// for, as a switch of metal does. What a sender left to its card (checksum, segmentation) is done here when the
// receiver did not agree to do without.
#pragma once

#include <cstdint>
#include <memory>

#include "devices/virtio/net/port.h"

namespace nestbench::vmm::virtio {

struct SwitchPortCounters {
  std::uint64_t received_frames = 0;  // by the guest behind the port
  std::uint64_t dropped_frames = 0;   // that the port had no room for
};

class Switch {
 public:
  static constexpr std::size_t kPortMaxFrames = 512;  // that wait at a port
  // That it remembers behind one port. A limit for each, so that no guest can use up what the others need: whose
  // address is not remembered is answered to all.
  static constexpr std::size_t kPortMaxAddresses = 1024;

  Switch();
  ~Switch();
  Switch(const Switch&) = delete;
  Switch& operator=(const Switch&) = delete;

  // A new port. It keeps what it needs of the switch alive, and leaves it when it is destroyed.
  Result<std::unique_ptr<NetPort>> AddPort();
  [[nodiscard]] SwitchPortCounters counters(const NetPort& port) const;

 private:
  friend class SwitchPort;
  struct State;
  std::shared_ptr<State> state_;
};

}  // namespace nestbench::vmm::virtio
