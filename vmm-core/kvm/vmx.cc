#include "nestbench/vmm/kvm/vmx.h"

#include <fmt/format.h>

#include <array>
#include <utility>

#include "nestbench/abi/vmx.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/virtualization.h"

namespace nestbench::vmm {
namespace {

using namespace abi::vmx;

constexpr std::string_view kOperation = "run a guest in a guest";
constexpr std::uint64_t kNoLinkPointer = ~0ULL;
constexpr std::uint32_t kFieldStep = 2;
constexpr std::uint8_t kSegmentTypeTssBusy = abi::x86::kSegmentTypeTssBusy;

// Section "Guest Register State": the descriptor's attributes with a gap, and whether the segment can be used.
std::uint32_t AccessOf(const kvm_segment& from) {
  if (from.unusable != 0 || from.present == 0) return kAccessUnusable;
  return from.type | unsigned{from.s} << 4U | unsigned{from.dpl} << 5U | unsigned{from.present} << 7U |
         unsigned{from.avl} << 12U | unsigned{from.l} << 13U | unsigned{from.db} << 14U | unsigned{from.g} << 15U;
}

std::uint32_t MustBeOne(std::uint64_t allowed) { return static_cast<std::uint32_t>(allowed); }
std::uint32_t MayBeOne(std::uint32_t wanted, std::uint64_t allowed) {
  return wanted & static_cast<std::uint32_t>(allowed >> 32);
}

Result<std::uint32_t> Adjust(std::string_view what, std::uint32_t wanted, std::uint64_t allowed) {
  if (MayBeOne(wanted, allowed) != wanted) {
    return Fail(Error::Unsupported(
        kOperation, fmt::format("{} controls {:#x} are not allowed", what, wanted & ~MayBeOne(wanted, allowed))));
  }
  return wanted | MustBeOne(allowed);
}

}  // namespace

Result<void> CheckVmx(const KvmDevice& device) { return CheckVirtualization(device, Virtualization::kVmx); }

Result<void> CheckVmxNestedPaging(const KvmDevice& device) {
  constexpr std::string_view kWithEpt = "run a guest in a guest with nested paging";
  constexpr std::string_view kWhatToDo = "load kvm_intel with ept=1";
  auto secondary = device.ReadFeatureMsr(kMsrSecondaryControls);
  if (!secondary) return Fail(std::move(secondary.error()));
  if (MayBeOne(kSecondaryEpt, *secondary) == 0) {
    return Fail(Error::Unsupported(kWithEpt, fmt::format("guest hypervisors get no EPT; {}", kWhatToDo)));
  }
  auto ept = device.ReadFeatureMsr(kMsrEptVpid);
  if (!ept) return Fail(std::move(ept.error()));
  constexpr std::uint64_t kNeeded = kEptVpidFourLevels | kEptVpidWriteBack | kEptVpidLargePages;
  if ((*ept & kNeeded) != kNeeded) {
    return Fail(Error::Unsupported(
        kWithEpt, fmt::format("EPT of {:#x} lacks four levels, write-back memory or pages of 2 MiB", *ept)));
  }
  return {};
}

Result<VmxCapabilities> ReadVmxCapabilities(const KvmDevice& device) {
  auto basic = device.ReadFeatureMsr(kMsrBasic);
  if (!basic) return Fail(std::move(basic.error()));
  VmxCapabilities found;
  found.revision = static_cast<std::uint32_t>(*basic & kBasicRevisionMask);
  const bool has_true = (*basic & kBasicTrueControls) != 0;
  const std::array<std::pair<std::uint32_t, std::uint64_t*>, 7> msrs = {{
      {has_true ? kMsrTruePinControls : kMsrPinControls, &found.controls.pin},
      {has_true ? kMsrTrueProcessorControls : kMsrProcessorControls, &found.controls.processor},
      {has_true ? kMsrTrueExitControls : kMsrExitControls, &found.controls.exit},
      {has_true ? kMsrTrueEntryControls : kMsrEntryControls, &found.controls.entry},
      {kMsrCr0Fixed0, &found.cr0_fixed_ones},
      {kMsrCr4Fixed0, &found.cr4_fixed_ones},
      {kMsrSecondaryControls, &found.controls.secondary},
  }};
  for (const auto& [index, place] : msrs) {
    // The last is there only where the primary controls allow to use it.
    if (index == kMsrSecondaryControls && MayBeOne(kProcessorSecondary, found.controls.processor) == 0) break;
    auto value = device.ReadFeatureMsr(index);
    if (!value) return Fail(std::move(value.error()));
    *place = *value;
  }
  return found;
}

Result<void> AllowVmx(Vcpu& vcpu) {
  auto written = vcpu.WriteMsr(kMsrFeatureControl, kFeatureControlLock | kFeatureControlVmxOutsideSmx);
  if (!written) return written;
  auto sregs = vcpu.GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));
  sregs->cr4 |= kCr4Vmxe;
  return vcpu.SetSregs(*sregs);
}

