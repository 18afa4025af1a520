// nestbench_density_floor: what it costs to start many VMs, each in a process of its own, with nothing around them.
//
// For each guest: fork(); the child makes a VM, its memory slots and a vCPU in raw ioctls, runs the guest to its first
// exit, says so in a pipe and sleeps. With --image it is the guest that nestbench makes (64-bit, CPL3, page tables,
// that payload and an arena), else the least that KVM runs: one slot, one instruction in real mode. Then everything is
// killed. One JSON object on one line of standard output:
//
//   guests                  how many were alive at once
//   seconds, guests_per_s   from the first fork to the last guest's first exit
//   memory_per_guest_bytes  what the host has lost (MemAvailable and the per-CPU free lists), over the guests: guest
//   RAM that
//                           was touched, process and kernel. Whatever else the host did meanwhile is in it
//   teardown_ns             from the first SIGKILL until the last process was reaped
//   failure                 null, or {"call", "errno", "text"}: why the next guest could not be had
//
// Exit code: 0, 1 with a failure (the line is printed all the same), 2 for wrong flags, 5 without a usable /dev/kvm.
#include <errno.h>
#include <getopt.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <memory>
#include <vector>

#include "nestbench/floor/raw_user_vm.h"
#include "nestbench/floor/raw_vm.h"

