#include "nestbench/workloads/catalogue.h"

#include <utility>
#include <vector>

namespace nestbench::workloads {
namespace {

void AddCpu(std::vector<Workload>& catalogue) {
  Workload integer;
  integer.name = integer.image = "cpu_integer";
  integer.unit = "ns/op";
  integer.summary = "dependent chain of 64-bit multiply, xor and rotate";
  catalogue.push_back(std::move(integer));
}

std::vector<Workload> MakeCatalogue() {
  std::vector<Workload> catalogue;
  AddCpu(catalogue);
  return catalogue;
}

}  // namespace

std::span<const Workload> Catalogue() {
  static const std::vector<Workload> catalogue = MakeCatalogue();
  return catalogue;
}

bool Includes(Profile profile, const Workload& workload) { return workload.profile <= profile; }

std::string Id(const Workload& workload, std::string_view scenario, std::string_view substrate) {
  std::string id(scenario);
  id.append("/").append(workload.name);
  char separator = '/';
  for (const auto& [key, value] : workload.params) {
    id.append(1, separator).append(key).append("=");
    if (const auto* number = std::get_if<std::uint64_t>(&value)) {
      id.append(std::to_string(*number));
    } else {
      id.append(std::get<std::string>(value));
    }
    separator = ',';
  }
  return id.append("/").append(substrate);
}

double ToUnit(const Workload& workload, double batch_ns, std::uint64_t operations, std::uint64_t bytes) {
  switch (workload.metric) {
    case Metric::kNsPerOperation:
      return workload.scale * batch_ns / static_cast<double>(operations);
    case Metric::kOperationsPerMicrosecond:
      return workload.scale * static_cast<double>(operations) * 1000 / batch_ns;
    case Metric::kBytesPerNs:
      break;
  }
  return workload.scale * static_cast<double>(bytes) / batch_ns;
}

}  // namespace nestbench::workloads
