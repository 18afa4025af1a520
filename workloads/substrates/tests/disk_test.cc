// A guest with a disk and its twin: the same work, the same answers, and what each says of a disk that is not right.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nestbench/abi/latency_table.h"
#include "nestbench/payload/disk_work.h"
#include "nestbench/substrates/disk.h"
#include "nestbench/substrates/mailbox_reader.h"
#include "nestbench/substrates/substrate.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/loader/loaded_file.h"

namespace nestbench::substrates {
namespace {

using namespace std::chrono_literals;
using payload::DiskOperation;
using ::testing::HasSubstr;

constexpr const char* kImage = NESTBENCH_IMAGES_FOLDER "/io_disk.elf";
constexpr std::uint64_t kDiskBytes = 4ULL << 20;
constexpr std::uint64_t kSpinTicks = 20'000;

struct Work {
  DiskOperation operation = DiskOperation::kRandomRead;
  std::uint64_t block_bytes = 4096;
  std::uint64_t depth = 8;
  std::uint64_t iterations = 500;
};

class DiskTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto file = vmm::LoadedFile::Read(kImage, 1 << 20);
    ASSERT_TRUE(file) << file.error().ToString();
    image_.emplace(std::move(*file));
    auto doorbell = ChooseDoorbell(image_->bytes(), 5s);
    if (doorbell) {
      doorbell_ = *doorbell;
    } else {
      no_guest_ = doorbell.error().ToString();
    }
    // A file in memory stands for any other: what is tested does not depend on what is behind it.
    memory_ = vmm::UniqueFd(::memfd_create("nestbench-disk-test", MFD_CLOEXEC));
    ASSERT_TRUE(memory_.valid());
    ASSERT_TRUE(StampDisk(memory_.get(), kDiskBytes));
  }

  [[nodiscard]] DiskSetup File() const {
    return {.kind = DiskKind::kCached, .path = "test", .fd = memory_.get(), .size_bytes = kDiskBytes};
  }
  static DiskSetup Ram() { return {.kind = DiskKind::kRam, .path = {}, .size_bytes = kDiskBytes}; }

  Result<std::unique_ptr<Substrate>> Create(bool guest, const DiskSetup& disk, const Work& work) const {
    SubstrateOptions options;
    options.image = image_->bytes();
    options.arena_bytes = payload::DiskArenaBytes(work.block_bytes, work.depth);
    options.doorbell = doorbell_;
    options.disk = disk;
    return guest ? CreateVm(options) : CreateDiskTwin(options);
  }

  struct Outcome {
    abi::PayloadStatus status = abi::PayloadStatus::kNotRun;
    std::string message;
    std::uint64_t checksum = 0;
    CallEnd end = CallEnd::kRang;
  };

  static Outcome Call(Substrate& substrate, const Work& work, abi::Command command,
                      std::chrono::nanoseconds limit = 20s) {
    static std::uint64_t sequence = 0;
    abi::MailboxRequest request = {};
    request.magic = abi::kMailboxMagic;
    request.version = abi::kMailboxVersion;
    request.command = command;
    request.doorbell = substrate.doorbell();
    request.sequence = ++sequence;
    request.operation = static_cast<std::uint64_t>(work.operation);
    request.iterations = work.iterations;
    request.seed = 7;
    request.arena_base = abi::kArenaBase;
    request.arena_bytes = payload::DiskArenaBytes(work.block_bytes, work.depth);
    request.parameters[0] = work.block_bytes;
    request.parameters[1] = work.depth;
    request.parameters[2] = kDiskBytes;
    request.parameters[3] = kSpinTicks;
    auto outcome = substrate.Call(request, limit);
    if (!outcome) return {.message = outcome.error().ToString()};
    if (outcome->end != CallEnd::kRang) return {.message = outcome->text, .end = outcome->end};
    auto reply = ReadReply(substrate.mailbox(), request);
    if (!reply) return {.message = reply.error().ToString()};
    return {reply->status, reply->message, reply->checksum};
  }

