#include "nestbench/substrates/counters.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <span>
#include <string>
#include <string_view>

namespace nestbench::substrates {
namespace {

// The n-th number (from 0) of a line of blank-separated fields; 0 when there is none.
std::uint64_t NumberAt(std::string_view line, unsigned index) {
  std::size_t at = 0;
  for (unsigned field = 0;; ++field) {
    at = line.find_first_not_of(' ', at);
    if (at == std::string_view::npos) return 0;
    const std::size_t end = std::min(line.find(' ', at), line.size());
    if (field == index) {
      std::uint64_t value = 0;
      std::from_chars(line.data() + at, line.data() + end, value);
      return value;
    }
    at = end;
  }
}

std::string_view ReadText(int fd, std::span<char> buffer) {
  const ssize_t got = ::pread(fd, buffer.data(), buffer.size(), 0);
  return got <= 0 ? std::string_view() : std::string_view(buffer.data(), static_cast<std::size_t>(got));
}

std::string_view LineThatStartsWith(std::string_view text, std::string_view prefix) {
  while (!text.empty()) {
    const std::size_t end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    if (line.starts_with(prefix)) return line;
    if (end == std::string_view::npos) break;
    text.remove_prefix(end + 1);
  }
  return {};
}

}  // namespace

Counters& Counters::operator+=(const Counters& other) {
  steal_ns += other.steal_ns;
  run_queue_wait_ns += other.run_queue_wait_ns;
  context_switches += other.context_switches;
  migrations += other.migrations;
  return *this;
}

vmm::Result<CounterReader> CounterReader::Open() {
  vmm::UniqueFd stat(::open("/proc/stat", O_RDONLY | O_CLOEXEC));
  if (!stat.valid()) return Fail(vmm::Error::System("open", errno, "/proc/stat"));
  vmm::UniqueFd schedstat(::open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC));
  return CounterReader(std::move(stat), std::move(schedstat));
}

CounterReader::Reading CounterReader::Read() const {
  Reading reading;
  reading.cpu = ::sched_getcpu();
  std::array<char, 16384> buffer;
  constexpr unsigned kStealField = 8;  // "cpuN user nice system idle iowait irq softirq steal"
  const auto cpu_line = LineThatStartsWith(ReadText(stat_.get(), buffer), fmt::format("cpu{} ", reading.cpu));
  const auto ticks_per_second = static_cast<std::uint64_t>(::sysconf(_SC_CLK_TCK));
  reading.totals.steal_ns = NumberAt(cpu_line, kStealField) * (1'000'000'000 / ticks_per_second);
  if (schedstat_.valid()) {
    constexpr unsigned kWaitField = 1;  // "running waiting slices"
    reading.totals.run_queue_wait_ns = NumberAt(ReadText(schedstat_.get(), buffer), kWaitField);
  }
  rusage usage = {};
  ::getrusage(RUSAGE_THREAD, &usage);
  reading.totals.context_switches = static_cast<std::uint64_t>(usage.ru_nvcsw + usage.ru_nivcsw);
  return reading;
}

void CounterReader::Begin() { begin_ = Read(); }

Counters CounterReader::End() const {
  const Reading end = Read();
  Counters passed;
  // A thread that moved has two CPUs' steal: the difference would be nonsense.
  passed.steal_ns = end.cpu == begin_.cpu ? end.totals.steal_ns - begin_.totals.steal_ns : 0;
  passed.run_queue_wait_ns = end.totals.run_queue_wait_ns - begin_.totals.run_queue_wait_ns;
  passed.context_switches = end.totals.context_switches - begin_.totals.context_switches;
  passed.migrations = end.cpu == begin_.cpu ? 0 : 1;
  return passed;
}

}  // namespace nestbench::substrates
