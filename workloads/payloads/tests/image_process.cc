#include "image_process.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "nestbench/vmm/loader/elf.h"
#include "nestbench/vmm/loader/loaded_file.h"

namespace nestbench::payload {
namespace {

using Entry = void (*)(abi::Mailbox*);

void* MapFixed(std::uint64_t address, std::uint64_t bytes) {
  void* const wanted = reinterpret_cast<void*>(address);
  return mmap(wanted, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
}

// What the child and the test share.
struct Shared {
  std::uint64_t answered;
  char error[256];
  abi::MailboxReply replies[1];  // as many as there are requests
};

[[gnu::noinline]] void CallOnPayloadStack(Entry entry, abi::Mailbox* mailbox) {
  asm volatile(
      "mov %%rsp, %%rbx\n"
      "mov %[stack], %%rsp\n"
      "call *%[entry]\n"
      "mov %%rbx, %%rsp\n"
      : [entry] "+a"(entry), "+D"(mailbox)
      : [stack] "S"(abi::kStackTop)
      : "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
        "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "cc", "memory");
}

std::string MapSegments(const vmm::ElfImage& image) {
  for (const vmm::ElfSegment& segment : image.segments()) {
    const std::uint64_t start = segment.memory.start.value();
    if (MapFixed(start, segment.memory.size_bytes) == MAP_FAILED) return std::string("mmap: ") + std::strerror(errno);
    void* const memory = reinterpret_cast<void*>(start);
    if (!segment.file_bytes.empty()) std::memcpy(memory, segment.file_bytes.data(), segment.file_bytes.size());
    const int protection = PROT_READ | (segment.writable ? PROT_WRITE : 0) | (segment.executable ? PROT_EXEC : 0);
    if (mprotect(memory, segment.memory.size_bytes, protection) != 0) {
      return std::string("mprotect: ") + std::strerror(errno);
    }
  }
  return {};
}

std::string Perform(const std::string& path, std::uint64_t arena_bytes, bool reset_arena,
                    const std::vector<abi::MailboxRequest>& requests, Shared& shared) {
  const auto file = vmm::LoadedFile::Read(path, abi::kImageMaxBytes);
  if (!file) return file.error().ToString();
  const auto image = vmm::ParseElf(file->bytes(), {abi::GuestPhysAddr(abi::kImageBase), abi::kImageMaxBytes});
  if (!image) return image.error().ToString();
  if (std::string error = MapSegments(*image); !error.empty()) return error;
  if (MapFixed(abi::kMailboxBase, abi::kMailboxBytes) == MAP_FAILED ||
      MapFixed(abi::kStackBase, abi::kStackBytes) == MAP_FAILED ||
      (arena_bytes != 0 && MapFixed(abi::kArenaBase, arena_bytes) == MAP_FAILED)) {
    return std::string("mmap: ") + std::strerror(errno);
  }
  auto* mailbox = reinterpret_cast<abi::Mailbox*>(abi::kMailboxBase);
  for (const abi::MailboxRequest& request : requests) {
    if (reset_arena && request.command == abi::Command::kRun) {
      madvise(reinterpret_cast<void*>(abi::kArenaBase), arena_bytes, MADV_DONTNEED);
    }
    mailbox->request = request;
    mailbox->reply = {};
    CallOnPayloadStack(reinterpret_cast<Entry>(image->entry().value()), mailbox);
    shared.replies[shared.answered++] = mailbox->reply;
  }
  return {};
}

}  // namespace

abi::MailboxRequest MakeRequest(abi::Command command, std::uint64_t arena_bytes) {
  abi::MailboxRequest request = {};
  request.magic = abi::kMailboxMagic;
  request.version = abi::kMailboxVersion;
  request.command = command;
  request.doorbell = abi::Doorbell::kReturn;
  request.iterations = 1;
  request.arena_base = abi::kArenaBase;
  request.arena_bytes = arena_bytes;
  return request;
}

ImageRun RunImage(const std::string& path, std::uint64_t arena_bytes, bool reset_arena,
                  const std::vector<abi::MailboxRequest>& requests) {
  ImageRun run;
  const std::size_t shared_bytes = sizeof(Shared) + requests.size() * sizeof(abi::MailboxReply);
  void* memory = mmap(nullptr, shared_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    run.error = std::string("mmap: ") + std::strerror(errno);
    return run;
  }
  auto* shared = static_cast<Shared*>(memory);
  const pid_t child = fork();
  if (child == 0) {
    const std::string error = Perform(path, arena_bytes, reset_arena, requests, *shared);
    std::strncpy(shared->error, error.c_str(), sizeof(shared->error) - 1);
    _exit(0);
  }
  if (child < 0 || waitpid(child, &run.wait_status, 0) != child) {
    run.error = std::string("fork or waitpid: ") + std::strerror(errno);
  } else {
    run.error = shared->error;
    run.replies.assign(shared->replies, shared->replies + shared->answered);
  }
  munmap(memory, shared_bytes);
  return run;
}

}  // namespace nestbench::payload
