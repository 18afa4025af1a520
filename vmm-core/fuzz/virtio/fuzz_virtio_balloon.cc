// The balloon under a hostile driver: only pages that the guest may write are ever given back.

#include <linux/virtio_balloon.h>

#include <cstddef>
#include <cstdint>
#include <memory>

#include "devices/virtio/balloon/balloon.h"
#include "nestbench/fuzz/virtio/hostile_driver.h"

namespace nestbench::vmm::virtio {
namespace {

constexpr std::uint64_t kPages = HostileDriver::kDataBase + 0x4000;  // where page numbers are written
constexpr std::uint64_t kGiven = HostileDriver::kDataBase + 0x8000;

// A request to inflate or deflate with page numbers that may be the guest's.
void OfferPages(HostileDriver& driver, fuzz::Input& input) {
  const auto how = input.Take<std::uint8_t>();
  const std::uint32_t count = 1 + how % 8;
  for (std::uint32_t i = 0; i < count; ++i) {
    const auto page = static_cast<std::uint32_t>(HostileDriver::PickAddress(input) >> VIRTIO_BALLOON_PFN_SHIFT);
    driver.Put(kPages + 4ULL * i, page);
  }
  driver.Append(kPages, count * 4, false);
  driver.OfferAppended((how & 0x80) != 0 ? 1 : 0, (how & 0x40) == 0, (how & 0x20) != 0);
}

}  // namespace
}  // namespace nestbench::vmm::virtio

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench::vmm::virtio;
  using nestbench::fuzz::Require;
  static GuestArena arena;
  nestbench::fuzz::Input input(data, size);
  arena.Clear();
  auto balloon = Balloon::Create();
  Require(balloon.has_value(), "a balloon can be had");
  HostileDriver driver(arena, **balloon, 8);
  for (std::size_t i = 0; i < HostileDriver::kMaxSteps && !input.empty(); ++i) {
    const auto own = driver.Step(input);
    if (own == HostileDriver::kOwnSteps) (*balloon)->SetTarget(input.Take<std::uint32_t>());
    if (own == HostileDriver::kOwnSteps + 1) (*balloon)->RequestStatistics();
    if (own > HostileDriver::kOwnSteps + 1) OfferPages(driver, input);
    driver.Check();
    Require((*balloon)->statistics().size() <= 64, "a report has an end");
  }
  driver.StartProperly(~std::uint64_t{0});
  driver.Put(kGiven, std::uint64_t{1});
  driver.Put(kPages, static_cast<std::uint32_t>(kGiven >> VIRTIO_BALLOON_PFN_SHIFT));
  driver.Offer(0, {{kPages, 4, false}});
  driver.Await(0);
  Require(arena.From(kGiven)[0] == std::byte{0}, "a page that was given is zero");
  driver.Put(kGiven, std::uint64_t{1});
  driver.Offer(3, {{kGiven, 4096, true}});
  driver.Await(3);
  Require(arena.From(kGiven)[0] == std::byte{0}, "a page that was reported is zero");
  driver.Check();
  arena.Check();
  return 0;
}
