// The console under a hostile driver, with input from the host at any time.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "devices/virtio/console/console.h"
#include "nestbench/fuzz/virtio/hostile_driver.h"

namespace nestbench::vmm::virtio {
namespace {

class CountingSink final : public ByteSink {
 public:
  void Put(std::span<const std::byte> bytes) override {
    fuzz::Require(!bytes.empty() && bytes.size() <= Console::kOutputMaxBytes, "output comes in pieces that fit");
    bytes_ += bytes.size();
  }
  [[nodiscard]] std::uint64_t bytes() const { return bytes_; }

 private:
  std::uint64_t bytes_ = 0;
};

}  // namespace
}  // namespace nestbench::vmm::virtio

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench::vmm::virtio;
  using nestbench::fuzz::Require;
  static GuestArena arena;
  nestbench::fuzz::Input input(data, size);
  arena.Clear();
  CountingSink sink;
  auto console = Console::Create(sink);
  Require(console.has_value(), "a console can be had");
  HostileDriver driver(arena, **console, 4);
  std::uint64_t pushed = 0;
  for (std::size_t i = 0; i < HostileDriver::kMaxSteps && !input.empty(); ++i) {
    if (driver.Step(input)) {
      const auto bytes = input.TakeBytes(input.Take<std::uint8_t>());
      const std::size_t taken = (*console)->Push(bytes);
      Require(taken <= bytes.size(), "no more is taken than there is");
      pushed += taken;
    }
    driver.Check();
  }
  driver.StartProperly(0);
  const std::uint64_t before = sink.bytes();
  driver.Offer(1, {{HostileDriver::kDataBase, 7, false}});
  driver.Await(1);
  Require(sink.bytes() == before + 7, "what is written is printed");
  Require(pushed > Console::kInputMaxBytes - 1 || (*console)->Push(std::as_bytes(std::span("x", 1))) == 1,
          "there is room for input");
  driver.Offer(0, {{HostileDriver::kDataBase, 1, true}});
  Require(driver.Await(0) == 1, "input arrives");
  driver.Check();
  arena.Check();
  return 0;
}
