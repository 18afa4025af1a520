#include "nestbench/vmm/bus/bus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <memory>
#include <new>
#include <utility>

namespace {
// Counts every allocation of this program while it is armed.
bool g_count_allocations = false;
int g_allocations = 0;
}  // namespace

// Not inlined: GCC then takes malloc and delete, or new and free, for a mismatched pair.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (g_count_allocations) ++g_allocations;
  if (void* memory = std::malloc(bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*bytes*/) noexcept { std::free(memory); }

namespace nestbench::vmm {
namespace {

using abi::GuestPhysAddr;
using testing::AllOf;
using testing::Each;
using testing::HasSubstr;

constexpr std::uint64_t kMax = std::numeric_limits<std::uint64_t>::max();

// Remembers its last access; answers reads with `value` and everything with `status`.
class RecordingDevice final : public Device {
 public:
  AccessStatus Read(std::uint64_t offset, std::span<std::byte> data) override {
    Note(offset, data.size());
    std::ranges::fill(data, value);
    return status;
  }
  AccessStatus Write(std::uint64_t offset, std::span<const std::byte> data) override {
    Note(offset, data.size());
    return status;
  }

  AccessStatus status = AccessStatus::kOk;
  std::byte value{0x5A};
  int accesses = 0;
  std::uint64_t last_offset = 0;
  std::size_t last_width = 0;

 private:
  void Note(std::uint64_t offset, std::size_t width) {
    ++accesses;
    last_offset = offset;
    last_width = width;
  }
};

class BusTest : public testing::Test {
 protected:
  AccessStatus Read(std::uint64_t address, std::size_t width) {
    data_.fill(std::byte{0});
    return bus_.Read(GuestPhysAddr(address), std::span(data_).first(width));
  }
  AccessStatus Write(std::uint64_t address, std::size_t width) {
    return bus_.Write(GuestPhysAddr(address), std::span<const std::byte>(data_).first(width));
  }

  std::array<std::byte, 8> data_{};
  RecordingDevice low_;
  RecordingDevice high_;
  MmioBus bus_;
};

TEST_F(BusTest, GivesAnAccessToItsDeviceWithTheOffset) {
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1000), 0x10, low_, "low"));
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x2000), 0x10, high_, "high"));
  EXPECT_EQ(Write(0x1004, 4), AccessStatus::kOk);
  EXPECT_EQ(low_.last_offset, 4U);
  EXPECT_EQ(low_.last_width, 4U);
  EXPECT_EQ(Read(0x200F, 1), AccessStatus::kOk);
  EXPECT_EQ(high_.last_offset, 15U);
  EXPECT_EQ(data_[0], std::byte{0x5A});
  EXPECT_EQ(low_.accesses, 1);
  EXPECT_EQ(high_.accesses, 1);
}

TEST_F(BusTest, LeavesAllOnesWhenNobodyAnswersARead) {
  EXPECT_EQ(Read(0x1000, 8), AccessStatus::kUnclaimed);
  EXPECT_THAT(data_, Each(std::byte{0xFF}));
}

TEST_F(BusTest, LeavesAllOnesWhenTheDeviceRefusesARead) {
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1000), 8, low_, "low"));
  for (const AccessStatus status : {AccessStatus::kBadWidth, AccessStatus::kBadOffset, AccessStatus::kWriteOnly}) {
    low_.status = status;
    EXPECT_EQ(Read(0x1000, 8), status);
    EXPECT_THAT(data_, Each(std::byte{0xFF}));
  }
}

TEST_F(BusTest, PassesOnWhatTheDeviceSaysToAWrite) {
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1000), 8, low_, "low"));
  low_.status = AccessStatus::kReadOnly;
  EXPECT_EQ(Write(0x1000, 8), AccessStatus::kReadOnly);
}

