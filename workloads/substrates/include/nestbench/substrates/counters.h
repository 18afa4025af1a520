// What else happened to this thread while a sample was taken: time the hypervisor above stole, time spent waiting for a
// CPU, context switches, migrations.
#pragma once

#include <cstdint>

#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::substrates {

// Differences, or totals since some beginning. What a kernel does not count stays 0.
struct Counters {
  std::uint64_t steal_ns = 0;           // of the CPU, /proc/stat (proc(5)): in steps of one tick, often 10 ms
  std::uint64_t run_queue_wait_ns = 0;  // of the thread, /proc/thread-self/schedstat (kernel "Scheduler Statistics")
  std::uint64_t context_switches = 0;   // of the thread, getrusage(2): voluntary and not
  std::uint64_t migrations = 0;         // 1 when the thread ended on another CPU than it began

  Counters& operator+=(const Counters& other);
};

// Reads them for the calling thread. Keeps its files open. One thread.
class CounterReader {
 public:
  static vmm::Result<CounterReader> Open();

  // Marks the beginning of a sample.
  void Begin();

  // What has happened since Begin().
  [[nodiscard]] Counters End() const;

 private:
  struct Reading {
    Counters totals;
    int cpu = -1;
  };
  CounterReader(vmm::UniqueFd stat, vmm::UniqueFd schedstat)
      : stat_(std::move(stat)), schedstat_(std::move(schedstat)) {}
  [[nodiscard]] Reading Read() const;

  vmm::UniqueFd stat_;
  vmm::UniqueFd schedstat_;  // invalid where the kernel was built without CONFIG_SCHED_INFO
  Reading begin_;
};

}  // namespace nestbench::substrates
