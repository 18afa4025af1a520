// `nestbench watch`: the detector on guests that somebody else started.
#pragma once

#include <chrono>
#include <vector>

namespace nestbench::program {

struct WatchRequest {
  std::vector<int> pids;  // empty: every process that has a VM of KVM
  std::chrono::milliseconds interval{250};
  std::chrono::milliseconds duration{0};  // 0: until it is asked to stop
  bool as_json = false;                   // one object on one line for each detection
};

// Returns the exit code: 0 nobody was named, 1 somebody was, 2 a process that is none, 5 nothing to watch.
int Watch(const WatchRequest& request);

}  // namespace nestbench::program
