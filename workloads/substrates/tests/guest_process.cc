#include "guest_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <thread>

#include "nestbench/substrates/substrate.h"
#include "nestbench/vmm/base/clock.h"

namespace nestbench::substrates::testing {
namespace {

struct Pipe {
  Pipe() {
    if (::pipe2(ends.data(), O_CLOEXEC) != 0) throw std::runtime_error("pipe2");
  }
  std::array<int, 2> ends{};
};

// Appends what is there; whether more may come.
bool ReadSome(int fd, std::string& text) {
  std::array<char, 65536> buffer;
  const ssize_t got = ::read(fd, buffer.data(), buffer.size());
  if (got > 0) text.append(buffer.data(), static_cast<std::size_t>(got));
  return got > 0 || (got < 0 && errno == EINTR);
}

}  // namespace

GuestProcess::GuestProcess(const std::string& line, const std::function<bool()>& before_exec) {
  const Pipe input;
  const Pipe output;
  const Pipe error;
  pid_ = ::fork();
  if (pid_ < 0) throw std::runtime_error("fork");
  if (pid_ == 0) {
    ::dup2(input.ends[0], STDIN_FILENO);
    ::dup2(output.ends[1], STDOUT_FILENO);
    ::dup2(error.ends[1], STDERR_FILENO);
    ::close_range(STDERR_FILENO + 1, ~0U, CLOSE_RANGE_CLOEXEC);  // as the supervisor does
    if (before_exec && !before_exec()) ::_exit(kCannotPrepare);
    ::execl(NESTBENCH_GUEST_PROGRAM, NESTBENCH_GUEST_PROGRAM, nullptr);
    ::_exit(127);
  }
  ::close(input.ends[0]);
  ::close(output.ends[1]);
  ::close(error.ends[1]);
  output_ = output.ends[0];
  error_ = error.ends[0];
  // A request fits a pipe's buffer, so this does not wait for the child; one that has ended already is no matter.
  struct sigaction ignore = {};
  struct sigaction before = {};
  ignore.sa_handler = SIG_IGN;
  ::sigaction(SIGPIPE, &ignore, &before);
  (void)!::write(input.ends[1], line.data(), line.size());
  ::sigaction(SIGPIPE, &before, nullptr);
  ::close(input.ends[1]);
}

GuestProcess::~GuestProcess() {
  if (pid_ > 0) {
    Kill();
    ::waitpid(pid_, nullptr, 0);
  }
  ::close(output_);
  ::close(error_);
}

void GuestProcess::Kill() const { ::kill(pid_, SIGKILL); }

GuestEnd GuestProcess::Wait(std::chrono::milliseconds limit) {
  GuestEnd end;
  const auto deadline = std::chrono::steady_clock::now() + limit;
  std::array<pollfd, 2> pipes = {{{output_, POLLIN, 0}, {error_, POLLIN, 0}}};
  std::array<std::string*, 2> texts = {&end.output, &end.error_text};
  while (pipes[0].fd >= 0 || pipes[1].fd >= 0) {
    ::poll(pipes.data(), pipes.size(), 50);
    for (std::size_t i = 0; i < pipes.size(); ++i) {
      if (pipes[i].fd >= 0 && pipes[i].revents != 0 && !ReadSome(pipes[i].fd, *texts[i])) pipes[i].fd = -1;
    }
    if (!end.killed_by_us && std::chrono::steady_clock::now() > deadline) {
      end.killed_by_us = true;
      Kill();
    }
  }
  ::waitpid(pid_, &end.wait_status, 0);
  pid_ = -1;
  return end;
}

std::string ReadText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

bool Eventually(const std::function<bool()>& holds, std::chrono::milliseconds limit) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

double MeasureTscHz() {
  static const double kHz = [] {
    constexpr std::uint64_t kNs = 200'000'000;
    const std::uint64_t begin_ns = vmm::MonotonicRawNs();
    const std::uint64_t begin = __rdtsc();
    std::uint64_t now_ns = begin_ns;
    while (now_ns < begin_ns + kNs) now_ns = vmm::MonotonicRawNs();
    return static_cast<double>(__rdtsc() - begin) * 1e9 / static_cast<double>(now_ns - begin_ns);
  }();
  return kHz;
}

Request IntegerRequest(SubstrateKind substrate) {
  Request request;
  request.substrate = substrate;
  request.image = NESTBENCH_IMAGES_FOLDER "/cpu_integer.elf";
  request.seed = 5;
  request.iterations = 10'000'000;
  request.samples = 3;
  request.max_warmup_batches = 3;
  request.deadline_ns = 20'000'000'000;
  request.tsc_hz = MeasureTscHz();
  request.doorbell = substrate == SubstrateKind::kBare ? abi::Doorbell::kReturn : abi::Doorbell::kPort;
  return request;
}

Request NetworkRequest(SubstrateKind substrate, payload::NetOperation operation, NetPeer peer) {
  Request request = IntegerRequest(substrate);
  const bool is_stream = operation == payload::NetOperation::kStream || operation == payload::NetOperation::kReceive;
  const bool is_ping_pong = operation == payload::NetOperation::kPingPong;
  constexpr std::uint64_t kResendMs = 200;
  constexpr std::uint64_t kGiveUpMs = 10'000;
  request.image = NESTBENCH_IMAGES_FOLDER "/io_net.elf";
  request.operation = static_cast<std::uint64_t>(operation);
  request.parameters = {is_stream ? payload::kFrameMaxBytes : payload::kFrameMinBytes,
                        is_ping_pong ? 1 : payload::kNetMaxWindow,
                        static_cast<std::uint64_t>(request.tsc_hz / 20'000),
                        kResendMs,
                        kGiveUpMs,
                        static_cast<std::uint64_t>(request.tsc_hz / 1000),
                        0};
  request.iterations = is_ping_pong ? 200 : 2000;
  request.samples = 5;
  request.arena_bytes = payload::kNetArenaBytes;
  request.latencies = is_ping_pong;
  request.network.peer = peer;
  return request;
}

}  // namespace nestbench::substrates::testing
