// Power cuts of a guest: a process with a VM, whose payload writes and flushes a disk behind virtio-blk, is killed
// again and again; what a flush had acknowledged to the guest must be in the file, whole.
//
// A killed process takes its own caches with it, and not the kernel's: this shows that nothing is acknowledged which
// the VMM has not handed to the kernel and flushed there. (That a flush then reaches the medium is FileDiskTest's.)
//
// NESTBENCH_POWER_CUTS: how many cuts. NESTBENCH_POWER_CUT_SEED: when they come.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "devices/virtio/block/power_cut_log.h"
#include "nestbench/drivers/power_cut_block.h"
#include "nestbench/substrates/disk.h"
#include "nestbench/substrates/mailbox_reader.h"
#include "nestbench/substrates/substrate.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/loader/loaded_file.h"
#include "nestbench/vmm/machine/user_machine.h"

namespace nestbench::substrates {
namespace {

using power_cut::kBlockBytes;
using power_cut::PowerCutLog;
using vmm::UniqueFd;

constexpr std::uint64_t kSlots = 256;
constexpr std::uint64_t kMaxUnderWay = kSlots / 2 + 16;
constexpr std::uint64_t kArenaBytes = 65536 + 16 * kBlockBytes;

std::uint64_t FromEnvironment(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// What the guest says goes on at once: what it said before the cut was said.
class PipeSink final : public vmm::ByteSink {
 public:
  explicit PipeSink(int fd) : fd_(fd) {}
  void Put(std::span<const std::byte> bytes) override {
    if (::write(fd_, bytes.data(), bytes.size()) != static_cast<ssize_t>(bytes.size())) ::_exit(6);
  }

 private:
  int fd_;
};

// The process that is killed. Ends by itself only when something is wrong.
[[noreturn]] void RunGuest(std::span<const std::byte> image, const std::string& path, bool direct,
                           abi::Doorbell doorbell, std::uint64_t first_generation, std::uint64_t seed, int report) {
  auto device = vmm::KvmDevice::Open();
  if (!device) ::_exit(3);
  PipeSink sink(report);
  vmm::UserMachineOptions options;
  options.arena_bytes = kArenaBytes;
  options.serial_output = &sink;
  const DiskSetup disk{
      .kind = direct ? DiskKind::kDirect : DiskKind::kCached, .path = path, .size_bytes = kSlots * kBlockBytes};
  options.make_devices = [&disk](const vmm::GuestMemory& memory) -> vmm::Result<std::vector<vmm::UserDevice>> {
    auto made = MakeDiskDevice(disk, memory);
    if (!made) return vmm::Fail(std::move(made.error()));
    std::vector<vmm::UserDevice> devices;
    devices.push_back({std::move(*made), true});
    return devices;
  };
  auto machine = vmm::UserMachine::Create(*device, image, options);
  if (!machine) ::_exit(4);
  abi::MailboxRequest request = {};
  request.magic = abi::kMailboxMagic;
  request.version = abi::kMailboxVersion;
  request.doorbell = doorbell;
  request.iterations = ~0ULL;
  request.seed = seed;
  request.arena_base = abi::kArenaBase;
  request.arena_bytes = kArenaBytes;
  request.parameters[0] = kSlots;
  request.parameters[1] = first_generation;
  for (const abi::Command command : {abi::Command::kSetUp, abi::Command::kRun}) {
    request.command = command;
    ++request.sequence;
    std::memcpy(machine->mailbox().data(), &request, sizeof(request));
    auto stop = machine->RunUntilStop();
    if (!stop || stop->reason != vmm::StopReason::kDoorbell) ::_exit(5);
    auto reply = ReadReply(machine->mailbox(), request);
    if (!reply || reply->status != abi::PayloadStatus::kOk) {
      std::fprintf(stderr, "%s\n", reply ? reply->message.c_str() : reply.error().ToString().c_str());
      ::_exit(7);
    }
  }
  ::_exit(8);
}

class PowerCutGuestTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    auto file = vmm::LoadedFile::Read(NESTBENCH_IMAGES_FOLDER "/io_power_cut.elf", 1 << 20);
    ASSERT_TRUE(file) << file.error().ToString();
    image_.emplace(std::move(*file));
    auto doorbell = ChooseDoorbell(image_->bytes(), std::chrono::seconds(5));
    if (!doorbell) GTEST_SKIP() << "no guest can run here: " << doorbell.error().ToString();
    doorbell_ = *doorbell;
    if (doorbell_ != abi::Doorbell::kPort) GTEST_SKIP() << "a guest's user code reaches no port here";
    // Beside the build, where there is a disk: a folder for temporary files may be in memory, without O_DIRECT.
    std::string name = NESTBENCH_BUILD_FOLDER "/power-cut-XXXXXX";
    const UniqueFd fd(::mkostemp(name.data(), O_CLOEXEC));
    ASSERT_TRUE(fd.valid());
    path_ = name;
    ASSERT_EQ(::ftruncate(fd.get(), kSlots * kBlockBytes), 0);
    if (GetParam() && !UniqueFd(::open(path_.c_str(), O_RDWR | O_DIRECT | O_CLOEXEC)).valid()) {
      GTEST_SKIP() << "the file system of the build folder has no O_DIRECT";
    }
  }
  void TearDown() override {
    if (!path_.empty()) ::unlink(path_.c_str());
  }

