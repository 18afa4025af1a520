#include "devices/keyboard/keyboard.h"

#include <gtest/gtest.h>

namespace nestbench::vmm {
namespace {

TEST(KeyboardTest, ResetsOnThePulseAlone) {
  int resets = 0;
  KeyboardController controller([&resets] { ++resets; });
  for (unsigned command = 0; command < 256; ++command) {
    const auto byte = static_cast<std::byte>(command);
    EXPECT_EQ(controller.Write(keyboard::kCommandOffset, std::span(&byte, 1)), AccessStatus::kOk);
    EXPECT_EQ(controller.Write(keyboard::kDataOffset, std::span(&byte, 1)), AccessStatus::kOk);
  }
  EXPECT_EQ(resets, 1);
}

TEST(KeyboardTest, HasNothingToSay) {
  KeyboardController controller([] {});
  std::byte value{0xFF};
  EXPECT_EQ(controller.Read(keyboard::kCommandOffset, std::span(&value, 1)), AccessStatus::kOk);
  EXPECT_EQ(value, std::byte{keyboard::kStatusSystemFlag});
  EXPECT_EQ(controller.Read(1, std::span(&value, 1)), AccessStatus::kBadOffset);
  std::array<std::byte, 2> two{};
  EXPECT_EQ(controller.Read(keyboard::kDataOffset, two), AccessStatus::kBadWidth);
  EXPECT_EQ(controller.Write(keyboard::kCommandOffset, two), AccessStatus::kBadWidth);
}

}  // namespace
}  // namespace nestbench::vmm
