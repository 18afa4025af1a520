// The mailbox: one page through which host and payload talk. Layout is fixed and versioned.
//
// The host writes the request half, lets the payload run, and reads the reply half after the doorbell. The payload
// is hostile: whatever stands in the reply half is copied out once (never read twice) and checked (see
// workloads/substrates/mailbox_reader.h) before it is used.
//
// Freestanding: included by guest code and host code alike. Any change of layout raises kMailboxVersion.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "nestbench/abi/layout.h"

namespace nestbench::abi {

inline constexpr std::uint32_t kMailboxMagic = 0x424D'424E;  // "NBMB" in memory
inline constexpr std::uint32_t kMailboxVersion = 1;
inline constexpr std::size_t kMailboxParameters = 8;
inline constexpr std::size_t kMailboxMessageBytes = 256;
inline constexpr std::size_t kMailboxValues = 128;

enum class Command : std::uint32_t {
  kNone = 0,    // ring at once: measures the cost of a call itself
  kSetUp = 1,   // prepare the working set; untimed
  kRun = 2,     // one timed batch of `iterations`
  kVerify = 3,  // check what the last kRun computed; untimed, same request
};

// How the payload gives control back. The host's probe chooses; the payload obeys.
enum class Doorbell : std::uint32_t {
  kReturn = 0,  // return from the entry function (a host process)
  kPort = 1,    // OUT to kDoorbellPort
  kMmio = 2,    // store to kDoorbellPage
};

enum class PayloadStatus : std::uint32_t {
  kNotRun = 0,  // written by the host before each command
  kOk = 1,
  kWrongResult = 2,  // the payload's own check of its result failed; `message` says how
  kBadRequest = 3,   // unknown operation, parameters out of range, arena too small
  kUnsupported = 4,  // this CPU lacks what the operation needs (`message` names it)
};

// Request half: written by the host only, while the payload does not run.
struct MailboxRequest {
  std::uint32_t magic;    // kMailboxMagic
  std::uint32_t version;  // kMailboxVersion
  Command command;
  Doorbell doorbell;
  std::uint64_t sequence;    // incremented for every command; echoed in the reply
  std::uint64_t operation;   // which operation of the payload
  std::uint64_t iterations;  // operations in this batch; 1 or more
  std::uint64_t seed;        // of all that is random in the payload
  std::uint64_t arena_base;  // kArenaBase
  std::uint64_t arena_bytes;
  std::uint64_t parameters[kMailboxParameters];  // meaning is the payload's
};

// Reply half: written by the payload only.
struct MailboxReply {
  std::uint64_t sequence;  // of the command that this answers
  PayloadStatus status;
  std::uint32_t value_count;             // of `values` in use
  std::uint64_t tsc_begin;               // read directly before the first operation of the batch
  std::uint64_t tsc_end;                 // read directly after the last one
  std::uint64_t operations;              // done between the two; what "per operation" divides by
  std::uint64_t bytes;                   // moved between the two; 0 where the notion does not apply
  std::uint64_t checksum;                // of the result: the same on every substrate for one seed and iteration count
  std::uint64_t values[kMailboxValues];  // further numbers, meaning is the payload's
  char message[kMailboxMessageBytes];    // NUL-terminated text when status is not kOk
};

struct Mailbox {
  MailboxRequest request;
  std::uint8_t reserved[512 - sizeof(MailboxRequest)];
  MailboxReply reply;
};

static_assert(std::is_trivially_copyable_v<Mailbox> && std::is_standard_layout_v<Mailbox>);
static_assert(offsetof(MailboxRequest, sequence) == 16 && sizeof(MailboxRequest) == 128);
static_assert(offsetof(Mailbox, reply) == 512);
static_assert(offsetof(MailboxReply, status) == 8 && offsetof(MailboxReply, tsc_begin) == 16);
static_assert(offsetof(MailboxReply, values) == 56 && offsetof(MailboxReply, message) == 1080);
static_assert(sizeof(Mailbox) <= kMailboxBytes);

}  // namespace nestbench::abi
