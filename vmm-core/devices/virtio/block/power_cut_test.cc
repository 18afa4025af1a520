// Power cuts: a process that drives the disk device on a file is killed while it writes, again and again, and what a
// flush had acknowledged must be in the file, whole.
//
// A killed process takes its own caches with it, and not the kernel's: this shows that the device answers a flush for
// nothing that it has not handed to the kernel. That a flush then reaches the disk is FileDiskTest's.
//
// NESTBENCH_POWER_CUTS: how many cuts, for each kind of disk. NESTBENCH_POWER_CUT_SEED: when they come.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/virtio_blk.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "devices/virtio/block/block.h"
#include "devices/virtio/block/file_disk.h"
#include "devices/virtio/block/power_cut_log.h"
#include "devices/virtio/core/test_driver.h"
#include "nestbench/drivers/power_cut_block.h"

namespace nestbench::vmm::virtio {
namespace {

using power_cut::kBlockBytes;
using power_cut::PowerCutLog;

constexpr std::uint64_t kSlots = 256;
constexpr std::uint32_t kDepth = 16;                       // requests under way
constexpr std::uint64_t kMaxUnacknowledged = kSlots / 2;   // then the writer waits for a flush
constexpr std::uint32_t kFlush = kDepth;                   // cookie of the flush
constexpr std::uint64_t kHeaders = TestDriver::kDataBase;  // 64 bytes for each request: header and status
constexpr std::uint64_t kBlocks = TestDriver::kDataBase + 0x1000;
constexpr std::uint64_t kStatusOffset = 32;

std::uint64_t FromEnvironment(const char* name, std::uint64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

// The process that is killed. Writes and flushes as fast as it can, several at a time, and says on `report` what was
// acknowledged. Exits only when something is wrong.
class Writer {
 public:
  Writer(const std::string& path, bool direct, std::uint64_t first_generation, int report, std::uint32_t seed)
      : block_(Open(path, direct), {}),
        driver_(block_),
        report_(report),
        random_(seed),
        next_(first_generation),
        completed_(first_generation - 1) {
    driver_.Start(driver_.OfferedFeatures());
    for (std::uint32_t i = 0; i < kDepth; ++i) free_.push_back(i);
  }

  [[noreturn]] void Run() {
    for (;;) {
      while (!free_.empty() && next_ - acknowledged_ <= kMaxUnacknowledged) Write();
      if (!flushing_ && (random_() % 8 == 0 || free_.size() == kDepth)) Flush();
      driver_.queue(0).Publish();
      if (driver_.queue(0).KickNeeded()) driver_.Write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
      Take();
    }
  }

 private:
  static std::unique_ptr<Disk> Open(const std::string& path, bool direct) {
    auto disk = FileDisk::Open(path, {.direct = direct});
    if (!disk) ::_exit(3);
    return std::move(*disk);
  }

  void Send(std::uint32_t slot, std::uint32_t type, std::uint64_t sector) {
    const std::uint64_t place = kHeaders + 64ULL * slot;
    const virtio_blk_outhdr header{type, 0, sector};
    std::memcpy(driver_.Host(place), &header, sizeof(header));
    *driver_.Host(place + kStatusOffset) = std::byte{0xEE};
    const std::array<drivers::Buffer, 3> write = {{{place, sizeof(header), false},
                                                   {kBlocks + slot * kBlockBytes, kBlockBytes, false},
                                                   {place + kStatusOffset, 1, true}}};
    const std::array<drivers::Buffer, 2> flush = {{write[0], write[2]}};
    const bool taken = type == VIRTIO_BLK_T_OUT ? driver_.queue(0).Add(write.data(), write.size(), slot)
                                                : driver_.queue(0).Add(flush.data(), flush.size(), slot);
    if (!taken) ::_exit(4);
  }
  void Write() {
    const std::uint32_t slot = free_.back();
    free_.pop_back();
    generations_[slot] = next_;
    const std::uint64_t place = power_cut::SlotOf(next_, kSlots);
    power_cut::FillBlock(reinterpret_cast<std::uint64_t*>(driver_.Host(kBlocks + slot * kBlockBytes)), place, next_);
    Send(slot, VIRTIO_BLK_T_OUT, place * (kBlockBytes / 512));
    is_done_.push_back(false);
    ++next_;
  }
  void Flush() {
    flushing_ = true;
    covered_ = completed_;
    Send(kFlush, VIRTIO_BLK_T_FLUSH, 0);
  }
  void Take() {
    std::uint32_t slot = 0;
    std::uint32_t written_bytes = 0;
    bool any = false;
    while (driver_.queue(0).Take(slot, written_bytes) == drivers::Virtqueue::Taken::kOne) {
      any = true;
      if (*driver_.Host(kHeaders + 64ULL * slot + kStatusOffset) != std::byte{VIRTIO_BLK_S_OK}) ::_exit(5);
      if (slot == kFlush) {
        flushing_ = false;
        acknowledged_ = covered_;
        if (::write(report_, &covered_, sizeof(covered_)) != sizeof(covered_)) ::_exit(6);
        continue;
      }
      free_.push_back(slot);
      is_done_[generations_[slot] - completed_ - 1] = true;
      while (!is_done_.empty() && is_done_.front()) {
        is_done_.pop_front();
        ++completed_;
      }
    }
    if (!any) std::this_thread::yield();
  }

  Block block_;
  TestDriver driver_;
  int report_;
  std::minstd_rand random_;
  std::vector<std::uint32_t> free_;
  std::array<std::uint64_t, kDepth> generations_{};
  std::uint64_t next_;        // write to send
  std::uint64_t completed_;   // it and all before it were answered
  std::deque<bool> is_done_;  // of the writes after that
  bool flushing_ = false;
  std::uint64_t covered_ = 0;  // by the flush that is under way
  std::uint64_t acknowledged_ = completed_;
};

class PowerCutTest : public testing::TestWithParam<bool> {
 protected:
  PowerCutTest() {
    std::string name = testing::TempDir() + "nestbench-power-cut-XXXXXX";
    const int fd = ::mkstemp(name.data());
    if (fd < 0 || ::ftruncate(fd, kSlots * kBlockBytes) != 0) std::abort();
    ::close(fd);
    path_ = name;
  }
  ~PowerCutTest() override { ::unlink(path_.c_str()); }

  [[nodiscard]] std::vector<std::byte> ReadDisk() const {
    std::ifstream file(path_, std::ios::binary);
    std::vector<std::byte> bytes(kSlots * kBlockBytes);
    file.read(reinterpret_cast<char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return bytes;
  }

  // Starts a writer, kills it after a while and enters what it reported. How many flushes it got acknowledged.
  int CutOnce(PowerCutLog& log, std::uint32_t seed, std::chrono::microseconds after) {
    std::array<int, 2> ends{};
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) std::abort();
    const UniqueFd reader(ends[0]);
    UniqueFd writer(ends[1]);
    const pid_t child = ::fork();
    if (child < 0) std::abort();
    if (child == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      Writer(path_, GetParam(), log.first_generation(), writer.get(), seed).Run();
    }
    writer.Reset();
    std::this_thread::sleep_for(after);
    ::kill(child, SIGKILL);
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) << "the writer ended by itself: " << status;
    int flushes = 0;
    std::uint64_t generation = 0;
    while (::read(reader.get(), &generation, sizeof(generation)) == sizeof(generation)) {
      log.Acknowledge(generation);
      ++flushes;
    }
    return flushes;
  }

  std::string path_;
};

TEST_P(PowerCutTest, EveryAcknowledgedWriteIsThereAndWhole) {
  const std::uint64_t cuts = FromEnvironment("NESTBENCH_POWER_CUTS", 30);
  const auto seed = static_cast<std::uint32_t>(FromEnvironment("NESTBENCH_POWER_CUT_SEED", 1));
  PowerCutLog log(kSlots, kMaxUnacknowledged + kDepth);
  std::minstd_rand random(seed);
  std::uint64_t flushes = 0;
  std::uint64_t newer = 0;
  for (std::uint64_t cut = 0; cut < cuts; ++cut) {
    flushes += static_cast<std::uint64_t>(
        CutOnce(log, static_cast<std::uint32_t>(random()), std::chrono::microseconds(1000 + random() % 30'000)));
    const PowerCutLog::Verdict verdict = log.Check(ReadDisk());
    newer += verdict.newer_blocks;
    for (const std::string& finding : verdict.findings) ADD_FAILURE() << "cut " << cut << ": " << finding;
    if (HasFailure()) break;
  }
  // Else it showed nothing.
  EXPECT_GT(log.acknowledged(), kSlots) << flushes << " flushes";
  std::printf("%llu cuts: %llu flushes acknowledged, %llu writes; %llu blocks were newer than the last flush\n",
              static_cast<unsigned long long>(cuts), static_cast<unsigned long long>(flushes),
              static_cast<unsigned long long>(log.acknowledged()), static_cast<unsigned long long>(newer));
}

std::string KindName(const testing::TestParamInfo<bool>& info) { return info.param ? "Direct" : "Buffered"; }
INSTANTIATE_TEST_SUITE_P(Disks, PowerCutTest, testing::Values(false, true), KindName);

// The book itself: what it must find.
class PowerCutLogTest : public testing::Test {
 protected:
  void Write(std::uint64_t generation) {
    const std::uint64_t slot = power_cut::SlotOf(generation, kFew);
    power_cut::FillBlock(disk_.data() + slot * power_cut::kBlockWords, slot, generation);
  }
  [[nodiscard]] std::size_t Findings() const { return log_.Check(std::as_bytes(std::span(disk_))).findings.size(); }

  static constexpr std::uint64_t kFew = 8;
  PowerCutLog log_{kFew, 4};
  std::vector<std::uint64_t> disk_ = std::vector<std::uint64_t>(kFew * power_cut::kBlockWords);
};

TEST_F(PowerCutLogTest, FindsLostTornAndForeignBlocks) {
  EXPECT_EQ(Findings(), 0U);  // an empty disk of which nothing was promised
  for (std::uint64_t generation = 1; generation <= 20; ++generation) Write(generation);
  log_.Acknowledge(20);
  EXPECT_EQ(Findings(), 0U);
  log_.Acknowledge(21);
  EXPECT_EQ(Findings(), 1U);  // lost
  Write(21);
  Write(22);
  EXPECT_EQ(Findings(), 0U);  // newer than promised
  Write(26);
  EXPECT_EQ(Findings(), 1U);  // newer than it can be
  Write(18);
  Write(22);
  EXPECT_EQ(Findings(), 0U);
  disk_[power_cut::SlotOf(20, kFew) * power_cut::kBlockWords + 300] ^= 1;
  EXPECT_EQ(Findings(), 1U);  // torn
  Write(20);
  std::ranges::copy_n(disk_.begin(), power_cut::kBlockWords, disk_.begin() + power_cut::kBlockWords);
  EXPECT_EQ(Findings(), 1U);  // somebody else's
}

}  // namespace
}  // namespace nestbench::vmm::virtio
