#include "nestbench/substrates/mailbox_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <string_view>

namespace nestbench::substrates {
namespace {

using vmm::Error;

constexpr std::string_view kOperation = "read mailbox";

bool IsKnown(abi::PayloadStatus status) {
  switch (status) {
    case abi::PayloadStatus::kNotRun:
    case abi::PayloadStatus::kOk:
    case abi::PayloadStatus::kWrongResult:
    case abi::PayloadStatus::kBadRequest:
    case abi::PayloadStatus::kUnsupported:
      return true;
  }
  return false;
}

std::string Printable(const char (&text)[abi::kMailboxMessageBytes]) {
  std::string printable(text, ::strnlen(text, sizeof(text)));
  std::ranges::replace_if(
      printable, [](char c) { return c < 0x20 || c > 0x7E; }, '?');
  return printable;
}

}  // namespace

vmm::Result<Reply> ReadReply(std::span<const std::byte> mailbox, const abi::MailboxRequest& request) {
  if (mailbox.size() < sizeof(abi::Mailbox)) {
    return Fail(Error::Malformed(kOperation, fmt::format("{} bytes are no mailbox", mailbox.size())));
  }
  abi::MailboxReply copy;
  std::memcpy(&copy, mailbox.data() + offsetof(abi::Mailbox, reply), sizeof(copy));
  if (copy.sequence != request.sequence) {
    return Fail(Error::Malformed(
        kOperation, fmt::format("the payload answers command {}, asked was {}", copy.sequence, request.sequence)));
  }
  if (!IsKnown(copy.status)) {
    return Fail(Error::Malformed(kOperation, fmt::format("status {}", static_cast<std::uint32_t>(copy.status))));
  }
  Reply reply;
  reply.status = copy.status;
  reply.message = copy.status == abi::PayloadStatus::kOk ? std::string() : Printable(copy.message);
  if (copy.status != abi::PayloadStatus::kOk || request.command != abi::Command::kRun) return reply;
  if (copy.tsc_end <= copy.tsc_begin) {
    return Fail(Error::Malformed(kOperation, fmt::format("time stamps {} and {}", copy.tsc_begin, copy.tsc_end)));
  }
  if (copy.operations == 0 || copy.operations < request.iterations) {
    return Fail(Error::Malformed(
        kOperation, fmt::format("{} operations done, {} iterations asked for", copy.operations, request.iterations)));
  }
  reply.tsc_ticks = copy.tsc_end - copy.tsc_begin;
  reply.operations = copy.operations;
  reply.bytes = copy.bytes;
  reply.checksum = copy.checksum;
  return reply;
}

}  // namespace nestbench::substrates
