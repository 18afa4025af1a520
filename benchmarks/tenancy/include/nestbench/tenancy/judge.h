// Watches tenants for trouble and says what it was, by evidence alone: last words, how the process ended, its cgroup's
// events, the state the kernel gives it, and silence. It never knows what was injected.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "nestbench/tenancy/fleet.h"

namespace nestbench::tenancy {

enum class TroubleClass : std::uint8_t {
  kGuestFault,     // the guest did something that it cannot go on from, or that its VMM does not believe
  kVmmFault,       // the VMM's own process crashed, was killed, or broke the rules of its sandbox
  kKilledByLimit,  // the kernel ended it for what its cgroup allows
  kHang,           // alive, and nothing comes from it
  kHostResource,   // the host refused it something: descriptors, threads, disk
};
std::string_view ToString(TroubleClass trouble);  // "guest_fault", ...

struct Trouble {
  TroubleClass trouble = TroubleClass::kVmmFault;
  std::string died;      // what ended: "guest", "VMM process", "nothing (it hangs)"
  std::string cause;     // words: "triple fault", "SIGKILL", "oom_kill", "stopped", ...
  std::string evidence;  // one or more lines: registers, exit data, signal, cgroup event, state
};

struct JudgeOptions {
  std::chrono::nanoseconds silence{std::chrono::milliseconds(400)};        // without a sign of life
  std::chrono::nanoseconds request_limit{std::chrono::milliseconds(700)};  // for a process that nobody can interrupt
  std::function<std::uint64_t(TenantId)> oom_kills;                        // of its cgroup so far; empty: not known
};

class Judge {
 public:
  explicit Judge(JudgeOptions options) : options_(std::move(options)) {}

  // Remembers what the tenant's cgroup has counted so far.
  void Begin(const Tenant& tenant);

  // Empty while all is well, as far as anyone can see. A tenant that has said its last words is given a moment to end
  // as well, so that both agree.
  [[nodiscard]] std::optional<Trouble> Look(const Tenant& tenant) const;

 private:
  [[nodiscard]] std::optional<Trouble> Ended(const Tenant& tenant) const;
  [[nodiscard]] std::optional<Trouble> Silent(const Tenant& tenant) const;

  JudgeOptions options_;
  std::map<TenantId, std::uint64_t> oom_kills_before_;
};

// The letter of /proc/<pid>/stat ("State" of proc(5)): 'R', 'S', 'T', ...; empty when there is no such process.
std::optional<char> ProcessState(pid_t pid);

}  // namespace nestbench::tenancy
