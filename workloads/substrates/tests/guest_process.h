// Test support: nestbench-guest as a child process, watched from outside.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <functional>
#include <string>

#include "nestbench/payload/net_work.h"
#include "nestbench/substrates/protocol.h"

namespace nestbench::substrates::testing {

struct GuestEnd {
  int wait_status = 0;  // as waitpid reports it
  bool killed_by_us = false;
  std::string output;
  std::string error_text;
};

// Owns the process: one that still runs is killed and reaped. Pipes as the supervisor has them.
class GuestProcess {
 public:
  // Starts the program with `line` as its input. `before_exec` runs in the child between fork and exec; when it returns
  // false the child ends with exit code kCannotPrepare.
  explicit GuestProcess(const std::string& line, const std::function<bool()>& before_exec = {});
  ~GuestProcess();
  GuestProcess(const GuestProcess&) = delete;
  GuestProcess& operator=(const GuestProcess&) = delete;

  static constexpr int kCannotPrepare = 77;

  [[nodiscard]] pid_t pid() const { return pid_; }
  void Kill() const;

  // Reads its output to the end and reaps it; kills it when it runs longer than `limit`.
  GuestEnd Wait(std::chrono::milliseconds limit = std::chrono::seconds(30));

 private:
  pid_t pid_ = -1;
  int output_ = -1;
  int error_ = -1;
};

// The whole of a small file of /proc; empty when it cannot be read.
std::string ReadText(const std::string& path);

// Whether `holds` becomes true within `limit`; asked every few milliseconds.
bool Eventually(const std::function<bool()>& holds, std::chrono::milliseconds limit = std::chrono::seconds(10));

// The rate of this CPU's TSC, measured against CLOCK_MONOTONIC_RAW: good to 0.01 %.
double MeasureTscHz();

// A small measurement of cpu_integer, three samples of some milliseconds.
Request IntegerRequest(SubstrateKind substrate);

// Five samples of a network workload; `operation` of payload/net_work.h. Nobody is pinned.
Request NetworkRequest(SubstrateKind substrate, payload::NetOperation operation, NetPeer peer);

}  // namespace nestbench::substrates::testing