Result<std::vector<VmcsValue>> FillVmcs(const VmxCapabilities& capabilities, const kvm_sregs& host,
                                        const kvm_sregs& guest, const VmxWanted& wanted) {
  const VmxControls& allowed = capabilities.controls;
  const bool has_secondary = MayBeOne(kProcessorSecondary, allowed.processor) != 0;
  auto pin = Adjust("pin-based", wanted.pin, allowed.pin);
  if (!pin) return Fail(std::move(pin.error()));
  auto processor =
      Adjust("processor-based", wanted.processor | (has_secondary ? kProcessorSecondary : 0), allowed.processor);
  if (!processor) return Fail(std::move(processor.error()));
  auto secondary = Adjust("secondary processor-based", wanted.secondary | MayBeOne(kSecondaryRdtscp, allowed.secondary),
                          allowed.secondary);
  if (!secondary) return Fail(std::move(secondary.error()));
  auto exit = Adjust("exit", kExitHost64 | kExitSaveEfer | kExitLoadEfer, allowed.exit);
  if (!exit) return Fail(std::move(exit.error()));
  auto entry = Adjust("entry", kEntryGuest64 | kEntryLoadEfer, allowed.entry);
  if (!entry) return Fail(std::move(entry.error()));
  std::vector<VmcsValue> fields = {
      {kPinControls, *pin},
      {kProcessorControls, *processor},
      {kExitControls, *exit},
      {kEntryControls, *entry},
      {kExceptionBitmap, wanted.exception_bitmap},
      {kPageFaultErrorMask, 0},
      {kPageFaultErrorMatch, 0},
      {kCr3TargetCount, 0},
      {kExitMsrStoreCount, 0},
      {kExitMsrLoadCount, 0},
      {kEntryMsrLoadCount, 0},
      {kEntryEvent, 0},
      {kCr0Mask, 0},
      {kCr4Mask, 0},
      {kCr0Shadow, 0},
      {kCr4Shadow, 0},
      {kVmcsLinkPointer, kNoLinkPointer},
      {kGuestDebugControl, 0},
      {kGuestEfer, guest.efer},
      {kGuestGdtrLimit, guest.gdt.limit},
      {kGuestIdtrLimit, guest.idt.limit},
      {kGuestGdtrBase, guest.gdt.base},
      {kGuestIdtrBase, guest.idt.base},
      {kGuestInterruptibility, 0},
      {kGuestActivity, 0},
      {kGuestPendingDebug, 0},
      {kGuestSysenterCs, 0},
      {kGuestSysenterEsp, 0},
      {kGuestSysenterEip, 0},
      {kGuestCr0, guest.cr0 | capabilities.cr0_fixed_ones},
      {kGuestCr3, guest.cr3},
      {kGuestCr4, guest.cr4 | capabilities.cr4_fixed_ones},
      {kGuestDr7, abi::x86::kDr7AfterReset},
      {kGuestRflags, abi::x86::kRflagsReserved1},
      {kGuestRsp, 0},
      {kGuestRip, 0},
      {kHostCsSelector, host.cs.selector},
      {kHostSsSelector, host.ss.selector},
      {kHostDsSelector, host.ds.selector},
      {kHostEsSelector, host.es.selector},
      {kHostFsSelector, host.fs.selector},
      {kHostGsSelector, host.gs.selector},
      {kHostTrSelector, host.tr.selector},
      {kHostEfer, host.efer},
      {kHostSysenterCs, 0},
      {kHostSysenterEsp, 0},
      {kHostSysenterEip, 0},
      {kHostCr0, host.cr0 | capabilities.cr0_fixed_ones},
      {kHostCr3, host.cr3},
      {kHostCr4, host.cr4 | capabilities.cr4_fixed_ones},
      {kHostFsBase, host.fs.base},
      {kHostGsBase, host.gs.base},
      {kHostTrBase, host.tr.base},
      {kHostGdtrBase, host.gdt.base},
      {kHostIdtrBase, host.idt.base},
  };
  if (has_secondary) fields.push_back({kSecondaryControls, *secondary});
  const std::array<const kvm_segment*, 8> segments = {&guest.es, &guest.cs, &guest.ss,  &guest.ds,
                                                      &guest.fs, &guest.gs, &guest.ldt, &guest.tr};
  for (std::uint32_t i = 0; i < segments.size(); ++i) {
    kvm_segment segment = *segments[i];
    if (segments[i] == &guest.ldt) segment.present = 0;
    if (segments[i] == &guest.tr) segment.type = kSegmentTypeTssBusy;  // no other may be loaded
    fields.push_back({kGuestEsSelector + i * kFieldStep, segment.selector});
    fields.push_back({kGuestEsLimit + i * kFieldStep, segment.limit});
    fields.push_back({kGuestEsAccess + i * kFieldStep, AccessOf(segment)});
    fields.push_back({kGuestEsBase + i * kFieldStep, segment.base});
  }
  return fields;
}

}  // namespace nestbench::vmm
