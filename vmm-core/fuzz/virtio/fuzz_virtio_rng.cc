// The entropy device under a hostile driver.

#include <cstddef>
#include <cstdint>

#include "devices/virtio/rng/rng.h"
#include "nestbench/fuzz/virtio/hostile_driver.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench::vmm::virtio;
  static GuestArena arena;
  nestbench::fuzz::Input input(data, size);
  arena.Clear();
  Rng rng;
  HostileDriver driver(arena, rng, 4);
  for (std::size_t i = 0; i < HostileDriver::kMaxSteps && !input.empty(); ++i) {
    if (driver.Step(input)) RunWorkers(1);
    driver.Check();
  }
  driver.StartProperly(0);
  driver.Offer(0, {{HostileDriver::kDataBase, 64, true}});
  nestbench::fuzz::Require(driver.Await(0) == 64, "a buffer is filled");
  driver.Check();
  arena.Check();
  return 0;
}
