#include "tenant_loads.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "nestbench/payload/disk_work.h"
#include "nestbench/payload/exit_operations.h"
#include "nestbench/payload/net_work.h"

namespace nestbench::scenarios {
namespace {

using namespace std::chrono_literals;
using tenants::Activity;
using vmm::Error;
using vmm::Fail;

constexpr std::uint64_t kMiB = 1ULL << 20;
constexpr std::uint64_t kMs = 1'000'000;
constexpr std::uint64_t kSlackBytes = 8192;  // that memory_bandwidth wants around its arrays
constexpr std::uint64_t kRequestLimitNs = 10'000 * kMs;
constexpr auto kCalibrationLimit = 10s;
constexpr std::uint32_t kMaxFiles = 64;
constexpr std::uint64_t kKiB = 1ULL << 10;
constexpr double kDeviceSpinSeconds = 20e-6;  // tenants share CPUs: one that looks for long takes from the others
constexpr std::uint64_t kNetResendMs = 100;
constexpr auto kNetPingPong = static_cast<std::uint64_t>(payload::NetOperation::kPingPong);
constexpr auto kNetStream = static_cast<std::uint64_t>(payload::NetOperation::kStream);
constexpr auto kDiskRandomRead = static_cast<std::uint64_t>(payload::DiskOperation::kRandomRead);
constexpr auto kDiskWriteFlush = static_cast<std::uint64_t>(payload::DiskOperation::kWriteFlush);
constexpr auto kEventPio = static_cast<std::uint64_t>(payload::ExitOperation::kEventPio);

// The loads of a disk have a fixed number of requests: how long one takes changes by the minute.
constexpr auto kVictims = std::to_array<TenantLoad>({
    {.name = "latency",
     .summary = "requests of 1 ms, ten in 100 ms, whose latency counts from when they were due",
     .image = "cpu_integer",
     .service_ns = kMs,
     .period_ns = 10 * kMs},
    {.name = "cpu", .summary = "integer work without a pause", .image = "cpu_integer", .service_ns = kMs},
    {.name = "memory_bandwidth",
     .summary = "triad over 32 MiB",
     .image = "memory_bandwidth",
     .arena_bytes = 32 * kMiB,
     .operation = 3,
     .parameter = 32 * kMiB - kSlackBytes,
     .service_ns = kMs},
    {.name = "cache",
     .summary = "dependent loads through 512 KiB, which a cache holds",
     .image = "memory_chase",
     .arena_bytes = 2 * kMiB,
     .parameter = kMiB / 2,
     .service_ns = kMs},
    {.name = "exits",
     .summary = "port writes that end in the kernel, as fast as it can",
     .image = "exits",
     .operation = kEventPio,
     .service_ns = kMs,
     .guest_only = true},
    {.name = "disk_read",
     .summary = "random reads of 4 KiB, two under way, of a file past the page cache",
     .image = "io_disk",
     .arena_bytes = payload::DiskArenaBytes(4 * kKiB, 2),
     .operation = kDiskRandomRead,
     .parameter = 4 * kKiB,
     .disk_depth = 2,
     .iterations = 16},
    {.name = "disk_sync",
     .summary = "a write of 4 KiB and its flush, one after the other",
     .image = "io_disk",
     .arena_bytes = payload::DiskArenaBytes(4 * kKiB, 1),
     .operation = kDiskWriteFlush,
     .parameter = 4 * kKiB,
     .disk_depth = 1,
     .iterations = 4},
    {.name = "network",
     .summary = "messages of 64 bytes to another guest and back, one at a time",
     .image = "io_net",
     .arena_bytes = payload::kNetArenaBytes,
     .operation = kNetPingPong,
     .parameter = 64,
     .net_window = 1,
     .iterations = 16,
     .guest_only = true},
});

constexpr auto kAggressors = std::to_array<TenantLoad>({
    {.name = "none",
     .summary = "a tenant that does nothing: the A/A control",
     .image = "cpu_integer",
     .activity = Activity::kNone},
    {.name = "cpu_hog", .summary = "integer work without a pause", .image = "cpu_integer", .service_ns = kMs},
    {.name = "memory_bandwidth",
     .summary = "triad over 64 MiB",
     .image = "memory_bandwidth",
     .arena_bytes = 64 * kMiB,
     .operation = 3,
     .parameter = 64 * kMiB - kSlackBytes,
     .service_ns = kMs},
    {.name = "cache_thrash",
     .summary = "random updates of 64 MiB, beyond the last-level cache",
     .image = "memory_gups",
     .arena_bytes = 64 * kMiB,
     .parameter = 64 * kMiB,
     .service_ns = kMs},
    {.name = "tlb_churn",
     .summary = "first touch of 8 MiB, given back and touched again",
     .image = "memory_first_touch",
     .arena_bytes = 8 * kMiB,
     .activity = Activity::kChurnMemory,
     .hold_bytes = 8 * kMiB},
    {.name = "exit_storm",
     .summary = "port writes without a pause, each of which leaves the guest",
     .image = "exits",
     .operation = kEventPio,
     .service_ns = kMs,
     .guest_only = true},
    {.name = "timer_storm",
     .summary = "integer work under up to 10,000 timer interrupts a second",
     .image = "cpu_integer",
     .activity = Activity::kTimerStorm,
     .service_ns = kMs},
    {.name = "memory_hog",
     .summary = "first touch of 240 MiB under a limit of 256 MiB, again and again",
     .image = "memory_first_touch",
     .arena_bytes = 240 * kMiB,
     .activity = Activity::kChurnMemory,
     .hold_bytes = 240 * kMiB,
     .memory_limit_bytes = 256 * kMiB},
    {.name = "vm_churn",
     .summary = "creates and destroys virtual machines without a pause",
     .image = "cpu_integer",
     .activity = Activity::kVmChurn,
     .guest_only = true},
    {.name = "fork_bomb",
     .summary = "starts processes (in a guest's VMM: each with a VM) up to a limit of 64",
     .image = "cpu_integer",
     .activity = Activity::kProcesses,
     .process_limit = 64,
     .may_fork = true},
    {.name = "disk_read",
     .summary = "random reads of 64 KiB, sixteen under way, of the victim's disk",
     .image = "io_disk",
     .arena_bytes = payload::DiskArenaBytes(64 * kKiB, 16),
     .operation = kDiskRandomRead,
     .parameter = 64 * kKiB,
     .disk_depth = 16,
     .iterations = 16},
    {.name = "disk_write",
     .summary = "writes of 64 KiB and their flushes, eight under way, to the victim's disk",
     .image = "io_disk",
     .arena_bytes = payload::DiskArenaBytes(64 * kKiB, 8),
     .operation = kDiskWriteFlush,
     .parameter = 64 * kKiB,
     .disk_depth = 8,
     .iterations = 8},
    {.name = "network",
     .summary = "frames of 1514 bytes to another guest without a pause",
     .image = "io_net",
     .arena_bytes = payload::kNetArenaBytes,
     .operation = kNetStream,
     .parameter = 1514,
     .net_window = 64,
     .iterations = 512,
     .guest_only = true},
});

void SetParameters(const RunContext& context, const TenantLoad& load, tenants::Load& message) {
  message.parameters[0] = load.parameter;
  if (load.net_window != 0) {
    message.parameters[1] = load.net_window;
    message.parameters[2] = message.parameters[6] = static_cast<std::uint64_t>(kDeviceSpinSeconds * context.tsc_hz);
    message.parameters[3] = kNetResendMs;
    message.parameters[4] = load.net_give_up_ms;
    message.parameters[5] = static_cast<std::uint64_t>(context.tsc_hz / 1000);
  }
  if (load.disk_depth == 0) return;
  message.parameters[1] = load.disk_depth;
  message.parameters[2] = TenantLoader::kDiskBytes;
  message.parameters[3] = static_cast<std::uint64_t>(kDeviceSpinSeconds * context.tsc_hz);
}

bool NeedsCalibration(const TenantLoad& load) { return load.service_ns != 0; }

}  // namespace

std::string_view ToString(TenantSubstrate substrate) {
  switch (substrate) {
    case TenantSubstrate::kVm:
      return "vm";
    case TenantSubstrate::kZone:
      return "zone";
    case TenantSubstrate::kBare:
      break;
  }
  return "bare";
}

std::span<const TenantLoad> Victims() { return kVictims; }
std::span<const TenantLoad> Aggressors() { return kAggressors; }

const TenantLoad* FindLoad(std::span<const TenantLoad> loads, std::string_view name) {
  const auto found = std::ranges::find(loads, name, &TenantLoad::name);
  return found == loads.end() ? nullptr : &*found;
}

std::vector<std::filesystem::path> TenantLoader::Images(const RunContext& context) {
  std::vector<std::filesystem::path> images;
  for (const std::span<const TenantLoad> table : {Victims(), Aggressors()}) {
    for (const TenantLoad& load : table) {
      const auto path = context.installation.images / (std::string(load.image) + ".elf");
      if (std::ranges::find(images, path) == images.end()) images.push_back(path);
    }
  }
  return images;
}

std::string TenantLoader::Unsupported(const TenantLoad& load, TenantSubstrate substrate) const {
  if (load.disk_depth != 0 && !disk_unsupported_.empty()) return disk_unsupported_;
  if (substrate == TenantSubstrate::kVm) return context_.vm_unsupported;
  if (load.guest_only) return fmt::format("`{}` needs a guest: a process has nothing of the kind", load.name);
  return substrate == TenantSubstrate::kZone ? context_.zone_unsupported : std::string();
}

tenancy::Result<tenancy::TenantId> TenantLoader::Add(const TenantLoad& load, TenantSubstrate substrate, int cpu,
                                                     std::uint32_t heartbeat_ms) {
  const auto path = context_.installation.images / (std::string(load.image) + ".elf");
  tenants::Spawn spawn = {};
  spawn.kind = substrate == TenantSubstrate::kVm ? load.kind : tenants::TenantKind::kBare;
  spawn.image = static_cast<std::uint32_t>(std::ranges::find(images_, path) - images_.begin());
  spawn.arena_bytes = load.arena_bytes;
  spawn.host_page_bytes = spawn.guest_page_bytes = abi::kPageBytes;
  spawn.seed = context_.seed;
  spawn.doorbell = substrate == TenantSubstrate::kVm ? context_.doorbell : abi::Doorbell::kReturn;
  spawn.cpu = cpu;
  spawn.heartbeat_ms = heartbeat_ms;
  spawn.max_files = kMaxFiles;
  spawn.may_fork = load.may_fork ? 1 : 0;
  spawn.attach_event = load.image == "exits" && substrate == TenantSubstrate::kVm ? 1 : 0;
  spawn.has_disk = load.disk_depth != 0 ? 1 : 0;
  spawn.has_network = load.net_window != 0 ? 1 : 0;
  spawn.io_cpu = -1;
  const bool in_zone = substrate == TenantSubstrate::kZone;
  spawn.starts_itself = !in_zone && (context_.cgroups == nullptr || !load.NeedsGroup()) ? 1 : 0;
  return fleet_.Add(spawn, in_zone);
}

const TenantLoader::Calibration* TenantLoader::Find(std::string_view name) const {
  const auto found = std::ranges::find(calibrations_, name, &Calibration::name);
  return found == calibrations_.end() ? nullptr : &*found;
}

vmm::Result<> TenantLoader::Calibrate(const TenantLoad& load, tenancy::TenantId tenant) {
  if (!NeedsCalibration(load) || Find(load.name) != nullptr) return {};
  constexpr std::uint64_t kMost = 1ULL << 40;
  constexpr int kRuns = 7;
  std::uint64_t iterations = 1;
  std::uint64_t median_ns = 0;
  tenants::Load message = {};
  message.activity = Activity::kRequests;
  message.intensity_percent = 100;
  message.operation = load.operation;
  SetParameters(context_, load, message);
  message.request_limit_ns = kRequestLimitNs;
  message.window_ns = kWindowNs;
  // Longer and longer until the clock can tell; then to the wanted time, and once more to be sure of it.
  for (int run = 0; run < kRuns; ++run) {
    message.iterations = iterations;
    fleet_.SetLoad(tenant, message);
    const auto end = std::chrono::steady_clock::now() + kCalibrationLimit;
    do {
      fleet_.Poll(run + 2 < kRuns ? 10ms : 60ms);
      if (!fleet_.Report({tenant}, false, false, kCalibrationLimit) || std::chrono::steady_clock::now() > end) {
        return Fail(Error::TimedOut(fmt::format("calibrate `{}`", load.name), fleet_.Get(tenant).DescribeEnd()));
      }
    } while (fleet_.Get(tenant).totals->requests == 0);
    median_ns = std::max<std::uint64_t>(fleet_.Get(tenant).histogram.Quantile(0.5), 1);
    const double factor = static_cast<double>(load.service_ns) / static_cast<double>(median_ns);
    if (run + 1 < kRuns) {
      iterations = std::clamp<std::uint64_t>(
          static_cast<std::uint64_t>(static_cast<double>(iterations) * std::clamp(factor, 0.02, 50.0)), 1, kMost);
    }
  }
  message.activity = Activity::kNone;
  fleet_.SetLoad(tenant, message);
  calibrations_.push_back({load.name, iterations, median_ns});
  return {};
}

tenants::Load TenantLoader::MakeLoad(const TenantLoad& load, std::uint32_t intensity_percent, double phase) const {
  tenants::Load message = {};
  message.activity = intensity_percent == 0 ? Activity::kNone : load.activity;
  message.intensity_percent = intensity_percent;
  message.operation = load.operation;
  SetParameters(context_, load, message);
  const Calibration* calibration = Find(load.name);
  message.iterations = calibration != nullptr ? calibration->iterations : std::max<std::uint64_t>(load.iterations, 1);
  message.period_ns = load.period_ns;
  message.phase_ns = static_cast<std::uint64_t>(phase * static_cast<double>(load.period_ns));
  message.request_limit_ns = kRequestLimitNs;
  // A hog's intensity is how much it takes, everyone else's how long.
  message.hold_bytes = load.memory_limit_bytes == 0
                           ? load.hold_bytes
                           : load.hold_bytes * intensity_percent / 100 / abi::kPageBytes * abi::kPageBytes;
  if (load.memory_limit_bytes != 0 && intensity_percent != 0) message.intensity_percent = 100;
  message.window_ns = kWindowNs;
  return message;
}

std::uint64_t TenantLoader::ServiceNs(const TenantLoad& load) const {
  const Calibration* calibration = Find(load.name);
  return calibration != nullptr ? calibration->service_ns : 0;
}

}  // namespace nestbench::scenarios
