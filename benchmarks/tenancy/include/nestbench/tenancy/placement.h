// Where a victim and its aggressor run relative to each other, by what they share.
#pragma once

#include <string>
#include <vector>

namespace nestbench::tenancy {

// A pair of CPUs that share as much as `name` says and no more, or why this machine has none.
struct Placement {
  std::string name;  // "same_cpu", "sibling", "same_cache", "other_cache"
  int victim_cpu = -1;
  int aggressor_cpu = -1;
  std::string unsupported;  // empty when there is such a pair
};

// The four placements in the order same_cpu (they take turns), sibling (SMT threads of one core), same_cache (cores
// with one last-level cache), other_cache. From hwloc's view of the CPUs that this process may use. `synthetic` is a
// description for hwloc_topology_set_synthetic, for tests; empty: this machine.
std::vector<Placement> FindPlacements(const std::string& synthetic = {});

}  // namespace nestbench::tenancy