  // Set up, run, verify: the outcome of the first that goes wrong, else that of the run.
  Outcome Perform(bool guest, const DiskSetup& disk, const Work& work) const {
    auto substrate = Create(guest, disk, work);
    if (!substrate) return {.message = substrate.error().ToString()};
    Outcome outcome = Call(**substrate, work, abi::Command::kSetUp);
    if (outcome.status != abi::PayloadStatus::kOk) return outcome;
    outcome = Call(**substrate, work, abi::Command::kRun);
    if (outcome.status != abi::PayloadStatus::kOk) return outcome;
    const Outcome verified = Call(**substrate, work, abi::Command::kVerify);
    return verified.status == abi::PayloadStatus::kOk ? outcome : verified;
  }

  std::optional<vmm::LoadedFile> image_;
  abi::Doorbell doorbell_ = abi::Doorbell::kPort;
  std::string no_guest_;
  vmm::UniqueFd memory_;
};

#define NESTBENCH_REQUIRE_GUEST() \
  if (!no_guest_.empty()) GTEST_SKIP() << "no guest can run here: " << no_guest_

TEST_F(DiskTest, GuestAndTwinMoveTheSameBlocksWhateverTheOperation) {
  NESTBENCH_REQUIRE_GUEST();
  for (const DiskOperation operation :
       {DiskOperation::kSequentialRead, DiskOperation::kRandomRead, DiskOperation::kSequentialWrite,
        DiskOperation::kRandomWrite, DiskOperation::kWriteFlush}) {
    const Work work{.operation = operation};
    for (const DiskSetup& disk : {Ram(), File()}) {
      const Outcome vm = Perform(true, disk, work);
      const Outcome bare = Perform(false, disk, work);
      ASSERT_EQ(vm.status, abi::PayloadStatus::kOk) << vm.message;
      ASSERT_EQ(bare.status, abi::PayloadStatus::kOk) << bare.message;
      EXPECT_EQ(vm.checksum, bare.checksum) << static_cast<int>(operation);
      EXPECT_NE(vm.checksum, 0U);
    }
  }
}

TEST_F(DiskTest, EveryBlockSizeAndDepthComesThrough) {
  NESTBENCH_REQUIRE_GUEST();
  for (const std::uint64_t block : {512ULL, 4096ULL, 65536ULL, 1ULL << 20}) {
    for (const std::uint64_t depth : {1ULL, 2ULL, 3ULL, 128ULL}) {
      const Work work{.block_bytes = block, .depth = depth, .iterations = 150};
      const Outcome vm = Perform(true, Ram(), work);
      EXPECT_EQ(vm.status, abi::PayloadStatus::kOk) << block << " " << depth << ": " << vm.message;
    }
  }
}

TEST_F(DiskTest, WritesLeaveTheDiskAsItWas) {
  NESTBENCH_REQUIRE_GUEST();
  ASSERT_EQ(Perform(true, File(), {.operation = DiskOperation::kRandomWrite}).status, abi::PayloadStatus::kOk);
  ASSERT_EQ(Perform(false, File(), {.operation = DiskOperation::kRandomWrite}).status, abi::PayloadStatus::kOk);
  for (std::uint64_t sector = 0; sector < kDiskBytes / payload::kDiskSectorBytes; ++sector) {
    std::uint64_t stamp = 0;
    ASSERT_EQ(::pread(memory_.get(), &stamp, sizeof(stamp), static_cast<off_t>(sector * payload::kDiskSectorBytes)),
              static_cast<ssize_t>(sizeof(stamp)));
    ASSERT_EQ(stamp, payload::DiskStamp(sector)) << sector;
  }
}

TEST_F(DiskTest, AReadThatBringsAnotherSectorsDataFails) {
  const std::uint64_t wrong = 1;
  for (std::uint64_t at = 0; at < kDiskBytes; at += 4096) {
    ASSERT_EQ(::pwrite(memory_.get(), &wrong, sizeof(wrong), static_cast<off_t>(at)), 8);
  }
  const Outcome bare = Perform(false, File(), {});
  EXPECT_EQ(bare.status, abi::PayloadStatus::kWrongResult);
  EXPECT_THAT(bare.message, HasSubstr("another sector's data"));
  NESTBENCH_REQUIRE_GUEST();
  const Outcome vm = Perform(true, File(), {});
  EXPECT_EQ(vm.status, abi::PayloadStatus::kWrongResult);
  EXPECT_THAT(vm.message, HasSubstr("another sector's data"));
}