  [[nodiscard]] std::vector<std::byte> ReadDisk() const {
    std::ifstream file(path_, std::ios::binary);
    std::vector<std::byte> bytes(kSlots * kBlockBytes);
    file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return bytes;
  }

  // Starts a guest, kills it `after` its first flush, and enters what it reported. How many flushes were acknowledged.
  std::uint64_t CutOnce(PowerCutLog& log, std::uint64_t seed, std::chrono::microseconds after) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) std::abort();
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    const pid_t child = ::fork();
    if (child < 0) std::abort();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      RunGuest(image_->bytes(), path_, GetParam(), doorbell_, log.first_generation(), seed, writer.get());
    }
    writer.Reset();
    std::vector<std::byte> said(8);
    std::uint64_t flushes = 0;
    const auto read_all = [&](std::span<std::byte> into) {
      std::size_t got = 0;
      while (got < into.size()) {
        const ssize_t part = ::read(reader.get(), into.data() + got, into.size() - got);
        if (part <= 0) return false;
        got += static_cast<std::size_t>(part);
      }
      return true;
    };
    const auto take = [&] {
      if (!read_all(said)) return false;
      std::uint64_t generation = 0;
      std::memcpy(&generation, said.data(), sizeof(generation));
      log.Acknowledge(generation);
      ++flushes;
      return true;
    };
    (void)take();
    std::this_thread::sleep_for(after);
    ::kill(child, SIGKILL);
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the guest ended by itself: " << status;
    while (take()) {
    }
    return flushes;
  }

  std::optional<vmm::LoadedFile> image_;
  abi::Doorbell doorbell_ = abi::Doorbell::kPort;
  std::string path_;
};

TEST_P(PowerCutGuestTest, EveryWriteThatTheGuestSawFlushedIsThereAndWhole) {
  const std::uint64_t cuts = FromEnvironment("NESTBENCH_POWER_CUTS", 20);
  PowerCutLog log(kSlots, kMaxUnderWay);
  std::minstd_rand random(static_cast<std::uint32_t>(FromEnvironment("NESTBENCH_POWER_CUT_SEED", 1)));
  std::uint64_t flushes = 0;
  std::uint64_t newer = 0;
  for (std::uint64_t cut = 0; cut < cuts && !HasFailure(); ++cut) {
    flushes += CutOnce(log, random(), std::chrono::microseconds(random() % 20'000));
    const PowerCutLog::Verdict verdict = log.Check(ReadDisk());
    newer += verdict.newer_blocks;
    for (const std::string& finding : verdict.findings) ADD_FAILURE() << "cut " << cut << ": " << finding;
  }
  EXPECT_GE(flushes, cuts);
  EXPECT_GT(log.acknowledged(), kSlots);  // else it showed nothing
  std::printf("%llu cuts: %llu flushes acknowledged, %llu writes; %llu blocks were newer than the last flush\n",
              static_cast<unsigned long long>(cuts), static_cast<unsigned long long>(flushes),
              static_cast<unsigned long long>(log.acknowledged()), static_cast<unsigned long long>(newer));
}

INSTANTIATE_TEST_SUITE_P(Disks, PowerCutGuestTest, ::testing::Values(false, true),
                         [](const auto& info) { return std::string(info.param ? "Direct" : "Cached"); });

}  // namespace
}  // namespace nestbench::substrates
