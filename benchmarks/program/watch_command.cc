#include "watch_command.h"

#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "exit_codes.h"
#include "nestbench/attribution/collector.h"
#include "nestbench/attribution/detector.h"
#include "nestbench/scenarios/child.h"

namespace nestbench::program {
namespace {

std::string NameOf(pid_t pid) {
  std::string name;
  std::ifstream(fmt::format("/proc/{}/comm", pid)) >> name;
  return name;
}

}  // namespace

int Watch(const WatchRequest& request) {
  attribution::Collector collector;
  std::map<std::uint64_t, std::string> names;
  const auto add = [&](pid_t pid, const std::string& name) {
    names[static_cast<std::uint64_t>(pid)] = fmt::format("{} ({})", pid, name);
    collector.Add({.guest = static_cast<std::uint64_t>(pid), .pid = pid, .statistics = {}});
  };
  if (request.pids.empty()) {
    for (const attribution::KvmProcess& process : attribution::FindKvmProcesses()) add(process.pid, process.name);
    if (names.empty()) {
      spdlog::error(
          "no process with a KVM virtual machine is running that this user may look at; start some, run as root, "
          "or name processes with --pid");
      return kExitUnsupported;
    }
  }
  for (const int pid : request.pids) {
    const std::size_t before = collector.size();
    add(pid, NameOf(pid));
    if (collector.size() == before) {
      spdlog::error("there is no process {}, or this user may not look at it", pid);
      return kExitUsage;
    }
  }
  if (auto installed = scenarios::InstallStopHandlers(); !installed) {
    spdlog::error("{}", installed.error().ToString());
    return kExitBroke;
  }
  if (!request.as_json) {
    fmt::print("watching {} guests every {} ms:\n", names.size(), request.interval.count());
    for (const auto& [pid, name] : names) fmt::print("  {}\n", name);
    if (const std::string reason = attribution::WhyNoExits(static_cast<pid_t>(names.begin()->first)); !reason.empty()) {
      fmt::print("without exit counts: {}\n", reason);
    }
    std::fflush(stdout);
  }

  attribution::Detector detector;
  std::map<std::uint64_t, std::size_t> accused;
  std::uint64_t last_guest = 0;
  const auto begin = std::chrono::steady_clock::now();
  auto next = begin;
  while (scenarios::StopSignal() == 0 && collector.size() != 0) {
    if (request.duration.count() != 0 && std::chrono::steady_clock::now() - begin >= request.duration) break;
    next += request.interval;
    std::this_thread::sleep_until(next);
    const auto detections = detector.Observe(collector.Take());
    if (detections.empty()) last_guest = 0;
    for (const attribution::Detection& detection : detections) {
      ++accused[detection.guest];
      const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      if (request.as_json) {
        const nlohmann::json line = {{"seconds", seconds},
                                     {"pid", detection.guest},
                                     {"score", detection.score},
                                     {"victims", detection.victims},
                                     {"cause", detection.cause}};
        fmt::print("{}\n", line.dump());
      } else if (detection.guest != last_guest) {
        fmt::print("{:8.1f} s  {} disturbs its neighbours: {}\n", seconds, names[detection.guest], detection.cause);
        for (const std::uint64_t victim : detection.victims) fmt::print("              victim {}\n", names[victim]);
      }
      last_guest = detection.guest;
      std::fflush(stdout);
    }
  }
  if (!request.as_json) {
    if (accused.empty()) fmt::print("nobody was a noisy neighbour\n");
    for (const auto& [guest, windows] : accused) {
      fmt::print("{}: a noisy neighbour in {} windows of {} ms\n", names[guest], windows, request.interval.count());
    }
  }
  return accused.empty() ? kExitPass : kExitFailed;
}

}  // namespace nestbench::program
