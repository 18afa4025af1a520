#include "io_workloads.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace nestbench::scenarios {
namespace {

using payload::DiskOperation;
using payload::NetOperation;
using substrates::DiskKind;
using substrates::NetPeer;
using workloads::Profile;

constexpr std::uint64_t kKiB = 1024;
// From here on what passes counts, not how many requests it takes.
constexpr std::uint64_t kLargeBlockBytes = 64 * kKiB;

std::string_view ToString(DiskKind kind) {
  switch (kind) {
    case DiskKind::kRam:
      return "ram";
    case DiskKind::kDirect:
      return "file";
    case DiskKind::kCached:
      return "file_cached";
    case DiskKind::kNone:
      break;
  }
  return "none";
}

std::string_view SummaryOf(DiskKind kind) {
  switch (kind) {
    case DiskKind::kRam:
      return "a disk in memory";
    case DiskKind::kDirect:
      return "a file past the page cache";
    case DiskKind::kCached:
      return "a file through the page cache";
    case DiskKind::kNone:
      break;
  }
  return "no disk";
}

struct Variant {
  bool doorbell_exits = false;
  bool polling = false;
};

IoWorkload Disk(DiskKind kind, DiskOperation operation, std::uint64_t block_bytes, std::uint64_t depth, Profile profile,
                Variant variant = {}) {
  IoWorkload workload;
  workload.name = "disk";
  workload.summary = fmt::format("virtio-blk on {} against io_uring in a process", SummaryOf(kind));
  workload.params = {{"disk", std::string(ToString(kind))},
                     {"operation", std::string(scenarios::ToString(operation))},
                     {"block_bytes", static_cast<std::int64_t>(block_bytes)},
                     {"depth", static_cast<std::int64_t>(depth)}};
  if (variant.doorbell_exits) workload.params["doorbell"] = "exit";
  if (variant.polling) workload.params["polling"] = "always";
  workload.metrics = {block_bytes < kLargeBlockBytes ? IoMetric::kIops : IoMetric::kBandwidth,
                      IoMetric::kLatencyP50,
                      IoMetric::kLatencyP99,
                      IoMetric::kLatencyP999,
                      IoMetric::kCpu,
                      IoMetric::kExits};
  DiskLoad load{.operation = operation, .block_bytes = block_bytes, .depth = depth, .setup = {}};
  load.setup.kind = kind;
  load.setup.doorbell_exits = variant.doorbell_exits;
  load.setup.polling = variant.polling;
  workload.load = std::move(load);
  workload.guest_only = variant.doorbell_exits || variant.polling;  // the twin is that of the plain workload
  workload.profile = profile;
  return workload;
}

IoWorkload Doorbell(bool exits) {
  IoWorkload workload;
  workload.name = "doorbell";
  workload.summary = exits ? "a ring of virtio-blk's doorbell as an exit to user space"
                           : "a ring of virtio-blk's doorbell as an ioeventfd";
  workload.params = {{"kind", std::string(exits ? "exit" : "ioeventfd")}};
  workload.metrics = {IoMetric::kTime};
  workload.names_metric = false;
  workload.guest_only = true;
  workload.profile = Profile::kQuick;
  DiskLoad load{.operation = DiskOperation::kRing, .setup = {}};
  load.setup.kind = DiskKind::kRam;
  load.setup.doorbell_exits = exits;
  workload.load = std::move(load);
  return workload;
}

IoWorkload Network(NetOperation operation, std::uint64_t frame_bytes, NetPeer peer, Profile profile) {
  const bool is_to_host = peer == NetPeer::kHost;
  IoWorkload workload;
  workload.name = "network";
  workload.summary = fmt::format("virtio-net to {} against sockets at the ends of a veth pair",
                                 is_to_host ? "the host, through a tap interface" : "another guest, through a switch");
  workload.params = {{"operation", std::string(scenarios::ToString(operation))},
                     {"frame_bytes", static_cast<std::int64_t>(frame_bytes)},
                     {"peer", std::string(is_to_host ? "host" : "guest")}};
  switch (operation) {
    case NetOperation::kStream:
    case NetOperation::kReceive:
      workload.metrics = {IoMetric::kBandwidth};
      break;
    case NetOperation::kPackets:
      workload.metrics = {IoMetric::kPackets};
      break;
    case NetOperation::kPingPong:
    case NetOperation::kEcho:
    case NetOperation::kSink:
    case NetOperation::kSource:
      workload.metrics = {IoMetric::kLatencyP50, IoMetric::kLatencyP99, IoMetric::kLatencyP999};
      break;
  }
  workload.metrics.insert(workload.metrics.end(), {IoMetric::kCpu, IoMetric::kExits});
  NetLoad load{.operation = operation, .frame_bytes = frame_bytes, .setup = {}};
  if (operation != NetOperation::kPingPong) load.window = payload::kNetMaxWindow;
  load.setup.peer = peer;
  workload.load = load;
  workload.profile = profile;
  return workload;
}

void AddNetworks(std::vector<IoWorkload>& workloads) {
  using enum NetOperation;
  using enum Profile;
  constexpr std::uint64_t kMin = payload::kFrameMinBytes;
  constexpr std::uint64_t kMax = payload::kFrameMaxBytes;
  const auto add = [&workloads](NetOperation operation, std::uint64_t frame_bytes, NetPeer peer, Profile profile) {
    workloads.push_back(Network(operation, frame_bytes, peer, profile));
  };
  for (const NetPeer peer : {NetPeer::kHost, NetPeer::kGuest}) {
    add(kPingPong, kMin, peer, peer == NetPeer::kHost ? kQuick : kStandard);
    for (const std::uint64_t frame_bytes : {std::uint64_t{512}, kMax}) add(kPingPong, frame_bytes, peer, kFull);
    add(kStream, kMax, peer, peer == NetPeer::kGuest ? kQuick : kStandard);
    add(kStream, 512, peer, kFull);
    add(kReceive, kMax, peer, kStandard);
    add(kPackets, kMin, peer, kStandard);
  }
}

void AddDisks(std::vector<IoWorkload>& workloads) {
  constexpr Variant kExits{.doorbell_exits = true};
  constexpr Variant kPolling{.polling = true};
  const auto add = [&workloads](DiskKind kind, DiskOperation operation, std::uint64_t block_bytes, std::uint64_t depth,
                                Profile profile, Variant variant = {}) {
    workloads.push_back(Disk(kind, operation, block_bytes, depth, profile, variant));
  };
  using enum DiskOperation;
  using enum Profile;
  for (const DiskKind kind : {DiskKind::kRam, DiskKind::kDirect, DiskKind::kCached}) {
    const bool cached = kind == DiskKind::kCached;
    for (const std::uint64_t depth : {1, 2, 4, 8, 16, 32, 64, 128}) {
      const bool is_quick = !cached && (depth == 1 || depth == 32);
      const bool is_standard = depth == 1 || depth == 8 || depth == 32 || depth == 128;
      add(kind, kRandomRead, 4 * kKiB, depth, is_quick ? kQuick : is_standard && !cached ? kStandard : kFull);
      add(kind, kRandomWrite, 4 * kKiB, depth, (depth == 1 || depth == 32) && !cached ? kStandard : kFull);
    }
    for (const std::uint64_t block : {4 * kKiB, 16 * kKiB, 64 * kKiB, 256 * kKiB, kKiB * kKiB}) {
      const bool is_standard = !cached && (block == 4 * kKiB || block == 64 * kKiB || block == kKiB * kKiB);
      add(kind, kSequentialRead, block, 8, is_standard ? kStandard : kFull);
      add(kind, kSequentialWrite, block, 8, is_standard ? kStandard : kFull);
      if (block != 4 * kKiB) add(kind, kRandomRead, block, 32, kFull);
    }
    for (const std::uint64_t depth : {1, 8, 32}) {
      add(kind, kWriteFlush, 4 * kKiB, depth, kind == DiskKind::kDirect && depth != 32 ? kStandard : kFull);
    }
    for (const std::uint64_t depth : {1, 32}) {
      add(kind, kRandomRead, 4 * kKiB, depth, cached ? kFull : kStandard, kExits);
      add(kind, kRandomRead, 4 * kKiB, depth, cached ? kFull : kStandard, kPolling);
    }
  }
}

double PerOperation(double total, const substrates::Answer& answer) {
  const std::uint64_t operations =
      std::accumulate(answer.samples.begin(), answer.samples.end(), std::uint64_t{0},
                      [](std::uint64_t sum, const substrates::Sample& sample) { return sum + sample.operations; });
  return operations == 0 ? 0 : total / static_cast<double>(operations);
}

}  // namespace

