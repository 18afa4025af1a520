// Stands in for core/worker.cc: all that it defines is defined here, so that the library's own is not linked.
#include "nestbench/fuzz/virtio/stepped_workers.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <utility>
#include <vector>

#include "devices/virtio/core/worker.h"
#include "nestbench/fuzz/require.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::size_t kMaxDescriptors = 1024;

struct Descriptor {
  bool is_ours = false;     // made by CreateEventFd
  bool is_ringing = false;  // since it was emptied
  std::uint64_t rings = 0;
};

struct Stepped {
  const Worker* worker = nullptr;
  const Worker::Serve* serve = nullptr;
  std::vector<int> eventfds;
  std::vector<int> descriptors;
  std::vector<std::uint64_t> seen_rings;  // of the descriptors
  bool awake = true;
};

// A fuzz program is one thread.
std::array<Descriptor, kMaxDescriptors> descriptors;
std::vector<Stepped> workers;

Descriptor& At(int fd) {
  fuzz::Require(fd >= 0 && static_cast<std::size_t>(fd) < descriptors.size(), "descriptors are closed again");
  return descriptors[static_cast<std::size_t>(fd)];
}

void Wake(Stepped& stepped) {
  for (const int fd : stepped.eventfds) {
    Descriptor& eventfd = At(fd);
    stepped.awake |= eventfd.is_ringing;
    eventfd.is_ringing = false;
  }
  for (std::size_t i = 0; i < stepped.descriptors.size(); ++i) {
    const Descriptor& descriptor = At(stepped.descriptors[i]);
    // A descriptor of the kernel's may always have news. Of ours, as an edge: each ring wakes once.
    stepped.awake |= !descriptor.is_ours || descriptor.rings != stepped.seen_rings[i];
    stepped.seen_rings[i] = descriptor.rings;
  }
}

}  // namespace

bool RunWorkers(unsigned rounds) {
  bool more = false;
  for (Stepped& stepped : workers) {
    Wake(stepped);
    for (unsigned i = 0; i < rounds && stepped.awake; ++i) stepped.awake = (*stepped.serve)(true);
    more |= stepped.awake;
  }
  return more;
}

Result<std::unique_ptr<Worker>> Worker::Start(WorkerOptions options, Serve serve) {
  std::unique_ptr<Worker> worker(new Worker(std::move(options), std::move(serve), UniqueFd(), UniqueFd()));
  std::vector<std::uint64_t> seen;
  for (const int fd : worker->options_.descriptors) seen.push_back(At(fd).rings);
  workers.push_back(
      {worker.get(), &worker->serve_, worker->options_.eventfds, worker->options_.descriptors, std::move(seen), true});
  return worker;
}

Worker::~Worker() {
  std::erase_if(workers, [this](const Stepped& stepped) { return stepped.worker == this; });
}

Result<UniqueFd> CreateEventFd() {
  UniqueFd fd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!fd.valid()) return Fail(Error::System("eventfd", errno));
  At(fd.get()) = {.is_ours = true, .is_ringing = false, .rings = 0};
  return fd;
}

void RingEventFd(int fd) {
  Descriptor& descriptor = At(fd);
  descriptor.is_ringing = true;
  ++descriptor.rings;
}

void DrainEventFd(int fd) { At(fd).is_ringing = false; }

}  // namespace nestbench::vmm::virtio
