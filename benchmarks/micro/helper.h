// A second thread, on a CPU of its own, that acts on a running guest and says when it did.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <stop_token>
#include <thread>

namespace nestbench::micro {

class Helper {
 public:
  // For each Ask(): waits until `ready()`, notes the time, does `act()`. Both run on the helper's thread. Broken when
  // the thread cannot be put on `cpu`. Used from the thread that creates it; ends its thread when destroyed.
  Helper(int cpu, std::function<bool()> ready, std::function<void()> act);

  // Asks for one action; the one before must have happened.
  void Ask();

  // When the action that was asked for last began (MonotonicRawNs); 0 while it has not.
  [[nodiscard]] std::uint64_t ActedAtNs() const { return acted_at_ns_.load(std::memory_order_acquire); }

 private:
  void Run(const std::stop_token& stop);

  std::function<bool()> ready_;
  std::function<void()> act_;
  std::atomic<bool> asked_{false};
  std::atomic<std::uint64_t> acted_at_ns_{0};
  std::jthread thread_;  // last: it uses all of the above
};

// Whether thread `tid` of this process sleeps: its state in /proc/self/task/<tid>/stat is S. Source: proc(5).
class SleepProbe {
 public:
  explicit SleepProbe(int tid);
  ~SleepProbe();
  SleepProbe(const SleepProbe&) = delete;
  SleepProbe& operator=(const SleepProbe&) = delete;

  [[nodiscard]] bool IsAsleep() const;

 private:
  int fd_;
};

}  // namespace nestbench::micro
