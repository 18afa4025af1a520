// Names the noisy neighbour among guests, from what an operator sees from outside (window.h). Not what the guests say,
// and not what they were told to do.
//
// Each guest is measured against its own past: median and median absolute deviation of recent windows in which nobody
// was disturbed.
// - *Use* rises: CPU time beyond the past, and the kernel's work behind exits, faults and switches beyond the past. What
//   all guests share (the host became slower, so that everything takes more CPU time) is no rise.
// - *Harm*: waiting for a CPU beyond the past; or more CPU time for each exit or sleep than in the past (caches, memory
//   bandwidth, a sibling thread). Waiting is shared by those on the same CPU, slowness by all.
// - A guest is accused when its use rose, it is among the largest rises that could have done the harm, and the rises
//   explain enough of it; evidence adds up over windows (CUSUM), so that a weak disturbance takes longer than a strong
//   one. Several may be accused at once.
// - A guest that was held up does more afterwards than it used to. That is its due, and not held against it.
// - Harm that no guest's rise explains is the host's (steal, other processes): host_trouble(), never a guest.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nestbench/attribution/window.h"

namespace nestbench::attribution {

struct Detection {
  std::uint64_t at_ns = 0;
  std::uint64_t guest = 0;
  double score = 0;  // 0 to 1: how much of the harm within its reach its rise explains
  std::vector<std::uint64_t> victims;
  std::string cause;  // words with numbers
};

// Guests suffer and none of them did it.
struct HostTrouble {
  std::uint64_t at_ns = 0;
  double suffering = 0;  // of a CPU, of all victims together
  std::vector<std::uint64_t> victims;
  std::string cause;  // words with numbers
};

// Shares are of one CPU's time, so that rise and harm have one unit.
struct DetectorOptions {
  std::size_t history = 25;         // windows that make a guest's past
  std::size_t learn = 8;            // of them, before anybody is accused
  double least_rise = 0.08;         // beyond the past, to be a suspect
  double least_suffering = 0.06;    // of all victims together
  double least_victim = 0.03;       // of one
  double among_largest = 0.5;       // of the largest rise: the least of another suspect's
  double alarm = 2.0;               // evidence; a window adds between 0.5 (just enough) and 1.5 (twice that or more)
  std::size_t catch_up_least = 5;   // windows after its last harm in which a victim's rise is its due
  std::size_t catch_up_most = 25;   // the same, while it has not yet made up for what it lost
  std::size_t thaw = 240;           // of so many disturbed windows one is learnt: what lasts becomes the rule
};

// Streaming; deterministic; one thread. Guests may come and go. Without a guest's past there is no accusation and no
// victim: it is learnt first.
class Detector {
 public:
  explicit Detector(DetectorOptions options = {});
  ~Detector();
  Detector(Detector&&) noexcept;
  Detector& operator=(Detector&&) noexcept;

  // Empty for most windows. One detection for each guest that is accused, in every window in which it still is; the
  // one that explains most first.
  std::vector<Detection> Observe(const Window& window);

  // Of the last window.
  [[nodiscard]] const std::optional<HostTrouble>& host_trouble() const { return host_trouble_; }

 private:
  struct Past;
  struct Now;
  struct Harm;
  [[nodiscard]] Now Measure(const Window& window, const GuestWindow& guest);
  void RemoveCommonMode(std::vector<Now>& guests) const;
  void JudgeRiseAndHarm(const Window& window, std::vector<Now>& guests) const;
  void Accuse(const Window& window, std::vector<Now>& guests, std::vector<Detection>& detections);
  void JudgeHost(const Window& window, const std::vector<Now>& guests);
  void Learn(const Window& window, std::vector<Now>& guests);

  DetectorOptions options_;
  std::map<std::uint64_t, Past> past_;
  std::unique_ptr<Past> host_past_;
  double host_evidence_ = 0;
  std::uint64_t windows_ = 0;
  std::optional<HostTrouble> host_trouble_;
};

}  // namespace nestbench::attribution
