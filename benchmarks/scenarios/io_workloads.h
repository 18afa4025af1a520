// The workloads of the scenario `io`: one line each in io_workloads.cc. Private to this folder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/payload/disk_work.h"
#include "nestbench/result/types.h"
#include "nestbench/scenarios/describe.h"
#include "nestbench/substrates/disk.h"
#include "nestbench/substrates/protocol.h"
#include "nestbench/workloads/catalogue.h"

namespace nestbench::scenarios {

// What is told of a workload: each is a measurement of its own.
enum class IoMetric : std::uint8_t {
  kIops,        // thousands of requests a second
  kBandwidth,   // MB/s, 10^6 bytes
  kLatencyP50,  // ns, of the requests of one process, from their offer to their return
  kLatencyP99,
  kLatencyP999,
  kCpu,    // ns of CPU time of the whole process for each request: vCPU, device thread, kernel threads of its I/O
  kExits,  // of the VM, for each request
  kTime,   // ns for each operation
};

std::string_view ToString(IoMetric metric);
std::string_view UnitOf(IoMetric metric);
result::Direction DirectionOf(IoMetric metric);

// The samples of one process for a metric: one for each batch where batches have one, else a single one.
std::vector<double> SamplesOf(IoMetric metric, const substrates::Answer& answer);

struct IoWorkload {
  std::string name;  // of the id: "disk", "doorbell"
  std::string summary;
  result::Params params;  // without `metric`
  std::vector<IoMetric> metrics;
  bool names_metric = true;  // the id says which; of one with a single metric it need not
  bool guest_only = false;   // a process has nothing of the kind
  workloads::Profile profile = workloads::Profile::kFull;

  payload::DiskOperation operation = payload::DiskOperation::kRandomRead;
  std::uint64_t block_bytes = 4096;
  std::uint64_t depth = 1;
  substrates::DiskSetup disk;  // without path, size and CPU

  [[nodiscard]] bool writes() const { return operation >= payload::DiskOperation::kSequentialWrite; }
};

std::string_view ToString(payload::DiskOperation operation);

// In the order in which reports show them.
std::vector<IoWorkload> IoWorkloads();

// Unit and summary of one of their ids; empty for any other id.
Description DescribeIo(std::string_view id);

}  // namespace nestbench::scenarios
