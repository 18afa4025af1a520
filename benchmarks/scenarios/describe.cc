#include "nestbench/scenarios/describe.h"

#include <algorithm>
#include <array>
#include <map>
#include <string>

#include "fault_catalogue.h"
#include "io_workloads.h"
#include "nestbench/workloads/catalogue.h"
#include "tenant_loads.h"

namespace nestbench::scenarios {
namespace {

struct Entry {
  std::string_view begin;  // of the id: scenario/workload
  Description description;
};

// What has no table of its own that could tell.
constexpr auto kEntries = std::to_array<Entry>({
    {"exits/doorbell_pio", {"ns/op", "port write that leaves the guest for the VMM"}},
    {"exits/doorbell_mmio", {"ns/op", "write to an address without memory, for the VMM"}},
    {"exits/ioeventfd_pio", {"ns/op", "port write that ends in the kernel, as an event"}},
    {"exits/ioeventfd_mmio", {"ns/op", "write to an address without memory that ends in the kernel, as an event"}},
    {"exits/cpuid", {"ns/op", "CPUID, which the hypervisor answers"}},
    {"exits/page_fault", {"ns/op", "page fault that the guest handles itself"}},
    {"exits/rdtsc", {"ns/op", "control: RDTSC, which must not leave the guest"}},
    {"exits/immediate_exit", {"ns/op", "KVM_RUN that returns before it enters the guest"}},
    {"lifecycle/create_vm", {"ns/op", "KVM_CREATE_VM"}},
    {"lifecycle/create_vcpu", {"ns/op", "KVM_CREATE_VCPU, its registers and its mapping"}},
    {"lifecycle/cold_start", {"ns/op", "from nothing to a guest's first exit"}},
    {"lifecycle/destroy", {"ns/op", "until a VM and its memory are gone"}},
    {"lifecycle/slot_add", {"ns/op", "a memory slot more"}},
    {"lifecycle/slot_remove", {"ns/op", "a memory slot less"}},
    {"lifecycle/dirty_log", {"ns/op", "harvest of the dirty log of so many written pages"}},
    {"lifecycle/kick", {"ns/op", "from the kick of a spinning vCPU until KVM_RUN has returned"}},
    {"lifecycle/irqfd_wake", {"ns/op", "from an irqfd to the halted vCPU's first instruction"}},
    {"lifecycle/irq_line_wake", {"ns/op", "from KVM_IRQ_LINE to the halted vCPU's first instruction"}},
    {"hotpath/bus_dispatch", {"ns/op", "from an exit to its device, the same one each time"}},
    {"hotpath/bus_dispatch_alternating", {"ns/op", "from an exit to its device, another one each time"}},
    {"hotpath/exit_decode", {"ns/op", "from the kvm_run page to an Exit"}},
    {"hotpath/guest_memory_read", {"ns/op", "checked read of guest memory"}},
    {"hotpath/guest_memory_write", {"ns/op", "checked write to guest memory"}},
    {"hotpath/mailbox_read", {"ns/op", "a reply of a payload, checked"}},
    {"hotpath/page_tables", {"ns/op", "page tables of so many pages"}},
    {"hotpath/elf_parse", {"ns/op", "a payload image, checked"}},
    {"linux/boot", {"ms", "a part of a Linux guest's start: the VMM, the kernel until init, init until it is up"}},
    {"linux/syscall", {"ns/op", "one such call of a process"}},
    {"linux/page_fault", {"ns/op", "first touch of a page"}},
    {"linux/context_switch", {"ns/op", "from one to the other on one CPU, through a pipe"}},
    {"density/steady", {"guests", "how many serve their requests in time"}},
    {"density/disk", {"guests", "how many serve their requests from one disk in time"}},
    {"density/idle", {"guests", "how many can wait: start rate and memory of each"}},
    {"density/memory", {"guests", "how many can hold memory, and what ends it"}},
    {"isolation/attribution", {"schedules", "who is the noisy neighbour, seen from outside"}},
    {"containment/soak", {"faults", "random faults among many guests for a long time"}},
});

// The part of an id before its parameters and substrate: scenario/workload.
std::string_view BeginOf(std::string_view id) {
  const std::size_t first = id.find('/');
  return first == std::string_view::npos ? id : id.substr(0, id.find('/', first + 1));
}

Description OfPayload(std::string_view id) {
  static const auto* const kWorkloadOf = [] {
    auto* made = new std::map<std::string, const workloads::Workload*, std::less<>>;
    for (const workloads::Workload& workload : workloads::Catalogue()) {
      for (const char* substrate : {"bare", "vm", "nested", "nested_shadow"})
        made->emplace(Id(workload, "overhead", substrate), &workload);
    }
    return made;
  }();
  const auto found = kWorkloadOf->find(id);
  return found == kWorkloadOf->end() ? Description{} : Description{found->second->unit, found->second->summary};
}

Description OfFault(std::string_view name) {
  const auto found = std::ranges::find(FaultCatalogue(), name, &Fault::name);
  return found == FaultCatalogue().end() ? Description{} : Description{"ns", found->summary};
}

// A cell of the matrix: its victim is the workload, its aggressor a parameter.
Description OfCell(std::string_view id) {
  constexpr std::string_view kKey = "aggressor=";
  const std::size_t at = id.find(kKey);
  if (at == std::string_view::npos) return {};
  const std::string_view rest = id.substr(at + kKey.size());
  const TenantLoad* aggressor = FindLoad(Aggressors(), rest.substr(0, rest.find_first_of(",/")));
  const std::string_view unit = id.find("metric=throughput") != std::string_view::npos ? "op/s" : "ns";
  return aggressor == nullptr ? Description{} : Description{unit, aggressor->summary};
}

}  // namespace

Description Describe(std::string_view id) {
  const std::string_view begin = BeginOf(id);
  if (const auto found = std::ranges::find(kEntries, begin, &Entry::begin); found != kEntries.end()) {
    return found->description;
  }
  const std::string_view scenario = begin.substr(0, begin.find('/'));
  if (scenario == "overhead") return OfPayload(id);
  if (scenario == "io") return DescribeIo(id);
  if (scenario == "costs") return {"ns/op", "one such operation of a guest's kernel, beside an empty loop"};
  if (scenario == "isolation") return OfCell(id);
  if (scenario == "containment") return OfFault(begin.substr(scenario.size() + 1));
  return {};
}

}  // namespace nestbench::scenarios