TEST_F(DiskTest, AFileThatIsTooShortIsSaid) {
  ASSERT_EQ(::ftruncate(memory_.get(), kDiskBytes / 2), 0);
  const Outcome bare = Perform(false, File(), {});
  EXPECT_EQ(bare.status, abi::PayloadStatus::kWrongResult);
  EXPECT_THAT(bare.message, HasSubstr("a request failed"));
  NESTBENCH_REQUIRE_GUEST();
  const Outcome vm = Perform(true, File(), {});
  EXPECT_EQ(vm.status, abi::PayloadStatus::kBadRequest);
  EXPECT_THAT(vm.message, HasSubstr("smaller than parameters[2]"));
}

TEST_F(DiskTest, AGuestIsToldOfEveryErrorOfItsDiskAndGoesOnWhenItEnds) {
  NESTBENCH_REQUIRE_GUEST();
  for (const int error : {EIO, ENOSPC}) {
    for (const DiskOperation operation : {DiskOperation::kRandomRead, DiskOperation::kWriteFlush}) {
      DiskSetup disk = Ram();
      disk.faults = std::make_shared<DiskFaults>();
      const Work work{.operation = operation};
      auto substrate = Create(true, disk, work);
      ASSERT_TRUE(substrate) << substrate.error().ToString();
      ASSERT_EQ(Call(**substrate, work, abi::Command::kSetUp).status, abi::PayloadStatus::kOk);
      disk.faults->error_number.store(error);
      const Outcome failed = Call(**substrate, work, abi::Command::kRun);
      EXPECT_EQ(failed.status, abi::PayloadStatus::kWrongResult);
      EXPECT_THAT(failed.message, HasSubstr("a request failed"));
      EXPECT_GT(disk.faults->failed_requests.load(), 0U);
      disk.faults->error_number.store(0);
      ASSERT_EQ(Call(**substrate, work, abi::Command::kSetUp).status, abi::PayloadStatus::kOk);
      EXPECT_EQ(Call(**substrate, work, abi::Command::kRun).status, abi::PayloadStatus::kOk);
    }
  }
}

TEST_F(DiskTest, DoorbellsAsExitsAndAPollingDeviceDoTheSame) {
  NESTBENCH_REQUIRE_GUEST();
  const Work work{.iterations = 100};
  const Outcome plain = Perform(true, Ram(), work);
  ASSERT_EQ(plain.status, abi::PayloadStatus::kOk) << plain.message;
  DiskSetup exits = Ram();
  exits.doorbell_exits = true;
  EXPECT_EQ(Perform(true, exits, work).checksum, plain.checksum);
  DiskSetup polling = Ram();
  polling.polling = true;
  EXPECT_EQ(Perform(true, polling, work).checksum, plain.checksum);
}

TEST_F(DiskTest, AGuestThatNeverLooksSleepsAndIsWoken) {
  NESTBENCH_REQUIRE_GUEST();
  // Without a spin each request that is not there yet costs a sleep: a wake-up that is lost would end in a time-out.
  Work work{.depth = 1, .iterations = 200};
  auto substrate = Create(true, File(), work);
  ASSERT_TRUE(substrate) << substrate.error().ToString();
  abi::MailboxRequest request = {};
  request.magic = abi::kMailboxMagic;
  request.version = abi::kMailboxVersion;
  request.doorbell = doorbell_;
  request.operation = static_cast<std::uint64_t>(work.operation);
  request.iterations = work.iterations;
  request.arena_base = abi::kArenaBase;
  request.arena_bytes = payload::DiskArenaBytes(work.block_bytes, work.depth);
  request.parameters[0] = work.block_bytes;
  request.parameters[1] = work.depth;
  request.parameters[2] = kDiskBytes;
  for (const abi::Command command : {abi::Command::kSetUp, abi::Command::kRun}) {
    request.command = command;
    ++request.sequence;
    auto outcome = (*substrate)->Call(request, 20s);
    ASSERT_TRUE(outcome) << outcome.error().ToString();
    ASSERT_EQ(outcome->end, CallEnd::kRang) << outcome->text;
    auto reply = ReadReply((*substrate)->mailbox(), request);
    ASSERT_TRUE(reply) << reply.error().ToString();
    EXPECT_EQ(reply->status, abi::PayloadStatus::kOk) << reply->message;
  }
}

