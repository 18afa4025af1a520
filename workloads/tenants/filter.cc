#include "filter.h"

#include <fmt/format.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <utility>

#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::tenants {
namespace {

using vmm::Error;
using vmm::Fail;

// Talk, take time, enter guests, make and destroy VMs from the open /dev/kvm, arm timers, wait, end. Nothing that opens
// a file by name, starts a program or reaches the network.
[[maybe_unused]] constexpr int kAllowed[] = {
    SCMP_SYS(ioctl),          SCMP_SYS(read),         SCMP_SYS(pread64),         SCMP_SYS(write),
    SCMP_SYS(close),          SCMP_SYS(sendmsg),      SCMP_SYS(recvmsg),         SCMP_SYS(ppoll),
    SCMP_SYS(mmap),           SCMP_SYS(munmap),       SCMP_SYS(mremap),          SCMP_SYS(madvise),
    SCMP_SYS(mprotect),       SCMP_SYS(brk),          SCMP_SYS(futex),           SCMP_SYS(clock_gettime),
    SCMP_SYS(getrusage),      SCMP_SYS(getcpu),       SCMP_SYS(clock_nanosleep), SCMP_SYS(timer_create),
    SCMP_SYS(timer_settime),  SCMP_SYS(timer_delete), SCMP_SYS(rt_sigreturn),    SCMP_SYS(rt_sigaction),
    SCMP_SYS(rt_sigprocmask), SCMP_SYS(gettid),       SCMP_SYS(getpid),          SCMP_SYS(tgkill),
    SCMP_SYS(exit),           SCMP_SYS(exit_group),   SCMP_SYS(restart_syscall), SCMP_SYS(sched_yield),
    SCMP_SYS(sigaltstack),    SCMP_SYS(eventfd2),     SCMP_SYS(fstat),           SCMP_SYS(newfstatat),
    SCMP_SYS(lseek),
};
[[maybe_unused]] constexpr int kAllowedWithProcesses[] = {
    SCMP_SYS(clone),
    SCMP_SYS(clone3),
    SCMP_SYS(fork),
    SCMP_SYS(vfork),
    SCMP_SYS(wait4),
    SCMP_SYS(kill),
    SCMP_SYS(prctl),
    SCMP_SYS(rseq),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(waitid),
    SCMP_SYS(getppid),
    SCMP_SYS(set_tid_address),
    SCMP_SYS(sched_getaffinity),
    SCMP_SYS(prlimit64),
    SCMP_SYS(pause),
};

#ifndef NESTBENCH_SANITIZED
constexpr std::size_t kMaxProgramBytes = 65536;

vmm::Result<> Allow(scmp_filter_ctx filter, int call) {
  if (const int result = seccomp_rule_add(filter, SCMP_ACT_ALLOW, call, 0); result != 0) {
    return Fail(Error::System("seccomp_rule_add", -result, fmt::format("system call {}", call)));
  }
  return {};
}
#endif

}  // namespace

#ifdef NESTBENCH_SANITIZED
vmm::Result<SystemCallFilter> SystemCallFilter::Compile(bool /*may_fork*/) { return SystemCallFilter({}); }
vmm::Result<> SystemCallFilter::Load() const { return {}; }
#else
vmm::Result<SystemCallFilter> SystemCallFilter::Compile(bool may_fork) {
  const std::unique_ptr<void, decltype(&seccomp_release)> filter(seccomp_init(SCMP_ACT_KILL_PROCESS), seccomp_release);
  if (!filter) return Fail(Error::System("seccomp_init", ENOMEM));
  // A binary tree: the kernel runs every system call through it once when a tenant loads it.
  seccomp_attr_set(filter.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  for (const int call : kAllowed) {
    if (auto done = Allow(filter.get(), call); !done) return Fail(std::move(done.error()));
  }
  if (may_fork) {
    for (const int call : kAllowedWithProcesses) {
      if (auto done = Allow(filter.get(), call); !done) return Fail(std::move(done.error()));
    }
  }
  const vmm::UniqueFd file(::memfd_create("nestbench-filter", MFD_CLOEXEC));
  if (!file.valid()) return Fail(Error::System("memfd_create", errno));
  if (const int result = seccomp_export_bpf(filter.get(), file.get()); result != 0) {
    return Fail(Error::System("seccomp_export_bpf", -result));
  }
  std::vector<sock_filter> program(kMaxProgramBytes / sizeof(sock_filter));
  const ssize_t bytes = ::pread(file.get(), program.data(), kMaxProgramBytes, 0);
  if (bytes <= 0 || static_cast<std::size_t>(bytes) % sizeof(sock_filter) != 0) {
    return Fail(Error::System("pread", bytes < 0 ? errno : EIO, "the compiled filter"));
  }
  program.resize(static_cast<std::size_t>(bytes) / sizeof(sock_filter));
  program.shrink_to_fit();
  return SystemCallFilter(std::move(program));
}

vmm::Result<> SystemCallFilter::Load() const {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return Fail(Error::System("prctl", errno, "PR_SET_NO_NEW_PRIVS"));
  const sock_fprog program = {.len = static_cast<unsigned short>(program_.size()),
                              .filter = const_cast<sock_filter*>(program_.data())};
  if (::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) != 0) {
    return Fail(Error::System("prctl", errno, "PR_SET_SECCOMP"));
  }
  return {};
}
#endif

}  // namespace nestbench::tenants
