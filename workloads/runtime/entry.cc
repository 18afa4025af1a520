// The entry of every image: one mailbox command, then the doorbell, then the next command.
//
// A host process calls Entry and gets control back by its return (Doorbell::kReturn). A guest is started at Entry with
// RSP = abi::kStackTop - 8, as a call would leave it, but with no return address: it rings a doorbell that leaves the
// guest, and goes on here with the next command when it is entered again. The code is the same; the request chooses.
#include "nestbench/payload/payload.h"

namespace nestbench::payload {
namespace {

// What the last successful SetUp and Run were for: only what was set up is run, only what has run is verified.
struct Progress {
  bool is_set_up = false;
  bool has_run = false;
  Args set_up_for;
  std::uint64_t run_iterations = 0;
};

constinit Progress g_progress;

bool IsForSameWork(const Args& a, const Args& b) {
  bool same = a.operation == b.operation && a.seed == b.seed && a.arena_bytes == b.arena_bytes;
  for (std::size_t i = 0; i < abi::kMailboxParameters; ++i) same = same && a.parameters[i] == b.parameters[i];
  return same;
}

Args ToArgs(const abi::MailboxRequest& request) {
  Args args;
  args.operation = request.operation;
  args.iterations = request.iterations;
  args.seed = request.seed;
  for (std::size_t i = 0; i < abi::kMailboxParameters; ++i) args.parameters[i] = request.parameters[i];
  args.arena = reinterpret_cast<std::byte*>(request.arena_base);
  args.arena_bytes = request.arena_bytes;
  return args;
}

void Perform(const abi::MailboxRequest& request, Result& result) {
  if (request.magic != abi::kMailboxMagic || request.version != abi::kMailboxVersion) {
    return result.Fail(Status::kBadRequest, "mailbox: magic or version is not this image's");
  }
  if (request.command == abi::Command::kNone) return;
  if (request.iterations == 0) return result.Fail(Status::kBadRequest, "iterations must be 1 or more");
  if (request.arena_base != abi::kArenaBase || request.arena_bytes > abi::kArenaMaxBytes) {
    return result.Fail(Status::kBadRequest, "the arena is not where layout.h puts it");
  }
  const Args args = ToArgs(request);
  switch (request.command) {
    case abi::Command::kSetUp:
      g_progress = Progress{};
      SetUp(args, result);
      if (result.ok()) {
        g_progress.is_set_up = true;
        g_progress.set_up_for = args;
      }
      return;
    case abi::Command::kRun:
      if (!g_progress.is_set_up || !IsForSameWork(args, g_progress.set_up_for)) {
        return result.Fail(Status::kBadRequest, "run: not what was set up last");
      }
      Run(args, result);
      g_progress.has_run = result.ok();
      g_progress.run_iterations = args.iterations;
      return;
    case abi::Command::kVerify:
      if (!g_progress.has_run || !IsForSameWork(args, g_progress.set_up_for) ||
          args.iterations != g_progress.run_iterations) {
        return result.Fail(Status::kBadRequest, "verify: not what has run last");
      }
      g_progress.has_run = false;
      Verify(args, result);
      return;
    case abi::Command::kNone:
      return;
  }
  result.Fail(Status::kBadRequest, "mailbox: unknown command");
}

void Answer(const abi::MailboxRequest& request, const Result& result, abi::MailboxReply& reply) {
  reply.value_count = 0;
  reply.tsc_begin = result.begin_tsc();
  reply.tsc_end = result.end_tsc();
  reply.operations = result.operations();
  reply.bytes = result.bytes();
  reply.checksum = result.checksum();
  std::size_t length = 0;
  for (; length + 1 < abi::kMailboxMessageBytes && result.text()[length] != '\0'; ++length) {
    reply.message[length] = result.text()[length];
  }
  reply.message[length] = '\0';
  reply.status = result.status();
  reply.sequence = request.sequence;
}

}  // namespace

extern "C" void Entry(abi::Mailbox* mailbox) {
  for (;;) {
    const abi::MailboxRequest& request = mailbox->request;
    Result result;
    Perform(request, result);
    Answer(request, result, mailbox->reply);
    switch (request.doorbell) {
      case abi::Doorbell::kReturn:
        return;
      case abi::Doorbell::kPort:
        asm volatile("outl %%eax, %%dx" : : "a"(0), "d"(abi::kDoorbellPort) : "memory");
        break;
      case abi::Doorbell::kMmio:
        asm volatile("movl %0, (%1)" : : "r"(0), "r"(abi::kDoorbellPage) : "memory");
        break;
      default:
        __builtin_trap();  // no way to tell the host but a crash
    }
  }
}

}  // namespace nestbench::payload
