#include "nestbench/substrates/protocol.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <set>
#include <utility>

#include "nestbench/abi/latency_table.h"
#include "nestbench/payload/net_work.h"

namespace nestbench::substrates {
namespace {

using nlohmann::json;
using vmm::Error;
using vmm::Result;

template <typename Enum>
struct Word {
  Enum value;
  std::string_view text;
};

constexpr Word<SubstrateKind> kSubstrates[] = {{SubstrateKind::kBare, "bare"},
                                               {SubstrateKind::kVm, "vm"},
                                               {SubstrateKind::kNested, "nested"},
                                               {SubstrateKind::kNestedShadow, "nested_shadow"}};
constexpr Word<AnswerStatus> kStatuses[] = {
    {AnswerStatus::kOk, "ok"},       {AnswerStatus::kUnsupported, "unsupported"}, {AnswerStatus::kFailed, "failed"},
    {AnswerStatus::kError, "error"}, {AnswerStatus::kCrashed, "crashed"},         {AnswerStatus::kTimeout, "timeout"}};
constexpr Word<abi::Doorbell> kDoorbells[] = {
    {abi::Doorbell::kReturn, "return"}, {abi::Doorbell::kPort, "port"}, {abi::Doorbell::kMmio, "mmio"}};

constexpr Word<DiskKind> kDisks[] = {
    {DiskKind::kNone, "none"}, {DiskKind::kRam, "ram"}, {DiskKind::kDirect, "direct"}, {DiskKind::kCached, "cached"}};

constexpr Word<NetPeer> kNetPeers[] = {{NetPeer::kNone, "none"}, {NetPeer::kHost, "host"}, {NetPeer::kGuest, "guest"}};

template <typename Enum, std::size_t kCount>
std::string_view TextOf(const Word<Enum> (&words)[kCount], Enum value) {
  for (const auto& word : words) {
    if (word.value == value) return word.text;
  }
  return "unknown";
}

// Bounds that only a broken or hostile writer passes; they keep the arithmetic of Measure() from overflowing.
constexpr std::uint64_t kMaxDeadlineNs = 86'400ULL * 1'000'000'000;
constexpr std::uint32_t kMaxSamples = 1'000'000;
constexpr double kMinTscHz = 1e6;
constexpr double kMaxTscHz = 1e12;
constexpr std::size_t kSha256HexDigits = 64;
constexpr std::uint64_t kMaxDiskBytes = 1ULL << 40;

// Takes keys out of an object one after the other and remembers the first that was not as it must be. Each key must be
// there once, and no other: both sides are built together, so anything else is a mistake or an attack.
class Reader {
 public:
  Reader(std::string_view what, std::string_view line) : what_(what) {
    std::set<std::string> keys;
    std::string repeated;
    const auto note_key = [&keys, &repeated](int depth, json::parse_event_t event, json& parsed) {
      if (event != json::parse_event_t::key || depth != 1) return true;
      if (auto key = parsed.get<std::string>(); !keys.insert(key).second) repeated = std::move(key);
      return true;
    };
    object_ = json::parse(line, note_key, false);
    if (object_.is_discarded() || !object_.is_object()) Refuse("the line", "is not one JSON object");
    if (!repeated.empty()) Refuse(Shown(repeated), "is there twice");
  }

  // After the last Take: whether there was more than what was taken.
  void RefuseOtherKeys() {
    if (!problem_.empty()) return;
    for (const auto& item : object_.items()) {
      if (!taken_.contains(item.key())) return Refuse(Shown(item.key()), "is not a key of this protocol");
    }
  }

