// What the payloads' head comments claim of their instructions, read from the images: a compiler that removes, replaces
// or vectorises the measured work would leave every checksum right.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <filesystem>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

namespace nestbench::payload {
namespace {

using ::testing::IsEmpty;

std::string OutputOf(const std::string& command) {
  std::string output;
  FILE* const pipe = ::popen(command.c_str(), "r");  // NOLINT(cert-env33-c): fixed commands, our paths
  if (pipe == nullptr) return output;
  std::array<char, 4096> buffer;
  while (std::fgets(buffer.data(), buffer.size(), pipe) != nullptr) output += buffer.data();
  return ::pclose(pipe) == 0 ? output : std::string();
}

std::vector<std::string> ImageNames() {
  std::vector<std::string> names;
  for (const auto& file : std::filesystem::directory_iterator(NESTBENCH_IMAGES_FOLDER)) {
    if (file.path().extension() == ".elf") names.push_back(file.path().stem().string());
  }
  std::ranges::sort(names);
  return names;
}

std::string ImagePath(const std::string& image) { return std::string(NESTBENCH_IMAGES_FOLDER "/") + image + ".elf"; }

// The payload's own code, without that of the PVH entry: one instruction a line, "mnemonic operands".
std::vector<std::string> Instructions(const std::string& image) {
  std::istringstream text(
      OutputOf("objdump -d --no-show-raw-insn --no-addresses -M att -j .text '" + ImagePath(image) + "'"));
  std::vector<std::string> instructions;
  for (std::string line; std::getline(text, line);) {
    if (!line.starts_with('\t') || line.find("nop") != std::string::npos) continue;  // padding
    line = line.substr(1, line.find_first_of("#<") - 1);
    line.erase(line.find_last_not_of(" \t") + 1);
    instructions.push_back(std::regex_replace(line, std::regex("[ \t]+"), " "));
  }
  return instructions;
}

std::vector<std::string> Matching(const std::vector<std::string>& instructions, const std::string& pattern) {
  const std::regex expression(pattern);
  std::vector<std::string> matching;
  std::ranges::copy_if(instructions, std::back_inserter(matching),
                       [&expression](const std::string& one) { return std::regex_match(one, expression); });
  return matching;
}

// What stands between the first two time stamps: after the fence that follows one RDTSC, before that of the next.
std::vector<std::string> Timed(const std::vector<std::string>& instructions) {
  std::vector<std::string> timed;
  int fences = 0;
  for (const std::string& one : instructions) {
    if (one == "lfence" && ++fences == 3) return timed;
    if (fences == 2 && one != "lfence") timed.push_back(one);
  }
  return {};
}

class InstructionsTest : public testing::Test {
 protected:
  void SetUp() override {
    if (OutputOf("objdump --version").empty()) GTEST_SKIP() << "no objdump: install the package binutils";
  }
};

class EveryImageInstructionsTest : public InstructionsTest, public testing::WithParamInterface<std::string> {};

TEST_P(EveryImageInstructionsTest, HasNothingThatOnlyASystemMayDo) {
  const auto instructions = Instructions(GetParam());
  ASSERT_FALSE(instructions.empty());
  EXPECT_THAT(Matching(instructions,
                       "(syscall|sysenter|sysret.*|int3?( .*)?|iret.?|hlt|cli|sti|clts|invd|wbinvd|rdmsr|"
                       "wrmsr|xsetbv|swapgs|lgdt.*|lidt.*|lldt.*|ltr.*|lmsw.*|invlpg.*|vmcall|vmmcall|"
                       "vmrun.*|.*%[cd]r[0-9]+.*)"),
              IsEmpty());
}

TEST_P(EveryImageInstructionsTest, LeavesNothingToALinkerOrALibrary) {
  const std::string path = "'" + ImagePath(GetParam()) + "'";
  const std::string sections = OutputOf("objdump -h " + path);
  ASSERT_NE(sections.find(".text"), std::string::npos);
  for (const char* section :
       {".rel", ".plt", ".got", ".dyn", ".interp", ".tbss", ".tdata", ".init_array", ".eh_frame"}) {
    EXPECT_EQ(sections.find(std::string(" ") + section), std::string::npos) << section;
  }
  EXPECT_EQ(OutputOf("nm -u " + path), "");
}

INSTANTIATE_TEST_SUITE_P(Images, EveryImageInstructionsTest, testing::ValuesIn(ImageNames()),
                         [](const auto& info) { return info.param; });

TEST_F(InstructionsTest, CpuIntegerIsOneDependentChain) {
  const auto timed = Timed(Instructions("cpu_integer"));
  const auto multiplies = Matching(timed, "imul %r[a-z0-9]+,%r[a-z0-9]+");
  ASSERT_EQ(multiplies.size(), 1U) << testing::PrintToString(timed);
  const std::string chain = multiplies[0].substr(multiplies[0].rfind('%'));
  EXPECT_EQ(Matching(timed, "xor %r[a-z0-9]+," + chain).size(), 1U) << testing::PrintToString(timed);
  EXPECT_EQ(Matching(timed, "ro[lr] \\$0x[0-9a-f]+," + chain).size(), 1U) << testing::PrintToString(timed);
  EXPECT_THAT(Matching(timed, ".*%[xyz]mm.*|mov.* .*,.*\\(.*\\)"), IsEmpty());  // no vectors, no stores
}

TEST_F(InstructionsTest, CpuFmaKeepsTwelveAccumulatorsInRegisters) {
  const auto instructions = Instructions("cpu_fma");
  for (const char* pattern : {"vfmadd[0-9]+pd %ymm[0-9]+,%ymm[0-9]+,%.*", "vfmadd[0-9]+pd %zmm[0-9]+,%zmm[0-9]+,%.*"}) {
    std::set<std::string> destinations;
    for (const std::string& one : Matching(instructions, pattern)) destinations.insert(one.substr(one.rfind('%')));
    EXPECT_GE(destinations.size(), 12U) << pattern;
  }
}

TEST_F(InstructionsTest, CpuMatmulMultipliesAndAddsInOne) {
  EXPECT_FALSE(Matching(Instructions("cpu_matmul"), "vfmadd[0-9]+pd .*%ymm.*").empty());
}

TEST_F(InstructionsTest, MemoryBandwidthStoresPastTheCachesAndFences) {
  const auto instructions = Instructions("memory_bandwidth");
  const auto non_temporal = Matching(instructions, "v?movnt(dq|pd|ps|i) .*");
  EXPECT_GE(non_temporal.size(), 3U) << "write, copy and triad";
  EXPECT_GE(Matching(instructions, "sfence").size(), 3U);
}

TEST_F(InstructionsTest, ChasesLoadTheAddressOfTheNextLoad) {
  for (const char* image : {"memory_chase", "memory_tlb"}) {
    bool found = false;
    for (const std::string& load : Matching(Instructions(image), "mov \\(%r[a-z0-9]+\\),%r[a-z0-9]+")) {
      const std::size_t open = load.find('(');
      found = found || load.substr(open + 1, load.find(')') - open - 1) == load.substr(load.rfind('%'));
    }
    EXPECT_TRUE(found) << image;
  }
}

TEST_F(InstructionsTest, CpuRdtscMeasuresItAndLeavesNoGuest) {
  const auto timed = Timed(Instructions("cpu_rdtsc"));
  EXPECT_FALSE(Matching(timed, "rdtsc").empty()) << testing::PrintToString(timed);
  EXPECT_THAT(Matching(timed, "cpuid|out.*|in .*"), IsEmpty());
  EXPECT_FALSE(Matching(Timed(Instructions("cpu_cpuid")), "cpuid").empty());
}

}  // namespace
}  // namespace nestbench::payload
