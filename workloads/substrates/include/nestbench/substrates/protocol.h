// What the supervisor asks of a guest process and what that answers: one JSON object on one line each way. The keys are
// those of DESIGN.md, "The child".
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "nestbench/abi/layout.h"
#include "nestbench/abi/mailbox.h"
#include "nestbench/substrates/counters.h"
#include "nestbench/substrates/disk.h"
#include "nestbench/substrates/network.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::substrates {

inline constexpr int kProtocolVersion = 3;

// kNested: a guest (L2) of a hypervisor inside a guest of our VMM, with nested paging; kNestedShadow: without.
enum class SubstrateKind : std::uint8_t { kBare, kVm, kNested, kNestedShadow };

struct Request {
  SubstrateKind substrate = SubstrateKind::kBare;
  std::string image;  // path of the ELF file
  std::uint64_t operation = 0;
  std::array<std::uint64_t, abi::kMailboxParameters> parameters{};
  std::uint64_t seed = 0;
  std::uint64_t arena_bytes = 0;
  std::uint64_t host_page_bytes = abi::kPageBytes;
  std::uint64_t guest_page_bytes = abi::kPageBytes;
  bool reset_arena = false;      // fresh zero memory before every batch
  int cpu = -1;                  // pinned there; -1: not pinned
  std::uint64_t iterations = 0;  // operations in a batch; 0: calibrate to batch_target_ns
  std::uint64_t batch_target_ns = 0;
  std::uint32_t samples = 0;  // wanted
  std::uint32_t max_warmup_batches = 0;
  std::uint64_t deadline_ns = 0;  // for all that the payload does
  double tsc_hz = 0;
  abi::Doorbell doorbell = abi::Doorbell::kPort;  // of a guest
  bool latencies = false;                         // the arena begins with an abi::LatencyTable
  DiskSetup disk;                                 // of a guest, or of the process that is its twin
  NetSetup network;                               // likewise; not together with a disk
};

enum class AnswerStatus : std::uint8_t { kOk, kUnsupported, kFailed, kError, kCrashed, kTimeout };

struct Sample {
  double inside_ns = 0;   // by the payload's time stamps
  double outside_ns = 0;  // by CLOCK_MONOTONIC_RAW, less the cost of an empty call
  std::uint64_t operations = 0;
  std::uint64_t bytes = 0;
};

// Of the requests of all kept samples; by buckets that are 3 % wide.
struct Latencies {
  std::uint64_t count = 0;
  double p50_ns = 0;
  double p99_ns = 0;
  double p999_ns = 0;
  double max_ns = 0;
};

struct Answer {
  AnswerStatus status = AnswerStatus::kError;
  std::string reason;  // empty exactly when status is kOk
  std::string image_sha256;
  std::uint64_t iterations = 0;
  std::uint64_t warmup_batches = 0;
  std::uint64_t voided = 0;
  double call_overhead_ns = 0;
  double clock_disagreement_max = 0;  // fraction, over the kept samples
  Counters counters;                  // over the kept samples
  std::uint64_t huge_page_bytes = 0;
  std::uint64_t process_cpu_ns = 0;  // of all threads of the process, over the kept samples
  std::uint64_t exits = 0;           // over the kept samples
  std::uint64_t nested_runs = 0;     // entries of L2 by a hypervisor in the guest
  std::uint64_t checksum = 0;
  std::uint64_t resent = 0;  // frames of a network workload that were lost, or late: over the kept samples
  Latencies latencies;       // where the request asked for them
  std::vector<Sample> samples;
};

std::string_view ToString(SubstrateKind kind);
std::string_view ToString(AnswerStatus status);

nlohmann::json ToJson(const Request& request);
nlohmann::json ToJson(const Answer& answer);

// kMalformed, naming the key, for text that is no such object: each key once and no other, values in range, an answer
// that is complete for its status. Never throws.
vmm::Result<Request> ParseRequest(std::string_view line);
vmm::Result<Answer> ParseAnswer(std::string_view line);

}  // namespace nestbench::substrates
