#include "devices/virtio/block/block.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/virtio_blk.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <string>

#include "devices/virtio/block/faulting_disk.h"
#include "devices/virtio/block/file_disk.h"
#include "devices/virtio/block/ram_disk.h"
#include "devices/virtio/core/test_driver.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::uint64_t kHeader = TestDriver::kDataBase;
constexpr std::uint64_t kStatus = TestDriver::kDataBase + 0x100;
constexpr std::uint64_t kData = TestDriver::kDataBase + 0x1000;

// A file that is there for one test.
class ScratchFile {
 public:
  explicit ScratchFile(std::uint64_t size_bytes) {
    std::string name = testing::TempDir() + "nestbench-disk-XXXXXX";
    const int fd = ::mkstemp(name.data());
    if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(size_bytes)) != 0) std::abort();
    ::close(fd);
    path_ = name;
  }
  ~ScratchFile() { ::unlink(path_.c_str()); }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class BlockDriver : public TestDriver {
 public:
  explicit BlockDriver(Function& function) : TestDriver(function) {}

  // Sends one request and returns its status; 0xFF when none came.
  std::uint8_t Ask(std::uint32_t type, std::uint64_t sector, std::vector<drivers::Buffer> data) {
    const virtio_blk_outhdr header{type, 0, sector};
    std::memcpy(Host(kHeader), &header, sizeof(header));
    *Host(kStatus) = std::byte{0xEE};
    std::vector<drivers::Buffer> chain = {{kHeader, sizeof(header), false}};
    chain.insert(chain.end(), data.begin(), data.end());
    chain.push_back({kStatus, 1, true});
    Offer(0, std::move(chain));
    const Done done = Await(0);
    written_bytes = done.written_bytes;
    return done.came ? static_cast<std::uint8_t>(*Host(kStatus)) : 0xFF;
  }
  std::uint8_t WriteSector(std::uint64_t sector, std::byte value, std::uint32_t size_bytes = 4096) {
    std::memset(Host(kData), static_cast<int>(value), size_bytes);
    return Ask(VIRTIO_BLK_T_OUT, sector, {{kData, size_bytes, false}});
  }
  std::uint8_t ReadSector(std::uint64_t sector, std::uint32_t size_bytes = 4096) {
    std::memset(Host(kData), 0xCC, size_bytes);
    return Ask(VIRTIO_BLK_T_IN, sector, {{kData, size_bytes, true}});
  }
  [[nodiscard]] std::byte DataAt(std::uint64_t offset) { return *Host(kData + offset); }

  std::uint32_t written_bytes = 0;
};

std::unique_ptr<Disk> OpenFile(const std::string& path, const FileDiskOptions& options) {
  auto disk = FileDisk::Open(path, options);
  EXPECT_TRUE(disk) << disk.error().ToString();
  return disk ? std::move(*disk) : nullptr;
}

enum class Kind { kRam, kBuffered, kDirect };

class EveryDisk : public testing::TestWithParam<Kind> {
 protected:
  static constexpr std::uint64_t kBytes = 4ULL << 20;
  std::unique_ptr<Disk> Make() {
    if (GetParam() == Kind::kRam) return std::move(RamDisk::Create(kBytes).value());
    return OpenFile(file_.path(), {.direct = GetParam() == Kind::kDirect});
  }
  ScratchFile file_{kBytes};
  Block block_{Make(), {}};
  BlockDriver driver_{block_};
};

