// iperf3 (Debian package iperf3) as the outside reference for a stream over a veth pair. Private to this folder.
#pragma once

#include <chrono>
#include <filesystem>
#include <string_view>

#include "io_workloads.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::scenarios {

// kUnsupported when there is no iperf3 on PATH, with what to do.
vmm::Result<std::filesystem::path> FindIperf3();

// Sends datagrams of the load's size as fast as it can, from one fresh network namespace to another; bytes per second
// that arrived: it resends nothing. Client and server run on these CPUs.
vmm::Result<double> RunIperf3(const std::filesystem::path& iperf3, const NetLoad& load, int cpu, int peer_cpu,
                              std::chrono::seconds run_time);

// What the client's `--json` says has arrived, in bytes per second. kMalformed when it is not that. Never throws.
vmm::Result<double> ParseIperf3(std::string_view text);

}  // namespace nestbench::scenarios