TEST_F(BusTest, TreatsAnAccessThatStraddlesADevicesEndAsUnclaimed) {
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1000), 8, low_, "low"));
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1008), 8, high_, "high"));
  EXPECT_EQ(Write(0x1004, 8), AccessStatus::kUnclaimed);
  EXPECT_EQ(Read(0x1007, 2), AccessStatus::kUnclaimed);
  EXPECT_EQ(data_[0], std::byte{0xFF});
  EXPECT_EQ(data_[1], std::byte{0xFF});
  EXPECT_EQ(Write(0x0FFF, 2), AccessStatus::kUnclaimed);
  EXPECT_EQ(Write(0x100F, 2), AccessStatus::kUnclaimed);
  EXPECT_EQ(low_.accesses + high_.accesses, 0);
}

TEST_F(BusTest, FindsNothingInTheGapBetweenTwoDevices) {
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1000), 8, low_, "low"));
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1010), 8, high_, "high"));
  EXPECT_EQ(Write(0x1008, 1), AccessStatus::kUnclaimed);
  EXPECT_EQ(Write(0x100F, 1), AccessStatus::kUnclaimed);
  EXPECT_EQ(Write(0x1018, 1), AccessStatus::kUnclaimed);
}

TEST_F(BusTest, RefusesAnAccessOfNoBytes) {
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1000), 8, low_, "low"));
  EXPECT_EQ(Read(0x1000, 0), AccessStatus::kBadWidth);
  EXPECT_EQ(Write(0x1000, 0), AccessStatus::kBadWidth);
  EXPECT_EQ(low_.accesses, 0);
}

TEST_F(BusTest, ServesBothEndsOfTheAddressSpace) {
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0), 1, low_, "low"));
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(kMax), 1, high_, "high"));
  EXPECT_EQ(Write(0, 1), AccessStatus::kOk);
  EXPECT_EQ(Write(kMax, 1), AccessStatus::kOk);
  EXPECT_EQ(high_.last_offset, 0U);
  EXPECT_EQ(Write(kMax, 2), AccessStatus::kUnclaimed);
  EXPECT_EQ(Write(kMax - 1, 2), AccessStatus::kUnclaimed);
}

TEST_F(BusTest, FindsEachOfManyDevicesInAnyOrder) {
  std::array<RecordingDevice, 33> devices;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    const std::size_t shuffled = i * 7 % devices.size();
    ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1000 + shuffled * 0x20), 0x10, devices[shuffled], "device"));
  }
  EXPECT_EQ(bus_.size(), devices.size());
  for (std::size_t i = 0; i < devices.size(); ++i) {
    const std::size_t index = i * 5 % devices.size();
    EXPECT_EQ(Write(0x1000 + index * 0x20 + 3, 4), AccessStatus::kOk);
    EXPECT_EQ(devices[index].accesses, 1);
    EXPECT_EQ(devices[index].last_offset, 3U);
    EXPECT_EQ(Write(0x1000 + index * 0x20 + 0x10, 1), AccessStatus::kUnclaimed);
  }
}

TEST_F(BusTest, StillFindsTheRightDeviceWhenOneWasAddedBelowTheLastHit) {
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x2000), 8, high_, "high"));
  EXPECT_EQ(Write(0x2000, 1), AccessStatus::kOk);
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1000), 8, low_, "low"));
  EXPECT_EQ(Write(0x2000, 1), AccessStatus::kOk);
  EXPECT_EQ(Write(0x1000, 1), AccessStatus::kOk);
  EXPECT_EQ(high_.accesses, 2);
  EXPECT_EQ(low_.accesses, 1);
}

TEST_F(BusTest, RefusesAnOverlapAndNamesBothDevices) {
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1000), 0x100, low_, "serial"));
  const std::pair<std::uint64_t, std::uint64_t> overlaps[] = {{0x1000, 0x100}, {0x10FF, 1},    {0x0FFF, 2},
                                                              {0x1010, 1},     {0x0, 0x10000}, {0x0, kMax}};
  for (const auto& [start, size] : overlaps) {
    const auto added = bus_.Add(GuestPhysAddr(start), size, high_, "doorbell");
    ASSERT_FALSE(added) << start;
    EXPECT_EQ(added.error().kind, ErrorKind::kInvalidArgument);
    EXPECT_THAT(added.error().ToString(), AllOf(HasSubstr("serial [0x1000, +0x100)"), HasSubstr("doorbell [")));
  }
  EXPECT_EQ(bus_.size(), 1U);
  EXPECT_TRUE(bus_.Add(GuestPhysAddr(0x1100), 1, high_, "behind"));
  EXPECT_TRUE(bus_.Add(GuestPhysAddr(0x0FFF), 1, high_, "before"));
}