TEST_P(EveryDisk, GivesBackWhatWasWritten) {
  driver_.Start(driver_.OfferedFeatures());
  for (std::uint64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(driver_.WriteSector(i * 64, static_cast<std::byte>(i + 1)), VIRTIO_BLK_S_OK);
    EXPECT_EQ(driver_.written_bytes, 1U);
  }
  EXPECT_EQ(driver_.Ask(VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_OK);
  for (std::uint64_t i = 0; i < 16; ++i) {
    EXPECT_EQ(driver_.ReadSector(i * 64), VIRTIO_BLK_S_OK);
    EXPECT_EQ(driver_.written_bytes, 4097U);
    EXPECT_EQ(driver_.DataAt(0), static_cast<std::byte>(i + 1));
    EXPECT_EQ(driver_.DataAt(4095), static_cast<std::byte>(i + 1));
  }
  EXPECT_EQ(block_.counters().requests, 33U);
  EXPECT_EQ(block_.counters().flushes, 1U);
  EXPECT_EQ(block_.counters().errors, 0U);
}

TEST_P(EveryDisk, TakesBuffersInOddPieces) {
  driver_.Start(driver_.OfferedFeatures());
  ASSERT_EQ(driver_.WriteSector(0, std::byte{7}, 8192), VIRTIO_BLK_S_OK);
  std::memset(driver_.Host(kData), 0, 0x4000);
  ASSERT_EQ(driver_.Ask(VIRTIO_BLK_T_IN, 0, {{kData + 1, 1000, true}, {kData + 0x1003, 7192, true}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(driver_.DataAt(0), std::byte{0});
  EXPECT_EQ(driver_.DataAt(1), std::byte{7});
  EXPECT_EQ(driver_.DataAt(1000), std::byte{7});
  EXPECT_EQ(driver_.DataAt(1001), std::byte{0});
  EXPECT_EQ(driver_.DataAt(0x1003 + 7191), std::byte{7});
  EXPECT_EQ(driver_.DataAt(0x1003 + 7192), std::byte{0});
}

TEST_P(EveryDisk, MakesZeroes) {
  driver_.Start(driver_.OfferedFeatures());
  for (const std::uint32_t type : {VIRTIO_BLK_T_WRITE_ZEROES, VIRTIO_BLK_T_DISCARD}) {
    ASSERT_EQ(driver_.WriteSector(0, std::byte{9}, 0x4000), VIRTIO_BLK_S_OK);
    const virtio_blk_discard_write_zeroes range{8, 8, 0};
    std::memcpy(driver_.Host(kData), &range, sizeof(range));
    ASSERT_EQ(driver_.Ask(type, 0, {{kData, sizeof(range), false}}), VIRTIO_BLK_S_OK);
    ASSERT_EQ(driver_.ReadSector(0, 0x4000), VIRTIO_BLK_S_OK);
    EXPECT_EQ(driver_.DataAt(0xFFF), std::byte{9});
    EXPECT_EQ(driver_.DataAt(0x1000), std::byte{0});
    EXPECT_EQ(driver_.DataAt(0x1FFF), std::byte{0});
    EXPECT_EQ(driver_.DataAt(0x2000), std::byte{9});
  }
}

TEST_P(EveryDisk, RefusesWhatLiesBehindItsEnd) {
  driver_.Start(driver_.OfferedFeatures());
  const std::uint64_t capacity = kBytes / 512;
  EXPECT_EQ(driver_.ReadSector(capacity - 8), VIRTIO_BLK_S_OK);
  EXPECT_EQ(driver_.ReadSector(capacity), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(driver_.ReadSector(capacity - 8, 8192), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(driver_.WriteSector(~0ULL / 512, std::byte{1}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(driver_.ReadSector(0, 511), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(driver_.Ask(99, 0, {}), VIRTIO_BLK_S_UNSUPP);
  const virtio_blk_discard_write_zeroes range{capacity - 1, 16, 0};
  std::memcpy(driver_.Host(kData), &range, sizeof(range));
  EXPECT_EQ(driver_.Ask(VIRTIO_BLK_T_DISCARD, 0, {{kData, sizeof(range), false}}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(block_.counters().errors, 6U);
}

TEST_P(EveryDisk, SurvivesAResetWithRequestsUnderWay) {
  const virtio_blk_outhdr header{VIRTIO_BLK_T_IN, 0, 0};
  for (int round = 0; round < 20; ++round) {
    driver_.Start(driver_.OfferedFeatures());
    std::memcpy(driver_.Host(kHeader), &header, sizeof(header));
    for (std::uint32_t i = 0; i < 16; ++i) {
      driver_.Offer(0, {{kHeader, sizeof(header), false}, {kData + i * 0x10000ULL, 0x10000, true}, {kStatus, 1, true}},
                    i);
    }
  }
  driver_.Start(driver_.OfferedFeatures());
  EXPECT_EQ(driver_.ReadSector(0), VIRTIO_BLK_S_OK);
}

std::string KindName(const testing::TestParamInfo<Kind>& info) {
  constexpr std::array kNames = {"Ram", "Buffered", "Direct"};
  return kNames[static_cast<std::size_t>(info.param)];
}
INSTANTIATE_TEST_SUITE_P(Disks, EveryDisk, testing::Values(Kind::kRam, Kind::kBuffered, Kind::kDirect), KindName);

TEST(BlockTest, TellsItsSizeAndName) {
  Block block(std::move(RamDisk::Create(1 << 20).value()), {.queue_count = 2, .serial = "disk-1"});
  BlockDriver driver(block);
  EXPECT_EQ(driver.Read(VIRTIO_MMIO_CONFIG), (1U << 20) / 512);
  EXPECT_NE(driver.OfferedFeatures() & Feature(VIRTIO_BLK_F_MQ), 0U);
  driver.Start(driver.OfferedFeatures());
  ASSERT_EQ(driver.Ask(VIRTIO_BLK_T_GET_ID, 0, {{kData, 20, true}}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(std::memcmp(driver.Host(kData), "disk-1\0", 7), 0);
  EXPECT_EQ(driver.written_bytes, 21U);
}

TEST(BlockTest, AReadOnlyDiskRefusesToChange) {
  Block block(std::move(RamDisk::Create(1 << 20, true).value()), {});
  BlockDriver driver(block);
  EXPECT_NE(driver.OfferedFeatures() & Feature(VIRTIO_BLK_F_RO), 0U);
  driver.Start(driver.OfferedFeatures());
  EXPECT_EQ(driver.WriteSector(0, std::byte{1}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(driver.ReadSector(0), VIRTIO_BLK_S_OK);
  EXPECT_EQ(driver.DataAt(0), std::byte{0});
}

// Notes how each request came.
class NotingDisk final : public Disk {
 public:
  struct Note {
    DiskOperation operation;
    bool durable;
    bool operator==(const Note&) const = default;
  };
  explicit NotingDisk(std::vector<Note>& notes) : notes_(notes) {}
  [[nodiscard]] DiskLimits limits() const override { return disk_->limits(); }
  void Submit(DiskRequest& request) override {
    notes_.push_back({request.operation, request.durable});
    disk_->Submit(request);
  }
  void Collect(std::vector<DiskRequest*>& done) override { disk_->Collect(done); }
  void Drain(std::vector<DiskRequest*>& done) override { disk_->Drain(done); }

 private:
  std::unique_ptr<Disk> disk_ = std::move(RamDisk::Create(1 << 20).value());
  std::vector<Note>& notes_;
};

// Section "Device Operation": without a flush to ask for, or with the cache switched off, an answer to a write is a
// promise; and zeroes are a write.
TEST(BlockTest, WritesThroughWhereTheDriverCannotOrWillNotFlush) {
  std::vector<NotingDisk::Note> notes;
  Block block(std::make_unique<NotingDisk>(notes), {});
  BlockDriver driver(block);
  const auto write_all = [&] {
    notes.clear();
    const virtio_blk_discard_write_zeroes range{8, 8, 0};
    ASSERT_EQ(driver.WriteSector(0, std::byte{1}), VIRTIO_BLK_S_OK);
    std::memcpy(driver.Host(kData), &range, sizeof(range));
    ASSERT_EQ(driver.Ask(VIRTIO_BLK_T_WRITE_ZEROES, 0, {{kData, sizeof(range), false}}), VIRTIO_BLK_S_OK);
    ASSERT_EQ(driver.ReadSector(0), VIRTIO_BLK_S_OK);
  };
  const auto expected = [](bool durable) {
    return std::vector<NotingDisk::Note>{
        {DiskOperation::kWrite, durable}, {DiskOperation::kWriteZeroes, durable}, {DiskOperation::kRead, false}};
  };
  constexpr std::uint64_t kWce = offsetof(virtio_blk_config, wce);
  const std::byte off{0};
  driver.Start(driver.OfferedFeatures());
  write_all();
  EXPECT_EQ(notes, expected(false));
  EXPECT_EQ(driver.transport().Write(VIRTIO_MMIO_CONFIG + kWce, std::span(&off, 1)), AccessStatus::kOk);
  write_all();
  EXPECT_EQ(notes, expected(true));
  driver.Start(TestDriver::kDefaultFeatures);
  write_all();
  EXPECT_EQ(notes, expected(true));
  driver.Start(TestDriver::kDefaultFeatures | Feature(VIRTIO_BLK_F_FLUSH));
  write_all();
  EXPECT_EQ(notes, expected(false));
}

TEST(BlockTest, PassesErrorsOnAndRecovers) {
  auto faulting = std::make_unique<FaultingDisk>(std::move(RamDisk::Create(1 << 20).value()));
  FaultingDisk& disk = *faulting;
  Block block(std::move(faulting), {});
  BlockDriver driver(block);
  driver.Start(driver.OfferedFeatures());
  disk.FailWrites(ENOSPC);
  EXPECT_EQ(driver.WriteSector(0, std::byte{1}), VIRTIO_BLK_S_IOERR);
  disk.FailFlushes(EIO);
  EXPECT_EQ(driver.Ask(VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(driver.ReadSector(0), VIRTIO_BLK_S_OK);
  disk.FailWrites(0);
  EXPECT_EQ(driver.WriteSector(0, std::byte{1}), VIRTIO_BLK_S_OK);
  EXPECT_EQ(disk.failed_requests(), 2U);
}

// The file behind the disk is cut while the guest uses it: what is gone cannot be read, and that is what it is told.
TEST(BlockTest, AFileThatBecameShorterIsAnError) {
  const ScratchFile file(1 << 20);
  Block block(OpenFile(file.path(), {}), {});
  BlockDriver driver(block);
  driver.Start(driver.OfferedFeatures());
  ASSERT_EQ(driver.WriteSector(0, std::byte{5}, 8192), VIRTIO_BLK_S_OK);
  ASSERT_EQ(::truncate(file.path().c_str(), 6144), 0);
  EXPECT_EQ(driver.ReadSector(0, 8192), VIRTIO_BLK_S_IOERR);
  EXPECT_EQ(driver.ReadSector(0, 4096), VIRTIO_BLK_S_OK);
  EXPECT_EQ(driver.DataAt(0), std::byte{5});
}

// Never finishes anything by itself.
class StuckDisk final : public Disk {
 public:
  [[nodiscard]] DiskLimits limits() const override { return {1 << 20, 512, false}; }
  void Submit(DiskRequest& request) override {
    waiting_.push_back(&request);
    submitted.fetch_add(1);
  }
  void Collect(std::vector<DiskRequest*>& /*done*/) override {}
  void Drain(std::vector<DiskRequest*>& done) override {
    done.insert(done.end(), waiting_.begin(), waiting_.end());
    waiting_.clear();
    ++drains;
  }
  std::atomic<int> submitted{0};
  std::atomic<int> drains{0};

 private:
  std::vector<DiskRequest*> waiting_;
};

// A kernel that is still reading into guest memory would write there after the driver took it back.
TEST(BlockTest, AResetWaitsForIo) {
  auto stuck = std::make_unique<StuckDisk>();
  StuckDisk& disk = *stuck;
  Block block(std::move(stuck), {});
  BlockDriver driver(block);
  driver.Start(driver.OfferedFeatures());
  const int before = disk.drains;
  const virtio_blk_outhdr header{VIRTIO_BLK_T_IN, 0, 0};
  std::memcpy(driver.Host(kHeader), &header, sizeof(header));
  driver.Offer(0, {{kHeader, sizeof(header), false}, {kData, 512, true}, {kStatus, 1, true}});
  ASSERT_TRUE(Eventually([&] { return disk.submitted == 1; }));
  driver.Write(VIRTIO_MMIO_STATUS, 0);
  EXPECT_EQ(disk.drains, before + 1);
}

TEST(BlockTest, BreaksWithoutHeaderOrStatus) {
  for (const std::vector<drivers::Buffer>& bad :
       {std::vector<drivers::Buffer>{{kHeader, 15, false}, {kStatus, 1, true}},
        std::vector<drivers::Buffer>{{kHeader, 16, false}}}) {
    Block block(std::move(RamDisk::Create(1 << 20).value()), {});
    BlockDriver driver(block);
    driver.Start(driver.OfferedFeatures());
    driver.Offer(0, bad);
    EXPECT_TRUE(driver.BrokeWith(QueueFault::kBadRequest));
  }
}

TEST(BlockTest, APollingDeviceAnswersWithoutDoorbells) {
  Block block(std::move(RamDisk::Create(1 << 20).value()), {.polling = {PollPolicy::kAlways}});
  BlockDriver driver(block);
  driver.Start(driver.OfferedFeatures());
  for (int i = 0; i < 100; ++i) ASSERT_EQ(driver.ReadSector(0), VIRTIO_BLK_S_OK);
  EXPECT_LE(driver.transport().counters().doorbell_exits, 2U);
}

TEST(FileDiskTest, OpensOnlyWhatIsADisk) {
  const auto missing = FileDisk::Open("/no/such/file", {});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().error_number, ENOENT);
  EXPECT_EQ(FileDisk::Open("/dev/null", {}).error().kind, ErrorKind::kInvalidArgument);
  const ScratchFile tiny(100);
  EXPECT_EQ(FileDisk::Open(tiny.path(), {}).error().kind, ErrorKind::kInvalidArgument);
}

// How much of `path` the kernel has not written to its device yet, as smaps counts a mapping of it.
std::uint64_t UnwrittenKib(const std::string& path, std::span<const std::byte> mapping) {
  // Pages count once they are mapped.
  std::byte sum{0};
  for (std::size_t offset = 0; offset < mapping.size(); offset += 4096) sum ^= mapping[offset];
  volatile std::byte kept = sum;
  (void)kept;
  std::ifstream smaps("/proc/self/smaps");
  const std::string name = path.substr(path.rfind('/') + 1);
  std::uint64_t kib = 0;
  bool inside = false;
  for (std::string line; std::getline(smaps, line);) {
    const auto colon = line.find(": ");
    if (line.find(name) != std::string::npos) {
      inside = true;
    } else if (colon == std::string::npos) {
      inside = false;
    } else if (inside && line.find("_Dirty:") != std::string::npos) {
      kib += std::stoull(line.substr(line.find_first_of("0123456789")));
    }
  }
  return kib;
}

// What a killed process cannot show, because the kernel's cache survives it: a flush is an fsync.
TEST(FileDiskTest, AFlushReachesTheDevice) {
  constexpr std::size_t kBytes = 1 << 20;
  const ScratchFile file(kBytes);
  const UniqueFd fd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
  void* const address = ::mmap(nullptr, kBytes, PROT_READ, MAP_SHARED, fd.get(), 0);
  ASSERT_NE(address, MAP_FAILED);
  const std::span mapping(static_cast<const std::byte*>(address), kBytes);
  Block block(OpenFile(file.path(), {}), {});
  BlockDriver driver(block);
  driver.Start(driver.OfferedFeatures());
  ASSERT_EQ(driver.WriteSector(0, std::byte{5}, 65536), VIRTIO_BLK_S_OK);
  const std::uint64_t written = UnwrittenKib(file.path(), mapping);
  ASSERT_EQ(driver.Ask(VIRTIO_BLK_T_FLUSH, 0, {}), VIRTIO_BLK_S_OK);
  const std::uint64_t flushed = UnwrittenKib(file.path(), mapping);
  ::munmap(address, kBytes);
  if (written == 0) GTEST_SKIP() << "the file system of " << file.path() << " does not say what is unwritten";
  EXPECT_EQ(flushed, 0U);
}

// One request for each sector of `bytes`, which stay where they are.
std::vector<DiskRequest> WritesOf(std::span<std::byte> bytes) {
  constexpr std::size_t kSize = 512;
  std::vector<DiskRequest> requests(bytes.size() / kSize);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i] = {.operation = DiskOperation::kWrite,
                   .offset_bytes = i * kSize,
                   .size_bytes = kSize,
                   .buffers = {{bytes.data() + i * kSize, kSize}},
                   .cookie = i};
  }
  return requests;
}

// More requests than the ring has room for wait for their turn.
TEST(FileDiskTest, DoesMoreRequestsThanItsDepth) {
  const ScratchFile file(1 << 20);
  auto disk = FileDisk::Open(file.path(), {.queue_depth = 2});
  ASSERT_TRUE(disk);
  std::vector<std::byte> bytes(64 * 512, std::byte{3});
  std::vector<DiskRequest> requests = WritesOf(bytes);
  for (DiskRequest& request : requests) (*disk)->Submit(request);
  (*disk)->Start();
  std::vector<DiskRequest*> done;
  (*disk)->Drain(done);
  EXPECT_EQ(done.size(), requests.size());
  for (const DiskRequest* request : done) EXPECT_EQ(request->error_number, 0);
  std::ifstream back(file.path(), std::ios::binary);
  std::vector<char> read(bytes.size());
  back.read(read.data(), static_cast<std::streamsize>(read.size()));
  EXPECT_EQ(std::memcmp(read.data(), bytes.data(), bytes.size()), 0);
}

// Neither a request that the kernel refuses to take, nor one behind it, waits for ever or is lost.
TEST(FileDiskTest, FailsWhatTheKernelNoLongerTakes) {
  const ScratchFile file(1 << 20);
  auto disk = FileDisk::Open(file.path(), {.queue_depth = 2});
  ASSERT_TRUE(disk);
  const UniqueFd other(::open("/dev/null", O_RDWR | O_CLOEXEC));
  ASSERT_GE(::dup2(other.get(), (*disk)->completion_fd()), 0);  // no ring is behind the descriptor any more
  std::vector<std::byte> bytes(8 * 512);
  std::vector<DiskRequest> requests = WritesOf(bytes);
  for (DiskRequest& request : requests) (*disk)->Submit(request);
  (*disk)->Start();
  std::vector<DiskRequest*> done;
  (*disk)->Drain(done);
  EXPECT_EQ(done.size(), requests.size());
  for (const DiskRequest* request : done) EXPECT_EQ(request->error_number, EIO);
  done.clear();
  (*disk)->Submit(requests[0]);
  (*disk)->Collect(done);
  ASSERT_EQ(done.size(), 1U);
  EXPECT_EQ(done[0]->error_number, EIO);
}

TEST(FileDiskTest, UsesRegisteredFileAndBuffers) {
  const ScratchFile file(1 << 20);
  std::vector<std::byte> memory(8192, std::byte{4});
  const iovec whole{memory.data(), memory.size()};
  auto disk = FileDisk::Open(file.path(), {.registered_buffers = std::span(&whole, 1)});
  ASSERT_TRUE(disk);
  EXPECT_TRUE((*disk)->has_registered_file());
  EXPECT_TRUE((*disk)->has_registered_buffers());
  DiskRequest write{.operation = DiskOperation::kWrite,
                    .offset_bytes = 0,
                    .size_bytes = 4096,
                    .buffers = {{memory.data(), 4096}},
                    .durable = true};
  DiskRequest read{.operation = DiskOperation::kRead,
                   .offset_bytes = 0,
                   .size_bytes = 4096,
                   .buffers = {{memory.data() + 4096, 4096}}};
  std::vector<DiskRequest*> done;
  (*disk)->Submit(write);
  (*disk)->Drain(done);
  std::ranges::fill(memory, std::byte{0});
  (*disk)->Submit(read);
  (*disk)->Drain(done);
  ASSERT_EQ(done.size(), 2U);
  EXPECT_EQ(write.error_number, 0);
  EXPECT_EQ(read.error_number, 0);
  EXPECT_EQ(memory[4096], std::byte{4});
  EXPECT_EQ(memory[0], std::byte{0});
}

}  // namespace
}  // namespace nestbench::vmm::virtio
