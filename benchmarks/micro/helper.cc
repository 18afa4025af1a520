#include "helper.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "environment.h"
#include "nestbench/vmm/base/clock.h"
#include "timing.h"

namespace nestbench::micro {

Helper::Helper(int cpu, std::function<bool()> ready, std::function<void()> act)
    : ready_(std::move(ready)), act_(std::move(act)), thread_([this](const std::stop_token& stop) { Run(stop); }) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(cpu), &set);
  if (const int error = ::pthread_setaffinity_np(thread_.native_handle(), sizeof(set), &set); error != 0) {
    throw Broken(vmm::Error::System("pthread_setaffinity_np", error, fmt::format("CPU {}", cpu)).ToString());
  }
}

void Helper::Ask() {
  acted_at_ns_.store(0, std::memory_order_relaxed);
  asked_.store(true, std::memory_order_release);
}

void Helper::Run(const std::stop_token& stop) {
  // Spinning, so that nothing sleeps between the guest's being ready and the action; yielding, for whoever shares the
  // CPU.
  const auto wait = [&stop](const auto& condition) {
    while (!condition()) {
      if (stop.stop_requested()) return false;
      ::sched_yield();
    }
    return true;
  };
  while (wait([this] { return asked_.load(std::memory_order_acquire); })) {
    asked_.store(false, std::memory_order_relaxed);
    if (!wait(ready_)) return;
    acted_at_ns_.store(vmm::MonotonicRawNs(), std::memory_order_release);
    act_();
  }
}

SleepProbe::SleepProbe(int tid)
    : fd_(::open(fmt::format("/proc/self/task/{}/stat", tid).c_str(), O_RDONLY | O_CLOEXEC)) {
  if (fd_ < 0) throw Broken(vmm::Error::System("open", errno, "/proc/self/task/*/stat").ToString());
}

SleepProbe::~SleepProbe() { ::close(fd_); }

bool SleepProbe::IsAsleep() const {
  char text[256];
  const ssize_t size = ::pread(fd_, text, sizeof(text), 0);
  if (size <= 0) return false;
  // "pid (name) S ...": the name may hold anything, so the last parenthesis counts.
  const std::string_view stat(text, static_cast<std::size_t>(size));
  const std::size_t end_of_name = stat.rfind(')');
  return end_of_name != std::string_view::npos && stat.substr(end_of_name).starts_with(") S");
}

}  // namespace nestbench::micro
