// ParseRequest and ParseAnswer on any text: they answer, and what they accept is in range and survives the way back.
//
// Input: one byte, odd for an answer; then the line.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "nestbench/fuzz/input.h"
#include "nestbench/fuzz/require.h"
#include "nestbench/substrates/protocol.h"

namespace nestbench::substrates {
namespace {

using fuzz::Require;

void Check(const Request& request) {
  const auto is_page = [](std::uint64_t bytes) { return bytes == abi::kPageBytes || bytes == abi::kLargePageBytes; };
  Require(is_page(request.host_page_bytes) && is_page(request.guest_page_bytes), "pages are of 4 KiB or 2 MiB");
  Require(request.arena_bytes <= abi::kArenaMaxBytes, "the arena fits the map");
  Require(request.cpu >= -1, "a CPU has a number");
  Require(request.samples != 0 && request.deadline_ns != 0, "there is something to do and time to do it");
  Require(request.deadline_ns <= 86'400ULL * 1'000'000'000, "a deadline can be added to a time");
  Require(std::isfinite(request.tsc_hz) && request.tsc_hz >= 1e6, "the TSC counts");
  Require(request.iterations != 0 || request.batch_target_ns != 0, "a batch has a length");
}

void Check(const Answer& answer) {
  Require((answer.status == AnswerStatus::kOk) == answer.reason.empty(), "what went wrong has a reason");
  Require(answer.status != AnswerStatus::kOk || !answer.samples.empty(), "what went well has samples");
  Require(std::ranges::all_of(answer.samples,
                              [](const Sample& sample) {
                                return std::isfinite(sample.inside_ns) && sample.inside_ns > 0 &&
                                       std::isfinite(sample.outside_ns) && sample.operations != 0;
                              }),
          "a sample can be divided by");
  Require(std::isfinite(answer.call_overhead_ns) && std::isfinite(answer.clock_disagreement_max), "numbers are finite");
}

template <typename Parse>
void ParseAndReturn(std::string_view line, Parse parse) {
  const auto parsed = parse(line);
  if (!parsed) {
    Require(parsed.error().kind == vmm::ErrorKind::kMalformed, "bad text is malformed, nothing else");
    Require(!parsed.error().detail.empty(), "a refusal says why");
    return;
  }
  Check(*parsed);
  const std::string text = ToJson(*parsed).dump();
  const auto again = parse(text);
  Require(again.has_value(), "what was accepted is accepted again");
  Require(ToJson(*again).dump() == text, "and is the same");
}

}  // namespace
}  // namespace nestbench::substrates

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench;
  fuzz::Input input(data, size);
  const bool is_answer = (input.Take<std::uint8_t>() & 1) != 0;
  const auto bytes = input.TakeBytes(size);
  const std::string_view line(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (is_answer) {
    substrates::ParseAndReturn(line, substrates::ParseAnswer);
  } else {
    substrates::ParseAndReturn(line, substrates::ParseRequest);
  }
  return 0;
}
