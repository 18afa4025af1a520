// Runs one program to its end: input in, output out, a deadline, and no way for it to outlive us.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "nestbench/vmm/base/error.h"

namespace nestbench::scenarios {

using vmm::Error;
using vmm::Result;

// How a child ended. Exactly one of exit code, signal, time-out and interruption holds.
struct ChildOutcome {
  int exit_code = -1;        // 0..255, or -1 when it did not exit by itself
  int signal = 0;            // that ended it; 0 when it exited
  bool timed_out = false;    // we ended it: the deadline had passed
  bool interrupted = false;  // we ended it: this program was asked to stop
  std::string output;        // standard output, up to a limit
  std::string error_text;    // standard error, its last part

  // "killed by signal 9 (Killed)", "exit code 3", with the last line of standard error.
  [[nodiscard]] std::string Describe() const;
};

// Whether SIGINT or SIGTERM has arrived; 0 or the signal. InstallStopHandlers() makes them set this and nothing else.
int StopSignal();
Result<void> InstallStopHandlers();

// Starts `program` without a shell, with no descriptor but its three standard ones, and with SIGKILL due when this
// process dies. `input` goes to its standard input. kSystem when it cannot be started. One thread.
Result<ChildOutcome> RunChild(const std::filesystem::path& program, const std::vector<std::string>& arguments,
                              const std::string& input, std::chrono::nanoseconds limit);

}  // namespace nestbench::scenarios
