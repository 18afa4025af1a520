// All tenants of an experiment: starts them, tells them what to do, collects what they say, and leaves none behind.
//
// One thread, the program's first: the zygote dies with the thread that started it (PR_SET_PDEATHSIG). What tenants say
// is hostile: a message that is none ends the tenant, and only the tenant.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nestbench/tenants/channel.h"
#include "nestbench/tenants/latency_histogram.h"
#include "nestbench/tenants/protocol.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::tenancy {

using tenants::Load;
using vmm::Error;
using vmm::Result;

using TenantId = std::uint64_t;

enum class Phase : std::uint8_t {
  kSpawning,  // asked for; no process is known yet
  kStarting,  // its process lives and sets its guest up
  kReady,     // serves
  kEnded,     // its process is gone
};

// What the supervisor knows of one tenant. Times are CLOCK_MONOTONIC.
struct Tenant {
  TenantId id = 0;
  tenants::Spawn spawn{};
  bool in_zone = false;
  Phase phase = Phase::kSpawning;
  pid_t pid = -1;       // of the tenant's process, in our namespace
  pid_t zone_pid = -1;  // of the runtime that made its zone: our child; -1 for the zygote's
  std::uint64_t asked_ns = 0;
  std::uint64_t ready_ns = 0;
  std::uint64_t ended_ns = 0;
  std::uint64_t last_sign_ns = 0;  // of life: any message
  tenants::Ready ready{};
  tenants::Heartbeat heartbeat{};        // the last one
  std::vector<tenants::Window> windows;  // since TakeWindows()
  std::optional<tenants::Totals> totals;
  tenants::LatencyHistogram histogram;    // that came with `totals`
  std::optional<tenants::Fault> fault;    // its last words
  std::uint64_t fault_ns = 0;             // when they came
  std::optional<tenants::Fault> refused;  // why it could not take its load
  std::optional<int> wait_status;         // as wait4(2) tells, when it is known
  std::uint64_t max_resident_bytes = 0;
  std::string lie;              // why it was ended: a message that is none
  std::deque<std::string> log;  // its last lines
  vmm::UniqueFd statistics;     // of its vCPU (KVM binary statistics); invalid where there are none
  tenants::Channel channel;

  // Without the vectors: what a guest fault, a signal, ... it ended with. Empty while it lives.
  [[nodiscard]] std::string DescribeEnd() const;
};

struct FleetOptions {
  std::filesystem::path tenant_program;
  std::vector<std::filesystem::path> images;  // a Spawn names one by its position
  int disk = -1;  // descriptor of the disk of those tenants that have one; borrowed until Start() returns and, with
                  // zones, for the fleet's life; -1: none has
};

// Starts a program in a zone: the argument list of the runtime for `command`, which inherits `socket`.
using ZoneCommand =
    std::function<Result<std::vector<std::string>>(const std::vector<std::string>& command, int socket)>;

class Fleet {
 public:
  static Result<std::unique_ptr<Fleet>> Start(FleetOptions options);
  ~Fleet();  // Shutdown()
  Fleet(const Fleet&) = delete;
  Fleet& operator=(const Fleet&) = delete;

  // Called with each new process before its guest is made, to put it where it belongs (its cgroup). An error ends the
  // tenant.
  void SetPlacement(std::function<Result<>(const Tenant&)> place) { place_ = std::move(place); }
  void SetZoneCommand(ZoneCommand command) { zone_command_ = std::move(command); }

  // Asks for a tenant; `spawn.tenant` is chosen here. It becomes ready, or ends, during Poll().
  Result<TenantId> Add(tenants::Spawn spawn, bool in_zone = false);

  // Handles what has happened and what happens within `limit`; returns early when `done` says so.
  void Poll(std::chrono::nanoseconds limit, const std::function<bool()>& done = {});

  // Until every tenant of `ids` is ready or has ended. False when the time ran out first.
  bool WaitReady(const std::vector<TenantId>& ids, std::chrono::nanoseconds limit);

  // False when the tenant is not there to be told.
  bool SetLoad(TenantId id, const Load& load);
  bool Inject(TenantId id, std::uint32_t fault, std::uint64_t seed);
  bool Signal(TenantId id, int signal) const;

  // Asks each for its totals and histogram and waits for them. False when not all came in time.
  bool Report(const std::vector<TenantId>& ids, bool reset, bool verify, std::chrono::nanoseconds limit);

  // Ends tenants: SIGKILL, then waits until they are gone. Returns how long that took, or kTimedOut.
  Result<std::chrono::nanoseconds> Kill(const std::vector<TenantId>& ids, std::chrono::nanoseconds limit);

  // Forgets an ended tenant.
  void Forget(TenantId id);

  // Ends everything, the zygote included.
  void Shutdown();

  [[nodiscard]] Tenant& Get(TenantId id) { return *tenants_.at(id); }
  [[nodiscard]] const Tenant& Get(TenantId id) const { return *tenants_.at(id); }
  [[nodiscard]] bool Has(TenantId id) const { return tenants_.contains(id); }
  [[nodiscard]] std::vector<TenantId> Ids() const;
  [[nodiscard]] pid_t zygote_pid() const { return zygote_pid_; }

  // Why the zygote is gone; empty while it lives.
  [[nodiscard]] const std::string& zygote_end() const { return zygote_end_; }

 private:
  Fleet(FleetOptions options, tenants::Channel zygote, pid_t zygote_pid, vmm::UniqueFd epoll);
  Result<> AddToZone(Tenant& tenant, tenants::Channel theirs);
  void HandleZygote();
  void HandleTenant(TenantId id);
  void HandleMessage(Tenant& tenant, tenants::ReceivedMessage& message);
  void OnSpawned(const tenants::Spawned& spawned);
  void BeginLife(Tenant& tenant);
  void OnEnded(Tenant& tenant, int wait_status, std::uint64_t max_resident_bytes);
  void Drain(Tenant& tenant);
  void LookAfterZones();
  Result<> Watch(int descriptor, std::uint64_t tag);

  FleetOptions options_;
  tenants::Channel zygote_;
  pid_t zygote_pid_;
  std::string zygote_end_;
  vmm::UniqueFd epoll_;
  std::map<TenantId, std::unique_ptr<Tenant>> tenants_;
  TenantId next_id_ = 1;
  std::function<Result<>(const Tenant&)> place_;
  ZoneCommand zone_command_;
  std::unique_ptr<tenants::ReceivedMessage> message_;
  std::size_t zones_ = 0;  // alive
};

}  // namespace nestbench::tenancy
