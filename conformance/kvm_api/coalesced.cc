// Writes that are queued instead of leaving the guest. Source: kernel document "The Definitive KVM API Documentation",
// KVM_(UN)REGISTER_COALESCED_MMIO and KVM_CAP_COALESCED_PIO.
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <span>

#include "../harness/guest.h"

namespace nestbench::conformance {
namespace {

class Coalesced : public GuestTest {
 protected:
  static constexpr std::uint64_t kZone = 0x40000;  // where no memory is
  static constexpr std::uint32_t kZoneBytes = 0x1000;

  void SetUp() override {
    GuestTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const int page = vm().CheckCapability(KVM_CAP_COALESCED_MMIO);
    if (page <= 0) GTEST_SKIP() << "KVM_CAP_COALESCED_MMIO is " << page;
    // The capability's value is where the ring is, in pages from the begin of the run area.
    ring_ = reinterpret_cast<kvm_coalesced_mmio_ring*>(reinterpret_cast<std::byte*>(vcpu().run()) + page * 4096L);
    auto sregs = vcpu().GetSregs();
    ASSERT_TRUE(sregs);
    sregs->ds.base = kZone;
    ASSERT_TRUE(vcpu().SetSregs(*sregs));
  }
  int Change(unsigned long request, std::uint64_t address, std::uint32_t bytes, bool is_port = false) {
    kvm_coalesced_mmio_zone zone = {};
    zone.addr = address;
    zone.size = bytes;
    zone.pio = is_port ? 1 : 0;
    return ErrorOf(vm().fd(), request, &zone);
  }
  int RegisterZone() { return Change(KVM_REGISTER_COALESCED_MMIO, kZone, kZoneBytes); }
  [[nodiscard]] const kvm_coalesced_mmio_ring& ring() const { return *ring_; }

 private:
  kvm_coalesced_mmio_ring* ring_ = nullptr;
};

NESTBENCH_CONDITION(kvm_api, Coalesced, AWriteInAZoneIsQueuedAndDoesNotLeave,
                    "KVM API, KVM_REGISTER_COALESCED_MMIO: address, length and data in the ring") {
  ASSERT_EQ(RegisterZone(), 0);
  Load({0xB0, 0x5A, 0xA2, 0x10, 0x00,                      // mov al, 0x5A; mov [0x10], al
        0xB8, 0x34, 0x12, 0xA3, 0x20, 0x00, 0xE6, 0x11});  // mov ax, 0x1234; mov [0x20], ax; out 0x11
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->port, 0x11);
  ASSERT_EQ(ring().first, 0U);
  ASSERT_EQ(ring().last, 2U);
  EXPECT_EQ(ring().coalesced_mmio[0].phys_addr, kZone + 0x10);
  EXPECT_EQ(ring().coalesced_mmio[0].len, 1U);
  EXPECT_EQ(ring().coalesced_mmio[0].data[0], 0x5A);
  EXPECT_EQ(ring().coalesced_mmio[1].phys_addr, kZone + 0x20);
  EXPECT_EQ(ring().coalesced_mmio[1].len, 2U);
}
NESTBENCH_CONDITION(kvm_api, Coalesced, AReadInAZoneLeaves, "KVM API, KVM_REGISTER_COALESCED_MMIO: writes only") {
  ASSERT_EQ(RegisterZone(), 0);
  Load({0xA0, 0x10, 0x00, 0xE6, 0x11});  // mov al, [0x10]; out 0x11
  const auto exit = RunTo<vmm::MmioExit>();
  if (!exit) return;
  EXPECT_FALSE(exit->is_write);
  EXPECT_EQ(exit->address.value(), kZone + 0x10);
}
NESTBENCH_CONDITION(kvm_api, Coalesced, AWriteAcrossAZonesEndLeaves,
                    "KVM API, KVM_REGISTER_COALESCED_MMIO: the zone holds the whole access") {
  ASSERT_EQ(RegisterZone(), 0);
  Load({0xA2, 0x00, 0x10, 0xE6, 0x11});  // mov [0x1000], al: the first byte behind it
  const auto exit = RunTo<vmm::MmioExit>();
  if (!exit) return;
  EXPECT_TRUE(exit->is_write);
  EXPECT_EQ(ring().last, 0U);
}
NESTBENCH_CONDITION(kvm_api, Coalesced, AZoneThatWasRemovedLeavesAgain, "KVM API, KVM_UNREGISTER_COALESCED_MMIO") {
  ASSERT_EQ(RegisterZone(), 0);
  ASSERT_EQ(Change(KVM_UNREGISTER_COALESCED_MMIO, kZone, kZoneBytes), 0);
  Load({0xA2, 0x10, 0x00, 0xE6, 0x11});  // mov [0x10], al
  const auto exit = RunTo<vmm::MmioExit>();
  if (!exit) return;
  EXPECT_TRUE(exit->is_write);
}
NESTBENCH_CONDITION(kvm_api, Coalesced, APortsWriteIsQueuedToo, "KVM API, KVM_CAP_COALESCED_PIO: pio in the ring") {
  if (Lacks(KVM_CAP_COALESCED_PIO, "KVM_CAP_COALESCED_PIO")) return;
  ASSERT_EQ(Change(KVM_REGISTER_COALESCED_MMIO, 0x10, 1, true), 0);
  Load({0xB0, 0x77, 0xE6, 0x10, 0xE6, 0x11});  // mov al, 0x77; out 0x10; out 0x11
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->port, 0x11);
  ASSERT_EQ(ring().last, 1U);
  EXPECT_EQ(ring().coalesced_mmio[0].phys_addr, 0x10U);
  EXPECT_EQ(ring().coalesced_mmio[0].pio, 1U);
  EXPECT_EQ(ring().coalesced_mmio[0].data[0], 0x77);
}
NESTBENCH_CONDITION(kvm_api, Coalesced, AFullRingLosesNothing,
                    "KVM API, KVM_REGISTER_COALESCED_MMIO: a write that finds no room leaves") {
  ASSERT_EQ(RegisterZone(), 0);
  Load({0xA2, 0x10, 0x00, 0xFE, 0xC0, 0xEB, 0xF9});  // mov [0x10], al; inc al; jmp to the begin
  const auto exit = RunTo<vmm::MmioExit>();
  if (!exit) return;
  constexpr std::size_t kRoom = (4096 - sizeof(kvm_coalesced_mmio_ring)) / sizeof(kvm_coalesced_mmio);
  const std::uint32_t last = ring().last;
  Evidence("entries", last);  // some kernels leave when it is half full
  ASSERT_GT(last, 0U);
  ASSERT_LT(last, kRoom) << "one entry tells a full ring from an empty one";
  for (std::uint32_t i = 0; i < last; ++i) ASSERT_EQ(ring().coalesced_mmio[i].data[0], i) << "entry " << i;
  EXPECT_EQ(exit->data[0], static_cast<std::byte>(last)) << "the next in order";
}

}  // namespace
}  // namespace nestbench::conformance
