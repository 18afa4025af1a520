// What the supervisor and a tenant tell each other: versioned messages of fixed layout over a SOCK_SEQPACKET socket, so
// that a message arrives whole or not at all, and sending one from a signal handler is a single system call.
//
// The tenant's side is hostile to the supervisor: a guest that broke out of its VMM writes these messages. Nothing here
// is used before CheckMessage() has passed it, and no number of it is used as a size or an index without a check.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <type_traits>

#include "nestbench/abi/mailbox.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::tenants {

inline constexpr std::uint32_t kMessageMagic = 0x4354'424E;  // "NBTC" in memory
inline constexpr std::uint16_t kMessageVersion = 3;
inline constexpr std::size_t kMaxMessageBytes = 32768;
inline constexpr std::size_t kMaxImages = 32;

enum class MessageType : std::uint16_t {
  // To the zygote.
  kSpawn = 1,  // Spawn, with the tenant's end of its channel as the only descriptor
  // To a tenant.
  kStart = 2,    // Empty: it is in its cgroup now and may begin
  kSetLoad = 3,  // Load
  kReport = 4,   // ReportRequest
  kInject = 5,   // Inject
  kStop = 6,     // Empty: give everything back and exit with 0
  // From the zygote.
  kSpawned = 32,  // Spawned
  kEnded = 40,    // Ended
  // From a tenant.
  kReady = 33,        // Ready, with the descriptor of its vCPU's statistics where there is one
  kHeartbeat = 34,    // Heartbeat
  kWindow = 35,       // Window
  kTotals = 36,       // Totals: the answer to kReport, after its kHistogram messages
  kHistogram = 37,    // HistogramPart
  kFault = 38,        // Fault: the last thing a tenant says, when it can
  kLoadRefused = 39,  // Fault: the load could not be set up; the tenant is idle
  kLog = 41,          // Log
};

// Which guest, or none.
enum class TenantKind : std::uint32_t {
  kBare = 0,          // the payload in this process: `bare`, and in a zone `zone`
  kVm = 1,            // 64-bit user payload in a guest
  kSupervisor64 = 2,  // flat guests: 64-bit CPL0, 32-bit protected mode, 16-bit real mode
  kProtected32 = 3,
  kReal16 = 4,
};
inline constexpr std::uint32_t kTenantKinds = 5;

struct Spawn {
  std::uint64_t tenant;  // the supervisor's number for it
  TenantKind kind;
  std::uint32_t image;  // index into the images that the program was started with
  std::uint64_t arena_bytes;
  std::uint64_t host_page_bytes;
  std::uint64_t guest_page_bytes;
  std::uint64_t seed;
  abi::Doorbell doorbell;
  std::int32_t cpu;             // pinned there; -1: not pinned
  std::uint32_t heartbeat_ms;   // 0: none
  std::uint32_t max_files;      // RLIMIT_NOFILE
  std::uint32_t max_processes;  // RLIMIT_NPROC; 0: as inherited
  std::uint32_t may_fork;       // 1: the system-call filter lets it start processes (a fork bomb has to)
  std::uint32_t attach_event;   // 1: writes to the event port and page of a guest end in the kernel, as ioeventfd
  std::uint32_t starts_itself;  // 1: it is born where it belongs, and does not wait for kStart
  std::uint32_t has_disk;       // 1: the disk that the program was started with
  std::int32_t io_cpu;          // of the thread of a guest's device; -1: not pinned
  std::uint32_t has_network;    // 1: a second guest in this process, and a switch between the two
  std::uint32_t reserved;       // 0
};

struct Spawned {
  std::uint64_t tenant;
  std::int32_t pid;           // -1 when it could not be started
  std::int32_t error_number;  // why
};

// A tenant that is no more, as wait4(2) tells.
struct Ended {
  std::uint64_t tenant;
  std::int32_t pid;
  std::int32_t wait_status;
  std::uint64_t max_resident_bytes;
};

// What a tenant does all day.
enum class Activity : std::uint32_t {
  kNone = 0,         // nothing
  kRequests = 1,     // the payload's operation, at a rate or as fast as it can
  kTimerStorm = 2,   // closed-loop requests under a flood of timer interrupts of the VMM
  kVmChurn = 3,      // makes and destroys VMs
  kProcesses = 4,    // starts processes without end, each of which makes a VM where it can
  kHoldMemory = 5,   // touches the arena up to `hold_bytes`, page by page, and keeps it
  kChurnMemory = 6,  // touches `hold_bytes` of the arena and gives them back, without end
};
inline constexpr std::uint32_t kActivities = 7;

struct Load {
  Activity activity;
  std::uint32_t intensity_percent;  // duty cycle of an activity that is not kRequests; 1 to 100
  std::uint64_t operation;
  std::uint64_t parameters[abi::kMailboxParameters];
  std::uint64_t iterations;        // of one request: its fixed work
  std::uint64_t period_ns;         // between two requests that are due; 0: the next at once (closed loop)
  std::uint64_t phase_ns;          // of the first, so that many tenants do not beat in step
  std::uint64_t request_limit_ns;  // of one request; beyond it the tenant reports a hang
  std::uint64_t hold_bytes;
  std::uint64_t window_ns;
};

struct ReportRequest {
  std::uint32_t reset;   // 1: start the histogram and the totals over
  std::uint32_t verify;  // 1: have the payload check its memory first
};

