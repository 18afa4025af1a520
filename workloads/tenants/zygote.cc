#include "zygote.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <unordered_map>
#include <utility>

namespace nestbench::tenants {
namespace {

// In the new process: nothing of the zygote's but what tenants share, and no way to outlive it.
int BecomeTenant(const Inheritance& inheritance, const Spawn& spawn, vmm::UniqueFd socket, pid_t zygote,
                 const sigset_t& signals) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != zygote) return 1;
  ::sigprocmask(SIG_SETMASK, &signals, nullptr);
  return LiveAsTenant(inheritance, spawn, Channel(std::move(socket)));
}

class Zygote {
 public:
  Zygote(const Inheritance& inheritance, const Channel& channel) : inheritance_(inheritance), channel_(channel) {}

  int Serve() {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    if (::sigprocmask(SIG_BLOCK, &child, &signals_) != 0) return 1;
    ended_ = vmm::UniqueFd(::signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK));
    if (!ended_.valid()) return 1;
    for (;;) {
      pollfd polled[] = {{channel_.get(), POLLIN, 0}, {ended_.get(), POLLIN, 0}};
      if (::poll(polled, 2, -1) < 0 && errno != EINTR) return 1;
      if (polled[1].revents != 0) Reap();
      if (polled[0].revents == 0) continue;
      for (;;) {
        auto received = channel_.Receive(*message_);
        if (!received) return 1;
        if (*received == Channel::Outcome::kNothing) break;
        if (*received == Channel::Outcome::kClosed) return 0;
        if (message_->type() == MessageType::kSpawn) Start(message_->As<Spawn>(), message_->TakeDescriptor());
      }
    }
  }

 private:
  void Start(const Spawn& spawn, vmm::UniqueFd socket) {
    const pid_t self = ::getpid();
    const pid_t pid = socket.valid() ? ::fork() : -1;
    if (pid == 0) {
      const int zygote_socket = channel_.get();
      ::close(zygote_socket);
      ended_.Reset();
      ::_exit(BecomeTenant(inheritance_, spawn, std::move(socket), self, signals_));
    }
    const Spawned answer = {.tenant = spawn.tenant, .pid = pid, .error_number = pid < 0 ? errno : 0};
    if (pid > 0) tenants_[pid] = spawn.tenant;
    (void)channel_.Send(MessageType::kSpawned, answer);  // a supervisor that is gone is noticed by the next Receive()
  }

  void Reap() {
    signalfd_siginfo ignored;
    while (::read(ended_.get(), &ignored, sizeof(ignored)) > 0) {
    }
    for (;;) {
      int status = 0;
      rusage usage = {};
      const pid_t pid = ::wait4(-1, &status, WNOHANG, &usage);
      if (pid <= 0) return;
      const auto found = tenants_.find(pid);
      if (found == tenants_.end()) continue;
      const Ended ended = {.tenant = found->second,
                           .pid = pid,
                           .wait_status = status,
                           .max_resident_bytes = static_cast<std::uint64_t>(usage.ru_maxrss) << 10};
      tenants_.erase(found);
      (void)channel_.Send(MessageType::kEnded, ended);
    }
  }

  const Inheritance& inheritance_;
  const Channel& channel_;
  vmm::UniqueFd ended_;
  sigset_t signals_{};  // as it was before SIGCHLD was blocked
  std::unordered_map<pid_t, std::uint64_t> tenants_;
  std::unique_ptr<ReceivedMessage> message_ = std::make_unique<ReceivedMessage>();
};

}  // namespace

int ServeAsZygote(const Inheritance& inheritance, const Channel& channel) {
  return Zygote(inheritance, channel).Serve();
}

}  // namespace nestbench::tenants
