// Reads a payload's reply. The page is hostile: it is copied once, and the copy is checked before anything uses it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "nestbench/abi/mailbox.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::substrates {

// A reply that has passed the checks.
struct Reply {
  abi::PayloadStatus status = abi::PayloadStatus::kNotRun;
  std::uint64_t tsc_ticks = 0;   // between the payload's two time stamps
  std::uint64_t operations = 0;  // after a kRun that went well: at least its iterations
  std::uint64_t bytes = 0;
  std::uint64_t checksum = 0;
  std::string message;  // printable ASCII; empty when status is kOk
};

// kMalformed, saying which field lies, when the page is too short, answers another command (by its sequence number),
// holds an unknown status, time stamps that do not advance, or fewer operations than a kRun was asked for.
vmm::Result<Reply> ReadReply(std::span<const std::byte> mailbox, const abi::MailboxRequest& request);

}  // namespace nestbench::substrates
