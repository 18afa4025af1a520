// Names the noisy neighbour among guests, from what an operator sees from outside: CPU time, time spent waiting for a
// CPU, exits, on which CPU. Not what the guests say, and not what they were told to do.
//
// A guest is accused when its use rises well above what it used to use while others that share its CPU begin to wait,
// or get less done than they used to, and its rise is the largest there is. Both are measured against each guest's own
// past: the median of recent windows in which nobody was accused. Waiting without anybody's rise is the host's own
// doing (steal, a noisy host) and accuses nobody.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace nestbench::attribution {

// What one guest did in one window.
struct GuestWindow {
  std::uint64_t guest = 0;  // the caller's number for it
  int cpu = -1;             // where it ran last; -1: not known, then it shares with everyone
  std::uint64_t cpu_ns = 0;
  std::uint64_t run_queue_wait_ns = 0;
  std::optional<std::uint64_t> exits;
};

struct Window {
  std::uint64_t at_ns = 0;  // its end
  std::uint64_t duration_ns = 0;
  std::vector<GuestWindow> guests;
};

struct Detection {
  std::uint64_t at_ns = 0;
  std::uint64_t guest = 0;
  double score = 0;  // 0 to 1: how much of what the CPU's guests use beyond their past is this one's
  std::vector<std::uint64_t> victims;
  std::string cause;  // words with numbers
};

struct DetectorOptions {
  std::size_t history = 25;       // windows that make a guest's past
  std::size_t learn = 8;          // before anybody is accused
  std::size_t confirm = 2;        // windows in a row
  double least_rise = 0.08;       // of a CPU, beyond the guest's past
  double least_suffering = 0.06;  // of a CPU, of all victims together: waiting more, or running less
  double least_victim = 0.03;     // of one
  std::size_t catch_up = 15;      // windows after its last harm in which a victim that does more is no suspect
};

// Streaming; deterministic; one thread. Guests may come and go.
class Detector {
 public:
  explicit Detector(DetectorOptions options = {}) : options_(options) {}

  // Empty for most windows. One detection for each guest that is accused, in every window in which it still is.
  std::vector<Detection> Observe(const Window& window);

 private:
  struct Past {
    std::deque<double> use;      // CPU time over time
    std::deque<double> waiting;  // for a CPU, over time
    std::size_t suspected = 0;   // windows in a row
    std::size_t owed = 0;        // windows in which it may catch up on what it lost
  };
  struct Now {
    const GuestWindow* guest;
    double use;
    double waiting;
    double rise;
    double suffering;
    Past* past;
  };
  [[nodiscard]] std::optional<Detection> Accuse(const Window& window, std::vector<Now*>& sharing);

  DetectorOptions options_;
  std::map<std::uint64_t, Past> past_;
};

}  // namespace nestbench::attribution
