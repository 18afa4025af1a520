#include "filter.h"

#include <fmt/format.h>
#include <sched.h>
#include <seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <memory>
#include <span>
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
    SCMP_SYS(fork),    SCMP_SYS(vfork),           SCMP_SYS(wait4),     SCMP_SYS(kill),  SCMP_SYS(waitid),
    SCMP_SYS(getppid), SCMP_SYS(set_tid_address), SCMP_SYS(prlimit64), SCMP_SYS(pause),
};
// Of a process that starts threads or processes; which of the two, clone's flags say.
[[maybe_unused]] constexpr int kAllowedWithThreads[] = {
    SCMP_SYS(prctl),
    SCMP_SYS(rseq),
    SCMP_SYS(set_robust_list),
    SCMP_SYS(sched_getaffinity),
};
[[maybe_unused]] constexpr int kCloning[] = {SCMP_SYS(clone), SCMP_SYS(clone3)};
// The thread of a device waits for doorbells and for I/O, and the vCPU for the device.
[[maybe_unused]] constexpr int kAllowedWithDevices[] = {
    SCMP_SYS(io_uring_enter), SCMP_SYS(epoll_create1),     SCMP_SYS(epoll_ctl),      SCMP_SYS(epoll_wait),
    SCMP_SYS(poll),           SCMP_SYS(sched_setaffinity), SCMP_SYS(timerfd_create), SCMP_SYS(timerfd_settime),
};

// For the zygote's own work and for what comes before the guest runs.
[[maybe_unused]] constexpr int kAllowedInSetUp[] = {
    SCMP_SYS(signalfd4),         SCMP_SYS(fcntl),   SCMP_SYS(ftruncate),
    SCMP_SYS(memfd_create),      SCMP_SYS(seccomp), SCMP_SYS(io_uring_setup),
    SCMP_SYS(io_uring_register), SCMP_SYS(statx),   SCMP_SYS(pwrite64),
};

#ifndef NESTBENCH_SANITIZED
constexpr std::size_t kMaxProgramBytes = 65536;

using FilterContext = std::unique_ptr<void, decltype(&seccomp_release)>;

vmm::Result<FilterContext> CreateContext(std::uint32_t otherwise) {
  FilterContext context(seccomp_init(otherwise), seccomp_release);
  if (!context) return Fail(Error::System("seccomp_init", ENOMEM));
  // A binary tree: the kernel runs every system call through it once when it is loaded.
  seccomp_attr_set(context.get(), SCMP_FLTATR_CTL_OPTIMIZE, 2);
  return context;
}

vmm::Result<> AddRules(scmp_filter_ctx filter, std::uint32_t action, std::span<const int> calls) {
  for (const int call : calls) {
    if (const int result = seccomp_rule_add(filter, action, call, 0); result != 0) {
      return Fail(Error::System("seccomp_rule_add", -result, fmt::format("system call {}", call)));
    }
  }
  return {};
}
#endif

}  // namespace

#ifdef NESTBENCH_SANITIZED
vmm::Result<SystemCallFilter> SystemCallFilter::CompileOuter() { return SystemCallFilter({}); }
vmm::Result<SystemCallFilter> SystemCallFilter::CompileAfterSetUp(TenantMay /*may*/) { return SystemCallFilter({}); }
vmm::Result<> SystemCallFilter::Load() const { return {}; }
#else
vmm::Result<SystemCallFilter> SystemCallFilter::CompileOuter() {
  auto context = CreateContext(SCMP_ACT_KILL_PROCESS);
  if (!context) return Fail(std::move(context.error()));
  for (const std::span<const int> calls :
       {std::span<const int>(kAllowed), std::span<const int>(kAllowedWithProcesses),
        std::span<const int>(kAllowedWithThreads), std::span<const int>(kCloning),
        std::span<const int>(kAllowedWithDevices), std::span<const int>(kAllowedInSetUp)}) {
    if (auto added = AddRules(context->get(), SCMP_ACT_ALLOW, calls); !added) return Fail(std::move(added.error()));
  }
  return Export(context->get());
}

vmm::Result<SystemCallFilter> SystemCallFilter::CompileAfterSetUp(TenantMay may) {
  auto context = CreateContext(SCMP_ACT_ALLOW);
  if (!context) return Fail(std::move(context.error()));
  const bool may_fork = may == TenantMay::kFork;
  const bool has_devices = may == TenantMay::kDriveDevices;
  auto added = AddRules(context->get(), SCMP_ACT_KILL_PROCESS, kAllowedInSetUp);
  if (added && !may_fork) added = AddRules(context->get(), SCMP_ACT_KILL_PROCESS, kAllowedWithProcesses);
  if (added && !may_fork && !has_devices) added = AddRules(context->get(), SCMP_ACT_KILL_PROCESS, kAllowedWithThreads);
  if (added && !may_fork && !has_devices) added = AddRules(context->get(), SCMP_ACT_KILL_PROCESS, kCloning);
  if (added && !has_devices) added = AddRules(context->get(), SCMP_ACT_KILL_PROCESS, kAllowedWithDevices);
  if (!added) return Fail(std::move(added.error()));
  if (has_devices) {
    // A thread, and no process. clone3 hides its flags from a filter: the C library then falls back on clone.
    int result = seccomp_rule_add(context->get(), SCMP_ACT_ERRNO(ENOSYS), SCMP_SYS(clone3), 0);
    if (result == 0) {
      const scmp_arg_cmp no_thread = {.arg = 0, .op = SCMP_CMP_MASKED_EQ, .datum_a = CLONE_THREAD, .datum_b = 0};
      result = seccomp_rule_add_array(context->get(), SCMP_ACT_KILL_PROCESS, SCMP_SYS(clone), 1, &no_thread);
    }
    if (result != 0) return Fail(Error::System("seccomp_rule_add", -result, "clone"));
  }
  return Export(context->get());
}

vmm::Result<SystemCallFilter> SystemCallFilter::Export(void* context) {
  const vmm::UniqueFd file(::memfd_create("nestbench-filter", MFD_CLOEXEC));
  if (!file.valid()) return Fail(Error::System("memfd_create", errno));
  if (const int result = seccomp_export_bpf(context, file.get()); result != 0) {
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
  // For the threads as well that a guest with devices has already.
  if (::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program) != 0) {
    return Fail(Error::System("seccomp", errno, "SECCOMP_SET_MODE_FILTER"));
  }
  return {};
}
#endif

}  // namespace nestbench::tenants