  template <typename T>
    requires std::is_unsigned_v<T> && (!std::is_same_v<T, bool>)
  void Take(const char* key, T& out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_number_unsigned() || value->get<std::uint64_t>() > std::numeric_limits<T>::max()) {
      return Refuse(key, "must be a non-negative integer in range");
    }
    out = value->get<T>();
  }
  void Take(const char* key, int& out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_number_integer() || std::abs(value->get<double>()) > 1e9) {
      return Refuse(key, "must be an integer in range");
    }
    out = value->get<int>();
  }
  void Take(const char* key, bool& out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_boolean()) return Refuse(key, "must be true or false");
    out = value->get<bool>();
  }
  void Take(const char* key, double& out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_number() || !std::isfinite(value->get<double>())) return Refuse(key, "must be a finite number");
    out = value->get<double>();
  }
  void Take(const char* key, std::string& out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_string()) return Refuse(key, "must be text");
    out = value->get<std::string>();
  }
  template <typename Enum, std::size_t kCount>
  void TakeWord(const char* key, const Word<Enum> (&words)[kCount], Enum& out) {
    std::string text;
    Take(key, text);
    for (const auto& word : words) {
      if (word.text == text) {
        out = word.value;
        return;
      }
    }
    Refuse(key, "holds an unknown word");
  }
  void TakeList(const char* key, std::vector<double>& out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_array()) return Refuse(key, "must be a list");
    for (const json& item : *value) {
      if (!item.is_number() || !std::isfinite(item.get<double>())) return Refuse(key, "must hold finite numbers");
      out.push_back(item.get<double>());
    }
  }
  void TakeList(const char* key, std::vector<std::uint64_t>& out) {
    const json* value = Find(key);
    if (value == nullptr) return;
    if (!value->is_array()) return Refuse(key, "must be a list");
    for (const json& item : *value) {
      if (!item.is_number_unsigned()) return Refuse(key, "must hold non-negative integers");
      out.push_back(item.get<std::uint64_t>());
    }
  }

  void Refuse(std::string_view key, std::string_view why) {
    if (problem_.empty()) problem_ = fmt::format("`{}` {}", key, why);
  }
  void Require(bool holds, std::string_view key, std::string_view why) {
    if (!holds) Refuse(key, why);
  }
  [[nodiscard]] const std::string& problem() const { return problem_; }
  [[nodiscard]] Error error() const { return Error::Malformed(what_, problem_); }

 private:
  const json* Find(const char* key) {
    if (!problem_.empty()) return nullptr;
    taken_.insert(key);
    const auto found = object_.find(key);
    if (found == object_.end()) {
      Refuse(key, "is missing");
      return nullptr;
    }
    return &*found;
  }

  // A key that somebody else chose, fit for one line of text.
  static std::string Shown(std::string key) {
    constexpr std::size_t kMaxShownBytes = 40;
    key.resize(std::min(key.size(), kMaxShownBytes));
    std::ranges::replace_if(
        key, [](char c) { return c < 0x20 || c > 0x7E; }, '?');
    return key;
  }

  std::string_view what_;
  json object_;
  std::set<std::string, std::less<>> taken_;
  std::string problem_;
};

bool IsSha256Hex(std::string_view text) {
  return text.size() == kSha256HexDigits && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

}  // namespace

std::string_view ToString(SubstrateKind kind) { return TextOf(kSubstrates, kind); }
std::string_view ToString(AnswerStatus status) { return TextOf(kStatuses, status); }

json ToJson(const Request& request) {
  return {{"protocol", kProtocolVersion},
          {"substrate", ToString(request.substrate)},
          {"image", request.image},
          {"operation", request.operation},
          {"parameters", request.parameters},
          {"seed", request.seed},
          {"arena_bytes", request.arena_bytes},
          {"host_page_bytes", request.host_page_bytes},
          {"guest_page_bytes", request.guest_page_bytes},
          {"reset_arena", request.reset_arena},
          {"cpu", request.cpu},
          {"iterations", request.iterations},
          {"batch_target_ns", request.batch_target_ns},
          {"samples", request.samples},
          {"max_warmup_batches", request.max_warmup_batches},
          {"deadline_ns", request.deadline_ns},
          {"tsc_hz", request.tsc_hz},
          {"doorbell", TextOf(kDoorbells, request.doorbell)},
          {"latencies", request.latencies},
          {"disk", TextOf(kDisks, request.disk.kind)},
          {"disk_path", request.disk.path},
          {"disk_bytes", request.disk.size_bytes},
          {"disk_doorbell_exits", request.disk.doorbell_exits},
          {"disk_polling", request.disk.polling},
          {"io_cpu", request.disk.io_cpu},
          {"net_peer", TextOf(kNetPeers, request.network.peer)},
          {"net_doorbell_exits", request.network.doorbell_exits},
          {"net_polling", request.network.polling},
          {"net_bytes_per_s", request.network.bytes_per_s},
          {"net_io_cpu", request.network.io_cpu},
          {"net_peer_cpu", request.network.peer_cpu}};
}

