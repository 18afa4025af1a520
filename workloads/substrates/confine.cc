#include "confine.h"

#include <fmt/format.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <span>
#include <utility>

namespace nestbench::substrates {
namespace {

using vmm::Error;

constexpr rlim_t kMaxOpenFiles = 64;

// What Measure() and both substrates do after their set-up: enter the guest, take time, arm and disarm the deadline,
// read counters, give memory back, write the answer, end.
[[maybe_unused]] constexpr int kAllowed[] = {
    SCMP_SYS(ioctl),         SCMP_SYS(read),          SCMP_SYS(pread64),
    SCMP_SYS(write),         SCMP_SYS(close),         SCMP_SYS(openat),
    SCMP_SYS(newfstatat),    SCMP_SYS(fstat),         SCMP_SYS(lseek),
    SCMP_SYS(mmap),          SCMP_SYS(munmap),        SCMP_SYS(mremap),
    SCMP_SYS(madvise),       SCMP_SYS(brk),           SCMP_SYS(futex),
    SCMP_SYS(clock_gettime), SCMP_SYS(getrusage),     SCMP_SYS(getcpu),
    SCMP_SYS(timer_create),  SCMP_SYS(timer_settime), SCMP_SYS(timer_delete),
    SCMP_SYS(rt_sigreturn),  SCMP_SYS(rt_sigaction),  SCMP_SYS(rt_sigprocmask),
    SCMP_SYS(gettid),        SCMP_SYS(getpid),        SCMP_SYS(tgkill),
    SCMP_SYS(exit),          SCMP_SYS(exit_group),    SCMP_SYS(restart_syscall),
    SCMP_SYS(sched_yield),   SCMP_SYS(sigaltstack),
};

// What the thread of a device does besides: it is born at the driver's DRIVER_OK, waits for doorbells and I/O.
[[maybe_unused]] constexpr int kAllowedWithDevices[] = {
    SCMP_SYS(epoll_create1), SCMP_SYS(epoll_ctl),         SCMP_SYS(epoll_wait),      SCMP_SYS(eventfd2),
    SCMP_SYS(poll),          SCMP_SYS(io_uring_enter),    SCMP_SYS(set_robust_list), SCMP_SYS(rseq),
    SCMP_SYS(mprotect),      SCMP_SYS(sched_setaffinity), SCMP_SYS(prctl),           SCMP_SYS(sched_getaffinity),
    SCMP_SYS(fallocate),     SCMP_SYS(fdatasync),         SCMP_SYS(timerfd_settime), SCMP_SYS(readv),
    SCMP_SYS(writev),
};

// Messages by the dozen. A socket is neither opened nor given another peer.
[[maybe_unused]] constexpr int kAllowedWithSockets[] = {SCMP_SYS(sendmmsg), SCMP_SYS(recvmmsg)};

vmm::Result<void> Limit(__rlimit_resource resource, rlim_t value, const char* name) {
  const rlimit limit = {value, value};
  if (::setrlimit(resource, &limit) != 0) return Fail(Error::System("setrlimit", errno, name));
  return {};
}

}  // namespace

vmm::Result<void> Confine() {
  // If the supervisor died before this call, nobody would ever signal us: our parent is then no longer who started us.
  // (Process 1 is a supervisor like any other: in a container it may be nestbench itself.)
  const pid_t parent = ::getppid();
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return Fail(Error::System("prctl", errno, "PR_SET_PDEATHSIG"));
  if (::getppid() != parent) return Fail(Error::System("start guest process", ESRCH, "no supervisor"));
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Fail(Error::System("prctl", errno, "PR_SET_NO_NEW_PRIVS"));
  if (auto done = Limit(RLIMIT_CORE, 0, "RLIMIT_CORE"); !done) return done;
  return Limit(RLIMIT_NOFILE, kMaxOpenFiles, "RLIMIT_NOFILE");
}

vmm::Result<void> LimitFileSize(std::uint64_t size_bytes) { return Limit(RLIMIT_FSIZE, size_bytes, "RLIMIT_FSIZE"); }

vmm::Result<void> FilterSystemCalls([[maybe_unused]] const Needs& needs) {
#ifdef NESTBENCH_SANITIZED
  return {};  // a sanitizer's runtime needs calls of its own, up to ptrace for its leak check
#else
  const std::unique_ptr<void, decltype(&seccomp_release)> filter(seccomp_init(SCMP_ACT_KILL_PROCESS), seccomp_release);
  if (!filter) return Fail(Error::System("seccomp_init", ENOMEM));
  const auto allow = [&filter](std::span<const int> calls) -> vmm::Result<void> {
    for (const int call : calls) {
      if (const int result = seccomp_rule_add(filter.get(), SCMP_ACT_ALLOW, call, 0); result != 0) {
        return Fail(Error::System("seccomp_rule_add", -result, fmt::format("system call {}", call)));
      }
    }
    return {};
  };
  if (auto allowed = allow(kAllowed); !allowed) return allowed;
  if (needs.devices) {
    if (auto allowed = allow(kAllowedWithDevices); !allowed) return allowed;
    // A thread, and no process. clone3 hides its flags from a filter: the C library then falls back on clone.
    int result = seccomp_rule_add(filter.get(), SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (result == 0) {
      const scmp_arg_cmp thread = {
          .arg = 0, .op = SCMP_CMP_MASKED_EQ, .datum_a = CLONE_THREAD, .datum_b = CLONE_THREAD};
      result = seccomp_rule_add_array(filter.get(), SCMP_ACT_ALLOW, SCMP_SYS(clone), 1, &thread);
    }
    if (result != 0) return Fail(Error::System("seccomp_rule_add", -result, "clone"));
  }
  if (needs.sockets) {
    if (auto allowed = allow(kAllowedWithSockets); !allowed) return allowed;
  }
  // The thread of a guest that is the peer of another one is there already.
  if (const int result = seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_TSYNC, 1); result != 0) {
    return Fail(Error::System("seccomp_attr_set", -result, "SCMP_FLTATR_CTL_TSYNC"));
  }
  if (const int result = seccomp_load(filter.get()); result != 0) return Fail(Error::System("seccomp_load", -result));
  return {};
#endif
}

}  // namespace nestbench::substrates
