#include "devices/virtio/core/worker.h"

#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <system_error>
#include <utility>

namespace nestbench::vmm::virtio {
namespace {

Result<void> Watch(int epoll, int fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd;
  if (::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) != 0) return Fail(Error::System("epoll_ctl", errno));
  return {};
}

}  // namespace

Result<UniqueFd> CreateEventFd() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return Fail(Error::System("eventfd", errno));
  return fd;
}

void RingEventFd(int fd) {
  const std::uint64_t one = 1;
  // EAGAIN: the count is full, so the reader has enough to wake up for.
  [[maybe_unused]] const ssize_t written = ::write(fd, &one, sizeof(one));
}

void DrainEventFd(int fd) {
  std::uint64_t count = 0;
  [[maybe_unused]] const ssize_t got = ::read(fd, &count, sizeof(count));  // EAGAIN: it was empty
}

Result<std::unique_ptr<Worker>> Worker::Start(WorkerOptions options, Serve serve) {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return Fail(Error::System("epoll_create1", errno));
  auto stop = CreateEventFd();
  if (!stop) return Fail(std::move(stop.error()));
  // The stop is level-triggered: it is never emptied, so that no wait after it can sleep.
  if (auto watched = Watch(epoll.get(), stop->get(), EPOLLIN); !watched) return Fail(std::move(watched.error()));
  for (const int fd : options.eventfds) {
    if (auto watched = Watch(epoll.get(), fd, EPOLLIN); !watched) return Fail(std::move(watched.error()));
  }
  for (const int fd : options.descriptors) {
    if (auto watched = Watch(epoll.get(), fd, EPOLLIN | EPOLLET); !watched) return Fail(std::move(watched.error()));
  }
  options.name.resize(std::min<std::size_t>(options.name.size(), 15));
  std::unique_ptr<Worker> worker(new Worker(std::move(options), std::move(serve), std::move(epoll), std::move(*stop)));
  // Signals are for the threads of the vCPUs and the main thread: this one is born with all of them blocked.
  sigset_t all;
  sigset_t before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  int error_number = 0;
  try {
    worker->thread_ = std::thread([self = worker.get()] { self->Loop(); });
  } catch (const std::system_error& error) {
    error_number = error.code().value();
  }
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (error_number != 0) return Fail(Error::System("pthread_create", error_number, "the thread of a virtio device"));
  return worker;
}

Worker::~Worker() {
  stopping_.store(true, std::memory_order_release);
  RingEventFd(stop_.get());
  if (thread_.joinable()) thread_.join();
}

void Worker::Loop() {
  thread_id_.store(::gettid(), std::memory_order_release);
  ::pthread_setname_np(::pthread_self(), options_.name.c_str());
  if (options_.cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<unsigned>(options_.cpu), &set);
    ::sched_setaffinity(0, sizeof(set), &set);  // refused: it runs where its creator may, a matter of speed only
  }
  std::array<epoll_event, 16> events{};
  while (!stopping_.load(std::memory_order_acquire)) {
    if (options_.polling.poll_for.count() != 0 && Poll()) return;
    while (serve_(true)) {
      if (stopping_.load(std::memory_order_acquire)) return;
    }
    const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), -1);
    for (int i = 0; i < count; ++i) {
      const int fd = events[static_cast<std::size_t>(i)].data.fd;
      if (fd == stop_.get()) return;
      for (const int eventfd : options_.eventfds) {
        if (fd == eventfd) DrainEventFd(fd);
      }
    }
  }
}

// Asks until nothing was found for as long as the policy says. True when the thread is to end.
bool Worker::Poll() {
  using Clock = std::chrono::steady_clock;
  const bool always = options_.polling.poll_for == PollPolicy::kAlways;
  auto last_work = Clock::now();
  unsigned idle_rounds = 0;
  constexpr unsigned kRoundsBeforeYield = 64;
  while (!stopping_.load(std::memory_order_acquire)) {
    if (serve_(false)) {
      idle_rounds = 0;
      if (!always) last_work = Clock::now();
      continue;
    }
    __builtin_ia32_pause();
    // Where CPUs are fewer than threads, whoever could make work must come to run.
    if (++idle_rounds % kRoundsBeforeYield == 0) {
      ::sched_yield();
      if (!always && Clock::now() - last_work > options_.polling.poll_for) return false;
    }
  }
  return true;
}

}  // namespace nestbench::vmm::virtio
