// A network behind virtio-net (device 0): the operations, parameters and arena of net_work.h. Unit: messages that were
// delivered, or round trips, and the latency of each of these in the table at the arena's start. A host process runs
// the twin over sockets, in workloads/substrates/network_twin.cc.
//
// Checked: number and data of each message by its receiver, and the receiver's sum of all of them by the sender.
#include "nestbench/drivers/net_driver.h"
#include "nestbench/payload/datagram.h"
#include "nestbench/payload/net_work.h"
#include "nestbench/payload/payload.h"

namespace nestbench::payload {
namespace {

using drivers::NetDriver;
using drivers::Virtqueue;

class VirtioEngine {
 public:
  // `sizes`: of the messages' frames.
  const char* Start(std::byte* memory, Station station, std::uint32_t message_bytes) {
    station_ = station;
    message_bytes_ = message_bytes;
    header_ = DatagramHeader(station, message_bytes);
    short_header_ = DatagramHeader(station, kNetMessageMinBytes);
    problem_ = driver_.Start(0, memory);
    if (problem_ != nullptr) return problem_;
    std::uint8_t mac[ETH_ALEN];
    driver_.ReadMac(mac);
    for (unsigned i = 0; i < ETH_ALEN; ++i) {
      if (mac[i] != MacByte(station, i)) problem_ = "io_net: the device has another MAC address than this station";
    }
    return problem_;
  }

  std::byte* Reserve() {
    if (!driver_.TakeSendSlot(slot_)) {
      lacks_room_ = true;
      return nullptr;
    }
    lacks_room_ = false;
    return driver_.SendFrameAt(slot_) + kDatagramHeaderBytes;
  }
  void Send(std::uint32_t size_bytes) {
    (size_bytes == message_bytes_ ? header_ : short_header_).CopyTo(driver_.SendFrameAt(slot_));
    driver_.Offer(slot_, kDatagramHeaderBytes + size_bytes);
  }
  void Publish() { driver_.Publish(); }
  static constexpr std::uint32_t buffers() { return NetDriver::kSendBuffers; }
  std::byte* BufferAt(std::uint32_t index) { return driver_.SendFrameAt(index) + kDatagramHeaderBytes; }

  bool Receive(NetMessage& message) {
    for (;;) {
      std::uint32_t frame_bytes = 0;
      const Virtqueue::Taken taken = driver_.Take(received_slot_, frame_bytes);
      if (taken == Virtqueue::Taken::kBroken) problem_ = "io_net: the device handed back what it never got";
      if (taken != Virtqueue::Taken::kOne) {
        // Before there is nothing left to look at; fewer at a time would be a doorbell for each.
        if (given_back_ != 0) PublishBuffers();
        return false;
      }
      const std::byte* const frame = driver_.ReceivedAt(received_slot_);
      message.size_bytes = DatagramHeader::PayloadBytes(station_, frame, frame_bytes);
      message.bytes = frame + kDatagramHeaderBytes;
      if (message.size_bytes != 0) return true;
      Release();  // something else that the host's network says
    }
  }
  void Release() {
    driver_.GiveBack(received_slot_);
    if (++given_back_ >= kGiveBackFrames) PublishBuffers();
  }
  void Sleep(std::uint32_t limit_ms) {
    if (given_back_ != 0) PublishBuffers();
    driver_.Sleep(limit_ms, lacks_room_);
    if (!driver_.HasReceived() && driver_.is_broken()) problem_ = "io_net: the device asks for a reset";
  }
  static constexpr bool stopping() { return false; }
  const char* problem() const { return problem_; }

 private:
  static constexpr std::uint32_t kGiveBackFrames = 64;

  void PublishBuffers() {
    driver_.PublishBuffers();
    given_back_ = 0;
  }

  NetDriver driver_;
  Station station_ = Station::kMeasured;
  DatagramHeader header_;
  DatagramHeader short_header_;
  std::uint32_t message_bytes_ = 0;
  std::uint32_t slot_ = 0;
  std::uint32_t received_slot_ = 0;
  std::uint32_t given_back_ = 0;
  bool lacks_room_ = false;
  const char* problem_ = nullptr;
};

constinit VirtioEngine g_engine;
constinit std::uint64_t g_checksum = 0;
constinit std::uint32_t g_batch = 0;

}  // namespace

void SetUp(const Args& args, Result& result) {
  NetWork<VirtioEngine>::Check(args, result);
  if (!result.ok()) return;
  std::byte* const memory = args.arena + kNetEngineOffset;
  for (std::uint64_t i = 0; i < kNetEngineBytes; ++i) memory[i] = std::byte{0};
  static_assert(NetDriver::kMemoryBytes <= kNetEngineBytes);
  const auto message_bytes = static_cast<std::uint32_t>(args.parameters[0]) - kDatagramHeaderBytes;
  if (const char* problem =
          g_engine.Start(memory, StationOf(static_cast<NetOperation>(args.operation)), message_bytes)) {
    return result.Fail(Status::kUnsupported, problem);
  }
  NetWork<VirtioEngine>(args, g_engine, g_batch).Prepare();
}

void Run(const Args& args, Result& result) {
  NetWork<VirtioEngine> work(args, g_engine, ++g_batch);
  work.Run(args.iterations, result);
  g_checksum = result.checksum();
}

void Verify(const Args& /*args*/, Result& result) { result.SetChecksum(g_checksum); }

}  // namespace nestbench::payload
