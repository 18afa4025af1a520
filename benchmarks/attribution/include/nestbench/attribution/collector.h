// Fills windows from outside: /proc for any process, KVM's statistics where they are to be had.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nestbench/attribution/detector.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::attribution {

// One guest that is watched.
struct Watched {
  std::uint64_t guest = 0;        // the number that windows carry
  pid_t pid = -1;                 // of its VMM
  vmm::UniqueFd statistics = {};  // a vCPU's KVM statistics that somebody handed over; invalid: debugfs is tried
};

class Collector {
 public:
  Collector();
  ~Collector();
  Collector(const Collector&) = delete;
  Collector& operator=(const Collector&) = delete;

  void Add(Watched watched);

  // What has happened since the last call, or since Add(). A process that is gone is left out, now and later.
  Window Take();

  [[nodiscard]] std::size_t size() const;

 private:
  struct Guest;
  std::vector<std::unique_ptr<Guest>> guests_;
  std::uint64_t last_ns_;
};

// A process that has a VM of KVM: it holds a descriptor of `anon_inode:kvm-vm`.
struct KvmProcess {
  pid_t pid = -1;
  std::string name;     // proc(5), "comm"
  std::size_t vms = 0;  // how many
};

// Of all that this user may look at, in ascending order of their numbers.
std::vector<KvmProcess> FindKvmProcesses();

// Whether KVM counts the exits of this process where we can read them (debugfs), and if not, why.
std::string WhyNoExits(pid_t pid);

}  // namespace nestbench::attribution
