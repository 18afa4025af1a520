// The part of the document that tools for Google Benchmark's JSON read: `context` and `benchmarks`.
#include <fmt/format.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <string>
#include <utility>

#include "nestbench/result/document.h"

namespace nestbench::result {
namespace {

using nlohmann::json;

double Median(std::vector<double> values) {
  const std::size_t middle = values.size() / 2;
  std::ranges::nth_element(values, values.begin() + static_cast<std::ptrdiff_t>(middle));
  if (values.size() % 2 == 1) return values[middle];
  const double below = *std::max_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(middle));
  return std::midpoint(below, values[middle]);
}

std::string ReadLine(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

// "32K", "1024K", "33M" of sysfs, in bytes. 0 when it is not that.
std::uint64_t CacheBytes(const std::string& text) {
  char* end = nullptr;
  const std::uint64_t value = std::strtoull(text.c_str(), &end, 10);
  if (*end == 'K') return value << 10;
  if (*end == 'M') return value << 20;
  return *end == '\0' ? value : 0;
}

// CPUs in a hexadecimal mask such as "00000000,00000003".
int MaskBits(const std::string& mask) {
  int bits = 0;
  for (const char digit : mask) {
    const char text[] = {digit, '\0'};
    bits += __builtin_popcountl(std::strtoul(text, nullptr, 16));
  }
  return bits;
}

json Caches() {
  json caches = json::array();
  for (int index = 0; index < 16; ++index) {
    const std::filesystem::path folder = fmt::format("/sys/devices/system/cpu/cpu0/cache/index{}", index);
    const std::string type = ReadLine(folder / "type");
    if (type.empty()) break;
    caches.push_back({{"type", type},
                      {"level", std::strtol(ReadLine(folder / "level").c_str(), nullptr, 10)},
                      {"size", CacheBytes(ReadLine(folder / "size"))},
                      {"num_sharing", MaskBits(ReadLine(folder / "shared_cpu_map"))}});
  }
  return caches;
}

// The clock of CPU 0 in MHz: cpufreq's maximum where there is cpufreq, else what /proc/cpuinfo says.
int CpuMhz() {
  if (const std::string khz = ReadLine("/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq"); !khz.empty()) {
    return static_cast<int>(std::strtol(khz.c_str(), nullptr, 10) / 1000);
  }
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("cpu MHz")) continue;
    if (const auto colon = line.find(':'); colon != std::string::npos) {
      return static_cast<int>(std::lround(std::strtod(line.c_str() + colon + 1, nullptr)));
    }
  }
  return 0;
}

std::string LocalDate() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  char text[40];
  std::string date(text, std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S%z", &local));
  date.insert(date.size() - 2, 1, ':');  // "+0100" of strftime is "+01:00" in RFC 3339
  return date;
}

}  // namespace

std::optional<double> NsPerOperation(std::string_view unit, double sample) {
  if (!std::isfinite(sample)) return std::nullopt;
  constexpr std::array<std::pair<std::string_view, double>, 4> kTimes{
      {{"ns", 1.0}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}}};
  for (const auto& [time, scale] : kTimes) {
    if (unit == time) return sample * scale;
    if (unit.starts_with(time) && unit.substr(time.size()).starts_with('/') && unit.size() > time.size() + 1) {
      return sample * scale;
    }
  }
  if (!unit.ends_with("/s") || unit.size() == 2 || sample <= 0) return std::nullopt;
  constexpr double kNsPerS = 1e9;
  constexpr std::array<std::pair<std::string_view, double>, 6> kPrefixes{
      {{"Gi", 0x1p30}, {"Mi", 0x1p20}, {"Ki", 0x1p10}, {"G", 1e9}, {"M", 1e6}, {"k", 1e3}}};
  for (const auto& [prefix, scale] : kPrefixes) {
    if (unit.starts_with(prefix)) return kNsPerS / (sample * scale);
  }
  return kNsPerS / sample;
}

json GoogleBenchmarks(const std::vector<Measurement>& measurements) {
  json benchmarks = json::array();
  for (std::size_t family = 0; family < measurements.size(); ++family) {
    const Measurement& measurement = measurements[family];
    for (std::size_t i = 0; i < measurement.rounds.size(); ++i) {
      const Round& round = measurement.rounds[i];
      if (round.samples.empty()) continue;
      const auto time_ns = NsPerOperation(measurement.unit, Median(round.samples));
      if (!time_ns) continue;
      benchmarks.push_back({{"name", measurement.id},
                            {"family_index", family},
                            {"per_family_instance_index", 0},
                            {"run_name", measurement.id},
                            {"run_type", "iteration"},
                            {"repetitions", measurement.rounds.size()},
                            {"repetition_index", i},
                            {"threads", 1},
                            {"iterations", round.iterations},
                            {"real_time", *time_ns},
                            {"cpu_time", *time_ns},
                            {"time_unit", "ns"}});
    }
  }
  return benchmarks;
}

json MakeContext(std::string_view executable) {
  char host_name[256] = "";
  if (::gethostname(host_name, sizeof(host_name) - 1) != 0) host_name[0] = '\0';
  std::array<double, 3> load{};
  const int loads = ::getloadavg(load.data(), static_cast<int>(load.size()));
  const std::string governor = ReadLine("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor");
#ifdef NDEBUG
  constexpr std::string_view kBuildType = "release";
#else
  constexpr std::string_view kBuildType = "debug";
#endif
  return {{"date", LocalDate()},
          {"host_name", std::string(host_name)},
          {"executable", executable},
          {"num_cpus", ::sysconf(_SC_NPROCESSORS_ONLN)},
          {"mhz_per_cpu", CpuMhz()},
          {"cpu_scaling_enabled", !governor.empty() && governor != "performance"},
          {"caches", Caches()},
          {"load_avg", std::vector<double>(load.begin(), load.begin() + std::max(loads, 0))},
          {"library_build_type", kBuildType}};
}

}  // namespace nestbench::result
