// Runs a fuzz target without a fuzzer: every seed of the folders on the command line, and its neighbours (each shorter
// prefix, each byte changed). That keeps what a fuzzer once found fixed, with any compiler, in a fraction of a second.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

// Longer seeds are run as they are: their neighbours are as many as their bytes, and each is run in full.
constexpr std::size_t kMaxBytesForNeighbours = 4096;

// A copy of exactly these bytes, so that a sanitizer sees a read past their end.
void Run(const std::vector<std::uint8_t>& bytes) {
  const std::vector<std::uint8_t> exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
}

std::size_t RunWithNeighbours(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  std::vector<std::uint8_t> bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  if (!stream) throw std::runtime_error("cannot read " + path.string());
  std::fprintf(stderr, "%s: %zu bytes\n", path.c_str(), bytes.size());
  Run(bytes);
  std::size_t runs = 1;
  if (bytes.size() > kMaxBytesForNeighbours) return runs;
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    for (const std::uint8_t change : {0x01, 0x80, 0xFF}) {
      bytes[i] ^= change;
      Run(bytes);
      bytes[i] ^= change;
      ++runs;
    }
    Run({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(i)});
    ++runs;
  }
  return runs;
}

}  // namespace

int main(int argc, char** argv) try {
  std::size_t seeds = 0;
  std::size_t runs = 0;
  for (int i = 1; i < argc; ++i) {
    std::vector<std::filesystem::path> paths;
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) paths.push_back(entry.path());
    std::ranges::sort(paths);
    for (const auto& path : paths) runs += RunWithNeighbours(path);
    seeds += paths.size();
  }
  if (seeds == 0) {
    std::fprintf(stderr, "no seeds; usage: %s CORPUS_FOLDER...\n", argv[0]);
    return 2;
  }
  std::printf("%zu seeds, %zu runs\n", seeds, runs);
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s\n", error.what());
  return 2;
}
