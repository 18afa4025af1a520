// How a fuzz target fails: it says what did not hold and aborts, which libFuzzer and the replay test both report. Not
// assert(): that is compiled out of release builds, where the replay runs too.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <source_location>

namespace nestbench::fuzz {

inline void Require(bool holds, const char* what, const std::source_location& where = std::source_location::current()) {
  if (holds) return;
  std::fprintf(stderr, "%s:%u: does not hold: %s\n", where.file_name(), static_cast<unsigned>(where.line()), what);
  std::abort();
}

}  // namespace nestbench::fuzz
