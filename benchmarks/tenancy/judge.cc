#include "nestbench/tenancy/judge.h"

#include <fmt/format.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>

#include <fstream>
#include <sstream>
#include <utility>

#include "nestbench/vmm/base/clock.h"

namespace nestbench::tenancy {
namespace {

using tenants::FaultClass;

constexpr std::uint64_t kLastWordsGraceNs = 100'000'000;

TroubleClass ClassOf(FaultClass fault_class) {
  switch (fault_class) {
    case FaultClass::kGuestFault:
      return TroubleClass::kGuestFault;
    case FaultClass::kVmmFault:
      return TroubleClass::kVmmFault;
    case FaultClass::kHang:
      return TroubleClass::kHang;
    case FaultClass::kHostResource:
    case FaultClass::kUnsupported:
      break;
  }
  return TroubleClass::kHostResource;
}

const char* WhatDied(FaultClass fault_class) {
  switch (fault_class) {
    case FaultClass::kGuestFault:
      return "guest";
    case FaultClass::kHang:
      return "guest (it hung)";
    default:
      return "VMM process";
  }
}

std::string SignalName(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name == nullptr ? fmt::format("signal {}", signal) : fmt::format("SIG{}", name);
}

}  // namespace

std::string_view ToString(TroubleClass trouble) {
  switch (trouble) {
    case TroubleClass::kGuestFault:
      return "guest_fault";
    case TroubleClass::kVmmFault:
      return "vmm_fault";
    case TroubleClass::kKilledByLimit:
      return "killed_by_limit";
    case TroubleClass::kHang:
      return "hang";
    case TroubleClass::kHostResource:
      break;
  }
  return "host_resource";
}

std::optional<char> ProcessState(pid_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string text;
  if (!std::getline(file, text)) return std::nullopt;
  // The name stands in parentheses and may hold some itself.
  const std::size_t end = text.rfind(") ");
  if (end == std::string::npos || end + 2 >= text.size()) return std::nullopt;
  return text[end + 2];
}

void Judge::Begin(const Tenant& tenant) {
  if (options_.oom_kills) oom_kills_before_[tenant.id] = options_.oom_kills(tenant.id);
}

std::optional<Trouble> Judge::Look(const Tenant& tenant) const {
  if (tenant.phase == Phase::kEnded) return Ended(tenant);
  if (!tenant.lie.empty()) return Trouble{TroubleClass::kVmmFault, "VMM process", "it broke the protocol", tenant.lie};
  if (tenant.fault) {
    if (vmm::MonotonicNs() - tenant.fault_ns < kLastWordsGraceNs) return std::nullopt;
    return Trouble{ClassOf(tenant.fault->fault_class), WhatDied(tenant.fault->fault_class), tenant.fault->cause,
                   tenant.fault->evidence};
  }
  return Silent(tenant);
}

std::optional<Trouble> Judge::Ended(const Tenant& tenant) const {
  const int status = tenant.wait_status.value_or(0);
  const std::string how = WIFSIGNALED(status) ? fmt::format("killed by {}", SignalName(WTERMSIG(status)))
                                              : fmt::format("exit code {}", WEXITSTATUS(status));
  if (!tenant.lie.empty()) return Trouble{TroubleClass::kVmmFault, "VMM process", "it broke the protocol", tenant.lie};
  if (tenant.fault) {
    return Trouble{ClassOf(tenant.fault->fault_class), WhatDied(tenant.fault->fault_class), tenant.fault->cause,
                   fmt::format("{}\n{}", how, tenant.fault->evidence)};
  }
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) {
    const auto before = oom_kills_before_.find(tenant.id);
    const std::uint64_t kills = options_.oom_kills ? options_.oom_kills(tenant.id) : 0;
    if (before != oom_kills_before_.end() && kills > before->second) {
      return Trouble{TroubleClass::kKilledByLimit, "VMM process", "oom_kill",
                     fmt::format("{}; its cgroup counts {} OOM kills, {} before", how, kills, before->second)};
    }
  }
  if (WIFSIGNALED(status)) {
    const int signal = WTERMSIG(status);
    std::string cause = SignalName(signal);
    if (signal == SIGSYS) cause += ": a system call that its filter forbids";
    return Trouble{TroubleClass::kVmmFault, "VMM process", std::move(cause), how};
  }
  return Trouble{TroubleClass::kVmmFault, "VMM process", "it ended without a word", how};
}

std::optional<Trouble> Judge::Silent(const Tenant& tenant) const {
  if (tenant.phase != Phase::kReady || tenant.spawn.heartbeat_ms == 0) return std::nullopt;
  const std::uint64_t now = vmm::MonotonicNs();
  const auto past = [now](std::uint64_t at_ns, std::chrono::nanoseconds limit) {
    return at_ns != 0 && now > at_ns && now - at_ns > static_cast<std::uint64_t>(limit.count());
  };
  const std::string since =
      fmt::format("last sign of life {} ms ago", (now - std::min(now, tenant.last_sign_ns)) / 1'000'000);
  if (past(tenant.last_sign_ns, options_.silence)) {
    const char state = ProcessState(tenant.pid).value_or('?');
    std::string cause = state == 'T' || state == 't' ? "the VMM process is stopped"
                        : state == 'R'               ? "the VMM's own code spins and does not answer"
                                                     : "the VMM does not answer";
    return Trouble{TroubleClass::kHang, "nothing: the VMM process hangs", std::move(cause),
                   fmt::format("{}; state {} in /proc/{}/stat", since, state, tenant.pid)};
  }
  if (past(tenant.heartbeat.request_since_ns, options_.request_limit)) {
    return Trouble{TroubleClass::kHang, "nothing: the payload hangs", "a request does not end",
                   fmt::format("its heartbeats come, its present request began {} ms ago",
                               (now - tenant.heartbeat.request_since_ns) / 1'000'000)};
  }
  return std::nullopt;
}

}  // namespace nestbench::tenancy
