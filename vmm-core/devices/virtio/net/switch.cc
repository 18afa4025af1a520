#include "devices/virtio/net/switch.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "devices/virtio/core/function.h"
#include "devices/virtio/core/queue.h"
#include "devices/virtio/core/worker.h"
#include "devices/virtio/net/offload.h"
#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::size_t kAddressBytes = 6;
constexpr std::size_t kEthernetMinBytes = 14;
constexpr std::uint64_t kGroupBit = 1ULL << 40;  // the lowest bit of the first byte: broadcast and multicast

using Address = std::uint64_t;

Address ReadAddress(std::span<const std::byte> bytes) {
  Address address = 0;
  for (const std::byte byte : bytes.first(kAddressBytes)) address = address << 8 | std::to_integer<Address>(byte);
  return address;
}

}  // namespace

class SwitchPort;

struct Switch::State {
  std::mutex mutex;
  std::vector<SwitchPort*> ports;
  std::unordered_map<Address, SwitchPort*> learned;

  void Forward(SwitchPort& from, std::span<const std::byte> frame);
  void Learn(Address address, SwitchPort& port);
};

class SwitchPort final : public NetPort {
 public:
  SwitchPort(std::shared_ptr<Switch::State> state, UniqueFd event)
      : state_(std::move(state)), event_(std::move(event)), scratch_(kFrameMaxBytes) {}
  ~SwitchPort() override {
    const std::scoped_lock lock(state_->mutex);
    std::erase(state_->ports, this);
    std::erase_if(state_->learned, [this](const auto& entry) { return entry.second == this; });
  }

  [[nodiscard]] std::uint64_t offloads() const override {
    return Feature(VIRTIO_NET_F_CSUM) | Feature(VIRTIO_NET_F_HOST_TSO4) | Feature(VIRTIO_NET_F_HOST_TSO6) |
           Feature(VIRTIO_NET_F_GUEST_CSUM) | Feature(VIRTIO_NET_F_GUEST_TSO4) | Feature(VIRTIO_NET_F_GUEST_TSO6);
  }
  Result<void> Configure(std::uint64_t features) override {
    const std::scoped_lock lock(mutex_);
    features_ = features;
    frames_.clear();
    return {};
  }
  [[nodiscard]] int receive_fd(std::uint16_t /*pair*/) const override { return event_.get(); }

  [[nodiscard]] bool Send(std::uint16_t /*pair*/, std::span<const iovec> frame) override {
    const std::size_t size = CopyOut(frame, 0, scratch_);
    if (size < kFrameHeaderBytes + kEthernetMinBytes) return false;
    const auto whole = std::span(scratch_).first(size);
    FrameHeader header;
    std::memcpy(&header, whole.data(), sizeof(header));
    const bool honest = CheckOffloads(header, whole.subspan(kFrameHeaderBytes), Features());
    if (!Mutated("virtio-switch-lies-pass")) {
      if (!honest) return false;
      std::memcpy(whole.data(), &header, sizeof(header));
    }
    state_->Forward(*this, whole);
    return true;
  }

  [[nodiscard]] std::size_t Receive(std::uint16_t /*pair*/, std::span<std::byte> frame) override {
    const std::scoped_lock lock(mutex_);
    if (frames_.empty()) {
      DrainEventFd(event_.get());
      return 0;
    }
    const std::vector<std::byte>& first = frames_.front();
    const std::size_t size = std::min(frame.size(), first.size());
    std::memcpy(frame.data(), first.data(), size);
    spare_.push_back(std::move(frames_.front()));
    frames_.pop_front();
    ++counters_.received_frames;
    return size;
  }

