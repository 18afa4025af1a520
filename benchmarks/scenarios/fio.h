// fio (Debian package fio) as the outside reference for a disk workload. Private to this folder.
#pragma once

#include <chrono>
#include <filesystem>
#include <string>
#include <string_view>

#include "io_workloads.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::scenarios {

// kUnsupported when there is no fio on PATH, with what to do.
vmm::Result<std::filesystem::path> FindFio();

struct FioNumbers {
  double iops = 0;
  double bytes_per_s = 0;
  double latency_p50_ns = 0;  // completion latency
  double latency_p99_ns = 0;
  double latency_p999_ns = 0;
};

// Runs the load's pattern on `path`, whose first `size_bytes` it overwrites where the load writes.
vmm::Result<FioNumbers> RunFio(const std::filesystem::path& fio, const DiskLoad& load, const std::string& path,
                               std::uint64_t size_bytes, int cpu, std::uint64_t seed, std::chrono::seconds run_time);

// What fio's `--output-format=json` says of one job. kMalformed when it is not that. Never throws.
vmm::Result<FioNumbers> ParseFio(std::string_view text);

// Of a metric that fio knows; empty otherwise.
std::optional<double> NumberOf(IoMetric metric, const FioNumbers& numbers);

}  // namespace nestbench::scenarios
