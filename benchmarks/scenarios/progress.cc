#include "nestbench/scenarios/progress.h"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <utility>

namespace nestbench::scenarios {
namespace {

using namespace std::chrono_literals;

constexpr auto kTerminalInterval = 100ms;
constexpr auto kPlainInterval = 10s;
constexpr std::size_t kBarCells = 24;
constexpr std::size_t kFallbackColumns = 80;

std::size_t Columns() {
  winsize size = {};
  if (::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return kFallbackColumns;
  return size.ws_col;
}

std::string Seconds(std::chrono::duration<double> time) {
  const auto seconds = std::lround(time.count());
  return seconds < 60 ? fmt::format("{} s", seconds) : fmt::format("{} min {:02} s", seconds / 60, seconds % 60);
}

// A reader of the progress that has gone away is no reason to stop measuring; fmt::print would throw.
template <typename... Args>
void Print(fmt::format_string<Args...> format, Args&&... args) {
  std::fputs(fmt::format(format, std::forward<Args>(args)...).c_str(), stderr);
}

}  // namespace

Progress::Progress(std::string title, std::uint64_t total, bool quiet)
    : title_(std::move(title)),
      total_(std::max<std::uint64_t>(total, 1)),
      quiet_(quiet),
      is_terminal_(::isatty(STDERR_FILENO) == 1),
      started_(std::chrono::steady_clock::now()),
      last_drawn_(started_) {
  if (!quiet_ && !is_terminal_) Print("nestbench: {}: {} steps\n", title_, total_);
}

Progress::~Progress() {
  if (quiet_) return;
  const auto took = Seconds(std::chrono::steady_clock::now() - started_);
  if (is_terminal_) Print("\r\x1b[K");
  Print("nestbench: {}: {} of {} steps in {}\n", title_, done_, total_, took);
}

void Progress::Step(std::string_view what) {
  ++done_;
  const auto now = std::chrono::steady_clock::now();
  if (quiet_ || now - last_drawn_ < (is_terminal_ ? kTerminalInterval : kPlainInterval)) return;
  last_drawn_ = now;
  Draw(what);
}

void Progress::Draw(std::string_view what) {
  const double fraction = std::min(1.0, static_cast<double>(done_) / static_cast<double>(total_));
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - started_;
  const std::string left = Seconds(passed * ((1 - fraction) / std::max(fraction, 1e-6)));
  if (!is_terminal_) {
    Print("nestbench: {}: {:.0f} %, {} left\n", title_, 100 * fraction, left);
    return;
  }
  const auto full = static_cast<std::size_t>(fraction * kBarCells);
  std::string line = fmt::format("{} [{}{}] {:3.0f} %  {} left  {}", title_, std::string(full, '#'),
                                 std::string(kBarCells - full, '.'), 100 * fraction, left, what);
  line.resize(std::min(line.size(), Columns() - 1));
  Print("\r\x1b[K{}", line);
  std::fflush(stderr);
}

}  // namespace nestbench::scenarios