std::string_view ToString(DiskOperation operation) {
  switch (operation) {
    case DiskOperation::kSequentialRead:
      return "sequential_read";
    case DiskOperation::kRandomRead:
      return "random_read";
    case DiskOperation::kSequentialWrite:
      return "sequential_write";
    case DiskOperation::kRandomWrite:
      return "random_write";
    case DiskOperation::kWriteFlush:
      return "write_flush";
    case DiskOperation::kRing:
      break;
  }
  return "ring";
}

std::string_view ToString(NetOperation operation) {
  switch (operation) {
    case NetOperation::kPingPong:
      return "ping_pong";
    case NetOperation::kStream:
      return "stream";
    case NetOperation::kPackets:
      return "packets";
    case NetOperation::kReceive:
      return "receive";
    case NetOperation::kEcho:
      return "echo";
    case NetOperation::kSink:
      return "sink";
    case NetOperation::kSource:
      break;
  }
  return "source";
}

std::string_view ToString(IoMetric metric) {
  switch (metric) {
    case IoMetric::kIops:
      return "iops";
    case IoMetric::kBandwidth:
      return "bandwidth";
    case IoMetric::kPackets:
      return "packets";
    case IoMetric::kLatencyP50:
      return "latency_p50";
    case IoMetric::kLatencyP99:
      return "latency_p99";
    case IoMetric::kLatencyP999:
      return "latency_p999";
    case IoMetric::kCpu:
      return "cpu";
    case IoMetric::kExits:
      return "exits";
    case IoMetric::kTime:
      break;
  }
  return "time";
}

