#include "nestbench/substrates/measure.h"

#include <fmt/format.h>

#include <time.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "nestbench/abi/latency_table.h"
#include "nestbench/payload/net_work.h"
#include "nestbench/substrates/mailbox_reader.h"

namespace nestbench::substrates {
namespace {

constexpr int kEmptyCalls = 31;
constexpr double kWarmupTolerance = 0.02;  // of two batches in a row, per operation: then sampling begins
constexpr std::uint32_t kVoidFactor = 3;   // gives up after this many batches for each wanted sample
constexpr std::uint64_t kMaxIterations = 1ULL << 40;

// Ends a measurement early; what stands in the answer then is its status and reason.
struct Ended {};
using Step = tl::expected<void, Ended>;

struct Batch {
  double inside_ns = 0;
  double outside_ns = 0;
  std::uint64_t operations = 0;
  std::uint64_t bytes = 0;
};

AnswerStatus StatusOf(abi::PayloadStatus status) {
  switch (status) {
    case abi::PayloadStatus::kUnsupported:
      return AnswerStatus::kUnsupported;
    case abi::PayloadStatus::kWrongResult:
      return AnswerStatus::kFailed;
    case abi::PayloadStatus::kOk:
      return AnswerStatus::kOk;
    case abi::PayloadStatus::kNotRun:
    case abi::PayloadStatus::kBadRequest:
      break;
  }
  return AnswerStatus::kError;
}

std::uint64_t ProcessCpuNs() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

// The latencies of the batches that count, out of a payload's table. The table is hostile: counts, and nothing else.
class LatencyCollector {
 public:
  explicit LatencyCollector(std::span<std::byte> table) : table_(table.first(sizeof(abi::LatencyTable))) {}

  void Clear() { std::ranges::fill(table_, std::byte{0}); }

  void Add() {
    abi::LatencyTable table;
    std::memcpy(&table, table_.data(), sizeof(table));
    max_ticks_ = std::max(max_ticks_, std::min(table.max_ticks, abi::LatencyTable::kMaxTicks));
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += table.counts[i];
  }

  [[nodiscard]] Latencies Result(double tsc_hz) const {
    Latencies latencies;
    for (const std::uint64_t count : counts_) latencies.count += count;
    latencies.p50_ns = Quantile(0.5, latencies.count) * 1e9 / tsc_hz;
    latencies.p99_ns = Quantile(0.99, latencies.count) * 1e9 / tsc_hz;
    latencies.p999_ns = Quantile(0.999, latencies.count) * 1e9 / tsc_hz;
    latencies.max_ns = static_cast<double>(max_ticks_) * 1e9 / tsc_hz;
    return latencies;
  }

 private:
  // In ticks: the middle of the bucket that holds it.
  [[nodiscard]] double Quantile(double quantile, std::uint64_t total) const {
    if (total == 0) return 0;
    const auto wanted = static_cast<std::uint64_t>(std::ceil(quantile * static_cast<double>(total)));
    std::uint64_t seen = 0;
    for (std::uint32_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen < wanted) continue;
      const auto low = static_cast<double>(abi::LatencyTable::LowestOf(i));
      const auto next = static_cast<double>(abi::LatencyTable::LowestOf(i + 1));
      return std::min((low + next) / 2, static_cast<double>(max_ticks_));
    }
    return static_cast<double>(max_ticks_);
  }

  std::span<std::byte> table_;
  std::array<std::uint64_t, abi::LatencyTable::kBuckets> counts_{};
  std::uint64_t max_ticks_ = 0;
};

// The payload's word, as the latencies are: a number, and nothing else.
payload::NetTable ReadNetTable(std::span<const std::byte> arena) {
  payload::NetTable table;
  std::memcpy(&table, arena.subspan(payload::kNetTableOffset).data(), sizeof(table));
  return table;
}

class Measurer {
 public:
  Measurer(Substrate& substrate, const Request& request)
      : substrate_(substrate),
        request_(request),
        end_(std::chrono::steady_clock::now() + std::chrono::nanoseconds(request.deadline_ns)) {}

  Answer Run() {
    // Each step says in the answer why it ended early; there is nothing to add here.
    if (Prepare() && Calibrate() && WarmUp() && TakeSamples()) (void)Finish();
    return std::move(answer_);
  }

 private:
  Step End(AnswerStatus status, std::string reason) {
    answer_.status = status;
    answer_.reason = std::move(reason);
    return tl::unexpected(Ended{});
  }

