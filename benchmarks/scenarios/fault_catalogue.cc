#include "fault_catalogue.h"

#include <signal.h>

#include <utility>

#include "nestbench/substrates/guest_faults.h"
#include "nestbench/tenants/protocol.h"

namespace nestbench::scenarios {
namespace {

using namespace std::chrono_literals;
using tenancy::TroubleClass;
using tenants::VmmFault;

Fault OfVmm(std::string name, std::string summary, VmmFault fault, TroubleClass expected) {
  Fault entry;
  entry.name = std::move(name);
  entry.summary = std::move(summary);
  entry.number = static_cast<std::uint32_t>(fault);
  entry.expected = expected;
  return entry;
}

Fault OfSignal(std::string name, std::string summary, int signal, TroubleClass expected) {
  Fault entry;
  entry.name = std::move(name);
  entry.summary = std::move(summary);
  entry.means = FaultMeans::kSignal;
  entry.number = static_cast<std::uint32_t>(signal);
  entry.expected = expected;
  return entry;
}

Fault OfGuest(const substrates::GuestFaultInfo& info) {
  Fault entry;
  entry.name = info.name;
  entry.summary = info.summary;
  entry.number = tenants::kFirstGuestFault + static_cast<std::uint32_t>(info.fault);
  entry.expected =
      info.expected == substrates::GuestFaultClass::kHang ? TroubleClass::kHang : TroubleClass::kGuestFault;
  entry.guest_only = true;
  entry.survivable = info.survives;
  return entry;
}

std::vector<Fault> MakeCatalogue() {
  std::vector<Fault> faults;
  for (const substrates::GuestFaultInfo& info : substrates::GuestFaults()) faults.push_back(OfGuest(info));
  faults.push_back(OfVmm("vmm_sigsegv", "the VMM stores to an address that it does not have",
                         VmmFault::kSegmentationFault, TroubleClass::kVmmFault));
  faults.push_back(OfVmm("vmm_abort", "the VMM aborts", VmmFault::kAbort, TroubleClass::kVmmFault));
  faults.push_back(
      OfVmm("vmm_stack_overflow", "the VMM's stack runs out", VmmFault::kStackOverflow, TroubleClass::kVmmFault));
  faults.push_back(OfVmm("vmm_seccomp_violation", "the VMM makes a system call that its filter forbids",
                         VmmFault::kForbiddenSystemCall, TroubleClass::kVmmFault));
  faults.push_back(OfVmm("vmm_spin", "the VMM's own code loops for ever", VmmFault::kBusyLoop, TroubleClass::kHang));
  faults.push_back(OfVmm("descriptor_exhaustion", "the VMM opens descriptors until it may not",
                         VmmFault::kDescriptorExhaustion, TroubleClass::kHostResource));
  faults.push_back(OfVmm("thread_exhaustion", "the VMM starts threads until it may not", VmmFault::kThreadExhaustion,
                         TroubleClass::kHostResource));
  faults.back().needs_threads = true;
  faults.push_back(
      OfVmm("disk_full", "a write of the VMM finds no space", VmmFault::kDiskFull, TroubleClass::kHostResource));
  const auto add_of_disk = [&faults](std::string name, std::string summary, VmmFault fault) {
    faults.push_back(OfVmm(std::move(name), std::move(summary), fault, TroubleClass::kHostResource));
    faults.back().guest_only = true;
    faults.back().needs_disk = true;
  };
  add_of_disk("disk_io_error", "each request to the guest's disk ends with EIO", VmmFault::kDiskInputOutput);
  add_of_disk("disk_no_space", "each request to the guest's disk ends with ENOSPC", VmmFault::kDiskNoSpace);
  faults.push_back(OfVmm("link_down", "the cable of the guest's network is pulled", VmmFault::kLinkDown,
                         TroubleClass::kHostResource));
  faults.back().guest_only = true;
  faults.back().needs_network = true;
  faults.push_back(OfSignal("vmm_sigkill", "somebody kills the VMM", SIGKILL, TroubleClass::kVmmFault));
  faults.push_back(OfSignal("vmm_sigstop", "somebody stops the VMM", SIGSTOP, TroubleClass::kHang));
  Fault bomb;
  bomb.name = "memory_bomb";
  bomb.summary = "the guest touches twice the memory that its cgroup allows";
  bomb.means = FaultMeans::kMemoryBomb;
  bomb.expected = TroubleClass::kKilledByLimit;
  faults.push_back(std::move(bomb));
  Fault loss;
  loss.name = "supervisor_loss";
  loss.summary = "a supervisor is killed: its guests end with it, its groups are removed at the next start";
  loss.means = FaultMeans::kSupervisorLoss;
  faults.push_back(std::move(loss));
  return faults;
}

}  // namespace

const std::vector<Fault>& FaultCatalogue() {
  static const std::vector<Fault> kCatalogue = MakeCatalogue();
  return kCatalogue;
}

}  // namespace nestbench::scenarios
