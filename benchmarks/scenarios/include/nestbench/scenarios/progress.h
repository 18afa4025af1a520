// Tells a person how far a run is: a bar with the time left on a terminal, a plain line now and then elsewhere.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace nestbench::scenarios {

// Writes to standard error. One thread.
class Progress {
 public:
  // `total` steps of about equal length; `quiet` writes nothing.
  Progress(std::string title, std::uint64_t total, bool quiet);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // One step done; `what` is what comes next.
  void Step(std::string_view what);

 private:
  void Draw(std::string_view what);

  std::string title_;
  std::uint64_t total_;
  std::uint64_t done_ = 0;
  bool quiet_;
  bool is_terminal_;
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point last_drawn_;
};

}  // namespace nestbench::scenarios