TEST_F(BusTest, RefusesAnEmptyRange) {
  const auto added = bus_.Add(GuestPhysAddr(0x1000), 0, low_, "nothing");
  ASSERT_FALSE(added);
  EXPECT_THAT(added.error().ToString(), AllOf(HasSubstr("nothing"), HasSubstr("empty")));
}

TEST_F(BusTest, RefusesARangeThatWrapsAround) {
  const auto added = bus_.Add(GuestPhysAddr(kMax), 2, low_, "wrapping");
  ASSERT_FALSE(added);
  EXPECT_THAT(added.error().ToString(), AllOf(HasSubstr("wrapping"), HasSubstr("leaves the address space")));
}

TEST_F(BusTest, KeepsItsDevicesWhenMoved) {
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1000), 8, low_, "low"));
  MmioBus moved(std::move(bus_));
  EXPECT_EQ(moved.Write(GuestPhysAddr(0x1000), std::span<const std::byte>(data_).first(1)), AccessStatus::kOk);
  MmioBus assigned;
  assigned = std::move(moved);
  EXPECT_EQ(assigned.Write(GuestPhysAddr(0x1007), std::span<const std::byte>(data_).first(1)), AccessStatus::kOk);
  EXPECT_EQ(low_.accesses, 2);
}

TEST_F(BusTest, AllocatesNothingOnAnAccess) {
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x1000), 8, low_, "low"));
  ASSERT_TRUE(bus_.Add(GuestPhysAddr(0x2000), 8, high_, "high"));
  const auto count_allocations = [](const auto& work) {
    g_allocations = 0;
    g_count_allocations = true;
    work();
    g_count_allocations = false;
    return g_allocations;
  };
  const int in_accesses = count_allocations([this] {
    for (const std::uint64_t address : {0x1000, 0x2000, 0x1000, 0x3000, 0x1007}) {
      (void)Read(address, 4);
      (void)Write(address, 4);
    }
  });
  EXPECT_EQ(in_accesses, 0);
  EXPECT_EQ(low_.accesses + high_.accesses, 6);
  std::unique_ptr<int> kept;
  EXPECT_EQ(count_allocations([&kept] { kept = std::make_unique<int>(1); }), 1) << "the counter counts";
}

TEST(PortBusTest, EndsAtPortFfff) {
  RecordingDevice device;
  PortBus bus;
  EXPECT_TRUE(bus.Add(PortAddr(0xFFFF), 1, device, "last"));
  EXPECT_FALSE(bus.Add(PortAddr(0xFFFE), 3, device, "past the end"));
  EXPECT_FALSE(bus.Add(PortAddr(0x10000), 1, device, "no port"));
  const std::array<std::byte, 4> data{};
  EXPECT_EQ(bus.Write(PortAddr(0xFFFF), std::span(data).first(1)), AccessStatus::kOk);
  EXPECT_EQ(bus.Write(PortAddr(0xFFFF), data), AccessStatus::kUnclaimed);
}

TEST(AccessStatusTest, HasAWordForEveryValue) {
  EXPECT_EQ(ToString(AccessStatus::kOk), "ok");
  EXPECT_EQ(ToString(AccessStatus::kUnclaimed), "unclaimed");
  EXPECT_EQ(ToString(AccessStatus::kBadWidth), "bad width");
  EXPECT_EQ(ToString(AccessStatus::kBadOffset), "bad offset");
  EXPECT_EQ(ToString(AccessStatus::kReadOnly), "read-only");
  EXPECT_EQ(ToString(AccessStatus::kWriteOnly), "write-only");
  EXPECT_EQ(ToString(static_cast<AccessStatus>(0xEE)), "unknown");
}

}  // namespace
}  // namespace nestbench::vmm