namespace nestbench::floor {
namespace {

constexpr uint64_t kMostGuests = 1'000'000;
constexpr uint64_t kMostParallel = 1024;
constexpr uint64_t kPageBytes = 4096;
constexpr uint64_t kMostGuestRamBytes = 1ULL << 40;
constexpr uint16_t kPort = 0xB20;
constexpr uint64_t kEntry = 0;    // guest-physical
constexpr int kStuckMs = 30'000;  // without any news: a guest that never leaves

struct Options {
  uint64_t guests = 100;
  uint64_t guest_ram_bytes = 4 << 20;
  uint64_t parallel = 1;
  const char* image = nullptr;
};

// What a child says, once. Smaller than PIPE_BUF, so that it arrives whole.
struct News {
  int32_t error_number = 0;  // 0: its guest has run
  char call[60] = {};
};

uint64_t NowNs() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(now.tv_nsec);
}

// The sum of the numbers behind `key` in a file of /proc; 0 when there is none.
uint64_t SumOf(const char* path, const char* key) {
  FILE* file = fopen(path, "re");
  if (file == nullptr) return 0;
  char line[256];
  uint64_t sum = 0;
  const size_t key_bytes = strlen(key);
  while (fgets(line, sizeof(line), file) != nullptr) {
    const char* text = line + strspn(line, " ");
    if (strncmp(text, key, key_bytes) == 0) sum += strtoull(text + key_bytes, nullptr, 10);
  }
  fclose(file);
  return sum;
}

// MemAvailable leaves out the pages in the per-CPU free lists, where what one run has freed lies for seconds and serves
// the next one.
uint64_t UnusedBytes() {
  return (SumOf("/proc/meminfo", "MemAvailable:") << 10) +
         SumOf("/proc/zoneinfo", "count:") * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

[[noreturn]] void Usage(const char* complaint, const char* value) {
  fprintf(stderr,
          "nestbench_density_floor: %s%s%s\n"
          "usage: nestbench_density_floor [--guests 1..%llu] [--guest-ram-bytes multiple of 4096, to 2^40] [--parallel "
          "1..%llu] [--image ELF]\n",
          complaint, value == nullptr ? "" : ": ", value == nullptr ? "" : value,
          static_cast<unsigned long long>(kMostGuests), static_cast<unsigned long long>(kMostParallel));
  exit(2);
}

uint64_t ParseNumber(const char* flag, const char* text, uint64_t least, uint64_t most) {
  char* end = nullptr;
  errno = 0;
  const unsigned long long value = strtoull(text, &end, 10);
  // strtoull takes signs and blanks.
  if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value < least || value > most) Usage(flag, text);
  return value;
}

Options Parse(int argc, char** argv) {
  const option flags[] = {{"guests", required_argument, nullptr, 'g'},
                          {"guest-ram-bytes", required_argument, nullptr, 'm'},
                          {"parallel", required_argument, nullptr, 'p'},
                          {"image", required_argument, nullptr, 'i'},
                          {nullptr, 0, nullptr, 0}};
  Options options;
  opterr = 0;
  for (int flag = 0; (flag = getopt_long(argc, argv, "", flags, nullptr)) != -1;) {
    if (flag == 'g') {
      options.guests = ParseNumber("--guests is no number of guests", optarg, 1, kMostGuests);
    } else if (flag == 'm') {
      options.guest_ram_bytes =
          ParseNumber("--guest-ram-bytes is out of range", optarg, kPageBytes, kMostGuestRamBytes);
      if (options.guest_ram_bytes % kPageBytes != 0) Usage("--guest-ram-bytes is no multiple of 4096", optarg);
    } else if (flag == 'i') {
      options.image = optarg;
    } else if (flag == 'p') {
      options.parallel = ParseNumber("--parallel is out of range", optarg, 1, kMostParallel);
    } else {
      Usage("unknown flag, or one without its value", argv[optind - 1]);
    }
  }
  if (optind != argc) Usage("unexpected argument", argv[optind]);
  return options;
}

// What the guests share, read before the first fork.
struct Payload {
  std::vector<std::byte> image;
  std::unique_ptr<RawCpuid> cpuid;
};

// False when there is none to be read.
bool ReadPayload(const RawKvm& kvm, const char* path, Payload& payload) {
  FILE* file = fopen(path, "rbe");
  if (file == nullptr) return false;
  std::byte block[65536];
  for (size_t got = 0; (got = fread(block, 1, sizeof(block), file)) > 0;) {
    payload.image.insert(payload.image.end(), block, block + got);
  }
  fclose(file);
  payload.cpuid = std::make_unique<RawCpuid>(kvm);
  return !payload.image.empty();
}

// Its first command is the empty one: it rings at once.
bool RunsToDoorbell(RawUserVm& vm) {
  abi::MailboxRequest request = {};
  request.magic = abi::kMailboxMagic;
  request.version = abi::kMailboxVersion;
  request.doorbell = abi::Doorbell::kPort;
  request.sequence = 1;
  request.iterations = 1;
  vm.WriteRequest(request);
  return vm.RunToDoorbellPort();
}

// In the child. Never returns: the guest is there until the process is killed.
[[noreturn]] void LiveAsGuest(const RawKvm& kvm, const Options& options, const Payload& payload, int pipe_fd,
                              pid_t parent) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(1);  // it died before the line above
  News news;
  const auto tell = [&news, pipe_fd](bool has_run, const RawVm& vm) {
    if (!has_run) {
      news.error_number = EIO;
      snprintf(news.call, sizeof(news.call), "KVM_RUN: %s", vm.DescribeLastExit().c_str());
    }
    if (write(pipe_fd, &news, sizeof(news)) != static_cast<ssize_t>(sizeof(news)) || news.error_number != 0) _exit(1);
    for (;;) pause();
  };
  try {
    if (payload.cpuid) {
      RawUserVm user(kvm, *payload.cpuid, payload.image, options.guest_ram_bytes);
      tell(RunsToDoorbell(user), user.vm());
    }
    RawVm vm(kvm);
    std::byte* memory = vm.AddMemory(0, kEntry, options.guest_ram_bytes);
    // mov dx, kPort; out dx, eax; jmp to itself
    const uint8_t code[] = {0xBA, kPort & 0xFF, kPort >> 8, 0x66, 0xEF, 0xEB, 0xFE};
    memcpy(memory, code, sizeof(code));
    vm.CreateVcpu();
    vm.EnterRealMode(kEntry);
    tell(vm.RunToPortWrite(kPort), vm);
  } catch (const RawError& error) {
    news.error_number = error.error_number();
    snprintf(news.call, sizeof(news.call), "%s", error.what());
  }
  (void)!write(pipe_fd, &news, sizeof(news));
  _exit(1);
}

class Floor {
 public:
  Floor(const RawKvm& kvm, const Options& options, const Payload& payload)
      : kvm_(kvm), options_(options), payload_(payload) {}

  // False when a pipe cannot be had.
  bool Open() { return pipe(pipe_) == 0; }

