#include "devices/virtio/block/file_disk.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <utility>

#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::size_t kZeroesBytes = 64 * 1024;
constexpr std::size_t kZeroBuffersPerWrite = 16;
constexpr auto kPollInterval = std::chrono::milliseconds(1);
constexpr std::size_t kRegisteredBufferMaxBytes = 1ULL << 30;  // io_uring_register(2), IORING_REGISTER_BUFFERS

struct FreeDeleter {
  void operator()(void* pointer) const { std::free(pointer); }
};
using AlignedBytes = std::unique_ptr<std::byte, FreeDeleter>;

AlignedBytes AllocateAligned(std::size_t alignment, std::size_t size_bytes) {
  const std::size_t rounded = (size_bytes + alignment - 1) / alignment * alignment;
  return AlignedBytes(static_cast<std::byte*>(std::aligned_alloc(alignment, rounded)));
}

// What is left of a request, and the memory that it uses meanwhile.
struct Progress {
  DiskRequest* request = nullptr;
  std::vector<iovec> rest;
  std::size_t rest_first = 0;
  std::uint64_t done_bytes = 0;
  AlignedBytes bounce;      // instead of buffers that O_DIRECT does not take
  bool by_writing = false;  // zeroes that fallocate refused to make
  bool syncing = false;     // zeroes that it made, on their way to stable storage

  [[nodiscard]] std::span<iovec> Left() { return std::span(rest).subspan(rest_first); }

  void Advance(std::size_t bytes) {
    done_bytes += bytes;
    while (bytes != 0) {
      iovec& first = rest[rest_first];
      const std::size_t part = std::min(bytes, first.iov_len);
      first.iov_base = static_cast<std::byte*>(first.iov_base) + part;
      first.iov_len -= part;
      bytes -= part;
      if (first.iov_len == 0) ++rest_first;
    }
  }
};

struct Alignment {
  std::uint32_t memory_bytes = 1;
  std::uint32_t offset_bytes = kSectorBytes;
};

// What O_DIRECT wants on this file.
Alignment DirectAlignment(int fd, const struct stat& info) {
  if (S_ISBLK(info.st_mode)) {
    int logical = 0;
    if (::ioctl(fd, BLKSSZGET, &logical) == 0 && logical > 0) {
      return {static_cast<std::uint32_t>(logical), static_cast<std::uint32_t>(logical)};
    }
  }
#ifdef STATX_DIOALIGN
  struct statx more {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &more) == 0 && (more.stx_mask & STATX_DIOALIGN) != 0 &&
      more.stx_dio_mem_align != 0) {
    return {more.stx_dio_mem_align, std::max<std::uint32_t>(more.stx_dio_offset_align, kSectorBytes)};
  }
#endif
  // Kernels before 6.1 do not say; a block of the file system satisfies all of them.
  const auto block = static_cast<std::uint32_t>(std::clamp<long>(info.st_blksize, kSectorBytes, 4096));
  return {block, block};
}

}  // namespace

struct FileDisk::State {
  UniqueFd fd;
  DiskLimits limits;
  bool direct = false;
  std::uint32_t memory_align = 1;
  io_uring ring{};
  bool ring_made = false;
  bool registered_file = false;
  std::vector<iovec> registered_buffers;
  std::vector<Progress> slots;
  std::vector<std::size_t> free_slots;
  std::deque<DiskRequest*> waiting;  // for a slot
  std::vector<DiskRequest*> finished;
  std::deque<std::size_t> unsubmitted;  // slots whose entries the kernel has not taken yet, oldest first
  bool refused = false;                 // the kernel takes no entries any more
  AlignedBytes zeroes;

  ~State() {
    if (ring_made) ::io_uring_queue_exit(&ring);
  }

  [[nodiscard]] bool Takes(std::span<const iovec> buffers) const {
    if (!direct) return true;
    return std::ranges::all_of(buffers, [this](const iovec& buffer) {
      return (reinterpret_cast<std::uintptr_t>(buffer.iov_base) | buffer.iov_len) % memory_align == 0;
    });
  }

  void Finish(std::size_t slot, int error_number) {
    Progress& progress = slots[slot];
    DiskRequest& request = *progress.request;
    request.error_number = error_number;
    if (progress.bounce != nullptr && request.operation == DiskOperation::kRead && error_number == 0) {
      const std::byte* source = progress.bounce.get();
      for (const iovec& buffer : request.buffers) {
        std::memcpy(buffer.iov_base, source, buffer.iov_len);
        source += buffer.iov_len;
      }
    }
    finished.push_back(&request);
    progress.request = nullptr;
    progress.bounce.reset();
    free_slots.push_back(slot);
  }

