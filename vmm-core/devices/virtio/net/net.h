// virtio-net: a network card. Source: Virtual I/O Device (VIRTIO) Version 1.2, section "Network Device"; constants from
// <linux/virtio_net.h>.
//
// Emulated: mergeable receive buffers, checksum and TCP segmentation offload as far as the wire behind it can, link
// state, MTU, several pairs of queues (control queue), and a limit on the rate of each direction.
// Not emulated: filters (every frame of the wire arrives, as with a card in promiscuous mode; the driver's filter
// commands are refused), VLANs, announcements, receive-side scaling, hash reports, UDP fragmentation offload.
//
// One thread serves all queues.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "devices/virtio/core/function.h"
#include "devices/virtio/core/worker.h"
#include "devices/virtio/net/port.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::vmm::virtio {

// A limit on what passes in one direction. Zero: none. A burst of a tenth of a second passes at once.
struct RateLimit {
  std::uint64_t bytes_per_s = 0;
  std::uint64_t frames_per_s = 0;
};

struct NetOptions {
  std::array<std::uint8_t, 6> mac = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};
  std::uint16_t mtu_bytes = 1500;
  std::uint16_t queue_size = 256;
  PollPolicy polling = {};
  int cpu = -1;  // of its thread; -1: those of the thread that the driver's DRIVER_OK comes on
  RateLimit to_guest = {};
  RateLimit from_guest = {};
};

class Net final : public Function {
 public:
  static Result<std::unique_ptr<Net>> Create(std::unique_ptr<NetPort> port, const NetOptions& options);
  ~Net() override { Reset(); }

  // The cable, in or out. While it is out nothing passes. From any thread.
  void SetLink(bool up);

  struct Counters {
    std::uint64_t sent_frames = 0;  // by the guest
    std::uint64_t sent_bytes = 0;
    std::uint64_t received_frames = 0;
    std::uint64_t received_bytes = 0;
    std::uint64_t dropped_frames = 0;  // either way: the wire refused, too long for the buffers, the link was down
    std::uint64_t throttles = 0;       // times that a limit made a frame wait
  };
  [[nodiscard]] Counters counters() const;
  [[nodiscard]] const NetPort& port() const { return *port_; }

  [[nodiscard]] std::uint32_t device_id() const override;
  [[nodiscard]] std::uint64_t features() const override;
  [[nodiscard]] bool Accepts(std::uint64_t features) const override;
  [[nodiscard]] std::span<const std::uint16_t> queue_sizes() const override { return queue_sizes_; }
  [[nodiscard]] AccessStatus ReadConfig(std::uint64_t offset, std::span<std::byte> data) override;
  Result<void> Activate(Activation activation) override;
  void Reset() override;

 private:
  using Clock = std::chrono::steady_clock;

  // Tokens that fill with time and empty with use; they may go below zero once, so that any frame passes in the end.
  class Bucket {
   public:
    explicit Bucket(const RateLimit& limit) : limit_(limit) {}
    // How long until a frame may pass; zero: now.
    [[nodiscard]] std::chrono::nanoseconds Wait(Clock::time_point now);
    void Take(std::uint64_t bytes);

   private:
    RateLimit limit_;
    double bytes_ = 0;
    double frames_ = 0;
    Clock::time_point filled_at_;
  };

  Net(std::unique_ptr<NetPort> port, const NetOptions& options, UniqueFd timer);
  bool Serve(bool may_sleep);
  bool SendFrames(std::uint16_t pair, bool may_sleep);
  bool ReceiveFrames(std::uint16_t pair, bool may_sleep);
  bool ServeControl(bool may_sleep);
  enum class Given { kYes, kNoBuffers, kBroken };
  [[nodiscard]] Given ReceiveFrom(std::uint16_t wire, std::uint16_t pair, std::size_t& left);
  [[nodiscard]] Given GiveFrame(std::uint16_t pair, std::span<std::byte> frame);
  void WakeAfter(std::chrono::nanoseconds wait);

  std::unique_ptr<NetPort> port_;
  NetOptions options_;
  UniqueFd timer_;
  std::vector<std::uint16_t> queue_sizes_;
  std::atomic<bool> link_up_{true};
  std::mutex signals_mutex_;
  DriverSignals* signals_ = nullptr;  // for SetLink

  Activation active_;
  bool mergeable_ = false;
  std::size_t control_queue_ = 0;
  std::uint16_t pairs_in_use_ = 1;
  static constexpr std::chrono::nanoseconds kNever = std::chrono::nanoseconds::max();
  std::chrono::nanoseconds next_wake_ = kNever;  // of this round
  Chain chain_;
  std::vector<std::vector<Chain>> held_;        // for each pair of queues, buffers taken for a frame that needs more
  std::vector<std::vector<std::byte>> frames_;  // for each pair of the wire, the frame that waits for buffers
  std::vector<std::size_t> frame_bytes_;
  Bucket to_guest_;
  Bucket from_guest_;
  std::unique_ptr<Worker> worker_;

  struct AtomicCounters {
    std::atomic<std::uint64_t> sent_frames{0};
    std::atomic<std::uint64_t> sent_bytes{0};
    std::atomic<std::uint64_t> received_frames{0};
    std::atomic<std::uint64_t> received_bytes{0};
    std::atomic<std::uint64_t> dropped_frames{0};
    std::atomic<std::uint64_t> throttles{0};
  } counters_;
};

}  // namespace nestbench::vmm::virtio
