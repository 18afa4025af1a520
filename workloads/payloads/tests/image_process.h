// Test support: a child process that maps a payload image and performs mailbox commands on it, as `bare` does but
// without measuring. A payload that crashes takes only the child with it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nestbench/abi/mailbox.h"

namespace nestbench::payload {

// A request for `command` with everything in order: magic, version, arena, doorbell kReturn, one iteration.
abi::MailboxRequest MakeRequest(abi::Command command, std::uint64_t arena_bytes);

struct ImageRun {
  std::vector<abi::MailboxReply> replies;  // one for each request that was answered
  int wait_status = 0;                     // of the child, as waitpid reports it
  std::string error;                       // why the image could not be mapped; empty when it was
};

// Maps the image at `path`, an arena of `arena_bytes`, mailbox and stack in a fresh child process and performs
// `requests` in order. With `reset_arena` the arena is fresh zero memory before each kRun.
ImageRun RunImage(const std::string& path, std::uint64_t arena_bytes, bool reset_arena,
                  const std::vector<abi::MailboxRequest>& requests);

}  // namespace nestbench::payload
