// Two guests and the cable between them: it is pulled, and plugged in again.
#include "nestbench/substrates/network.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "devices/virtio/net/net.h"
#include "devices/virtio/net/switch.h"
#include "nestbench/payload/net_work.h"
#include "nestbench/substrates/mailbox_reader.h"
#include "nestbench/substrates/substrate.h"
#include "nestbench/vmm/loader/loaded_file.h"
#include "nestbench/vmm/machine/user_machine.h"
#include "net_peer.h"

namespace nestbench::substrates {
namespace {

using namespace std::chrono_literals;
namespace virtio = vmm::virtio;
using payload::NetOperation;
using payload::Station;

class LinkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto image = vmm::LoadedFile::Read(NESTBENCH_IMAGES_FOLDER "/io_net.elf", vmm::kMaxImageFileBytes);
    ASSERT_TRUE(image.has_value()) << image.error().ToString();
    image_.emplace(std::move(*image));
    const auto doorbell = ChooseDoorbell(image_->bytes(), 5s);
    if (!doorbell) GTEST_SKIP() << "no guest can run here: " << doorbell.error().ToString();
    virtio::Switch between;
    auto peer = MakeGuestPeer(OptionsFor(between, Station::kPeer, *doorbell), -1);
    ASSERT_TRUE(peer.has_value()) << peer.error().ToString();
    peer_ = std::move(*peer);
    auto guest = CreateVm(OptionsFor(between, Station::kMeasured, *doorbell));
    ASSERT_TRUE(guest.has_value()) << guest.error().ToString();
    guest_ = std::move(*guest);
  }

  SubstrateOptions OptionsFor(virtio::Switch& between, Station station, abi::Doorbell doorbell) {
    SubstrateOptions options;
    options.image = image_->bytes();
    options.arena_bytes = payload::kNetArenaBytes;
    options.doorbell = doorbell;
    options.make_devices = [this, &between, station](const vmm::GuestMemory&) -> Result<std::vector<vmm::UserDevice>> {
      auto port = between.AddPort();
      if (!port) return Fail(std::move(port.error()));
      auto device = MakeNetDevice(std::move(*port), station, {});
      if (!device) return Fail(std::move(device.error()));
      if (station == Station::kMeasured) device_ = device->get();
      std::vector<vmm::UserDevice> devices;
      devices.push_back({std::move(*device), true});
      return devices;
    };
    return options;
  }

  abi::MailboxRequest RequestOf(NetOperation operation) {
    constexpr std::uint64_t kTicksPerMs = 2'000'000;
    abi::MailboxRequest request = {};
    request.magic = abi::kMailboxMagic;
    request.version = abi::kMailboxVersion;
    request.command = abi::Command::kSetUp;
    request.doorbell = guest_->doorbell();
    request.operation = static_cast<std::uint64_t>(operation);
    request.iterations = 1;
    request.seed = 3;
    request.arena_base = abi::kArenaBase;
    request.arena_bytes = payload::kNetArenaBytes;
    const std::uint64_t parameters[] = {256, 64, 0, 100, 1000, kTicksPerMs, 0, 0};
    std::copy(std::begin(parameters), std::end(parameters), std::begin(request.parameters));
    return request;
  }

  Reply Call(abi::MailboxRequest& request, abi::Command command, std::uint64_t iterations) {
    request.command = command;
    request.iterations = iterations;
    ++request.sequence;
    const auto outcome = guest_->Call(request, 60s);
    if (!outcome || outcome->end != CallEnd::kRang) {
      ADD_FAILURE() << (outcome ? outcome->text : outcome.error().ToString());
      return {};
    }
    auto reply = ReadReply(guest_->mailbox(), request);
    if (!reply) ADD_FAILURE() << reply.error().ToString();
    return reply.value_or(Reply{});
  }

  std::optional<vmm::LoadedFile> image_;
  virtio::Net* device_ = nullptr;  // of the measured guest
  std::unique_ptr<NetPeerRunner> peer_;
  std::unique_ptr<Substrate> guest_;
};

TEST_F(LinkTest, AStreamStopsWithTheLinkAndGoesOnWithIt) {
  constexpr std::uint64_t kEndless = payload::kNetMaxIterations;
  abi::MailboxRequest request = RequestOf(NetOperation::kStream);
  const Reply ready = Call(request, abi::Command::kSetUp, 1);
  ASSERT_EQ(ready.status, abi::PayloadStatus::kOk) << ready.message;
  ASSERT_TRUE(peer_->Start(request, 60s).has_value());
  const Reply before = Call(request, abi::Command::kRun, 1000);
  ASSERT_EQ(before.status, abi::PayloadStatus::kOk) << before.message;

  std::uint64_t received_at_end = 0;
  std::thread puller([this] {
    std::this_thread::sleep_for(50ms);
    device_->SetLink(false);
  });
  const Reply cut = Call(request, abi::Command::kRun, kEndless);
  puller.join();
  EXPECT_EQ(cut.status, abi::PayloadStatus::kWrongResult);
  EXPECT_NE(cut.message.find("the link is down"), std::string::npos) << cut.message;
  EXPECT_GT(device_->counters().dropped_frames, 0U);
  received_at_end = device_->counters().received_frames;
  EXPECT_EQ(peer_->problem(), "");

  const Reply still_cut = Call(request, abi::Command::kRun, 1);
  EXPECT_EQ(still_cut.status, abi::PayloadStatus::kWrongResult);
  EXPECT_EQ(device_->counters().received_frames, received_at_end) << "nothing passes a link that is down";

  device_->SetLink(true);
  const Reply after = Call(request, abi::Command::kRun, 1000);
  ASSERT_EQ(after.status, abi::PayloadStatus::kOk) << after.message;
  EXPECT_EQ(after.checksum, before.checksum);
}

TEST_F(LinkTest, APeerThatWasNeverAskedEnds) {
  peer_.reset();
  SUCCEED();
}

TEST_F(LinkTest, APeerEndsInTheMiddleOfItsWork) {
  abi::MailboxRequest request = RequestOf(NetOperation::kPingPong);
  ASSERT_EQ(Call(request, abi::Command::kSetUp, 1).status, abi::PayloadStatus::kOk);
  ASSERT_TRUE(peer_->Start(request, 60s).has_value());
  EXPECT_EQ(Call(request, abi::Command::kRun, 10).status, abi::PayloadStatus::kOk);
  const auto began = std::chrono::steady_clock::now();
  peer_.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - began, 10s);
  EXPECT_EQ(Call(request, abi::Command::kRun, 1).status, abi::PayloadStatus::kWrongResult);
}

}  // namespace
}  // namespace nestbench::substrates
