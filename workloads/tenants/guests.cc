#include "guests.h"

#include <fmt/format.h>

#include <utility>

namespace nestbench::tenants {

using substrates::CallEnd;
using vmm::Error;
using vmm::Fail;

vmm::Result<std::unique_ptr<substrates::Substrate>> CreateGuest(const Inheritance& inheritance, const Spawn& spawn) {
  if (spawn.image >= inheritance.images.size()) {
    return Fail(Error::InvalidArgument("create guest", fmt::format("image {} was not loaded", spawn.image)));
  }
  if (spawn.kind != TenantKind::kBare && !inheritance.device) {
    return Fail(Error::Unsupported("create guest", inheritance.device_reason));
  }
  substrates::SubstrateOptions options;
  options.image = inheritance.images[spawn.image].bytes();
  options.arena_bytes = spawn.arena_bytes;
  options.host_page_bytes = spawn.host_page_bytes;
  options.guest_page_bytes = spawn.guest_page_bytes;
  options.doorbell = spawn.doorbell;
  options.device = inheritance.device ? &*inheritance.device : nullptr;
  options.cpuid = inheritance.cpuid ? &*inheritance.cpuid : nullptr;
  options.statistics = spawn.heartbeat_ms != 0;  // one that says nothing is asked nothing
  options.attach_event = spawn.attach_event != 0;
  return spawn.kind == TenantKind::kBare ? substrates::CreateBare(options) : substrates::CreateVm(options);
}

vmm::Result<std::unique_ptr<substrates::Substrate>> CreateFaultyGuest(const Inheritance& /*inheritance*/,
                                                                      const Spawn& /*spawn*/, const Inject& inject) {
  return Fail(Error::Unsupported("inject fault", fmt::format("there is no guest fault {}", inject.fault)));
}

Judgement Judge(const substrates::CallOutcome& outcome, const vmm::Error* refused) {
  if (outcome.end == CallEnd::kTimedOut) return {FaultClass::kHang, "the guest did not answer in time"};
  if (outcome.end == CallEnd::kCrashed) return {FaultClass::kGuestFault, "the guest crashed"};
  return {FaultClass::kGuestFault, refused == nullptr ? "the guest failed" : refused->ToString()};
}

}  // namespace nestbench::tenants
