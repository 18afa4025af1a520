#include "system_call_trace.h"

#include <signal.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace nestbench::micro {
namespace {

constexpr long kMark = 0xB'E7CA;  // no system call has this number: it fails and does nothing, but it is seen
constexpr int kExitMayNotTrace = 3;
constexpr int kExitFailed = 4;
constexpr int kSystemCallStop = SIGTRAP | 0x80;  // PTRACE_O_TRACESYSGOOD

[[noreturn]] void RunChild(const std::function<std::string(const std::function<void()>&)>& traced, int error_pipe) {
  if (::ptrace(PTRACE_TRACEME, 0, nullptr, nullptr) != 0) ::_exit(kExitMayNotTrace);
  ::raise(SIGSTOP);
  const std::string error = traced([] { ::syscall(kMark); });
  const bool written = error.empty() || ::write(error_pipe, error.data(), error.size()) > 0;
  ::_exit(error.empty() && written ? 0 : kExitFailed);
}

std::string ReadAll(int fd) {
  std::string text;
  char buffer[512];
  for (ssize_t size = 0; (size = ::read(fd, buffer, sizeof(buffer))) > 0;) {
    text.append(buffer, static_cast<std::size_t>(size));
  }
  return text;
}

std::string ErrnoText(const char* what) { return std::string(what) + ": " + std::strerror(errno); }

// Lets the child run to its end and collects. Returns its wait status, or -1 with trace.problem set.
int Follow(pid_t child, SystemCallTrace& trace) {
  int status = 0;
  int signal = 0;
  int marks = 0;
  bool entering = true;
  if (::waitpid(child, &status, 0) != child) {
    trace.problem = ErrnoText("waitpid");
    return -1;
  }
  if (WIFEXITED(status)) return status;
  ::ptrace(PTRACE_SETOPTIONS, child, nullptr, PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
  for (;;) {
    if (::ptrace(PTRACE_SYSCALL, child, nullptr, signal) != 0 || ::waitpid(child, &status, 0) != child) {
      trace.problem = ErrnoText("ptrace");
      ::kill(child, SIGKILL);
      ::waitpid(child, &status, 0);
      return -1;
    }
    if (WIFEXITED(status) || WIFSIGNALED(status)) break;
    signal = 0;
    if (WSTOPSIG(status) != kSystemCallStop) {
      signal = WSTOPSIG(status);  // the child's own business, a deadline's signal for one
      continue;
    }
    if (entering) {
      user_regs_struct regs = {};
      ::ptrace(PTRACE_GETREGS, child, nullptr, &regs);
      if (regs.orig_rax == kMark) {
        ++marks;
      } else if (marks == 1) {
        trace.calls.push_back({regs.orig_rax, {regs.rdi, regs.rsi, regs.rdx}});
      }
    }
    entering = !entering;
  }
  if (marks != 2) trace.problem = "the child ended between its marks";
  return status;
}

}  // namespace

SystemCallTrace TraceSystemCalls(const std::function<std::string(const std::function<void()>& mark)>& traced) {
  SystemCallTrace trace;
  int error_pipe[2];
  if (::pipe(error_pipe) != 0) {
    trace.problem = ErrnoText("pipe");
    return trace;
  }
  const pid_t child = ::fork();
  if (child == 0) RunChild(traced, error_pipe[1]);
  ::close(error_pipe[1]);
  if (child < 0) {
    trace.problem = ErrnoText("fork");
  } else if (const int status = Follow(child, trace); status >= 0) {
    trace.may_not_trace = WIFEXITED(status) && WEXITSTATUS(status) == kExitMayNotTrace;
    if (trace.may_not_trace) {
      trace.problem = "this process may not use ptrace(2)";
    } else if (WIFSIGNALED(status)) {
      trace.problem = std::string("the child died: ") + ::strsignal(WTERMSIG(status));
    } else if (WEXITSTATUS(status) != 0) {
      trace.problem = "the child failed: " + ReadAll(error_pipe[0]);
    }
  }
  ::close(error_pipe[0]);
  return trace;
}

}  // namespace nestbench::micro