std::string_view IoWorkload::UnitOf(IoMetric metric) const {
  switch (metric) {
    case IoMetric::kIops:
      return "kIOPS";
    case IoMetric::kBandwidth:
      return "MB/s";
    case IoMetric::kPackets:
      return "kpackets/s";
    case IoMetric::kLatencyP50:
    case IoMetric::kLatencyP99:
    case IoMetric::kLatencyP999:
      return "ns";
    case IoMetric::kExits:
      return "exits/op";
    case IoMetric::kCpu:
      if (network() != nullptr && network()->operation != NetOperation::kPingPong) return "ns/packet";
      break;
    case IoMetric::kTime:
      break;
  }
  return "ns/op";
}

result::Direction DirectionOf(IoMetric metric) {
  const bool higher = metric == IoMetric::kIops || metric == IoMetric::kBandwidth || metric == IoMetric::kPackets;
  return higher ? result::Direction::kHigher : result::Direction::kLower;
}

std::vector<double> SamplesOf(IoMetric metric, const substrates::Answer& answer) {
  const auto each = [&answer](auto value) {
    std::vector<double> samples;
    for (const substrates::Sample& sample : answer.samples) samples.push_back(value(sample));
    return samples;
  };
  using substrates::Sample;
  switch (metric) {
    case IoMetric::kIops:
    case IoMetric::kPackets:
      return each([](const Sample& sample) { return static_cast<double>(sample.operations) * 1e6 / sample.inside_ns; });
    case IoMetric::kBandwidth:
      return each([](const Sample& sample) { return static_cast<double>(sample.bytes) * 1e3 / sample.inside_ns; });
    case IoMetric::kTime:
      return each([](const Sample& sample) { return sample.inside_ns / static_cast<double>(sample.operations); });
    case IoMetric::kLatencyP50:
      return {answer.latencies.p50_ns};
    case IoMetric::kLatencyP99:
      return {answer.latencies.p99_ns};
    case IoMetric::kLatencyP999:
      return {answer.latencies.p999_ns};
    case IoMetric::kCpu:
      return {PerOperation(static_cast<double>(answer.process_cpu_ns), answer)};
    case IoMetric::kExits:
      break;
  }
  return {PerOperation(static_cast<double>(answer.exits), answer)};
}

std::vector<IoWorkload> IoWorkloads() {
  std::vector<IoWorkload> workloads;
  workloads.push_back(Doorbell(false));
  workloads.push_back(Doorbell(true));
  AddDisks(workloads);
  AddNetworks(workloads);
  return workloads;
}

}  // namespace nestbench::scenarios