  // Fills a slot with a request; false when it failed before it began.
  bool Begin(std::size_t slot, DiskRequest& request) {
    Progress& progress = slots[slot];
    progress.request = &request;
    progress.rest.clear();
    progress.rest_first = 0;
    progress.done_bytes = 0;
    progress.by_writing = false;
    progress.syncing = false;
    const bool transfers = request.operation == DiskOperation::kRead || request.operation == DiskOperation::kWrite;
    if (!transfers) return true;
    if (Takes(request.buffers)) {
      progress.rest.assign(request.buffers.begin(), request.buffers.end());
      return true;
    }
    progress.bounce = AllocateAligned(memory_align, request.size_bytes);
    if (progress.bounce == nullptr) {
      Finish(slot, ENOMEM);
      return false;
    }
    if (request.operation == DiskOperation::kWrite) {
      std::byte* destination = progress.bounce.get();
      for (const iovec& buffer : request.buffers) {
        std::memcpy(destination, buffer.iov_base, buffer.iov_len);
        destination += buffer.iov_len;
      }
    }
    progress.rest.push_back({progress.bounce.get(), request.size_bytes});
    return true;
  }

  // The registered buffer that holds all of `buffer`; -1 when none does.
  [[nodiscard]] int RegisteredIndex(const iovec& buffer) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(buffer.iov_base);
    for (std::size_t i = 0; i < registered_buffers.size(); ++i) {
      const auto first = reinterpret_cast<std::uintptr_t>(registered_buffers[i].iov_base);
      if (begin >= first && begin - first <= registered_buffers[i].iov_len &&
          buffer.iov_len <= registered_buffers[i].iov_len - (begin - first)) {
        return static_cast<int>(i);
      }
    }
    return -1;
  }

  void PrepareTransfer(io_uring_sqe* sqe, int file, Progress& progress, bool is_write) {
    const auto left = progress.Left();
    const std::uint64_t offset = progress.request->offset_bytes + progress.done_bytes;
    const int registered = left.size() == 1 ? RegisteredIndex(left[0]) : -1;
    const int flags = progress.request->durable ? RWF_DSYNC : 0;
    if (registered >= 0) {
      const auto size = static_cast<unsigned>(left[0].iov_len);
      if (is_write) {
        ::io_uring_prep_write_fixed(sqe, file, left[0].iov_base, size, offset, registered);
      } else {
        ::io_uring_prep_read_fixed(sqe, file, left[0].iov_base, size, offset, registered);
      }
      sqe->rw_flags = flags;
    } else if (is_write) {
      ::io_uring_prep_writev2(sqe, file, left.data(), static_cast<unsigned>(left.size()), offset, flags);
    } else {
      ::io_uring_prep_readv(sqe, file, left.data(), static_cast<unsigned>(left.size()), offset);
    }
  }

  void RefillZeroes(Progress& progress) {
    progress.rest.clear();
    progress.rest_first = 0;
    std::uint64_t left = progress.request->size_bytes - progress.done_bytes;
    while (left != 0 && progress.rest.size() < kZeroBuffersPerWrite) {
      const std::size_t part = std::min<std::uint64_t>(left, kZeroesBytes);
      progress.rest.push_back({zeroes.get(), part});
      left -= part;
    }
  }

  void Queue(std::size_t slot) {
    io_uring_sqe* sqe = nullptr;
    // As many entries as slots, so a full queue only means that it has not been handed over yet.
    while (!refused && (sqe = ::io_uring_get_sqe(&ring)) == nullptr) SubmitAll();
    if (refused) return Finish(slot, EIO);
    Progress& progress = slots[slot];
    const DiskRequest& request = *progress.request;
    const int file = registered_file ? 0 : fd.get();
    const auto offset = static_cast<off_t>(request.offset_bytes);
    const auto size = static_cast<off_t>(request.size_bytes);
    switch (request.operation) {
      case DiskOperation::kRead:
        PrepareTransfer(sqe, file, progress, false);
        break;
      case DiskOperation::kWrite:
        PrepareTransfer(sqe, file, progress, true);
        break;
      case DiskOperation::kFlush:
        // With its data-only flag fsync still writes every piece of metadata that is needed to find the data again.
        if (Mutated("virtio-blk-flush-dropped")) {
          ::io_uring_prep_nop(sqe);
        } else {
          ::io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
        }
        break;
      case DiskOperation::kDiscard:
        ::io_uring_prep_fallocate(sqe, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, size);
        break;
      case DiskOperation::kWriteZeroes:
        if (progress.syncing) {
          ::io_uring_prep_fsync(sqe, file, IORING_FSYNC_DATASYNC);
        } else if (progress.by_writing) {
          RefillZeroes(progress);
          PrepareTransfer(sqe, file, progress, true);
        } else {
          const int how = request.may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE;
          ::io_uring_prep_fallocate(sqe, file, how | FALLOC_FL_KEEP_SIZE, offset, size);
        }
        break;
    }
    if (registered_file) sqe->flags |= IOSQE_FIXED_FILE;
    ::io_uring_sqe_set_data64(sqe, slot);
    unsubmitted.push_back(slot);
  }

  void SubmitAll() {
    while (!unsubmitted.empty() && !refused) {
      const int count = ::io_uring_submit(&ring);
      if (count > 0) {
        const auto taken = std::min<std::size_t>(unsubmitted.size(), static_cast<std::size_t>(count));
        unsubmitted.erase(unsubmitted.begin(), unsubmitted.begin() + static_cast<std::ptrdiff_t>(taken));
      } else if (count == -EBUSY || count == -EAGAIN) {
        TakeCompletions();  // the kernel wants its completions taken first
      } else if (count != -EINTR) {
        Refuse();
      }
    }
  }

  // What the kernel has not taken will never be done, and so nothing that comes later.
  void Refuse() {
    refused = true;
    for (const std::size_t slot : unsubmitted) Finish(slot, EIO);
    unsubmitted.clear();
  }

  void Complete(std::size_t slot, int result) {
    Progress& progress = slots[slot];
    const DiskRequest& request = *progress.request;
    if (result == -EAGAIN || result == -EINTR) return Queue(slot);
    const bool unsupported = result == -EOPNOTSUPP || result == -ENOSYS;
    if (request.operation == DiskOperation::kDiscard) {
      // A discard is advice: where the host cannot take it, the data just stay.
      return Finish(slot, unsupported || result >= 0 ? 0 : -result);
    }
    if (request.operation == DiskOperation::kWriteZeroes && !progress.by_writing && unsupported) {
      progress.by_writing = true;
      return Queue(slot);
    }
    if (result < 0) return Finish(slot, -result);
    const bool transfers =
        request.operation == DiskOperation::kRead || request.operation == DiskOperation::kWrite || progress.by_writing;
    if (request.operation == DiskOperation::kWriteZeroes && request.durable && !transfers && !progress.syncing) {
      progress.syncing = true;
      return Queue(slot);
    }
    if (!transfers) return Finish(slot, 0);
    // Nothing was moved although something is left: the file is shorter than it was.
    if (result == 0 && request.size_bytes != 0) return Finish(slot, EIO);
    if (Mutated("virtio-blk-short-io-accepted")) return Finish(slot, 0);
    progress.Advance(static_cast<std::size_t>(result));
    if (progress.done_bytes == request.size_bytes) return Finish(slot, 0);
    Queue(slot);
  }

  void TakeCompletions() {
    io_uring_cqe* cqe = nullptr;
    while (::io_uring_peek_cqe(&ring, &cqe) == 0) {
      const std::size_t slot = ::io_uring_cqe_get_data64(cqe);
      const int result = cqe->res;
      ::io_uring_cqe_seen(&ring, cqe);
      Complete(slot, result);
    }
    while (!waiting.empty() && !free_slots.empty()) {
      DiskRequest& next = *waiting.front();
      waiting.pop_front();
      Admit(next);
    }
  }

  void Admit(DiskRequest& request) {
    if (free_slots.empty()) {
      waiting.push_back(&request);
      return;
    }
    const std::size_t slot = free_slots.back();
    free_slots.pop_back();
    if (Begin(slot, request)) Queue(slot);
  }

  [[nodiscard]] bool Idle() const { return free_slots.size() == slots.size() && waiting.empty(); }
};