TEST_F(DiskTest, LatenciesOfAllRequestsAreInTheTable) {
  const Work work{.iterations = 300};
  for (const bool guest : {false, true}) {
    if (guest) NESTBENCH_REQUIRE_GUEST();
    auto substrate = Create(guest, Ram(), work);
    ASSERT_TRUE(substrate) << substrate.error().ToString();
    ASSERT_EQ(Call(**substrate, work, abi::Command::kSetUp).status, abi::PayloadStatus::kOk);
    ASSERT_EQ(Call(**substrate, work, abi::Command::kRun).status, abi::PayloadStatus::kOk);
    abi::LatencyTable table;
    std::memcpy(&table, (*substrate)->arena()->bytes().data(), sizeof(table));
    std::uint64_t count = 0;
    for (const std::uint32_t bucket : table.counts) count += bucket;
    EXPECT_EQ(count, work.iterations);
    EXPECT_GT(table.max_ticks, 0U);
  }
}

TEST_F(DiskTest, WhatIsNoDiskIsSaid) {
  DiskSetup disk = File();
  disk.fd = -1;
  disk.path = "/nonexistent/disk";
  EXPECT_THAT(Perform(false, disk, {}).message, HasSubstr("/nonexistent/disk"));
  NESTBENCH_REQUIRE_GUEST();
  EXPECT_THAT(Perform(true, disk, {}).message, HasSubstr("/nonexistent/disk"));
}

TEST_F(DiskTest, AnArenaThatIsTooSmallIsRefused) {
  const Work work{};
  SubstrateOptions options;
  options.image = image_->bytes();
  options.arena_bytes = payload::kDiskBuffersOffset;
  options.disk = Ram();
  auto substrate = CreateDiskTwin(options);
  ASSERT_TRUE(substrate) << substrate.error().ToString();
  abi::MailboxRequest request = {};
  request.command = abi::Command::kSetUp;
  request.operation = static_cast<std::uint64_t>(work.operation);
  request.iterations = 1;
  request.arena_bytes = options.arena_bytes;
  request.parameters[0] = work.block_bytes;
  request.parameters[1] = work.depth;
  request.parameters[2] = kDiskBytes;
  ASSERT_TRUE((*substrate)->Call(request, 1s));
  auto reply = ReadReply((*substrate)->mailbox(), request);
  ASSERT_TRUE(reply);
  EXPECT_EQ(reply->status, abi::PayloadStatus::kBadRequest);
}

TEST(LatencyTableTest, BucketsHoldWhatFallsIntoThemAndAreThreePerCentWide) {
  std::uint32_t last = 0;
  for (std::uint64_t ticks = 0; ticks < 1ULL << 47; ticks += ticks / 50 + 1) {
    const std::uint32_t index = abi::LatencyTable::IndexOf(ticks);
    ASSERT_GE(index, last);
    ASSERT_LT(index, abi::LatencyTable::kBuckets);
    last = index;
    const std::uint64_t low = abi::LatencyTable::LowestOf(index);
    const std::uint64_t next = abi::LatencyTable::LowestOf(index + 1);
    ASSERT_LE(low, ticks);
    ASSERT_GT(next, ticks);
    ASSERT_LE(static_cast<double>(next - low), std::max(1.0, static_cast<double>(low) / 32 + 1));
  }
  EXPECT_EQ(abi::LatencyTable::IndexOf(~0ULL), abi::LatencyTable::kBuckets - 1);
}

}  // namespace
}  // namespace nestbench::substrates