Result<Request> ParseRequest(std::string_view line) {
  Reader reader("guest request", line);
  Request request;
  int protocol = 0;
  reader.Take("protocol", protocol);
  if (protocol != kProtocolVersion) reader.Refuse("protocol", "is not this program's: rebuild both");
  reader.TakeWord("substrate", kSubstrates, request.substrate);
  reader.Take("image", request.image);
  reader.Take("operation", request.operation);
  std::vector<std::uint64_t> parameters;
  reader.TakeList("parameters", parameters);
  if (parameters.size() == request.parameters.size()) {
    std::copy(parameters.begin(), parameters.end(), request.parameters.begin());
  } else {
    reader.Refuse("parameters", "must hold 8 numbers");
  }
  reader.Take("seed", request.seed);
  reader.Take("arena_bytes", request.arena_bytes);
  reader.Take("host_page_bytes", request.host_page_bytes);
  reader.Take("guest_page_bytes", request.guest_page_bytes);
  reader.Take("reset_arena", request.reset_arena);
  reader.Take("cpu", request.cpu);
  reader.Take("iterations", request.iterations);
  reader.Take("batch_target_ns", request.batch_target_ns);
  reader.Take("samples", request.samples);
  reader.Take("max_warmup_batches", request.max_warmup_batches);
  reader.Take("deadline_ns", request.deadline_ns);
  reader.Take("tsc_hz", request.tsc_hz);
  reader.TakeWord("doorbell", kDoorbells, request.doorbell);
  reader.Take("latencies", request.latencies);
  reader.TakeWord("disk", kDisks, request.disk.kind);
  reader.Take("disk_path", request.disk.path);
  reader.Take("disk_bytes", request.disk.size_bytes);
  reader.Take("disk_doorbell_exits", request.disk.doorbell_exits);
  reader.Take("disk_polling", request.disk.polling);
  reader.Take("io_cpu", request.disk.io_cpu);
  reader.TakeWord("net_peer", kNetPeers, request.network.peer);
  reader.Take("net_doorbell_exits", request.network.doorbell_exits);
  reader.Take("net_polling", request.network.polling);
  reader.Take("net_bytes_per_s", request.network.bytes_per_s);
  reader.Take("net_io_cpu", request.network.io_cpu);
  reader.Take("net_peer_cpu", request.network.peer_cpu);
  reader.RefuseOtherKeys();
  const auto page_is_known = [](std::uint64_t bytes) {
    return bytes == abi::kPageBytes || bytes == abi::kLargePageBytes;
  };
  reader.Require(page_is_known(request.host_page_bytes), "host_page_bytes", "must be 4096 or 2097152");
  reader.Require(page_is_known(request.guest_page_bytes), "guest_page_bytes", "must be 4096 or 2097152");
  reader.Require(request.arena_bytes <= abi::kArenaMaxBytes, "arena_bytes", "is more than layout.h has room for");
  reader.Require(request.cpu >= -1, "cpu", "must be -1 or the number of a CPU");
  reader.Require(request.disk.io_cpu >= -1, "io_cpu", "must be -1 or the number of a CPU");
  const bool has_disk = request.disk.kind != DiskKind::kNone;
  reader.Require(!has_disk || (request.disk.size_bytes != 0 && request.disk.size_bytes % abi::kPageBytes == 0 &&
                               request.disk.size_bytes <= kMaxDiskBytes),
                 "disk_bytes", "must be a multiple of 4096, above 0 and at most 2^40");
  const bool has_network = request.network.peer != NetPeer::kNone;
  reader.Require(!has_network || !has_disk, "net_peer", "must be none where there is a disk");
  reader.Require(!has_network || request.arena_bytes >= payload::kNetArenaBytes, "net_peer",
                 "needs an arena that holds its tables");
  reader.Require(request.network.io_cpu >= -1, "net_io_cpu", "must be -1 or the number of a CPU");
  reader.Require(request.network.peer_cpu >= -1, "net_peer_cpu", "must be -1 or the number of a CPU");
  reader.Require(!request.latencies || request.arena_bytes >= abi::kLatencyTableBytes, "latencies",
                 "need an arena that holds their table");
  reader.Require(request.samples != 0 && request.samples <= kMaxSamples, "samples", "must be 1 to 1000000");
  reader.Require(request.deadline_ns != 0 && request.deadline_ns <= kMaxDeadlineNs, "deadline_ns",
                 "must be above 0 and at most a day");
  reader.Require(request.tsc_hz >= kMinTscHz && request.tsc_hz <= kMaxTscHz, "tsc_hz", "is not a clock rate");
  reader.Require(request.iterations != 0 || request.batch_target_ns != 0, "batch_target_ns", "must be above 0");
  reader.Require(request.substrate == SubstrateKind::kBare || request.doorbell != abi::Doorbell::kReturn, "doorbell",
                 "must be one that leaves a guest");
  if (!reader.problem().empty()) return Fail(reader.error());
  return request;
}

