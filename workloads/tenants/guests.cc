#include "guests.h"

#include <fmt/format.h>

#include <chrono>
#include <optional>
#include <utility>

#include "nestbench/substrates/flat.h"
#include "nestbench/substrates/guest_faults.h"

namespace nestbench::tenants {
namespace {

constexpr std::chrono::hours kPeerLimit{24};  // a tenant's peer lives as long as its load

std::optional<substrates::FlatMode> FlatModeOf(TenantKind kind) {
  switch (kind) {
    case TenantKind::kSupervisor64:
      return substrates::FlatMode::kSupervisor64;
    case TenantKind::kProtected32:
      return substrates::FlatMode::kProtected32;
    case TenantKind::kReal16:
      return substrates::FlatMode::kReal16;
    case TenantKind::kBare:
    case TenantKind::kVm:
      break;
  }
  return std::nullopt;
}

substrates::FlatOptions FlatOptionsOf(const Inheritance& inheritance) {
  return {.device = inheritance.device ? &*inheritance.device : nullptr};
}

}  // namespace

using vmm::Error;
using vmm::Fail;

vmm::Result<std::unique_ptr<substrates::Substrate>> CreateGuest(const Inheritance& inheritance, const Spawn& spawn,
                                                                const DeviceFaults& faults) {
  if (spawn.image >= inheritance.images.size()) {
    return Fail(Error::InvalidArgument("create guest", fmt::format("image {} was not loaded", spawn.image)));
  }
  if (spawn.kind != TenantKind::kBare && !inheritance.device) {
    return Fail(Error::Unsupported("create guest", inheritance.device_reason));
  }
  if (const auto mode = FlatModeOf(spawn.kind)) return substrates::CreateFlat(*mode, FlatOptionsOf(inheritance));
  substrates::SubstrateOptions options;
  const Inheritance::Image& image = inheritance.images[spawn.image];
  options.image = image.file.bytes();
  options.parsed = image.parsed ? &*image.parsed : nullptr;
  options.arena_bytes = spawn.arena_bytes;
  options.host_page_bytes = spawn.host_page_bytes;
  options.guest_page_bytes = spawn.guest_page_bytes;
  options.doorbell = spawn.doorbell;
  options.device = inheritance.device ? &*inheritance.device : nullptr;
  options.cpuid = inheritance.cpuid ? &*inheritance.cpuid : nullptr;
  options.statistics = spawn.heartbeat_ms != 0;  // one that says nothing is asked nothing
  options.attach_event = spawn.attach_event != 0;
  if (spawn.has_disk != 0) {
    if (!inheritance.disk.valid()) return Fail(Error::Unsupported("create guest", "there is no disk for it"));
    options.disk = {.kind = inheritance.disk_is_direct ? substrates::DiskKind::kDirect : substrates::DiskKind::kCached,
                    .path = "the disk of the tenants",
                    .fd = inheritance.disk.get(),
                    .size_bytes = inheritance.disk_bytes,
                    .io_cpu = spawn.io_cpu,
                    .faults = faults.disk};
    if (spawn.kind == TenantKind::kBare) return substrates::CreateDiskTwin(options);
  }
  if (spawn.has_network != 0) {
    if (spawn.kind == TenantKind::kBare) {
      return Fail(Error::Unsupported("create guest", "a process without a guest has no virtual network"));
    }
    options.network = {.peer = substrates::NetPeer::kGuest,
                       .io_cpu = spawn.io_cpu,
                       .peer_limit = kPeerLimit,
                       .faults = faults.network};
    return substrates::CreateNetVm(options);
  }
  return spawn.kind == TenantKind::kBare ? substrates::CreateBare(options) : substrates::CreateVm(options);
}

vmm::Result<std::unique_ptr<substrates::Substrate>> CreateFaultyGuest(const Inheritance& inheritance,
                                                                      const Inject& inject) {
  const auto* fault = substrates::FindGuestFault(inject.fault - kFirstGuestFault);
  if (fault == nullptr) {
    return Fail(Error::Unsupported("inject fault", fmt::format("there is no guest fault {}", inject.fault)));
  }
  if (!inheritance.device) return Fail(Error::Unsupported("inject fault", inheritance.device_reason));
  return substrates::CreateFaulty(fault->fault, inject.seed, FlatOptionsOf(inheritance));
}

std::optional<Judgement> Judge(const substrates::CallOutcome& outcome, const vmm::Error* refused) {
  using substrates::GuestFaultClass;
  substrates::GuestVerdict verdict = substrates::ClassifyGuestFault(outcome, refused);
  if (verdict.fault_class == GuestFaultClass::kNone) return std::nullopt;
  return Judgement{verdict.fault_class == GuestFaultClass::kHang ? FaultClass::kHang : FaultClass::kGuestFault,
                   std::move(verdict.words), verdict.survives};
}

}  // namespace nestbench::tenants
