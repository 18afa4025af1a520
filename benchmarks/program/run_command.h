// `nestbench run` and `nestbench quick`: probe, measure, write, report, judge.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "nestbench/scenarios/run_context.h"

namespace nestbench::program {

// In the order in which they run.
inline constexpr std::array<const char*, 6> kScenarioNames = {"overhead", "exits",     "io",
                                                              "density",  "isolation", "containment"};

// Not among them: `run all` is about guests as they are used, not about single operations.
inline constexpr const char* kCosts = "costs";

// Nor this: it needs a kernel, which nestbench does not have.
inline constexpr const char* kLinux = "linux";

// Not among them either: it measures nothing, and has a command of its own.
inline constexpr const char* kConformance = "conformance";

struct RunRequest {
  std::vector<std::string> scenarios;  // of kScenarioNames; as they are run
  std::string profile = "quick";
  std::string filter;  // regular expression (ECMAScript) searched in measurement ids; empty: everything
  std::optional<std::uint32_t> rounds;
  std::optional<std::uint64_t> seed;  // drawn when not given; recorded either way
  std::optional<std::filesystem::path> out;
  bool json_only = false;  // no report, no summary: the path of the document on standard output
  bool taste = false;      // only a taste of the scenarios with many tenants
  scenarios::DensityOptions density;
  scenarios::ContainmentOptions containment;
  scenarios::ConformanceOptions conformance;
  scenarios::IoOptions io;
  scenarios::LinuxGuest linux_guest;
  std::optional<std::filesystem::path> junit;  // of conformance
  std::optional<std::uint32_t> schedules;      // of attribution
  bool judge = false;                          // end with the default policy's verdict, and its exit code
  std::vector<std::string> arguments;          // of this process, for the document
};

// Returns the exit code. Messages go to standard error, the summary to standard output.
int Run(const RunRequest& request);

// What `nestbench list` prints. Returns the exit code.
int List(const std::string& profile, const std::string& filter, bool ids_only);

// What `nestbench conform --list` prints. Returns the exit code.
int ListConditions(const std::string& filter);

}  // namespace nestbench::program