  // Forks as long as fewer than `parallel` are on their way, then waits for news.
  void StartAll() {
    const pid_t self = getpid();
    while (failure_.error_number == 0 && ready_ < options_.guests) {
      if (pids_.size() < options_.guests && pids_.size() - ready_ < options_.parallel) {
        const pid_t pid = fork();
        if (pid == 0) LiveAsGuest(kvm_, options_, payload_, pipe_[1], self);
        if (pid < 0) {
          Fail("fork", errno);
        } else {
          pids_.push_back(pid);
        }
      } else {
        WaitForNews();
      }
    }
  }

  void KillAll() {
    for (const pid_t pid : pids_) kill(pid, SIGKILL);
    for (const pid_t pid : pids_) {
      while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
      }
    }
  }

  [[nodiscard]] uint64_t ready() const { return ready_; }
  [[nodiscard]] const News& failure() const { return failure_; }

 private:
  void Fail(const char* call, int error_number) {
    failure_.error_number = error_number;
    snprintf(failure_.call, sizeof(failure_.call), "%s", call);
  }

  void WaitForNews() {
    pollfd polled = {pipe_[0], POLLIN, 0};
    constexpr int kLookMs = 1000;  // at whether a child has died without a word
    for (int waited_ms = 0; poll(&polled, 1, kLookMs) <= 0; waited_ms += kLookMs) {
      siginfo_t ended = {};
      if (waitid(P_ALL, 0, &ended, WEXITED | WNOHANG | WNOWAIT) == 0 && ended.si_pid != 0) {
        return Fail("a guest's process died", ECHILD);
      }
      if (waited_ms >= kStuckMs) return Fail("a guest did not reach its first exit within 30 s", ETIMEDOUT);
    }
    News news;
    if (read(pipe_[0], &news, sizeof(news)) != static_cast<ssize_t>(sizeof(news))) return Fail("read (pipe)", errno);
    if (news.error_number != 0) {
      failure_ = news;
    } else {
      ++ready_;
    }
  }

  const RawKvm& kvm_;
  const Options options_;
  const Payload& payload_;
  int pipe_[2] = {-1, -1};
  std::vector<pid_t> pids_;
  uint64_t ready_ = 0;
  News failure_;
};

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  std::unique_ptr<RawKvm> kvm;
  try {
    kvm = std::make_unique<RawKvm>();
  } catch (const RawError& error) {
    fprintf(stderr, "nestbench_density_floor: unsupported: %s\n", error.what());
    return 5;
  }
  Payload payload;
  if (options.image != nullptr && !ReadPayload(*kvm, options.image, payload)) {
    Usage("--image cannot be read", options.image);
  }
  Floor floor(*kvm, options, payload);
  if (!floor.Open()) {
    perror("nestbench_density_floor: pipe");
    return 1;
  }
  const uint64_t unused_before = UnusedBytes();
  const uint64_t begin_ns = NowNs();
  floor.StartAll();
  const double seconds = static_cast<double>(NowNs() - begin_ns) / 1e9;
  const uint64_t unused_after = UnusedBytes();
  const uint64_t teardown_begin_ns = NowNs();
  floor.KillAll();
  const uint64_t teardown_ns = NowNs() - teardown_begin_ns;

  const uint64_t guests = floor.ready();
  const uint64_t lost = unused_before > unused_after ? unused_before - unused_after : 0;
  printf(
      "{\"guests\": %llu, \"seconds\": %.6f, \"guests_per_s\": %.1f, \"memory_per_guest_bytes\": %llu, "
      "\"teardown_ns\": %llu, ",
      static_cast<unsigned long long>(guests), seconds, static_cast<double>(guests) / seconds,
      static_cast<unsigned long long>(guests == 0 ? 0 : lost / guests), static_cast<unsigned long long>(teardown_ns));
  const News& failure = floor.failure();
  if (failure.error_number == 0) {
    printf("\"failure\": null}\n");
    return 0;
  }
  // Nothing in these texts needs an escape: they are ours and strerror's.
  printf("\"failure\": {\"call\": \"%s\", \"errno\": %d, \"text\": \"%s\"}}\n", failure.call, failure.error_number,
         strerror(failure.error_number));
  return 1;
}

}  // namespace
}  // namespace nestbench::floor

int main(int argc, char** argv) { return nestbench::floor::Main(argc, argv); }
