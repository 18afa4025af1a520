#include "fio.h"

#include <fmt/format.h>

#include <boost/process/search_path.hpp>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "nestbench/scenarios/child.h"

namespace nestbench::scenarios {
namespace {

using nlohmann::json;
using payload::DiskOperation;
using vmm::Error;

std::string_view PatternOf(DiskOperation operation) {
  switch (operation) {
    case DiskOperation::kSequentialRead:
      return "read";
    case DiskOperation::kSequentialWrite:
      return "write";
    case DiskOperation::kRandomWrite:
    case DiskOperation::kWriteFlush:
      return "randwrite";
    case DiskOperation::kRandomRead:
    case DiskOperation::kRing:
      break;
  }
  return "randread";
}

double NumberAt(const json& value, const char* pointer) {
  const json::json_pointer at(pointer);
  if (!value.contains(at) || !value.at(at).is_number()) return -1;
  return value.at(at).get<double>();
}

}  // namespace

vmm::Result<std::filesystem::path> FindFio() {
  const auto found = boost::process::search_path("fio");
  if (found.empty()) {
    return Fail(Error::Unsupported("use fio as a reference", "it is not installed; as root: apt-get install fio"));
  }
  return std::filesystem::path(found.string());
}

vmm::Result<FioNumbers> RunFio(const std::filesystem::path& fio, const DiskLoad& load, const std::string& path,
                               std::uint64_t size_bytes, int cpu, std::uint64_t seed, std::chrono::seconds run_time) {
  std::vector<std::string> arguments = {
      "--name=reference",
      "--filename=" + path,
      fmt::format("--rw={}", PatternOf(load.operation)),
      fmt::format("--bs={}", load.block_bytes),
      fmt::format("--iodepth={}", load.depth),
      fmt::format("--size={}", size_bytes),
      fmt::format("--direct={}", load.setup.kind == substrates::DiskKind::kDirect ? 1 : 0),
      fmt::format("--cpus_allowed={}", cpu),
      fmt::format("--randseed={}", seed),
      fmt::format("--runtime={}", run_time.count()),
      "--time_based=1",
      "--ramp_time=0.2",
      "--ioengine=io_uring",
      "--fixedbufs=1",
      "--registerfiles=1",
      "--random_generator=tausworthe64",
      "--norandommap=1",
      "--thread=1",
      "--output-format=json"};
  if (load.operation == DiskOperation::kWriteFlush) arguments.emplace_back("--fdatasync=1");
  auto child = RunChild(fio, arguments, "", run_time + std::chrono::seconds(30));
  if (!child) return Fail(std::move(child.error()));
  if (child->exit_code != 0) return Fail(Error::Malformed("fio", child->Describe()));
  return ParseFio(child->output);
}

vmm::Result<FioNumbers> ParseFio(std::string_view text) {
  // Some versions print a note before the document.
  const std::size_t begin = text.find('{');
  const json document = json::parse(text.substr(begin == std::string_view::npos ? text.size() : begin), nullptr, false);
  const json::json_pointer first_job("/jobs/0");
  if (document.is_discarded() || !document.contains(first_job)) {
    return Fail(Error::Malformed("fio's output", "not the JSON document of one job"));
  }
  const json& job = document.at(first_job);
  const char* const side = NumberAt(job, "/read/total_ios") > 0 ? "/read" : "/write";
  if (!job.contains(json::json_pointer(side))) return Fail(Error::Malformed("fio's output", "no reads and no writes"));
  const json& part = job.at(json::json_pointer(side));
  FioNumbers numbers = {.iops = NumberAt(part, "/iops"),
                        .bytes_per_s = NumberAt(part, "/bw_bytes"),
                        .latency_p50_ns = NumberAt(part, "/clat_ns/percentile/50.000000"),
                        .latency_p99_ns = NumberAt(part, "/clat_ns/percentile/99.000000"),
                        .latency_p999_ns = NumberAt(part, "/clat_ns/percentile/99.900000")};
  if (numbers.iops <= 0 || numbers.bytes_per_s <= 0 || numbers.latency_p50_ns < 0) {
    return Fail(Error::Malformed("fio's output", "it moved nothing"));
  }
  return numbers;
}

std::optional<double> NumberOf(IoMetric metric, const FioNumbers& numbers) {
  switch (metric) {
    case IoMetric::kIops:
      return numbers.iops / 1e3;
    case IoMetric::kBandwidth:
      return numbers.bytes_per_s / 1e6;
    case IoMetric::kLatencyP50:
      return numbers.latency_p50_ns;
    case IoMetric::kLatencyP99:
      return numbers.latency_p99_ns;
    case IoMetric::kLatencyP999:
      return numbers.latency_p999_ns;
    case IoMetric::kPackets:
    case IoMetric::kCpu:
    case IoMetric::kExits:
    case IoMetric::kTime:
      break;
  }
  return std::nullopt;
}

}  // namespace nestbench::scenarios
