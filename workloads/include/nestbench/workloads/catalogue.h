// The catalogue: every workload of the overhead scenario, that is each payload operation with its parameters, unit and
// sizes. One entry is one measurement id for each substrate it runs on. (The `exits` image is run by the exits
// scenario, which chooses its operations itself: nestbench/payload/exit_operations.h.)
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <variant>

namespace nestbench::workloads {

// The smallest profile that includes a workload: quick is part of standard, standard of full.
enum class Profile : std::uint8_t { kQuick, kStandard, kFull };

enum class Direction : std::uint8_t { kLower, kHigher };  // which is better

// How a batch becomes a number, before `scale`.
enum class Metric : std::uint8_t {
  kNsPerOperation,            // batch ns / operations
  kOperationsPerMicrosecond,  // operations / batch us: millions per second
  kBytesPerNs,                // bytes / batch ns: GB/s, 10^9 bytes
};

struct Workload {
  std::string name;   // of the id: "memory_chase"
  std::string image;  // file name in the images folder without ".elf"
  std::uint64_t operation = 0;
  std::uint64_t parameters[8] = {};

  // What tells this workload from others of its name; the dimensions of the id and of the document. Integers fit int64.
  std::map<std::string, std::variant<std::uint64_t, std::string>> params;

  std::string unit;  // "ns/op", "GB/s", ...
  Direction direction = Direction::kLower;
  Metric metric = Metric::kNsPerOperation;
  double scale = 1;  // of the metric to the unit: 0.001 makes operations per microsecond GFLOP/s

  std::uint64_t arena_bytes = 0;          // a multiple of both page sizes
  std::uint64_t host_page_bytes = 4096;   // backing of the arena: 4096 or 2097152, on every substrate
  std::uint64_t guest_page_bytes = 4096;  // of a guest's page tables over the arena: 4096 or 2097152; `bare` has none
  bool reset_arena = false;               // the host makes the arena fresh zero memory before every batch
  std::uint64_t fixed_iterations = 0;     // of each batch; 0: calibrated to a target time

  Profile profile = Profile::kQuick;
  std::string summary;  // one sentence for `nestbench list`
};

// All of them, grouped by name, in the order in which reports show them. Ids are unique. Any thread.
[[nodiscard]] std::span<const Workload> Catalogue();

// Whether a run with `profile` includes `workload`.
[[nodiscard]] bool Includes(Profile profile, const Workload& workload);

// The measurement id: `scenario/name[/key=value[,key=value...]]/substrate`, keys sorted (DESIGN.md, "Result document").
[[nodiscard]] std::string Id(const Workload& workload, std::string_view scenario, std::string_view substrate);

// The value that one batch gives, in `workload.unit`. `batch_ns` must be above 0, `operations` 1 or more.
[[nodiscard]] double ToUnit(const Workload& workload, double batch_ns, std::uint64_t operations, std::uint64_t bytes);

}  // namespace nestbench::workloads
