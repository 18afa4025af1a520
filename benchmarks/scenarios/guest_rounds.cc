#include "guest_rounds.h"

#include <fmt/format.h>

#include "nestbench/scenarios/child.h"

namespace nestbench::scenarios {
namespace {

using result::Status;
using substrates::AnswerStatus;

GuestRun GiveUp(Status status, std::string reason) {
  return {.end = GuestRun::End::kGiveUp, .answer = {}, .status = status, .reason = std::move(reason)};
}

}  // namespace

GuestRun RunGuest(const RunContext& context, const substrates::Request& request, const std::string& image_sha256) {
  const auto limit = std::chrono::nanoseconds(request.deadline_ns) + kChildSetUpLimit;
  auto child = RunChild(context.installation.guest_program, {}, ToJson(request).dump() + "\n", limit);
  if (!child) return GiveUp(Status::kError, child.error().ToString());
  if (child->interrupted) return {.end = GuestRun::End::kInterrupted, .answer = {}, .reason = {}};
  if (child->timed_out) return GiveUp(Status::kTimeout, child->Describe());
  if (child->exit_code != 0) return GiveUp(Status::kCrashed, child->Describe());
  auto answer = substrates::ParseAnswer(child->output);
  if (!answer) return GiveUp(Status::kError, answer.error().ToString());
  if (answer->status == AnswerStatus::kFailed && answer->samples.empty() && answer->voided != 0) {
    return {.end = GuestRun::End::kVoid, .answer = {}, .reason = std::move(answer->reason)};
  }
  if (answer->status != AnswerStatus::kOk) {
    // The statuses of an answer and of the document are the same words.
    return GiveUp(result::ParseStatus(substrates::ToString(answer->status)).value_or(Status::kError),
                  std::move(answer->reason));
  }
  if (answer->image_sha256 != image_sha256) {
    return GiveUp(Status::kError,
                  fmt::format("the image changed during the run: {} became {}", image_sha256, answer->image_sha256));
  }
  return {.end = GuestRun::End::kMeasured, .answer = std::move(*answer), .status = Status::kOk, .reason = {}};
}

std::optional<result::Finding> ProcessTally::FindingOf(const std::string& id) const {
  if (voided == 0) return std::nullopt;
  return result::Finding{
      .id = "samples-void",
      .severity = result::Severity::kWarning,
      .text = fmt::format("{} of {} processes of {} count for nothing.", voided, voided + measured, id),
      .evidence = void_reason};
}

}  // namespace nestbench::scenarios
