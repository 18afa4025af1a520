#include "signals.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <optional>

#include "nestbench/tenants/channel.h"
#include "nestbench/vmm/base/clock.h"

namespace nestbench::tenants {
namespace {

using vmm::Error;
using vmm::Fail;

// One page more than a Fault message needs.
constexpr std::size_t kHandlerStackBytes = 65536;
// How far below the stack pointer a fault still is a stack that ran out.
constexpr std::uint64_t kStackReach = 65536;

int HeartbeatSignal() { return SIGRTMIN + 4; }
int StormSignal() { return SIGRTMIN + 5; }

int g_socket = -1;  // none yet: sending fails
const Pulse* g_pulse = nullptr;
std::optional<timer_t> g_heartbeat_timer;
std::optional<timer_t> g_storm_timer;
Fault g_last_words;  // too large for a handler's stack, and there is only one

void SendHeartbeat() {
  const Heartbeat beat = {.at_ns = vmm::MonotonicNs(),
                          .state = g_pulse->state,
                          .reserved = 0,
                          .requests = g_pulse->requests,
                          .request_since_ns = g_pulse->request_since_ns};
  SendRaw(g_socket, MessageType::kHeartbeat, &beat, sizeof(beat));
}

void OnHeartbeat(int /*signal*/) {
  const int saved = errno;
  SendHeartbeat();
  errno = saved;
}

void OnStorm(int /*signal*/) {}

const char* NameOf(int signal) {
  switch (signal) {
    case SIGSEGV:
      return "SIGSEGV";
    case SIGBUS:
      return "SIGBUS";
    case SIGILL:
      return "SIGILL";
    case SIGFPE:
      return "SIGFPE";
    default:
      return "SIGABRT";
  }
}

// snprintf() is not async-signal-safe.
void Append(char*& out, const char* text) {
  while (*text != '\0') *out++ = *text++;
  *out = '\0';
}
void AppendHex(char*& out, std::uint64_t value) {
  Append(out, "0x");
  for (int shift = 60; shift >= 0; shift -= 4) *out++ = "0123456789abcdef"[(value >> shift) & 15];
  *out = '\0';
}

void OnFault(int signal, siginfo_t* info, void* context) {
  const auto& registers = static_cast<ucontext_t*>(context)->uc_mcontext.gregs;
  const auto rip = static_cast<std::uint64_t>(registers[REG_RIP]);
  const auto rsp = static_cast<std::uint64_t>(registers[REG_RSP]);
  const auto address = signal == SIGABRT ? 0 : reinterpret_cast<std::uint64_t>(info->si_addr);
  const bool is_stack = signal == SIGSEGV && address + kStackReach >= rsp && address <= rsp + kStackReach;

  g_last_words.fault_class = FaultClass::kVmmFault;
  g_last_words.signal = signal;
  g_last_words.address = address;
  char* out = g_last_words.cause;
  Append(out, is_stack ? "stack overflow of the VMM" : NameOf(signal));
  out = g_last_words.evidence;
  Append(out, NameOf(signal));
  Append(out, " in the VMM's own code at RIP ");
  AppendHex(out, rip);
  Append(out, ", RSP ");
  AppendHex(out, rsp);
  Append(out, ", address ");
  AppendHex(out, address);
  SendRaw(g_socket, MessageType::kFault, &g_last_words, sizeof(g_last_words));

  // Dies of the same signal, which the supervisor sees as well. abort() raises again by itself, a fault repeats.
  struct sigaction standard = {};
  standard.sa_handler = SIG_DFL;
  ::sigaction(signal, &standard, nullptr);
  if (signal == SIGABRT) ::syscall(SYS_tgkill, ::getpid(), ::syscall(SYS_gettid), SIGABRT);
}

vmm::Result<> Handle(int signal, void (*handler)(int)) {
  struct sigaction action = {};
  action.sa_handler = handler;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  if (::sigaction(signal, &action, nullptr) != 0) return Fail(Error::System("sigaction", errno));
  return {};
}

vmm::Result<> SetTimer(std::optional<timer_t>& timer, int signal, std::chrono::nanoseconds interval) {
  if (!timer) {
    if (interval.count() == 0) return {};
    sigevent event = {};
    event.sigev_notify = SIGEV_THREAD_ID;
    event.sigev_signo = signal;
    event._sigev_un._tid = static_cast<pid_t>(::syscall(SYS_gettid));
    timer_t created = nullptr;
    if (::timer_create(CLOCK_MONOTONIC, &event, &created) != 0) return Fail(Error::System("timer_create", errno));
    timer = created;
  }
  itimerspec when = {};
  when.it_interval.tv_sec = interval.count() / 1'000'000'000;
  when.it_interval.tv_nsec = interval.count() % 1'000'000'000;
  when.it_value = when.it_interval;
  if (::timer_settime(*timer, 0, &when, nullptr) != 0) return Fail(Error::System("timer_settime", errno));
  return {};
}

}  // namespace

vmm::Result<> InstallLastWords() {
  void* stack = ::mmap(nullptr, kHandlerStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (stack == MAP_FAILED) return Fail(Error::System("mmap", errno, "signal stack"));
  const stack_t alternative = {.ss_sp = stack, .ss_flags = 0, .ss_size = kHandlerStackBytes};
  if (::sigaltstack(&alternative, nullptr) != 0) return Fail(Error::System("sigaltstack", errno));
  struct sigaction action = {};
  action.sa_sigaction = OnFault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT}) {
    if (::sigaction(signal, &action, nullptr) != 0) return Fail(Error::System("sigaction", errno));
  }
  return {};
}

void SetLastWordsSocket(int socket) { g_socket = socket; }

vmm::Result<> StartHeartbeats(int socket, const Pulse* pulse, std::chrono::nanoseconds interval) {
  g_socket = socket;
  g_pulse = pulse;
  if (interval.count() == 0) return {};
  if (auto done = Handle(HeartbeatSignal(), OnHeartbeat); !done) return done;
  SendHeartbeat();
  return SetTimer(g_heartbeat_timer, HeartbeatSignal(), interval);
}

void StopHeartbeats() {
  if (g_heartbeat_timer) ::timer_delete(*g_heartbeat_timer);
  g_heartbeat_timer.reset();
}

vmm::Result<> SetTimerStorm(std::chrono::nanoseconds interval) {
  if (auto done = Handle(StormSignal(), OnStorm); !done) return done;
  return SetTimer(g_storm_timer, StormSignal(), interval);
}

}  // namespace nestbench::tenants
