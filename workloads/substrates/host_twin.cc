#include "host_twin.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string_view>
#include <utility>

#include "nestbench/abi/layout.h"
#include "nestbench/vmm/base/clock.h"

namespace nestbench::substrates {

using abi::GuestPhysAddr;
using vmm::MemoryRegion;

Result<HostTwin::Memory> HostTwin::MakeMemory(std::uint64_t arena_bytes) {
  auto mailbox = MemoryRegion::Create({GuestPhysAddr(abi::kMailboxBase), abi::kMailboxBytes}, {});
  if (!mailbox) return Fail(std::move(mailbox.error()));
  const std::uint64_t whole_pages = (arena_bytes + abi::kPageBytes - 1) / abi::kPageBytes * abi::kPageBytes;
  auto arena = MemoryRegion::Create({GuestPhysAddr(abi::kArenaBase), whole_pages}, {});
  if (!arena) return Fail(std::move(arena.error()));
  return Memory{std::move(*mailbox), std::move(*arena)};
}

Result<CallOutcome> HostTwin::Call(const abi::MailboxRequest& request, std::chrono::nanoseconds /*limit*/) {
  const std::uint64_t begin_ns = vmm::MonotonicRawNs();
  Answer(request);
  const std::uint64_t end_ns = vmm::MonotonicRawNs();
  return CallOutcome{CallEnd::kRang, {}, end_ns - begin_ns};
}

void HostTwin::Answer(const abi::MailboxRequest& request) {
  payload::Args args;
  args.operation = request.operation;
  args.iterations = request.iterations;
  args.seed = request.seed;
  std::ranges::copy(request.parameters, args.parameters);
  args.arena = arena_.bytes().data();
  args.arena_bytes = request.arena_bytes;
  payload::Result result;
  switch (request.command) {
    case abi::Command::kSetUp:
      SetUp(args, result);
      break;
    case abi::Command::kRun:
      Run(args, result);
      checksum_ = result.checksum();
      break;
    case abi::Command::kVerify:
      result.SetChecksum(checksum_);
      break;
    case abi::Command::kNone:
      break;
  }
  abi::MailboxReply reply = {};
  reply.sequence = request.sequence;
  reply.status = result.status();
  reply.tsc_begin = result.begin_tsc();
  reply.tsc_end = result.end_tsc();
  reply.operations = result.operations();
  reply.bytes = result.bytes();
  reply.checksum = result.checksum();
  const std::string_view text = result.text();
  std::memcpy(reply.message, text.data(), std::min(text.size(), sizeof(reply.message) - 1));
  std::memcpy(mailbox_.bytes().data() + offsetof(abi::Mailbox, reply), &reply, sizeof(reply));
}

}  // namespace nestbench::substrates
