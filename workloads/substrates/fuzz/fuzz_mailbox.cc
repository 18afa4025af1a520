// ReadReply on any page: it answers, and a reply that it lets through is what its header promises.
//
// Input: one byte for the command and, in its high bit, whether the page is cut short; 8 bytes of iterations; the reply
// as it lies in the page.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "nestbench/abi/mailbox.h"
#include "nestbench/fuzz/input.h"
#include "nestbench/fuzz/require.h"
#include "nestbench/substrates/mailbox_reader.h"

namespace nestbench::substrates {
namespace {

using fuzz::Require;

constexpr std::uint64_t kSequence = 7;

void CheckReply(const Reply& reply, const abi::MailboxRequest& request, const abi::MailboxReply& written) {
  Require(written.sequence == kSequence, "an accepted reply answers this command");
  Require(reply.status == written.status && reply.status <= abi::PayloadStatus::kUnsupported,
          "a status is a known one");
  Require(reply.message.size() <= abi::kMailboxMessageBytes, "a message is not longer than its field");
  Require(std::ranges::all_of(reply.message, [](char c) { return c >= 0x20 && c <= 0x7E; }), "a message is printable");
  const bool is_ok = reply.status == abi::PayloadStatus::kOk;
  Require(!is_ok || reply.message.empty(), "what went well has no message");
  if (is_ok && request.command == abi::Command::kRun) {
    Require(reply.tsc_ticks != 0 && reply.tsc_ticks == written.tsc_end - written.tsc_begin, "time advances");
    Require(reply.operations != 0 && reply.operations >= request.iterations, "a batch is as long as it was asked for");
  } else {
    Require(reply.tsc_ticks == 0 && reply.operations == 0 && reply.bytes == 0 && reply.checksum == 0,
            "nothing else is measured");
  }
}

}  // namespace
}  // namespace nestbench::substrates

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace nestbench;
  fuzz::Input input(data, size);
  const auto choice = input.Take<std::uint8_t>();
  abi::MailboxRequest request = {};
  request.command = static_cast<abi::Command>(choice & 0x7F);
  request.sequence = substrates::kSequence;
  request.iterations = input.Take<std::uint64_t>();
  abi::MailboxReply reply = {};
  const auto bytes = input.TakeBytes(sizeof(reply));
  if (!bytes.empty()) std::memcpy(&reply, bytes.data(), bytes.size());

  // A page of exactly these bytes, so that a sanitizer sees a read past its end.
  const bool is_short = (choice & 0x80) != 0;
  std::vector<std::byte> page(is_short ? offsetof(abi::Mailbox, reply) + bytes.size() : sizeof(abi::Mailbox));
  std::memcpy(page.data() + offsetof(abi::Mailbox, reply), &reply,
              std::min(sizeof(reply), page.size() - offsetof(abi::Mailbox, reply)));

  const auto read = substrates::ReadReply(page, request);
  if (read) {
    fuzz::Require(page.size() >= sizeof(abi::Mailbox), "a short page is no mailbox");
    substrates::CheckReply(*read, request, reply);
  } else {
    fuzz::Require(read.error().kind == vmm::ErrorKind::kMalformed, "a bad reply is malformed, nothing else");
    fuzz::Require(!read.error().detail.empty(), "a refusal says why");
  }
  return 0;
}
