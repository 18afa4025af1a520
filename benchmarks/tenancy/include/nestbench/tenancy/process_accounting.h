// What the kernel has counted for one process of any user, from outside: time, waiting, faults, switches, memory.
//
// Source: proc(5) ("/proc/pid/stat", "/proc/pid/status", "/proc/pid/smaps"); clock_getcpuclockid(3); kernel document
// "Scheduler Statistics".
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "nestbench/system_files/system_files.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::tenancy {

// Totals since the process began. Costs 46 us (median) for a process of one thread.
struct ProcessUsage {
  char state = '?';  // "State" of proc(5): R, S, D, T, t, Z, ...; of the first thread
  std::uint32_t threads = 0;
  std::uint64_t cpu_ns = 0;             // of all threads, those that have ended included; 0 for a zombie
  std::uint64_t run_queue_wait_ns = 0;  // of its present threads: ready to run, and not running
  std::uint64_t minor_faults = 0;
  std::uint64_t major_faults = 0;
  std::uint64_t voluntary_switches = 0;  // of its present threads
  std::uint64_t involuntary_switches = 0;
};

// kSystem with ESRCH or ENOENT when there is no such process. `files` is for tests: cpu_ns is then that of the system's
// process of this number, or 0.
vmm::Result<ProcessUsage> ReadProcess(pid_t pid, const system_files::SystemFiles& files = system_files::SystemFiles());

// Only ProcessUsage::run_queue_wait_ns, for many processes: 24 us each (median). Empty when the process is gone, 0 on a
// kernel without CONFIG_SCHED_INFO.
std::optional<std::uint64_t> ReadRunQueueWaitNs(pid_t pid,
                                                const system_files::SystemFiles& files = system_files::SystemFiles());

struct AddressRange {
  std::uint64_t start = 0;
  std::uint64_t size_bytes = 0;
};

// Where the memory of one VMM process is. Slow, as the kernel walks its page tables: 0.25 ms
// (median) for a small process, now and then 20 ms.
struct ProcessMemory {
  // Resident in the mappings that reach into the ranges given, of each at most what lies in the range: the kernel may
  // have merged guest memory with a neighbouring mapping.
  std::uint64_t guest_ram_bytes = 0;
  // "Pss" of everything else: pages that n processes share count 1/n in each.
  std::uint64_t vmm_private_bytes = 0;
  // "VmPTE" of /proc/pid/status: page tables. Not in either of the above; part of the kernel's.
  std::uint64_t page_tables_bytes = 0;
};
vmm::Result<ProcessMemory> ReadProcessMemory(pid_t pid, std::span<const AddressRange> guest_ram,
                                             const system_files::SystemFiles& files = system_files::SystemFiles());

struct GuestProcess {
  pid_t pid = -1;
  std::vector<AddressRange> guest_ram;
};

// Bytes for each guest.
struct MemoryPerGuest {
  double total_bytes = 0;
  double guest_ram_bytes = 0;
  double vmm_private_bytes = 0;
  double kernel_bytes = 0;  // page tables, KVM's structures, kernel stacks, sockets, cgroups: the rest of the total
  std::size_t sampled = 0;  // how many processes the split rests on
};

// MemAvailable and the pages in the per-CPU free lists, which it leaves out. Since Linux 6.7 these lists grow to
// gigabytes: what one experiment has freed lies there for seconds and serves the next one, which by MemAvailable alone
// then seems to cost next to nothing (1,000 guests of 0.57 MB each by their cgroup: between 0.07 and 0.49 MB by
// MemAvailable). Empty without MemAvailable; the lists count as 0 where /proc/zoneinfo cannot be read.
std::optional<std::uint64_t> ReadUnusedMemoryBytes(
    const system_files::SystemFiles& files = system_files::SystemFiles());

// What guests cost the host: taken before the first of them, and asked while they are alive.
//
// The total is how much ReadUnusedMemoryBytes() has fallen, over the number of guests. Everything else on the host is
// in it: where other programs work, it is wrong by what they took and freed, and so means little for few guests. Where
// the guests have a memory cgroup, that knows better (Cgroup::MemoryUsageBytes, CgroupTree::MemoryUsageBytes). Guest
// RAM and the VMM's private memory are the mean of at most `most_sampled` processes, evenly spread over the list. The
// kernel's part is the rest; it is never less than 0, and the total is never less than what the processes were seen to
// hold.
class MemoryAccount {
 public:
  static MemoryAccount Begin(system_files::SystemFiles files = system_files::SystemFiles());

  // Empty when there are no guests, none could be read, or MemAvailable is missing.
  [[nodiscard]] std::optional<MemoryPerGuest> PerGuest(std::span<const GuestProcess> guests,
                                                       std::size_t most_sampled = 16) const;

 private:
  explicit MemoryAccount(system_files::SystemFiles files) : files_(std::move(files)) {}
  system_files::SystemFiles files_;
  std::optional<std::uint64_t> unused_bytes_;
};

}  // namespace nestbench::tenancy
