// The floor's limit on the time a guest may run: without one, a guest that never leaves would hang a benchmark.
//
// A POSIX timer signals the thread; the handler sets kvm_run::immediate_exit, so that a vCPU which is about to enter
// does not slip through. Costs nothing per exit.
#pragma once

#include <pthread.h>
#include <sys/types.h>
#include <time.h>

#include <chrono>

#include "nestbench/floor/linux_kvm.h"

namespace nestbench::floor {

// The signal that ends a KVM_RUN of the floor. Its handler is installed by the first RawAlarm or InstallKickHandler.
int RawKickSignal();
void InstallRawKickHandler();

// Ends a KVM_RUN of thread `thread`, now or next, with EINTR. The one who gets it sets immediate_exit to 0 again.
void RawKick(kvm_run* run, pid_t thread);

// While it lives, KVM_RUN on this thread ends with EINTR once `limit` has passed, and goes on doing so. One at a time
// for each thread; created and destroyed on the vCPU's thread, before the vCPU is. Throws RawError.
class RawAlarm {
 public:
  RawAlarm(kvm_run* run, std::chrono::nanoseconds limit);
  ~RawAlarm();
  RawAlarm(const RawAlarm&) = delete;
  RawAlarm& operator=(const RawAlarm&) = delete;

 private:
  timer_t timer_ = nullptr;
  kvm_run* run_;
};

}  // namespace nestbench::floor
