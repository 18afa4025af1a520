// Which system calls a piece of code makes, seen from outside by ptrace(2). Test code only.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace nestbench::micro {

struct SystemCall {
  std::uint64_t number;  // SYS_*
  std::uint64_t arguments[3];
};

struct SystemCallTrace {
  std::vector<SystemCall> calls;  // made by `traced` between its two marks, in order
  std::string problem;            // why there is no trace; empty when there is one
  bool may_not_trace = false;     // this process has no right to ptrace(2)
};

// Runs `traced(mark)` in a child. It calls `mark()` before and after what is to be traced, and returns an error text
// or nothing.
SystemCallTrace TraceSystemCalls(const std::function<std::string(const std::function<void()>& mark)>& traced);

}  // namespace nestbench::micro