  // One command, its reply read and checked. The outside time of the call goes to `outside_ns`.
  Step Command(abi::Command command, Reply& reply, double& outside_ns) {
    abi::MailboxRequest request = {};
    request.magic = abi::kMailboxMagic;
    request.version = abi::kMailboxVersion;
    request.command = command;
    request.doorbell = substrate_.doorbell();
    request.sequence = ++sequence_;
    request.operation = request_.operation;
    request.iterations = std::max<std::uint64_t>(iterations_, 1);
    request.seed = request_.seed;
    request.arena_base = abi::kArenaBase;
    request.arena_bytes = request_.arena_bytes;
    std::ranges::copy(request_.parameters, request.parameters);
    const auto left = end_ - std::chrono::steady_clock::now();
    if (left.count() <= 0) return End(AnswerStatus::kTimeout, TimeoutText());
    auto outcome = substrate_.Call(request, left);
    if (!outcome) return End(AnswerStatus::kError, outcome.error().ToString());
    if (outcome->end == CallEnd::kTimedOut) return End(AnswerStatus::kTimeout, TimeoutText());
    if (outcome->end == CallEnd::kCrashed) return End(AnswerStatus::kCrashed, std::move(outcome->text));
    auto read = ReadReply(substrate_.mailbox(), request);
    if (!read) return End(AnswerStatus::kError, read.error().ToString());
    if (read->status != abi::PayloadStatus::kOk) return End(StatusOf(read->status), Reason(*read));
    outside_ns = static_cast<double>(outcome->outside_ns);
    reply = std::move(*read);
    return {};
  }

  static std::string Reason(const Reply& reply) {
    return reply.message.empty() ? "the payload refused without a message" : reply.message;
  }

  [[nodiscard]] std::string TimeoutText() const {
    return fmt::format("not done within {:.3g} s", static_cast<double>(request_.deadline_ns) / 1e9);
  }

  // What an empty command costs, so that it can be taken off the outside time; then the payload's own preparation.
  Step Prepare() {
    std::vector<double> costs;
    Reply reply;
    double outside_ns = 0;
    for (int i = 0; i < kEmptyCalls; ++i) {
      if (auto done = Command(abi::Command::kNone, reply, outside_ns); !done) return done;
      costs.push_back(outside_ns);
    }
    std::ranges::nth_element(costs, costs.begin() + kEmptyCalls / 2);
    answer_.call_overhead_ns = costs[kEmptyCalls / 2];
    return Command(abi::Command::kSetUp, reply, outside_ns);
  }

  Step RunBatch(Batch& batch) {
    if (request_.reset_arena && substrate_.arena() != nullptr) {
      if (auto reset = substrate_.arena()->Discard(); !reset)
        return End(AnswerStatus::kError, reset.error().ToString());
    }
    Reply reply;
    double outside_ns = 0;
    if (auto done = Command(abi::Command::kRun, reply, outside_ns); !done) return done;
    batch.inside_ns = static_cast<double>(reply.tsc_ticks) * 1e9 / request_.tsc_hz;
    batch.outside_ns = outside_ns - answer_.call_overhead_ns;
    batch.operations = reply.operations;
    batch.bytes = reply.bytes;
    return CompareWithFirst(reply);
  }

  // Batches of one request do the same work. One that says otherwise computed something else, or lies.
  Step CompareWithFirst(const Reply& reply) {
    if (!expect_same_work_) return {};
    if (!first_) first_ = {reply.checksum, reply.operations, reply.bytes};
    const auto differs = [this](std::string_view what, std::uint64_t first, std::uint64_t now) {
      return End(AnswerStatus::kFailed,
                 fmt::format("{} {} of one batch, {} of another with the same request", what, first, now));
    };
    if (first_->checksum != reply.checksum) return differs("checksum", first_->checksum, reply.checksum);
    if (first_->operations != reply.operations) return differs("operations", first_->operations, reply.operations);
    if (first_->bytes != reply.bytes) return differs("bytes", first_->bytes, reply.bytes);
    return {};
  }

  // A batch of a network workload is several windows long: a shorter one is nothing but the beginning and the end of a
  // stream, and on a busy host one wait for a CPU makes it look long enough.
  [[nodiscard]] std::uint64_t LeastIterations() const {
    constexpr std::uint64_t kWindows = 8;
    constexpr std::uint64_t kRoundTrips = 64;
    if (request_.network.peer == NetPeer::kNone) return 1;
    return std::max(kWindows * std::min(request_.parameters[1], payload::kNetMaxWindow), kRoundTrips);
  }

  // Doubles, or jumps once the batch is long enough to tell, until a batch takes about the target time. Long enough
  // twice in a row: a batch of few operations that was interrupted looks long, and would make every later one far too
  // short.
  Step Calibrate() {
    iterations_ = request_.iterations;
    const auto target_ns = static_cast<double>(request_.batch_target_ns);
    const std::uint64_t least = LeastIterations();
    for (std::uint64_t tried = least; iterations_ == 0; tried *= 2) {
      iterations_ = tried;
      const auto is_enough = [&](double batch_ns) { return batch_ns >= target_ns / 8 || tried >= kMaxIterations; };
      Batch batch;
      if (auto done = RunBatch(batch); !done) return done;
      double batch_ns = batch.inside_ns;
      if (is_enough(batch_ns)) {
        if (auto done = RunBatch(batch); !done) return done;
        batch_ns = std::min(batch_ns, batch.inside_ns);
      }
      last_operation_ns_ = batch_ns / static_cast<double>(tried);
      if (is_enough(batch_ns)) {
        const double scale = target_ns / std::max(batch_ns, 1.0);
        iterations_ = static_cast<std::uint64_t>(std::clamp(
            static_cast<double>(tried) * scale, static_cast<double>(least), static_cast<double>(kMaxIterations)));
      } else {
        iterations_ = 0;
      }
    }
    answer_.iterations = iterations_;
    expect_same_work_ = true;
    return {};
  }