FileDisk::FileDisk(std::unique_ptr<State> state) : state_(std::move(state)) {}

FileDisk::~FileDisk() {
  std::vector<DiskRequest*> ignored;
  Drain(ignored);
}

Result<std::unique_ptr<FileDisk>> FileDisk::Open(const std::string& path, const FileDiskOptions& options) {
  const int access = options.read_only ? O_RDONLY : O_RDWR;
  UniqueFd fd(::open(path.c_str(), access | O_CLOEXEC | O_NOCTTY | (options.direct ? O_DIRECT : 0)));
  if (!fd.valid()) {
    if (errno == EINVAL && options.direct) {
      return Fail(Error::Unsupported("open", fmt::format("{}: its file system has no O_DIRECT", path)));
    }
    return Fail(Error::System("open", errno, path));
  }
  return Adopt(std::move(fd), path, options);
}

Result<std::unique_ptr<FileDisk>> FileDisk::Adopt(UniqueFd fd, const std::string& path,
                                                  const FileDiskOptions& options) {
  auto state = std::make_unique<State>();
  state->fd = std::move(fd);
  struct stat info {};
  if (::fstat(state->fd.get(), &info) != 0) return Fail(Error::System("fstat", errno, path));
  std::uint64_t size_bytes = 0;
  if (S_ISBLK(info.st_mode)) {
    if (::ioctl(state->fd.get(), BLKGETSIZE64, &size_bytes) != 0) {
      return Fail(Error::System("BLKGETSIZE64", errno, path));
    }
  } else if (S_ISREG(info.st_mode)) {
    size_bytes = static_cast<std::uint64_t>(info.st_size);
  } else {
    return Fail(Error::InvalidArgument("open disk", path + ": neither a file nor a block device"));
  }
  const Alignment alignment = options.direct ? DirectAlignment(state->fd.get(), info) : Alignment();
  state->direct = options.direct;
  state->memory_align = alignment.memory_bytes;
  // What does not fill a block at the end is out of reach, as on a real disk.
  state->limits = {size_bytes / alignment.offset_bytes * alignment.offset_bytes, alignment.offset_bytes,
                   options.read_only};
  if (state->limits.size_bytes == 0) {
    return Fail(
        Error::InvalidArgument("open disk", fmt::format("{}: {} bytes are less than a block", path, size_bytes)));
  }
  state->zeroes = AllocateAligned(4096, kZeroesBytes);
  if (state->zeroes == nullptr) return Fail(Error::System("aligned_alloc", ENOMEM));
  std::memset(state->zeroes.get(), 0, kZeroesBytes);

  const unsigned depth = std::clamp(options.queue_depth, 1U, 4096U);
  if (const int bad = ::io_uring_queue_init(depth, &state->ring, 0); bad != 0) {
    return Fail(Error::System("io_uring_setup", -bad, "is io_uring forbidden here (kernel.io_uring_disabled)?"));
  }
  state->ring_made = true;
  const int file = state->fd.get();
  state->registered_file = ::io_uring_register_files(&state->ring, &file, 1) == 0;
  std::vector<iovec> pieces;
  for (iovec buffer : options.registered_buffers) {
    while (buffer.iov_len != 0) {
      const std::size_t part = std::min(buffer.iov_len, kRegisteredBufferMaxBytes);
      pieces.push_back({buffer.iov_base, part});
      buffer.iov_base = static_cast<std::byte*>(buffer.iov_base) + part;
      buffer.iov_len -= part;
    }
  }
  if (!pieces.empty() &&
      ::io_uring_register_buffers(&state->ring, pieces.data(), static_cast<unsigned>(pieces.size())) == 0) {
    state->registered_buffers = std::move(pieces);
  }
  state->slots.resize(depth);
  for (std::size_t i = 0; i < depth; ++i) state->free_slots.push_back(depth - 1 - i);
  return std::unique_ptr<FileDisk>(new FileDisk(std::move(state)));
}

DiskLimits FileDisk::limits() const { return state_->limits; }
int FileDisk::completion_fd() const { return state_->ring.ring_fd; }
bool FileDisk::has_registered_file() const { return state_->registered_file; }
bool FileDisk::has_registered_buffers() const { return !state_->registered_buffers.empty(); }

void FileDisk::Submit(DiskRequest& request) { state_->Admit(request); }

void FileDisk::Start() { state_->SubmitAll(); }

void FileDisk::Collect(std::vector<DiskRequest*>& done) {
  state_->TakeCompletions();
  state_->SubmitAll();
  done.insert(done.end(), state_->finished.begin(), state_->finished.end());
  state_->finished.clear();
}

void FileDisk::Drain(std::vector<DiskRequest*>& done) {
  Collect(done);
  while (!state_->Idle()) {
    io_uring_cqe* cqe = nullptr;
    const int bad = ::io_uring_wait_cqe(&state_->ring, &cqe);
    // The kernel still works on the buffers of what it has taken: leaving is no way out, though waiting fails.
    if (bad != 0 && bad != -EINTR && bad != -EAGAIN) std::this_thread::sleep_for(kPollInterval);
    Collect(done);
  }
}

}  // namespace nestbench::vmm::virtio
