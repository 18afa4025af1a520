#include "nestbench/vmm/kvm/deadline.h"

#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "nestbench/vmm/base/mutant.h"
#include "nestbench/vmm/kvm/linux_kvm.h"
#include "nestbench/vmm/kvm/vcpu.h"

namespace nestbench::vmm {
namespace {

// What the handler of this thread may touch; null outside a RunDeadline. A mutable thread-local because a signal
// handler has no other way to find its vCPU; initial-exec, so that the handler never allocates.
[[gnu::tls_model("initial-exec")]] thread_local kvm_run* volatile t_deadline_run = nullptr;

void SetImmediateExit(kvm_run* run, std::uint8_t value) {
  __atomic_store_n(&run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

void OnKick(int /*signal*/) {
  if (kvm_run* run = t_deadline_run) SetImmediateExit(run, 1);
}

// A timer that fired once may find the thread in a handler of someone else's; firing on until it is disarmed costs
// nothing and cannot be lost.
constexpr long kRepeatNs = 10'000'000;

}  // namespace

int KickSignal() { return SIGRTMIN + 3; }

Result<void> InstallKickHandler() {
  struct sigaction action = {};
  action.sa_handler = OnKick;
  sigemptyset(&action.sa_mask);
  if (::sigaction(KickSignal(), &action, nullptr) != 0) return Fail(Error::System("sigaction", errno));
  return {};
}

void VcpuKicker::Kick() const {
  if (!Mutated("kick-before-entry-lost")) SetImmediateExit(run_, 1);
  ::syscall(SYS_tgkill, ::getpid(), thread_, KickSignal());
}

Result<RunDeadline> RunDeadline::Start(Vcpu& vcpu, std::chrono::nanoseconds limit) {
  if (limit.count() <= 0) return Fail(Error::InvalidArgument("start run deadline", "the limit must be above zero"));
  if (t_deadline_run != nullptr) {
    return Fail(Error::InvalidArgument("start run deadline", "this thread already has one"));
  }
  sigevent event = {};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = KickSignal();
  event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
  timer_t timer = nullptr;
  if (::timer_create(CLOCK_MONOTONIC, &event, &timer) != 0) return Fail(Error::System("timer_create", errno));
  t_deadline_run = vcpu.run();

  itimerspec when = {};
  when.it_value.tv_sec = limit.count() / 1'000'000'000;
  when.it_value.tv_nsec = limit.count() % 1'000'000'000;
  when.it_interval.tv_nsec = kRepeatNs;
  if (Mutated("deadline-never-fires")) when = {};
  // Read before the timer is armed: read after it, a thread that was preempted in between has a timer that fires before
  // `end`, and the destructor would take that expiry for a kick of someone else's and leave it to end the next run.
  const auto end = std::chrono::steady_clock::now() + limit;
  if (::timer_settime(timer, 0, &when, nullptr) != 0) {
    const int error = errno;
    t_deadline_run = nullptr;
    ::timer_delete(timer);
    return Fail(Error::System("timer_settime", error));
  }
  return RunDeadline(timer, end);
}

RunDeadline::RunDeadline(RunDeadline&& other) noexcept
    : timer_(other.timer_), armed_(std::exchange(other.armed_, false)), end_(other.end_) {}

RunDeadline::~RunDeadline() {
  if (!armed_) return;
  kvm_run* run = t_deadline_run;
  t_deadline_run = nullptr;
  ::timer_delete(timer_);
  // An expiry after the last Run() must not end the next one.
  if (run != nullptr && Expired() && !Mutated("deadline-ends-the-next-run")) SetImmediateExit(run, 0);
}

bool RunDeadline::Expired() const { return std::chrono::steady_clock::now() >= end_; }

}  // namespace nestbench::vmm