json ToJson(const Answer& answer) {
  json inside = json::array();
  json outside = json::array();
  json operations = json::array();
  json bytes = json::array();
  for (const Sample& sample : answer.samples) {
    inside.push_back(sample.inside_ns);
    outside.push_back(sample.outside_ns);
    operations.push_back(sample.operations);
    bytes.push_back(sample.bytes);
  }
  return {{"status", ToString(answer.status)},
          {"reason", answer.reason},
          {"image_sha256", answer.image_sha256},
          {"iterations", answer.iterations},
          {"warmup_batches", answer.warmup_batches},
          {"voided", answer.voided},
          {"call_overhead_ns", answer.call_overhead_ns},
          {"clock_disagreement_max", answer.clock_disagreement_max},
          {"steal_ns", answer.counters.steal_ns},
          {"run_queue_wait_ns", answer.counters.run_queue_wait_ns},
          {"context_switches", answer.counters.context_switches},
          {"migrations", answer.counters.migrations},
          {"huge_page_bytes", answer.huge_page_bytes},
          {"process_cpu_ns", answer.process_cpu_ns},
          {"exits", answer.exits},
          {"nested_runs", answer.nested_runs},
          {"checksum", std::to_string(answer.checksum)},
          {"resent", answer.resent},
          {"latency_count", answer.latencies.count},
          {"latency_p50_ns", answer.latencies.p50_ns},
          {"latency_p99_ns", answer.latencies.p99_ns},
          {"latency_p999_ns", answer.latencies.p999_ns},
          {"latency_max_ns", answer.latencies.max_ns},
          {"inside_ns", std::move(inside)},
          {"outside_ns", std::move(outside)},
          {"operations", std::move(operations)},
          {"bytes", std::move(bytes)}};
}

Result<Answer> ParseAnswer(std::string_view line) {
  Reader reader("guest answer", line);
  Answer answer;
  reader.TakeWord("status", kStatuses, answer.status);
  reader.Take("reason", answer.reason);
  reader.Take("image_sha256", answer.image_sha256);
  reader.Take("iterations", answer.iterations);
  reader.Take("warmup_batches", answer.warmup_batches);
  reader.Take("voided", answer.voided);
  reader.Take("call_overhead_ns", answer.call_overhead_ns);
  reader.Take("clock_disagreement_max", answer.clock_disagreement_max);
  reader.Take("steal_ns", answer.counters.steal_ns);
  reader.Take("run_queue_wait_ns", answer.counters.run_queue_wait_ns);
  reader.Take("context_switches", answer.counters.context_switches);
  reader.Take("migrations", answer.counters.migrations);
  reader.Take("huge_page_bytes", answer.huge_page_bytes);
  reader.Take("process_cpu_ns", answer.process_cpu_ns);
  reader.Take("exits", answer.exits);
  reader.Take("nested_runs", answer.nested_runs);
  std::string checksum;
  reader.Take("checksum", checksum);
  const auto [end, error] = std::from_chars(checksum.data(), checksum.data() + checksum.size(), answer.checksum);
  reader.Require(error == std::errc() && end == checksum.data() + checksum.size(), "checksum",
                 "must be a decimal number as text");
  reader.Take("resent", answer.resent);
  reader.Take("latency_count", answer.latencies.count);
  reader.Take("latency_p50_ns", answer.latencies.p50_ns);
  reader.Take("latency_p99_ns", answer.latencies.p99_ns);
  reader.Take("latency_p999_ns", answer.latencies.p999_ns);
  reader.Take("latency_max_ns", answer.latencies.max_ns);
  std::vector<double> inside;
  std::vector<double> outside;
  std::vector<std::uint64_t> operations;
  std::vector<std::uint64_t> bytes;
  reader.TakeList("inside_ns", inside);
  reader.TakeList("outside_ns", outside);
  reader.TakeList("operations", operations);
  reader.TakeList("bytes", bytes);
  reader.RefuseOtherKeys();
  reader.Require(outside.size() == inside.size() && operations.size() == inside.size() && bytes.size() == inside.size(),
                 "inside_ns", "and its companions differ in length");
  const bool is_ok = answer.status == AnswerStatus::kOk;
  reader.Require(is_ok == answer.reason.empty(), "reason", "must be given exactly when status is not ok");
  reader.Require(std::ranges::all_of(inside, [](double ns) { return ns > 0; }), "inside_ns", "must be above 0");
  reader.Require(std::ranges::none_of(operations, [](std::uint64_t count) { return count == 0; }), "operations",
                 "must be above 0");
  reader.Require(answer.clock_disagreement_max >= 0, "clock_disagreement_max", "must be 0 or more");
  reader.Require(IsSha256Hex(answer.image_sha256) || (!is_ok && answer.image_sha256.empty()), "image_sha256",
                 "is not a SHA-256 in hexadecimal");
  reader.Require(!is_ok || answer.iterations != 0, "iterations", "must be above 0 when status is ok");
  reader.Require(!is_ok || !inside.empty(), "inside_ns", "must hold samples when status is ok");
  if (!reader.problem().empty()) return Fail(reader.error());
  for (std::size_t i = 0; i < inside.size(); ++i) {
    answer.samples.push_back({inside[i], outside[i], operations[i], bytes[i]});
  }
  return answer;
}

}  // namespace nestbench::substrates
