// What is in guest memory before a kernel's first instruction.
#include "linux_boot.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

namespace nestbench::vmm::internal {
namespace {

class LinuxBootTest : public testing::Test {
 protected:
  static constexpr std::uint64_t kMemoryBytes = 4ULL << 20;
  static constexpr std::uint64_t kKernelBase = 1ULL << 20;

  LinuxBootTest() {
    auto region = MemoryRegion::Create({abi::GuestPhysAddr(0), kMemoryBytes}, {});
    EXPECT_TRUE(region && memory_.Add(std::move(*region)));
    image_.entry_kind = LinuxEntry::kPvh;
    image_.entry = abi::GuestPhysAddr(kKernelBase);
    image_.pieces.push_back({abi::GuestPhysAddr(kKernelBase), kernel_});
  }
  Result<void> Write(std::uint64_t kernel_bytes, std::span<const std::byte> initramfs) {
    image_.range = {abi::GuestPhysAddr(kKernelBase), kernel_bytes};
    return WriteLinux(memory_, {.image = &image_,
                                .initramfs = initramfs,
                                .command_line = "",
                                .low_bytes = kMemoryBytes,
                                .high_bytes = 0,
                                .acpi = {}});
  }
  [[nodiscard]] std::uint32_t WordAt(std::uint64_t address) const {
    return memory_.Read<std::uint32_t>(abi::GuestPhysAddr(address)).value_or(0);
  }

  static constexpr std::array<std::byte, 4> kernel_ = {std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}};
  GuestMemory memory_;
  LinuxImage image_;
};

TEST_F(LinuxBootTest, PutsTheInitramfsAtTheEndOfMemory) {
  const std::vector<std::byte> initramfs(5000, std::byte{0x77});
  ASSERT_TRUE(Write(1 << 20, initramfs));
  EXPECT_EQ(WordAt(kMemoryBytes - 2 * 4096), 0x7777'7777U);
  EXPECT_EQ(WordAt(kKernelBase), 0x0403'0201U);
}

TEST_F(LinuxBootTest, RefusesAnInitramfsThatWouldReachIntoTheKernel) {
  const std::vector<std::byte> initramfs(2 << 20, std::byte{0x77});
  for (const std::uint64_t room : {0U, 100U, 4095U, 4096U, 1U << 20}) {
    const auto done = Write(kMemoryBytes - kKernelBase - room, initramfs);
    ASSERT_FALSE(done) << room;
    EXPECT_EQ(done.error().kind, ErrorKind::kInvalidArgument);
    EXPECT_EQ(WordAt(kKernelBase), 0x0403'0201U) << room;
  }
}

}  // namespace
}  // namespace nestbench::vmm::internal
