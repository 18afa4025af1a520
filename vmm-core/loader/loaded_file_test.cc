#include "nestbench/vmm/loader/loaded_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>

namespace nestbench::vmm {
namespace {

using testing::AllOf;
using testing::HasSubstr;

class LoadedFileTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "nestbench-loaded-file-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr) << std::strerror(errno);
    folder_ = pattern;
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  [[nodiscard]] std::string Path(const std::string& name) const { return (folder_ / name).string(); }

  std::string Write(const std::string& name, const std::string& content) const {
    std::ofstream(Path(name), std::ios::binary) << content;
    return Path(name);
  }

  static std::string Text(const LoadedFile& file) {
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  }

  std::filesystem::path folder_;
};

TEST_F(LoadedFileTest, ReadsTheWholeFile) {
  std::string content;
  for (int i = 0; i < 300'000; ++i) content += static_cast<char>(i * 7);
  const auto file = LoadedFile::Read(Write("image", content), 1 << 20);
  ASSERT_TRUE(file) << file.error().ToString();
  EXPECT_EQ(Text(*file), content);
  EXPECT_EQ(file->path(), Path("image"));
}

TEST_F(LoadedFileTest, ReadsAnEmptyFile) {
  const auto file = LoadedFile::Read(Write("empty", ""), 0);
  ASSERT_TRUE(file) << file.error().ToString();
  EXPECT_TRUE(file->bytes().empty());
}

TEST_F(LoadedFileTest, ReadsAFileWhoseSizeIsReportedAsZero) {
  const auto file = LoadedFile::Read("/proc/self/status", 1 << 20);
  ASSERT_TRUE(file) << file.error().ToString();
  EXPECT_THAT(Text(*file), HasSubstr("Pid:"));
}

TEST_F(LoadedFileTest, AppliesTheLimitToAFileWhoseSizeIsReportedAsZero) {
  const auto file = LoadedFile::Read("/proc/self/status", 16);
  ASSERT_FALSE(file);
  EXPECT_THAT(file.error().ToString(), HasSubstr("more than 16 bytes"));
}

TEST_F(LoadedFileTest, TakesExactlyTheLimitAndNoByteMore) {
  const std::string path = Write("image", "0123456789");
  EXPECT_TRUE(LoadedFile::Read(path, 10));
  const auto file = LoadedFile::Read(path, 9);
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().kind, ErrorKind::kInvalidArgument);
  EXPECT_THAT(file.error().ToString(), AllOf(HasSubstr(path), HasSubstr("more than 9 bytes")));
}

TEST_F(LoadedFileTest, NamesAMissingFile) {
  const auto file = LoadedFile::Read(Path("missing"), 100);
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().error_number, ENOENT);
  EXPECT_THAT(file.error().ToString(), AllOf(HasSubstr("open"), HasSubstr(Path("missing"))));
}

TEST_F(LoadedFileTest, RefusesADirectory) {
  const auto file = LoadedFile::Read(folder_.string(), 100);
  ASSERT_FALSE(file);
  EXPECT_EQ(file.error().kind, ErrorKind::kInvalidArgument);
  EXPECT_THAT(file.error().ToString(), HasSubstr("is a directory; give the path of a regular file"));
}

TEST_F(LoadedFileTest, RefusesAFifoWithoutWaitingForAWriter) {
  ASSERT_EQ(::mkfifo(Path("fifo").c_str(), 0600), 0);
  const auto file = LoadedFile::Read(Path("fifo"), 100);
  ASSERT_FALSE(file);
  EXPECT_THAT(file.error().ToString(), HasSubstr("is a FIFO"));
}

TEST_F(LoadedFileTest, RefusesASocket) {
  const int fd = ::socket(AF_UNIX, SOCK_STREAM, 0);
  ASSERT_GE(fd, 0);
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  ASSERT_LT(Path("socket").size(), sizeof(address.sun_path));
  std::memcpy(address.sun_path, Path("socket").c_str(), Path("socket").size());
  ASSERT_EQ(::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  const auto file = LoadedFile::Read(Path("socket"), 100);
  ::close(fd);
  ASSERT_FALSE(file);
  EXPECT_THAT(file.error().ToString(), HasSubstr("is a socket"));
}

TEST_F(LoadedFileTest, RefusesACharacterDevice) {
  const auto file = LoadedFile::Read("/dev/zero", 100);
  ASSERT_FALSE(file);
  EXPECT_THAT(file.error().ToString(), HasSubstr("is a character device"));
}

TEST_F(LoadedFileTest, RefusesAPathThatIsEmptyOrHoldsANul) {
  EXPECT_FALSE(LoadedFile::Read("", 100));
  EXPECT_FALSE(LoadedFile::Read(Write("image", "x") + std::string("\0tail", 5), 100));
}

TEST_F(LoadedFileTest, FollowsASymbolicLinkAndNamesABrokenOne) {
  std::filesystem::create_symlink(Write("image", "x"), Path("link"));
  EXPECT_TRUE(LoadedFile::Read(Path("link"), 100));
  std::filesystem::create_symlink(Path("nothing"), Path("broken"));
  EXPECT_FALSE(LoadedFile::Read(Path("broken"), 100));
}

TEST_F(LoadedFileTest, KeepsTheBytesWhereTheyAreWhenMoved) {
  auto file = LoadedFile::Read(Write("image", "0123456789"), 100);
  ASSERT_TRUE(file);
  const std::byte* const before = file->bytes().data();
  const LoadedFile moved = std::move(*file);
  EXPECT_EQ(moved.bytes().data(), before);
}

}  // namespace
}  // namespace nestbench::vmm
