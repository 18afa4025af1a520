// The image files themselves: what the loader, other VMMs and readers of digests rely on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "nestbench/abi/layout.h"
#include "nestbench/vmm/loader/elf.h"
#include "nestbench/vmm/loader/loaded_file.h"

namespace nestbench::payload {
namespace {

constexpr std::uint64_t kMaxFileBytes = 1ULL << 20;

std::vector<std::string> Images(const char* folder) {
  std::vector<std::string> paths;
  for (const auto& file : std::filesystem::directory_iterator(folder)) {
    if (file.path().extension() == ".elf") paths.push_back(file.path());
  }
  std::ranges::sort(paths);
  return paths;
}

class ImageTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto file = vmm::LoadedFile::Read(GetParam(), kMaxFileBytes);
    ASSERT_TRUE(file.has_value()) << file.error().ToString();
    file_.emplace(std::move(*file));
    auto image = vmm::ParseElf(file_->bytes(), {abi::GuestPhysAddr(abi::kImageBase), abi::kImageMaxBytes});
    ASSERT_TRUE(image.has_value()) << image.error().ToString();
    image_.emplace(std::move(*image));
  }

  std::optional<vmm::LoadedFile> file_;
  std::optional<vmm::ElfImage> image_;
};

TEST_P(ImageTest, HasNoSegmentThatIsWritableAndExecutable) {
  for (const vmm::ElfSegment& segment : image_->segments()) EXPECT_FALSE(segment.writable && segment.executable);
}

TEST_P(ImageTest, BeginsAtTheImageBaseWithItsCode) {
  const vmm::ElfSegment& first = image_->segments().front();
  EXPECT_EQ(first.memory.start.value(), abi::kImageBase);
  EXPECT_TRUE(first.executable);
  EXPECT_TRUE(first.memory.Contains(abi::GuestPhysAddr(image_->entry().value()), 1));
}

TEST_P(ImageTest, NamesNoFolderOfTheMachineThatBuiltIt) {
  const auto bytes = file_->bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  EXPECT_EQ(text.find(NESTBENCH_SOURCE_FOLDER), std::string_view::npos);
  EXPECT_EQ(text.find(NESTBENCH_BUILD_FOLDER), std::string_view::npos);
}

INSTANTIATE_TEST_SUITE_P(Images, ImageTest, testing::ValuesIn(Images(NESTBENCH_IMAGES_FOLDER)),
                         [](const auto& info) { return std::filesystem::path(info.param).stem().string(); });

TEST(ReproducibilityTest, TwoBuildsGiveTheSameBytes) {
  for (const std::string& again : Images(NESTBENCH_IMAGES_AGAIN_FOLDER)) {
    const std::string path =
        std::string(NESTBENCH_IMAGES_FOLDER "/") + std::filesystem::path(again).filename().string();
    const auto first = vmm::LoadedFile::Read(path, kMaxFileBytes);
    const auto second = vmm::LoadedFile::Read(again, kMaxFileBytes);
    ASSERT_TRUE(first.has_value() && second.has_value());
    EXPECT_TRUE(std::ranges::equal(first->bytes(), second->bytes())) << path << " and " << again << " differ";
  }
  EXPECT_FALSE(Images(NESTBENCH_IMAGES_AGAIN_FOLDER).empty());
}

}  // namespace
}  // namespace nestbench::payload
