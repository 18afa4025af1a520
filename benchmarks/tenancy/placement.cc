#include "nestbench/tenancy/placement.h"

#include <hwloc.h>

#include <functional>
#include <memory>
#include <optional>
#include <ranges>
#include <utility>

namespace nestbench::tenancy {
namespace {

struct DestroyTopology {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using Topology = std::unique_ptr<hwloc_topology, DestroyTopology>;

Topology LoadTopology(const std::string& synthetic) {
  hwloc_topology_t raw = nullptr;
  if (hwloc_topology_init(&raw) != 0) return nullptr;
  Topology topology(raw);
  if (!synthetic.empty() && hwloc_topology_set_synthetic(raw, synthetic.c_str()) != 0) return nullptr;
  if (hwloc_topology_load(raw) != 0) return nullptr;
  if (synthetic.empty()) {
    // Only CPUs that this process may run on.
    const std::unique_ptr<hwloc_bitmap_s, decltype(&hwloc_bitmap_free)> allowed(hwloc_bitmap_alloc(),
                                                                                hwloc_bitmap_free);
    if (allowed && hwloc_get_cpubind(raw, allowed.get(), HWLOC_CPUBIND_PROCESS) == 0) {
      hwloc_topology_restrict(raw, allowed.get(), 0);
    }
  }
  return topology;
}

// The outermost cache above a CPU: the last level.
hwloc_obj_t LastLevelCache(hwloc_obj_t cpu) {
  hwloc_obj_t last = nullptr;
  for (hwloc_obj_t above = cpu->parent; above != nullptr; above = above->parent) {
    if (hwloc_obj_type_is_dcache(above->type) != 0) last = above;
  }
  return last;
}

hwloc_obj_t CoreOf(hwloc_topology_t topology, hwloc_obj_t cpu) {
  return hwloc_get_ancestor_obj_by_type(topology, HWLOC_OBJ_CORE, cpu);
}

}  // namespace

std::vector<Placement> FindPlacements(const std::string& synthetic) {
  const Topology topology = LoadTopology(synthetic);
  std::vector<hwloc_obj_t> cpus;
  if (topology) {
    for (hwloc_obj_t cpu = nullptr; (cpu = hwloc_get_next_obj_by_type(topology.get(), HWLOC_OBJ_PU, cpu)) != nullptr;) {
      cpus.push_back(cpu);
    }
  }

  using Fits = std::function<bool(hwloc_obj_t, hwloc_obj_t)>;
  // From the last CPU down: the first ones do most of the kernel's and the supervisor's work.
  const auto find = [&](const char* name, const char* why_not, const Fits& fits) {
    for (hwloc_obj* victim : std::views::reverse(cpus)) {
      for (hwloc_obj* aggressor : std::views::reverse(cpus)) {
        if (!fits(victim, aggressor)) continue;
        return Placement{name, static_cast<int>(victim->os_index), static_cast<int>(aggressor->os_index), ""};
      }
    }
    return Placement{name, -1, -1, cpus.empty() ? "hwloc does not know this machine's CPUs" : why_not};
  };
  const auto same_core = [&](hwloc_obj_t a, hwloc_obj_t b) {
    return CoreOf(topology.get(), a) != nullptr && CoreOf(topology.get(), a) == CoreOf(topology.get(), b);
  };
  const auto same_cache = [](hwloc_obj_t a, hwloc_obj_t b) {
    return LastLevelCache(a) != nullptr && LastLevelCache(a) == LastLevelCache(b);
  };
  return {
      find("same_cpu", "there is no CPU", [](hwloc_obj_t a, hwloc_obj_t b) { return a == b; }),
      find("sibling", "no core has two threads here",
           [&](hwloc_obj_t a, hwloc_obj_t b) { return a != b && same_core(a, b); }),
      find("same_cache", "no two cores share a last-level cache here",
           [&](hwloc_obj_t a, hwloc_obj_t b) { return !same_core(a, b) && a != b && same_cache(a, b); }),
      find("other_cache", "all CPUs share one last-level cache here",
           [&](hwloc_obj_t a, hwloc_obj_t b) {
             return a != b && LastLevelCache(a) != nullptr && LastLevelCache(b) != nullptr && !same_cache(a, b);
           }),
  };
}

}  // namespace nestbench::tenancy
