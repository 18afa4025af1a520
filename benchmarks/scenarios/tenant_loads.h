// What tenants of the density, isolation and containment scenarios do: one table of victims, one of aggressors. Private
// to the scenarios.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/scenarios/run_context.h"
#include "nestbench/tenancy/fleet.h"

namespace nestbench::scenarios {

// Where a tenant runs: one of the document's substrates.
enum class TenantSubstrate : std::uint8_t { kVm, kZone, kBare };
std::string_view ToString(TenantSubstrate substrate);

// A load by name: the image that has to be in the tenant when it starts, and what to tell it then.
struct TenantLoad {
  std::string_view name;
  std::string_view summary;
  std::string_view image;
  tenants::TenantKind kind = tenants::TenantKind::kVm;  // where it runs in a guest
  std::uint64_t arena_bytes = 0;
  tenants::Activity activity = tenants::Activity::kRequests;
  std::uint64_t operation = 0;
  std::uint64_t parameter = 0;          // parameters[0]; of a disk load, bytes of a block
  std::uint64_t disk_depth = 0;         // requests under way; 0: it has no disk
  std::uint64_t net_window = 0;         // frames under way, of `parameter` bytes; 0: it has no network
  std::uint64_t net_give_up_ms = 8000;  // without an answer: longer than any neighbour keeps the CPU
  std::uint64_t service_ns = 0;         // wanted time of one request alone; its iterations are calibrated to it
  std::uint64_t iterations = 0;         // where the work is fixed by other means
  std::uint64_t period_ns = 0;          // 0: closed loop
  std::uint64_t hold_bytes = 0;
  std::uint64_t memory_limit_bytes = 0;  // of its cgroup; 0: none
  std::uint32_t process_limit = 0;       // of its cgroup
  bool guest_only = false;               // a process has nothing of the kind
  bool may_fork = false;

  // Every tenant has a group of its own where that costs nothing that is measured: an idle one without limits shares
  // the group of the run, into which the zygote's children are born.
  [[nodiscard]] bool NeedsGroup() const {
    return activity != tenants::Activity::kNone || memory_limit_bytes != 0 || process_limit != 0;
  }
};

// Latency-bound, CPU-bound, bandwidth-bound, cache-resident and exit-heavy.
std::span<const TenantLoad> Victims();

// Each with an intensity in percent: its share of the time, or of its limit.
std::span<const TenantLoad> Aggressors();

const TenantLoad* FindLoad(std::span<const TenantLoad> loads, std::string_view name);

// Starts tenants with a load and remembers how many iterations make a request as long as it should be.
class TenantLoader {
 public:
  // `disk_unsupported`: why tenants can have no disk; empty when they can.
  TenantLoader(const RunContext& context, tenancy::Fleet& fleet, std::string disk_unsupported)
      : context_(context), fleet_(fleet), images_(Images(context)), disk_unsupported_(std::move(disk_unsupported)) {}

  // The images that a fleet needs for these tables.
  static std::vector<std::filesystem::path> Images(const RunContext& context);

  // Empty when it can run there, else why not.
  [[nodiscard]] std::string Unsupported(const TenantLoad& load, TenantSubstrate substrate) const;

  // Asks for a tenant that could take this load; idle at first.
  tenancy::Result<tenancy::TenantId> Add(const TenantLoad& load, TenantSubstrate substrate, int cpu,
                                         std::uint32_t heartbeat_ms = kHeartbeatMs);

  // Measures how long one iteration takes on a ready tenant that nobody disturbs. Once for each load: all substrates do
  // the same work.
  vmm::Result<> Calibrate(const TenantLoad& load, tenancy::TenantId tenant);

  // The message that makes a tenant do it. `phase` (0 to 1) of the period: where its first request falls.
  [[nodiscard]] tenants::Load MakeLoad(const TenantLoad& load, std::uint32_t intensity_percent, double phase) const;

  // Of one request as calibrated; 0 before.
  [[nodiscard]] std::uint64_t ServiceNs(const TenantLoad& load) const;

  static constexpr std::uint32_t kHeartbeatMs = 100;
  static constexpr std::uint64_t kWindowNs = 100'000'000;
  static constexpr std::uint64_t kDiskBytes = 64ULL << 20;  // of the one disk that tenants share

 private:
  struct Calibration {
    std::string_view name;
    std::uint64_t iterations;
    std::uint64_t service_ns;
  };
  [[nodiscard]] const Calibration* Find(std::string_view name) const;

  const RunContext& context_;
  tenancy::Fleet& fleet_;
  std::vector<std::filesystem::path> images_;
  std::string disk_unsupported_;
  std::vector<Calibration> calibrations_;
};

}  // namespace nestbench::scenarios