  // Runs batches until one agrees with the one before it (the first with the last of the calibration): caches, TLBs,
  // branch predictors and the clock of the CPU have settled.
  Step WarmUp() {
    while (answer_.warmup_batches < request_.max_warmup_batches) {
      Batch batch;
      if (auto done = RunBatch(batch); !done) return done;
      ++answer_.warmup_batches;
      const double operation_ns = batch.inside_ns / static_cast<double>(iterations_);
      // As a list: of two arguments, minmax returns references, one of them to a temporary that is gone by the next
      // line.
      const auto [low, high] = std::minmax({operation_ns, std::exchange(last_operation_ns_, operation_ns)});
      if (high <= low * (1 + kWarmupTolerance)) break;
    }
    return {};
  }

  Step TakeSamples() {
    auto counters = CounterReader::Open();
    if (!counters) return End(AnswerStatus::kError, counters.error().ToString());
    std::optional<LatencyCollector> latencies;
    if (request_.latencies && substrate_.arena() != nullptr) latencies.emplace(substrate_.arena()->bytes());
    const bool has_net_table = request_.network.peer != NetPeer::kNone && substrate_.arena() != nullptr;
    double worst_void = 0;
    for (std::uint32_t tried = 0; answer_.samples.size() < request_.samples && tried < request_.samples * kVoidFactor;
         ++tried) {
      if (latencies) latencies->Clear();
      const std::uint64_t exits_before = substrate_.exits().value_or(0);
      const std::uint64_t nested_runs_before = substrate_.nested_runs().value_or(0);
      const std::uint64_t resent_before = has_net_table ? ReadNetTable(substrate_.arena()->bytes()).resent : 0;
      const std::uint64_t cpu_before_ns = ProcessCpuNs();
      counters->Begin();
      Batch batch;
      if (auto done = RunBatch(batch); !done) return done;
      const Counters passed = counters->End();
      const std::uint64_t cpu_ns = ProcessCpuNs() - cpu_before_ns;
      const double disagreement = std::abs(batch.outside_ns - batch.inside_ns) / batch.inside_ns;
      if (disagreement > kClockTolerance) {
        ++answer_.voided;
        worst_void = std::max(worst_void, disagreement);
        continue;
      }
      answer_.clock_disagreement_max = std::max(answer_.clock_disagreement_max, disagreement);
      answer_.counters += passed;
      answer_.process_cpu_ns += cpu_ns;
      answer_.exits += substrate_.exits().value_or(0) - exits_before;
      answer_.nested_runs += substrate_.nested_runs().value_or(0) - nested_runs_before;
      if (latencies) latencies->Add();
      if (has_net_table) answer_.resent += ReadNetTable(substrate_.arena()->bytes()).resent - resent_before;
      answer_.samples.push_back({batch.inside_ns, batch.outside_ns, batch.operations, batch.bytes});
    }
    if (latencies) answer_.latencies = latencies->Result(request_.tsc_hz);
    if (answer_.samples.empty()) {
      return End(
          AnswerStatus::kFailed,
          fmt::format("every sample is void: time inside and outside differ by up to {:.2f} %", 100 * worst_void));
    }
    return {};
  }

  Step Finish() {
    if (substrate_.arena() != nullptr) {
      // Before Verify, which may touch more of the arena. A kernel without smaps costs only this number.
      answer_.huge_page_bytes = substrate_.arena()->HugeBytes().value_or(0);
    }
    Reply reply;
    double outside_ns = 0;
    if (auto done = Command(abi::Command::kVerify, reply, outside_ns); !done) return done;
    answer_.checksum = first_ ? first_->checksum : 0;
    answer_.status = AnswerStatus::kOk;
    answer_.reason.clear();
    return {};
  }

  Substrate& substrate_;
  const Request& request_;
  std::chrono::steady_clock::time_point end_;
  Answer answer_;
  std::uint64_t sequence_ = 0;
  std::uint64_t iterations_ = 0;
  double last_operation_ns_ = 0;   // of the last batch before sampling; 0: none yet
  bool expect_same_work_ = false;  // not during calibration, whose batches differ in length
  struct Work {
    std::uint64_t checksum;
    std::uint64_t operations;
    std::uint64_t bytes;
  };
  std::optional<Work> first_;
};

}  // namespace

Answer Measure(Substrate& substrate, const Request& request) { return Measurer(substrate, request).Run(); }

}  // namespace nestbench::substrates