// A fault of the VMM's process itself, or a guest fault (numbers of guest_faults.h) that starts at kFirstGuestFault.
enum class VmmFault : std::uint32_t {
  kSegmentationFault = 1,
  kAbort = 2,
  kStackOverflow = 3,
  kForbiddenSystemCall = 4,
  kDescriptorExhaustion = 5,
  kThreadExhaustion = 6,
  kDiskFull = 7,
  kBusyLoop = 8,  // the VMM's own code spins; no guest runs and no heartbeat is sent
  // Of what a guest's disk stands on: from now on each request fails. The guest is told, and what it then does counts.
  kDiskInputOutput = 9,  // EIO: a medium that broke
  kDiskNoSpace = 10,     // ENOSPC: thin provisioning that ran out
  kLinkDown = 11,        // of its network: nothing passes from now on
};
inline constexpr std::uint32_t kFirstGuestFault = 1000;

struct Inject {
  std::uint32_t fault;
  std::uint32_t reserved;
  std::uint64_t seed;
};

struct Ready {
  std::uint64_t set_up_ns;       // from kStart, or its birth, to now
  std::uint64_t memory_base;     // of the guest's largest memory in this process; 0 where there is none
  std::uint64_t memory_bytes;    // all guest memory
  std::uint64_t first_exit_ns;   // of the empty command that proves it alive
  std::int32_t clock_ticks;      // reserved for later versions; 0
  std::uint32_t has_statistics;  // 1: one descriptor comes with this message
};

enum class TenantState : std::uint32_t { kIdle = 1, kServing = 2, kFaulty = 3 };

struct Heartbeat {
  std::uint64_t at_ns;  // CLOCK_MONOTONIC, as all times here
  TenantState state;
  std::uint32_t reserved;
  std::uint64_t requests;          // done since the start
  std::uint64_t request_since_ns;  // when the present request began; 0: none is running
};

struct Window {
  std::uint64_t begin_ns;
  std::uint64_t duration_ns;
  std::uint64_t requests;  // done in it
  std::uint64_t due;       // that were due in it
  std::uint64_t backlog;   // due and not begun at its end
  std::uint64_t wrong;     // answers with another checksum than the first
  std::uint64_t p50_ns;    // of the latencies of the requests done in it; 0 without any
  std::uint64_t p99_ns;
  std::uint64_t max_ns;
  std::uint64_t cpu_ns;      // of the tenant's process
  std::uint64_t exits;       // of its vCPU
  std::uint64_t activities;  // passes of an activity that is not kRequests
};

struct Totals {
  std::uint64_t begin_ns;
  std::uint64_t end_ns;
  std::uint64_t requests;
  std::uint64_t due;
  std::uint64_t wrong;
  std::uint64_t checksum;  // of one request
  std::uint64_t exits;
  std::uint64_t cpu_ns;
  std::uint64_t held_bytes;
  std::uint64_t histogram_parts;  // kHistogram messages that came before this
  std::uint32_t verified;         // 1: the payload checked its memory and found it right; 2: it did not; 0: not asked
  std::uint32_t reserved;
};

struct HistogramEntry {
  std::uint32_t index;  // bucket of LatencyHistogram
  std::uint32_t count;
};
inline constexpr std::size_t kHistogramEntries = 2048;
struct HistogramPart {
  std::uint32_t count;  // of `entries` in use
  std::uint32_t reserved;
  HistogramEntry entries[kHistogramEntries];
};

enum class FaultClass : std::uint32_t {
  kGuestFault = 1,
  kVmmFault = 2,
  kHang = 3,
  kHostResource = 4,
  kUnsupported = 5
};

inline constexpr std::size_t kCauseBytes = 256;
inline constexpr std::size_t kEvidenceBytes = 8192;
struct Fault {
  FaultClass fault_class;
  std::int32_t error_number;  // errno where there was one, else 0
  std::int32_t signal;        // that the process is about to die of, else 0
  std::uint32_t reserved;
  std::uint64_t address;          // of a signal's fault
  char cause[kCauseBytes];        // NUL-terminated words: "triple fault"
  char evidence[kEvidenceBytes];  // NUL-terminated: registers, exit data
};

// A line for the crash bundle, should there be one.
inline constexpr std::size_t kLogBytes = 240;
struct Log {
  std::uint64_t at_ns;
  char text[kLogBytes];  // NUL-terminated
};

struct MessageHeader {
  std::uint32_t magic;
  std::uint16_t version;
  MessageType type;
  std::uint32_t bytes;  // of the whole message
  std::uint32_t reserved;
};

template <typename Body>
struct Message {
  MessageHeader header;
  Body body;
  static_assert(std::is_trivially_copyable_v<Body> && alignof(Body) <= 8);
};
static_assert(sizeof(MessageHeader) == 16);
static_assert(sizeof(Message<HistogramPart>) <= kMaxMessageBytes && sizeof(Message<Fault>) <= kMaxMessageBytes);

// Bytes of the body of a type; empty for a type that does not exist.
std::size_t BodyBytes(MessageType type);
std::string_view ToString(MessageType type);
std::string_view ToString(TenantKind kind);
std::string_view ToString(Activity activity);
std::string_view ToString(FaultClass fault_class);

// The type of a whole message. kMalformed for wrong magic, version, type or size, and for fields out of their range:
// an unknown word, a text without its end, a count beyond its array.
vmm::Result<MessageType> CheckMessage(std::span<const std::byte> message);

}  // namespace nestbench::tenants
