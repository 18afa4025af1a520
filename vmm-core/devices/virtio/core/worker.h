// The thread of a virtio device: it waits for doorbells and other descriptors, and calls back.
//
// Two ways to wait. Asleep in the kernel until a descriptor is readable: no CPU time while nothing happens, a wake-up
// before each answer. Or polling: asking again and again for `poll_for` after the last work was found, which answers
// sooner and burns a CPU.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::vmm::virtio {

struct PollPolicy {
  // How long the thread asks before it sleeps again. Zero: it only sleeps. kAlways: it never does.
  static constexpr std::chrono::nanoseconds kAlways = std::chrono::nanoseconds::max();
  std::chrono::nanoseconds poll_for{0};
};

struct WorkerOptions {
  std::string name;  // of the thread, as top(1) shows it: 15 characters
  PollPolicy polling = {};
  int cpu = -1;                  // pinned there; -1: where its creator may run
  std::vector<int> eventfds;     // eventfds and timerfds, emptied when they ring; non-blocking
  std::vector<int> descriptors;  // watched for reading, edge-triggered; serve() takes what they hold
};

class Worker {
 public:
  // Called on the thread: at the start, after each wake-up, and while polling. `may_sleep`: the thread sleeps next, so
  // doorbells must ring for what comes from now on. Returns whether it found anything to do, and is then called again
  // first: each call does a bounded amount of work, so that a guest that never stops asking does not keep the thread
  // from ending.
  using Serve = std::function<bool(bool may_sleep)>;

  // Starts the thread. The descriptors stay the caller's and outlive this.
  static Result<std::unique_ptr<Worker>> Start(WorkerOptions options, Serve serve);

  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Ends the thread after the call of `serve` that is under way.
  ~Worker();

  [[nodiscard]] pid_t thread_id() const { return thread_id_.load(std::memory_order_acquire); }

 private:
  Worker(WorkerOptions options, Serve serve, UniqueFd epoll, UniqueFd stop)
      : options_(std::move(options)), serve_(std::move(serve)), epoll_(std::move(epoll)), stop_(std::move(stop)) {}
  void Loop();
  bool Poll();

  WorkerOptions options_;
  Serve serve_;
  UniqueFd epoll_;
  UniqueFd stop_;
  std::atomic<bool> stopping_{false};
  std::atomic<pid_t> thread_id_{0};
  std::thread thread_;
};

// A non-blocking eventfd.
Result<UniqueFd> CreateEventFd();
// Adds one to it; never blocks.
void RingEventFd(int fd);
// Empties it.
void DrainEventFd(int fd);

}  // namespace nestbench::vmm::virtio
