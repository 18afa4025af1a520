// nestbench_micro: what leaving, making and ending a guest costs, and vmm-core's own hot paths, as registrations of
// Google Benchmark. Ids: scenario/workload[/parameters]/substrate.
#include <benchmark/benchmark.h>
#include <fmt/format.h>
#include <sched.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "environment.h"
#include "timing.h"

namespace nestbench::micro {
namespace {

constexpr int kExitUsage = 2;

struct Options {
  std::filesystem::path images;
  int cpu = -1;
};

void PrintHelp() {
  fmt::print(
      "nestbench_micro: exits, life cycle and hot paths of vmm-core (`vm`), each beside the same in raw ioctls "
      "(`floor`).\n\n"
      "  --images=DIR   folder with the payload images (exits.elf); default: `images` beside this program or its "
      "folder\n"
      "  --cpu=N        pin the measuring thread to CPU N; -1: do not pin (default)\n"
      "\nExamples:\n"
      "  nestbench_micro --benchmark_list_tests=true\n"
      "  nestbench_micro --cpu=1 --benchmark_filter='exits/doorbell' --benchmark_repetitions=9 "
      "--benchmark_enable_random_interleaving=true\n"
      "  nestbench_micro --benchmark_filter=lifecycle --benchmark_format=json\n"
      "\nGoogle Benchmark's own flags:\n");
  benchmark::PrintDefaultHelp();
}

int Complain(int code, const std::string& text) {
  fmt::print(stderr, "nestbench_micro: {}\n", text);
  return code;
}

// The images of a build tree (bin/ beside images/) or of an installation (both in one folder).
std::filesystem::path FindImages() {
  std::error_code error;
  const auto folder = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
  auto installed = folder / "images";
  if (!error && std::filesystem::is_directory(installed, error)) return installed;
  return folder.parent_path() / "images";
}

// Takes our flags out of argv. An error message, or empty.
std::string TakeOptions(int& argc, char** argv, Options& options) {
  constexpr std::string_view kImages = "--images=";
  constexpr std::string_view kCpu = "--cpu=";
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (argument.starts_with(kImages)) {
      options.images = argument.substr(kImages.size());
      std::error_code error;
      if (!std::filesystem::is_directory(options.images, error)) {
        return fmt::format("--images={}: not a folder", options.images.string());
      }
    } else if (argument.starts_with(kCpu)) {
      const std::string_view text = argument.substr(kCpu.size());
      const auto parsed = std::from_chars(text.data(), text.data() + text.size(), options.cpu);
      if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size() || options.cpu < -1 ||
          options.cpu >= CPU_SETSIZE) {
        return fmt::format("--cpu={}: not the number of a CPU, nor -1", text);
      }
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  argv[argc] = nullptr;
  return {};
}

struct Cpus {
  int helper = -1;  // allowed, and not the measuring thread's
  std::string error;
};

Cpus Pin(int cpu) {
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof(allowed), &allowed) != 0) {
    return {-1, fmt::format("sched_getaffinity: {}", std::strerror(errno))};
  }
  int measuring = cpu;
  if (cpu >= 0) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<unsigned>(cpu), &one);
    if (!CPU_ISSET(static_cast<unsigned>(cpu), &allowed) || ::sched_setaffinity(0, sizeof(one), &one) != 0) {
      return {-1, fmt::format("--cpu={}: this process may not use that CPU", cpu)};
    }
  } else {
    measuring = ::sched_getcpu();
  }
  for (int other = 0; other < CPU_SETSIZE; ++other) {
    if (other != measuring && CPU_ISSET(static_cast<unsigned>(other), &allowed)) return {other, {}};
  }
  return {};
}

int Main(int argc, char** argv) {
  Options options;
  if (const std::string problem = TakeOptions(argc, argv, options); !problem.empty()) {
    return Complain(kExitUsage, problem + "; --help lists the flags");
  }
  benchmark::Initialize(&argc, argv, PrintHelp);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return kExitUsage;
  const Cpus cpus = Pin(options.cpu);
  if (!cpus.error.empty()) return Complain(kExitUsage, cpus.error);
  if (options.images.empty()) options.images = FindImages();

  Environment environment(options.images, options.cpu, cpus.helper);
  RegisterExits(environment);
  RegisterLifecycle(environment);
  RegisterWakes(environment);
  RegisterHotPath(environment);
  const std::size_t matched = benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  if (matched == 0)
    return Complain(kExitUsage, "the filter selects no benchmark; --benchmark_list_tests=true lists them");
  return 0;
}

}  // namespace
}  // namespace nestbench::micro

int main(int argc, char** argv) { return nestbench::micro::Main(argc, argv); }