  // Takes a copy of the frame, finished as far as this port's guest wants it.
  void Deliver(std::span<const std::byte> frame) {
    FrameHeader header;
    std::memcpy(&header, frame.data(), sizeof(header));
    const std::scoped_lock lock(mutex_);
    if (frames_.size() >= Switch::kPortMaxFrames) {
      ++counters_.dropped_frames;  // before any work is done for it: a sender could keep all others waiting
      return;
    }
    const auto agreed = [this](unsigned bit) { return (features_ & Feature(bit)) != 0; };
    const unsigned kind = header.hdr.gso_type & ~static_cast<unsigned>(VIRTIO_NET_HDR_GSO_ECN);
    const bool takes_long = (kind == VIRTIO_NET_HDR_GSO_TCPV4 && agreed(VIRTIO_NET_F_GUEST_TSO4)) ||
                            (kind == VIRTIO_NET_HDR_GSO_TCPV6 && agreed(VIRTIO_NET_F_GUEST_TSO6));
    if (kind != VIRTIO_NET_HDR_GSO_NONE && !takes_long) {
      const auto store = [this](std::span<const std::byte> segment) { return Store(FrameHeader(), segment); };
      if (!SegmentTcp(header, frame.subspan(kFrameHeaderBytes), store)) ++counters_.dropped_frames;
      return;
    }
    const bool unfinished = (header.hdr.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) != 0;
    if (unfinished && !agreed(VIRTIO_NET_F_GUEST_CSUM)) {
      std::vector<std::byte> copy(frame.begin() + kFrameHeaderBytes, frame.end());
      if (CompleteChecksum(header, copy)) {
        (void)Store(FrameHeader(), copy);
      } else {
        ++counters_.dropped_frames;
      }
      return;
    }
    (void)Store(header, frame.subspan(kFrameHeaderBytes));
  }

  [[nodiscard]] SwitchPortCounters counters() const {
    const std::scoped_lock lock(mutex_);
    return counters_;
  }

  std::size_t learned_addresses = 0;  // of the switch's, under its lock

 private:
  [[nodiscard]] std::uint64_t Features() const {
    const std::scoped_lock lock(mutex_);
    return features_;
  }

  // False when there was no room.
  [[nodiscard]] bool Store(const FrameHeader& header, std::span<const std::byte> frame) {
    if (frames_.size() >= Switch::kPortMaxFrames) {
      ++counters_.dropped_frames;
      return false;
    }
    std::vector<std::byte> buffer;
    if (!spare_.empty()) {
      buffer = std::move(spare_.back());
      spare_.pop_back();
    }
    buffer.resize(kFrameHeaderBytes + frame.size());
    std::memcpy(buffer.data(), &header, sizeof(header));
    std::memcpy(buffer.data() + kFrameHeaderBytes, frame.data(), frame.size());
    frames_.push_back(std::move(buffer));
    if (frames_.size() == 1) RingEventFd(event_.get());
    return true;
  }

  std::shared_ptr<Switch::State> state_;
  UniqueFd event_;
  std::vector<std::byte> scratch_;  // of the sender's thread

  mutable std::mutex mutex_;
  std::uint64_t features_ = 0;
  std::deque<std::vector<std::byte>> frames_;
  std::vector<std::vector<std::byte>> spare_;
  SwitchPortCounters counters_;
};

void Switch::State::Learn(Address address, SwitchPort& port) {
  const auto known = learned.find(address);
  if (known != learned.end() && known->second == &port) return;
  if (port.learned_addresses >= kPortMaxAddresses && !Mutated("virtio-switch-addresses-unlimited")) return;
  if (known != learned.end()) --known->second->learned_addresses;  // it moved
  ++port.learned_addresses;
  learned[address] = &port;
}

void Switch::State::Forward(SwitchPort& from, std::span<const std::byte> frame) {
  const auto ethernet = frame.subspan(kFrameHeaderBytes);
  const Address to = ReadAddress(ethernet);
  const Address source = ReadAddress(ethernet.subspan(kAddressBytes));
  const std::scoped_lock lock(mutex);
  if ((source & kGroupBit) == 0) Learn(source, from);
  const auto known = (to & kGroupBit) == 0 ? learned.find(to) : learned.end();
  if (known != learned.end() && !Mutated("virtio-switch-floods")) {
    if (known->second != &from) known->second->Deliver(frame);
    return;
  }
  for (SwitchPort* port : ports) {
    if (port != &from) port->Deliver(frame);
  }
}

Switch::Switch() : state_(std::make_shared<State>()) {}
Switch::~Switch() = default;

Result<std::unique_ptr<NetPort>> Switch::AddPort() {
  auto event = CreateEventFd();
  if (!event) return Fail(std::move(event.error()));
  auto port = std::make_unique<SwitchPort>(state_, std::move(*event));
  const std::scoped_lock lock(state_->mutex);
  state_->ports.push_back(port.get());
  return port;
}

SwitchPortCounters Switch::counters(const NetPort& port) const {
  return static_cast<const SwitchPort&>(port).counters();
}

}  // namespace nestbench::vmm::virtio
