// The workloads of the scenario `io`: one line each in io_workloads.cc. Private to this folder.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "nestbench/payload/disk_work.h"
#include "nestbench/payload/net_work.h"
#include "nestbench/result/types.h"
#include "nestbench/scenarios/describe.h"
#include "nestbench/substrates/disk.h"
#include "nestbench/substrates/network.h"
#include "nestbench/substrates/protocol.h"
#include "nestbench/workloads/catalogue.h"

namespace nestbench::scenarios {

// What is told of a workload: each is a measurement of its own.
enum class IoMetric : std::uint8_t {
  kIops,        // thousands of requests a second
  kBandwidth,   // MB/s, 10^6 bytes: of blocks; of a network, what datagrams carry
  kPackets,     // thousands of packets a second
  kLatencyP50,  // ns, of the requests or round trips of one process, from their offer to their return
  kLatencyP99,
  kLatencyP999,
  kCpu,    // ns of CPU time of the whole process for each request: vCPU, device thread, kernel threads of its I/O
  kExits,  // of the VM, for each request
  kTime,   // ns for each operation
};

std::string_view ToString(IoMetric metric);
result::Direction DirectionOf(IoMetric metric);

// The samples of one process for a metric: one for each batch where batches have one, else a single one.
std::vector<double> SamplesOf(IoMetric metric, const substrates::Answer& answer);

struct DiskLoad {
  payload::DiskOperation operation = payload::DiskOperation::kRandomRead;
  std::uint64_t block_bytes = 4096;
  std::uint64_t depth = 1;
  substrates::DiskSetup setup;  // without path, size and CPU
};

struct NetLoad {
  payload::NetOperation operation = payload::NetOperation::kPingPong;
  std::uint64_t frame_bytes = payload::kFrameMinBytes;
  std::uint64_t window = 1;    // frames that may be under way
  substrates::NetSetup setup;  // without CPUs
};

struct IoWorkload {
  std::string name;  // of the id: "disk", "doorbell", "network"
  std::string summary;
  result::Params params;  // without `metric`
  std::vector<IoMetric> metrics;
  bool names_metric = true;  // the id says which; of one with a single metric it need not
  bool guest_only = false;   // a process has nothing of the kind
  workloads::Profile profile = workloads::Profile::kFull;
  std::variant<DiskLoad, NetLoad> load;

  [[nodiscard]] const DiskLoad* disk() const { return std::get_if<DiskLoad>(&load); }
  [[nodiscard]] const NetLoad* network() const { return std::get_if<NetLoad>(&load); }
  // The payload image that a guest runs.
  [[nodiscard]] std::string_view image() const { return network() != nullptr ? "io_net" : "io_disk"; }
  [[nodiscard]] std::string_view UnitOf(IoMetric metric) const;
};

std::string_view ToString(payload::DiskOperation operation);
std::string_view ToString(payload::NetOperation operation);

// In the order in which reports show them.
std::vector<IoWorkload> IoWorkloads();

// Unit and summary of one of their ids; empty for any other id.
Description DescribeIo(std::string_view id);

}  // namespace nestbench::scenarios
