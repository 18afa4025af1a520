#include "nestbench/floor/raw_alarm.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "nestbench/floor/raw_vm.h"

namespace nestbench::floor {
namespace {

// What the handler of this thread may touch: a signal handler has no other way to find its vCPU.
[[gnu::tls_model("initial-exec")]] thread_local kvm_run* volatile t_run = nullptr;

void OnKick(int /*signal*/) {
  if (kvm_run* run = t_run) __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
}

constexpr long kRepeatNs = 10'000'000;

}  // namespace

int RawKickSignal() { return SIGRTMIN + 4; }

void InstallRawKickHandler() {
  struct sigaction action = {};
  action.sa_handler = OnKick;
  sigemptyset(&action.sa_mask);
  if (::sigaction(RawKickSignal(), &action, nullptr) != 0) throw RawError("sigaction", errno);
}

void RawKick(kvm_run* run, pid_t thread) {
  __atomic_store_n(&run->immediate_exit, 1, __ATOMIC_SEQ_CST);
  ::syscall(SYS_tgkill, ::getpid(), thread, RawKickSignal());
}

RawAlarm::RawAlarm(kvm_run* run, std::chrono::nanoseconds limit) : run_(run) {
  InstallRawKickHandler();
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = RawKickSignal();
  event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
  if (::timer_create(CLOCK_MONOTONIC, &event, &timer_) != 0) throw RawError("timer_create", errno);
  t_run = run;
  itimerspec when = {};
  when.it_value.tv_sec = limit.count() / 1'000'000'000;
  when.it_value.tv_nsec = limit.count() % 1'000'000'000;
  when.it_interval.tv_nsec = kRepeatNs;
  if (::timer_settime(timer_, 0, &when, nullptr) != 0) {
    const int error = errno;
    t_run = nullptr;
    ::timer_delete(timer_);
    throw RawError("timer_settime", error);
  }
}

RawAlarm::~RawAlarm() {
  t_run = nullptr;
  ::timer_delete(timer_);
  __atomic_store_n(&run_->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

}  // namespace nestbench::floor
