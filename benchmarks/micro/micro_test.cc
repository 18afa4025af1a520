// nestbench_micro as its users see it: its list, its ids, its flags, and that everything in it runs.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/result/id.h"

namespace nestbench::micro {
namespace {

struct Outcome {
  int exit_code = -1;
  std::string output;
};

// Standard output, and standard error with it unless `arguments` say otherwise.
Outcome RunMicro(const std::string& arguments) {
  Outcome outcome;
  std::FILE* pipe = ::popen((NESTBENCH_MICRO_PROGRAM " " + arguments).c_str(), "re");  // NOLINT(cert-env33-c)
  if (pipe == nullptr) return outcome;
  std::array<char, 4096> buffer;
  for (std::size_t size = 0; (size = std::fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    outcome.output.append(buffer.data(), size);
  }
  const int status = ::pclose(pipe);
  if (WIFEXITED(status)) outcome.exit_code = WEXITSTATUS(status);
  return outcome;
}

// What Google Benchmark appends says how a benchmark was run; an id ends in its substrate.
std::string IdOfName(std::string name) {
  for (;;) {
    const std::size_t last = name.find_last_of('/');
    std::string_view part = name;
    part.remove_prefix(last + 1);
    if (part != "manual_time" && part != "real_time" && !part.starts_with("iterations:")) return name;
    name.resize(last);
  }
}

std::vector<std::string> ListIds() {
  std::vector<std::string> ids;
  std::istringstream lines(RunMicro("--benchmark_list_tests=true 2>/dev/null").output);
  for (std::string line; std::getline(lines, line);) ids.push_back(IdOfName(line));
  return ids;
}

TEST(MicroListTest, EveryNameIsAnIdAndNoneOccursTwice) {
  const auto ids = ListIds();
  ASSERT_FALSE(ids.empty());
  for (const std::string& id : ids) {
    auto parts = result::ParseId(id);
    EXPECT_TRUE(parts) << id << ": " << parts.error().ToString();
  }
  EXPECT_EQ(std::set(ids.begin(), ids.end()).size(), ids.size());
}

TEST(MicroListTest, EveryExitAndStepOfTheLifeCycleHasItsFloor) {
  std::map<std::string, std::set<std::string>> substrates;
  for (const std::string& id : ListIds()) {
    if (id.starts_with("hotpath/")) continue;
    substrates[id.substr(0, id.find_last_of('/'))].insert(id.substr(id.find_last_of('/') + 1));
  }
  for (const auto& [workload, found] : substrates) {
    EXPECT_TRUE(found.contains("vm") && found.contains("floor")) << workload;
  }
  for (const char* workload :
       {"exits/doorbell_pio", "exits/doorbell_mmio", "exits/ioeventfd_pio", "exits/ioeventfd_mmio", "exits/cpuid",
        "exits/page_fault", "exits/rdtsc", "lifecycle/create_vm", "lifecycle/create_vcpu", "lifecycle/cold_start",
        "lifecycle/destroy", "lifecycle/slot_add", "lifecycle/slot_remove", "lifecycle/dirty_log/pages=1000",
        "lifecycle/kick", "lifecycle/irqfd_wake", "lifecycle/irq_line_wake"}) {
    EXPECT_TRUE(substrates.contains(workload)) << workload;
  }
}

// Two repetitions in random order, each as short as can be.
TEST(MicroRunTest, EverythingRunsOrSaysWhyItCannot) {
  const auto run = RunMicro(
      "--benchmark_min_time=0.0005 --benchmark_repetitions=2 --benchmark_enable_random_interleaving=true "
      "--benchmark_format=json 2>/dev/null");
  ASSERT_EQ(run.exit_code, 0);
  const auto document = nlohmann::json::parse(run.output, nullptr, false);
  ASSERT_TRUE(document.is_object()) << run.output;
  std::set<std::string> seen;
  for (const auto& entry : document.at("benchmarks")) {
    if (entry.at("run_type") != "iteration") continue;
    const std::string id = IdOfName(entry.at("run_name"));
    seen.insert(id);
    if (entry.value("error_occurred", false)) {
      EXPECT_TRUE(entry.at("error_message").get<std::string>().starts_with("unsupported: ")) << entry.dump();
    } else {
      EXPECT_GT(entry.at("real_time").get<double>(), 0) << id;
      EXPECT_EQ(entry.at("time_unit"), "ns") << id;
    }
  }
  const auto ids = ListIds();
  EXPECT_EQ(seen, std::set(ids.begin(), ids.end()));
}

TEST(MicroRunTest, AMissingImageIsNamed) {
  const auto run = RunMicro(
      "--images=/ --benchmark_filter=exits/cpuid --benchmark_min_time=0.0005 "
      "--benchmark_format=json 2>/dev/null");
  EXPECT_EQ(run.exit_code, 0);
  const auto document = nlohmann::json::parse(run.output, nullptr, false);
  ASSERT_TRUE(document.is_object()) << run.output;
  ASSERT_FALSE(document.at("benchmarks").empty());
  for (const auto& entry : document.at("benchmarks")) {
    const auto message = entry.value("error_message", "");
    EXPECT_TRUE(message.starts_with("unsupported: ") || message.find("/exits.elf") != std::string::npos) << message;
  }
}

struct Misuse {
  const char* arguments;
  const char* message;
};

TEST(MicroFlagsTest, MisuseIsOneMessageAndExitCode2) {
  for (const Misuse& misuse :
       {Misuse{"--cpu=-2", "--cpu=-2"}, Misuse{"--cpu=1x", "--cpu=1x"}, Misuse{"--cpu=1023", "may not use that CPU"},
        Misuse{"--images=/none", "not a folder"}, Misuse{"--no-such-flag", "--no-such-flag"},
        Misuse{"--benchmark_filter=nothing", "selects no benchmark"}}) {
    const auto run = RunMicro(std::string(misuse.arguments) + " 2>&1 >/dev/null");
    EXPECT_EQ(run.exit_code, 2) << misuse.arguments;
    EXPECT_NE(run.output.find(misuse.message), std::string::npos) << run.output;
  }
}

TEST(MicroFlagsTest, HelpShowsBothSetsOfFlags) {
  const auto run = RunMicro("--help 2>/dev/null");
  EXPECT_EQ(run.exit_code, 0);
  for (const char* flag : {"--images=DIR", "--cpu=N", "--benchmark_enable_random_interleaving"}) {
    EXPECT_NE(run.output.find(flag), std::string::npos) << flag;
  }
}

}  // namespace
}  // namespace nestbench::micro
