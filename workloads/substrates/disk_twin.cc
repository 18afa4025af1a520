// The twin of a guest with a disk: the work of payload/disk_work.h in this process, over io_uring on the same file,
// with what io_uring has to make it fast (a registered file, registered buffers, one system call for all that is
// offered).
#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <sched.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "host_twin.h"
#include "nestbench/payload/disk_work.h"
#include "nestbench/substrates/disk.h"
#include "nestbench/substrates/substrate.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::substrates {
namespace {

using payload::DiskRequestKind;
using vmm::MemoryRegion;
using vmm::UniqueFd;

class UringEngine {
 public:
  static Result<std::unique_ptr<UringEngine>> Open(const DiskSetup& disk, const MemoryRegion& arena) {
    auto engine = std::make_unique<UringEngine>();
    if (disk.kind == DiskKind::kRam) {
      engine->fd_ = UniqueFd(::memfd_create("nestbench-disk", MFD_CLOEXEC));
      if (!engine->fd_.valid()) return Fail(Error::System("memfd_create", errno));
      if (auto stamped = StampDisk(engine->fd_.get(), disk.size_bytes); !stamped) {
        return Fail(std::move(stamped.error()));
      }
    } else {
      auto fd = OpenDisk(disk);
      if (!fd) return Fail(std::move(fd.error()));
      engine->fd_ = std::move(*fd);
    }
    // A completion that was put off interrupts nobody: peeking fetches it. Kernels before 5.19 do not know that.
    constexpr unsigned kCooperative = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;
    int bad = ::io_uring_queue_init(2 * payload::kDiskMaxDepth, &engine->ring_, kCooperative);
    if (bad == -EINVAL) bad = ::io_uring_queue_init(2 * payload::kDiskMaxDepth, &engine->ring_, 0);
    if (bad != 0) {
      return Fail(Error::System("io_uring_setup", -bad, "is io_uring forbidden here (kernel.io_uring_disabled)?"));
    }
    engine->has_ring_ = true;
    const int file = engine->fd_.get();
    engine->has_file_ = ::io_uring_register_files(&engine->ring_, &file, 1) == 0;
    const iovec buffers = {arena.bytes().data(), arena.bytes().size()};
    engine->has_buffers_ = ::io_uring_register_buffers(&engine->ring_, &buffers, 1) == 0;
    return engine;
  }

  UringEngine() = default;
  UringEngine(const UringEngine&) = delete;
  UringEngine& operator=(const UringEngine&) = delete;
  ~UringEngine() {
    if (has_ring_) ::io_uring_queue_exit(&ring_);
  }

  bool Offer(std::uint32_t slot, DiskRequestKind kind, std::uint64_t offset_bytes, std::byte* buffer,
             std::uint64_t size_bytes) {
    io_uring_sqe* sqe = ::io_uring_get_sqe(&ring_);
    if (sqe == nullptr) {
      Publish();
      sqe = ::io_uring_get_sqe(&ring_);
      if (sqe == nullptr) return Give("io_uring has no room for a request");
    }
    const int file = has_file_ ? 0 : fd_.get();
    const auto size = static_cast<unsigned>(size_bytes);
    if (kind == DiskRequestKind::kFlush) {
      ::io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
    } else if (kind == DiskRequestKind::kRead) {
      if (has_buffers_) {
        ::io_uring_prep_read_fixed(sqe, file, buffer, size, offset_bytes, 0);
      } else {
        ::io_uring_prep_read(sqe, file, buffer, size, offset_bytes);
      }
    } else if (has_buffers_) {
      ::io_uring_prep_write_fixed(sqe, file, buffer, size, offset_bytes, 0);
    } else {
      ::io_uring_prep_write(sqe, file, buffer, size, offset_bytes);
    }
    if (has_file_) sqe->flags |= IOSQE_FIXED_FILE;
    ::io_uring_sqe_set_data64(sqe, slot);
    expected_bytes_[slot] = kind == DiskRequestKind::kFlush ? 0 : static_cast<int>(size_bytes);
    ++offered_;
    return true;
  }

  void Publish() {
    while (offered_ != 0) {
      const int count = ::io_uring_submit(&ring_);
      if (count > 0) {
        offered_ -= std::min(offered_, static_cast<unsigned>(count));
      } else if (count != -EINTR && count != -EAGAIN && count != -EBUSY) {
        Give("io_uring refuses to submit");
        return;
      }
    }
  }

  bool Take(payload::DiskCompletion& completion) {
    io_uring_cqe* cqe = nullptr;
    if (::io_uring_peek_cqe(&ring_, &cqe) != 0) return false;
    completion.slot = static_cast<std::uint32_t>(::io_uring_cqe_get_data64(cqe));
    // A short transfer of a file that is long enough is as wrong here as an error.
    completion.failed = completion.slot >= payload::kDiskMaxDepth || cqe->res != expected_bytes_[completion.slot];
    ::io_uring_cqe_seen(&ring_, cqe);
    return true;
  }

  // What the kernel could not do at once, a thread of io_uring does on this CPU: a spin that does not let it run waits
  // for its own end.
  static void Relax() { ::sched_yield(); }
  void Sleep() {
    io_uring_cqe* cqe = nullptr;
    const int bad = ::io_uring_wait_cqe(&ring_, &cqe);
    if (bad != 0 && bad != -EINTR && bad != -EAGAIN) Give("io_uring refuses to wait");
  }

  void Ring() {}
  [[nodiscard]] const char* problem() const { return problem_; }

 private:
  bool Give(const char* problem) {
    problem_ = problem;
    return false;
  }

  UniqueFd fd_;
  io_uring ring_{};
  bool has_ring_ = false;
  bool has_file_ = false;
  bool has_buffers_ = false;
  unsigned offered_ = 0;
  int expected_bytes_[payload::kDiskMaxDepth] = {};
  const char* problem_ = nullptr;
};

class DiskTwin final : public HostTwin {
 public:
  static Result<std::unique_ptr<Substrate>> Create(const SubstrateOptions& options) {
    auto memory = MakeMemory(options.arena_bytes);
    if (!memory) return Fail(std::move(memory.error()));
    auto engine = UringEngine::Open(options.disk, memory->arena);
    if (!engine) return Fail(std::move(engine.error()));
    return std::unique_ptr<Substrate>(new DiskTwin(std::move(*memory), std::move(*engine)));
  }

 private:
  DiskTwin(Memory memory, std::unique_ptr<UringEngine> engine)
      : HostTwin(std::move(memory)), engine_(std::move(engine)) {}

  void SetUp(const payload::Args& args, payload::Result& result) override {
    payload::DiskWork<UringEngine>::Check(args, result);
    if (args.operation == static_cast<std::uint64_t>(payload::DiskOperation::kRing)) {
      result.Fail(payload::Status::kUnsupported, "a process has no doorbell");
    }
  }
  void Run(const payload::Args& args, payload::Result& result) override {
    payload::DiskWork<UringEngine> work(args, *engine_);
    work.Run(args.iterations, result);
  }

  std::unique_ptr<UringEngine> engine_;
};

}  // namespace

Result<std::unique_ptr<Substrate>> CreateDiskTwin(const SubstrateOptions& options) { return DiskTwin::Create(options); }

}  // namespace nestbench::substrates
