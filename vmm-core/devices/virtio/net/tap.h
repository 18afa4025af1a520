// A wire to the host's network stack: a tap interface. Source: kernel document "Universal TUN/TAP device driver";
// <linux/if_tun.h>.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "devices/virtio/net/port.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::vmm::virtio {

class Tap final : public NetPort {
 public:
  // Opens the tap interface `name`, and makes it where it does not exist (which needs CAP_NET_ADMIN; it then goes with
  // this object). Bringing it up and giving it an address is the administrator's business. More than one pair needs an
  // interface with multi_queue.
  static Result<std::unique_ptr<Tap>> Open(const std::string& name, std::uint16_t pairs = 1);

  [[nodiscard]] std::uint64_t offloads() const override;
  [[nodiscard]] std::uint16_t pairs() const override { return static_cast<std::uint16_t>(fds_.size()); }
  Result<void> Configure(std::uint64_t features) override;
  [[nodiscard]] int receive_fd(std::uint16_t pair) const override { return fds_[pair].get(); }
  [[nodiscard]] bool Send(std::uint16_t pair, std::span<const iovec> frame) override;
  [[nodiscard]] std::size_t Receive(std::uint16_t pair, std::span<std::byte> frame) override;

 private:
  explicit Tap(std::vector<UniqueFd> fds) : fds_(std::move(fds)) {}

  std::vector<UniqueFd> fds_;
};

}  // namespace nestbench::vmm::virtio
