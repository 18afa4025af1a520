// What a Linux kernel's own services cost a program: system calls, page faults, processes, context switches. The same
// static program runs in a Linux guest and on the host itself, so that the ratio is the virtual machine's.
//
// Prints one JSON object on a line for each operation: {"name", "iterations", "samples"}, samples in ns per operation,
// lower is better. Arguments: SAMPLES BATCH_US; or --list, for the names. Everything runs on the CPU that it starts on.
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <initializer_list>

namespace {

constexpr std::size_t kPageBytes = 4096;
constexpr std::size_t kPages = 256;
constexpr std::uint64_t kMaxIterations = 1ULL << 24;

[[noreturn]] void Die(const char* what) {
  std::perror(what);
  std::exit(1);
}

std::uint64_t Now() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

void PinToThisCpu() {
  const int cpu = ::sched_getcpu();
  if (cpu < 0) return;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(cpu), &set);
  if (::sched_setaffinity(0, sizeof(set), &set) != 0) Die("sched_setaffinity");
}

// The cheapest system call: into the kernel and back.
void SystemCall(std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) ::syscall(SYS_getppid);
}

// Through the file layer, one byte copied out.
void Read(std::uint64_t count) {
  static const int kZero = ::open("/dev/zero", O_RDONLY | O_CLOEXEC);
  if (kZero < 0) Die("/dev/zero");
  char byte = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (::read(kZero, &byte, 1) != 1) Die("read");
  }
}

// No system call where the kernel gives user space a clock that it may read (vDSO).
void Clock(std::uint64_t count) {
  timespec now{};
  for (std::uint64_t i = 0; i < count; ++i) ::clock_gettime(CLOCK_MONOTONIC, &now);
}

// The first touch of a page: fault, page from the allocator, zeroed, mapped. The share of mmap and munmap is in it.
void PageFault(std::uint64_t count) {
  for (std::uint64_t done = 0; done < count; done += kPages) {
    void* start = ::mmap(nullptr, kPages * kPageBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED) Die("mmap");
    ::madvise(start, kPages * kPageBytes, MADV_NOHUGEPAGE);
    for (std::size_t page = 0; page < kPages; ++page) static_cast<volatile char*>(start)[page * kPageBytes] = 1;
    ::munmap(start, kPages * kPageBytes);
  }
}

// A process made, ended and collected.
void Fork(std::uint64_t count) {
  for (std::uint64_t i = 0; i < count; ++i) {
    const pid_t child = ::fork();
    if (child < 0) Die("fork");
    if (child == 0) ::_exit(0);
    ::waitpid(child, nullptr, 0);
  }
}

struct Pipes {
  int there[2];
  int back[2];
};

Pipes MakePipes() {
  Pipes pipes{};
  if (::pipe2(pipes.there, O_CLOEXEC) != 0 || ::pipe2(pipes.back, O_CLOEXEC) != 0) Die("pipe2");
  return pipes;
}

void Close(const Pipes& pipes) {
  for (const int fd : {pipes.there[0], pipes.there[1], pipes.back[0], pipes.back[1]}) ::close(fd);
}

// `count` bytes come and are sent back.
void Answer(const Pipes& pipes, std::uint64_t count) {
  char byte = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (::read(pipes.there[0], &byte, 1) != 1 || ::write(pipes.back[1], &byte, 1) != 1) ::_exit(1);
  }
}

void Ask(const Pipes& pipes, std::uint64_t count) {
  char byte = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (::write(pipes.there[1], &byte, 1) != 1 || ::read(pipes.back[0], &byte, 1) != 1) Die("ping-pong");
  }
}

// One switch between two processes on one CPU, by pipes; half of a round trip. A switch of address spaces.
void SwitchProcesses(std::uint64_t count) {
  const Pipes pipes = MakePipes();
  const std::uint64_t trips = (count + 1) / 2;
  const pid_t child = ::fork();
  if (child < 0) Die("fork");
  if (child == 0) {
    Answer(pipes, trips);
    ::_exit(0);
  }
  Ask(pipes, trips);
  ::waitpid(child, nullptr, 0);
  Close(pipes);
}

struct Peer {
  Pipes pipes;
  std::uint64_t trips;
};

void* RunPeer(void* argument) {
  const auto* peer = static_cast<const Peer*>(argument);
  Answer(peer->pipes, peer->trips);
  return nullptr;
}

// The same between two threads of one process.
void SwitchThreads(std::uint64_t count) {
  Peer peer{MakePipes(), (count + 1) / 2};
  pthread_t thread{};
  if (::pthread_create(&thread, nullptr, RunPeer, &peer) != 0) Die("pthread_create");
  Ask(peer.pipes, peer.trips);
  ::pthread_join(thread, nullptr);
  Close(peer.pipes);
}

struct Operation {
  const char* name;
  void (*run)(std::uint64_t count);
  std::uint64_t least = 16;  // iterations of a batch
};

constexpr Operation kOperations[] = {
    {"syscall/call=getppid", SystemCall},
    {"syscall/call=read", Read},
    {"syscall/call=clock_gettime", Clock},
    {"syscall/call=fork", Fork},
    {"page_fault", PageFault, kPages},
    {"context_switch/between=processes", SwitchProcesses},
    {"context_switch/between=threads", SwitchThreads},
};

// As many as fill a batch, a power of two of them.
std::uint64_t Calibrate(const Operation& operation, std::uint64_t batch_ns) {
  std::uint64_t iterations = operation.least;
  while (iterations < kMaxIterations) {
    const std::uint64_t start = Now();
    operation.run(iterations);
    if (Now() - start >= batch_ns) break;
    iterations *= 2;
  }
  return iterations;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 2 && std::strcmp(argv[1], "--list") == 0) {
    for (const Operation& operation : kOperations) std::printf("{\"name\": \"%s\"}\n", operation.name);
    return 0;
  }
  const std::uint64_t samples = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 0;
  const std::uint64_t batch_us = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 0;
  if (argc != 3 || samples == 0 || samples > 1000 || batch_us == 0 || batch_us > 1'000'000) {
    std::fputs("usage: nestbench-linux-costs SAMPLES BATCH_US\n", stderr);
    return 2;
  }
  PinToThisCpu();
  for (const Operation& operation : kOperations) {
    const std::uint64_t iterations = Calibrate(operation, batch_us * 1000);
    std::printf(R"({"name": "%s", "iterations": %llu, "samples": [)", operation.name,
                static_cast<unsigned long long>(iterations));
    std::fflush(stdout);  // or a child would print it again
    for (std::uint64_t i = 0; i < samples; ++i) {
      const std::uint64_t start = Now();
      operation.run(iterations);
      const std::uint64_t passed = Now() - start;
      std::printf("%s%.2f", i == 0 ? "" : ", ", static_cast<double>(passed) / static_cast<double>(iterations));
      std::fflush(stdout);
    }
    std::puts("]}");
  }
  return 0;
}
