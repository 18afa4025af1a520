// A limit on the time a vCPU may run, and a way to stop one from another thread.
//
// A guest that spins for ever never leaves KVM_RUN by itself. Both classes set kvm_run::immediate_exit before they
// send a signal, so a vCPU that is just about to enter does not slip through (kernel document "The Definitive KVM API
// Documentation", section "The kvm_run structure", immediate_exit). The signal is KickSignal(); its handler is
// installed when the first vCPU is created, without SA_RESTART, and only sets that flag.
#pragma once

#include <pthread.h>
#include <sys/types.h>
#include <time.h>

#include <chrono>
#include <cstdint>

#include "nestbench/vmm/base/error.h"

struct kvm_run;

namespace nestbench::vmm {

class Vcpu;

// The real-time signal that this library uses. A program that uses vmm-core leaves it alone and unblocked.
int KickSignal();

// Installs the handler; idempotent, from any thread.
Result<void> InstallKickHandler();

// Ends the vCPU's Run() (now or the next one) with InterruptedExit. Copyable; usable from any thread as long as the
// vCPU and its thread live.
class VcpuKicker {
 public:
  void Kick() const;

 private:
  friend class Vcpu;
  VcpuKicker(kvm_run* run, pid_t thread) : run_(run), thread_(thread) {}

  kvm_run* run_;
  pid_t thread_;
};

// While it lives, the vCPU's Run() on this thread ends with InterruptedExit once `limit` has passed. Costs two system
// calls in all, none of them per exit. One at a time for each thread; create and destroy it on the vCPU's thread.
class RunDeadline {
 public:
  static Result<RunDeadline> Start(Vcpu& vcpu, std::chrono::nanoseconds limit);

  RunDeadline(RunDeadline&& other) noexcept;
  RunDeadline& operator=(RunDeadline&&) = delete;
  RunDeadline(const RunDeadline&) = delete;
  RunDeadline& operator=(const RunDeadline&) = delete;
  ~RunDeadline();

  // Whether the limit has passed: tells a deadline from a kick after an InterruptedExit.
  [[nodiscard]] bool Expired() const;

 private:
  RunDeadline(timer_t timer, std::chrono::steady_clock::time_point end) : timer_(timer), end_(end) {}

  timer_t timer_;
  bool armed_ = true;
  std::chrono::steady_clock::time_point end_;
};

}  // namespace nestbench::vmm
