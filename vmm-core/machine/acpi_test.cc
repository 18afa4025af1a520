#include "acpi.h"

#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::vmm::internal {
namespace {

using abi::GuestPhysAddr;

constexpr std::uint64_t kBase = 0xE'0000;
constexpr std::uint64_t kRoom = 0x2'0000;
using Table = std::vector<std::uint8_t>;

class AcpiTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto region = MemoryRegion::Create({GuestPhysAddr(0), 1 << 20}, {});
    ASSERT_TRUE(region);
    ASSERT_TRUE(memory_.Add(std::move(*region)));
  }

  [[nodiscard]] Table Bytes(std::uint64_t address, std::size_t size) const {
    Table bytes(size);
    EXPECT_TRUE(memory_.ReadBytes(GuestPhysAddr(address), std::as_writable_bytes(std::span(bytes))));
    return bytes;
  }
  template <typename Value>
  static Value At(const Table& table, std::size_t offset) {
    Value value{};
    std::memcpy(&value, table.data() + offset, sizeof(value));
    return value;
  }
  static unsigned Sum(const Table& table) {
    unsigned sum = 0;
    for (const std::uint8_t byte : table) sum += byte;
    return sum & 0xFF;
  }
  [[nodiscard]] Table TableAt(std::uint64_t address) const {
    return Bytes(address, At<std::uint32_t>(Bytes(address, 8), 4));
  }

  // All tables by signature, found as a kernel finds them.
  std::map<std::string, Table> Write(const AcpiMachine& machine) {
    std::map<std::string, Table> tables;
    const auto root = WriteAcpiTables(memory_, GuestPhysAddr(kBase), kRoom, machine);
    EXPECT_TRUE(root);
    if (!root) return tables;
    const Table pointer = Bytes(root->value(), 36);
    EXPECT_EQ(std::memcmp(pointer.data(), "RSD PTR ", 8), 0);
    EXPECT_EQ(Sum(Table(pointer.begin(), pointer.begin() + 20)), 0U);
    EXPECT_EQ(Sum(pointer), 0U);
    const Table list = TableAt(At<std::uint64_t>(pointer, 24));
    EXPECT_EQ(Sum(list), 0U);
    for (std::size_t at = 36; at + 8 <= list.size(); at += 8) Add(At<std::uint64_t>(list, at), tables);
    Add(At<std::uint64_t>(tables.at("FACP"), 140), tables);
    return tables;
  }

  void Add(std::uint64_t address, std::map<std::string, Table>& tables) const {
    Table table = TableAt(address);
    EXPECT_EQ(Sum(table), 0U);
    tables.emplace(std::string(table.begin(), table.begin() + 4), std::move(table));
  }

  GuestMemory memory_;
};

TEST_F(AcpiTest, TellsOfEachProcessor) {
  const Table madt = Write({.vcpus = 3, .power_port = 0x600, .virtio = {}}).at("APIC");
  std::vector<unsigned> ids;
  for (std::size_t at = 44; at + 2 <= madt.size(); at += madt[at + 1]) {
    ASSERT_NE(madt[at + 1], 0);
    if (madt[at] == 0) ids.push_back(madt[at + 3]);  // processor local APIC: its ID
  }
  EXPECT_EQ(ids, (std::vector<unsigned>{0, 1, 2}));
}

// Section "IA-PC Boot Architecture Flags". A kernel that is told of a keyboard controller looks for its ports, and for
// a keyboard, for more than two seconds.
TEST_F(AcpiTest, TellsOfNoKeyboardController) {
  const Table fadt = Write({.vcpus = 1, .power_port = 0x600, .virtio = {}}).at("FACP");
  EXPECT_EQ(At<std::uint16_t>(fadt, 109) & 1U << 1, 0U);
  EXPECT_EQ(At<std::uint32_t>(fadt, 64), 0x604U);  // where the sleep type is written
}

TEST_F(AcpiTest, TellsOfEachVirtioDevice) {
  const std::vector<AcpiVirtioDevice> devices = {{{GuestPhysAddr(0xD000'0000), 0x200}, 16},
                                                 {{GuestPhysAddr(0xD000'1000), 0x200}, 17}};
  const Table dsdt = Write({.vcpus = 1, .power_port = 0x600, .virtio = devices}).at("DSDT");
  const std::string text(dsdt.begin(), dsdt.end());
  EXPECT_NE(text.find("VI00"), std::string::npos);
  EXPECT_NE(text.find("VI01"), std::string::npos);
  EXPECT_NE(text.find("LNRO0005"), std::string::npos);
  EXPECT_NE(text.find(std::string("\0\x10\0\xD0", 4)), std::string::npos);  // 0xD0001000
}

TEST_F(AcpiTest, RefusesMoreThanItsRoomHolds) {
  EXPECT_FALSE(WriteAcpiTables(memory_, GuestPhysAddr(kBase), 256, {.vcpus = 64, .power_port = 0x600, .virtio = {}}));
}

}  // namespace
}  // namespace nestbench::vmm::internal
