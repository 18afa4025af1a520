#include "nestbench/substrates/flat.h"

#include <cstring>
#include <utility>

#include "flat_substrate.h"
#include "nestbench/flat/guest_layout.h"
#include "nestbench/vmm/base/clock.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "watch_guest.h"

extern "C" {
// Labels of workloads/flat/images.S.
extern const std::byte nestbench_flat_real16_begin[];        // NOLINT(readability-identifier-naming)
extern const std::byte nestbench_flat_real16_end[];          // NOLINT(readability-identifier-naming)
extern const std::byte nestbench_flat_protected32_begin[];   // NOLINT(readability-identifier-naming)
extern const std::byte nestbench_flat_protected32_end[];     // NOLINT(readability-identifier-naming)
extern const std::byte nestbench_flat_supervisor64_begin[];  // NOLINT(readability-identifier-naming)
extern const std::byte nestbench_flat_supervisor64_end[];    // NOLINT(readability-identifier-naming)
}

namespace nestbench::substrates {
namespace {

using vmm::FlatMachine;
using vmm::StopReason;

// The assembly's numbers are those of the headers.
static_assert(NESTBENCH_FLAT_MEMORY_BYTES == vmm::kFlatMemoryBytes && NESTBENCH_FLAT_IDT == vmm::kFlatIdtBase);
static_assert(NESTBENCH_FLAT_MAILBOX == vmm::kFlatMailboxBase && NESTBENCH_FLAT_CODE == vmm::kFlatCodeBase &&
              NESTBENCH_FLAT_STACK_TOP == vmm::kFlatStackTop);
static_assert(NESTBENCH_FLAT_VECTORS == vmm::kFlatVectors && NESTBENCH_FLAT_STUB_BYTES == vmm::kFlatStubBytes);
static_assert(NESTBENCH_FLAT_HIGH == vmm::kFlatHighBase &&
              NESTBENCH_FLAT_HIGH_END == vmm::kFlatHighBase + vmm::kFlatHighPages * abi::kLargePageBytes);
static_assert(NESTBENCH_DOORBELL_PORT == abi::kDoorbellPort && NESTBENCH_PANIC_PORT == abi::kPanicPort);
static_assert(NESTBENCH_LAST_OWN_PORT == abi::kPanicPort + 3);
static_assert(NESTBENCH_MAILBOX_MAGIC == abi::kMailboxMagic && NESTBENCH_MAILBOX_VERSION == abi::kMailboxVersion);
static_assert(NESTBENCH_COMMAND_NONE == static_cast<int>(abi::Command::kNone) &&
              NESTBENCH_COMMAND_SET_UP == static_cast<int>(abi::Command::kSetUp) &&
              NESTBENCH_COMMAND_RUN == static_cast<int>(abi::Command::kRun) &&
              NESTBENCH_COMMAND_VERIFY == static_cast<int>(abi::Command::kVerify));
static_assert(NESTBENCH_BY_PORT == static_cast<int>(abi::Doorbell::kPort));
static_assert(NESTBENCH_STATUS_OK == static_cast<int>(abi::PayloadStatus::kOk) &&
              NESTBENCH_STATUS_WRONG_RESULT == static_cast<int>(abi::PayloadStatus::kWrongResult) &&
              NESTBENCH_STATUS_BAD_REQUEST == static_cast<int>(abi::PayloadStatus::kBadRequest));
static_assert(NESTBENCH_REQUEST_MAGIC == offsetof(abi::MailboxRequest, magic) &&
              NESTBENCH_REQUEST_VERSION == offsetof(abi::MailboxRequest, version) &&
              NESTBENCH_REQUEST_COMMAND == offsetof(abi::MailboxRequest, command) &&
              NESTBENCH_REQUEST_DOORBELL == offsetof(abi::MailboxRequest, doorbell) &&
              NESTBENCH_REQUEST_SEQUENCE == offsetof(abi::MailboxRequest, sequence) &&
              NESTBENCH_REQUEST_OPERATION == offsetof(abi::MailboxRequest, operation) &&
              NESTBENCH_REQUEST_ITERATIONS == offsetof(abi::MailboxRequest, iterations) &&
              NESTBENCH_REQUEST_SEED == offsetof(abi::MailboxRequest, seed) &&
              NESTBENCH_REQUEST_PARAMETER == offsetof(abi::MailboxRequest, parameters));
constexpr std::size_t kReply = offsetof(abi::Mailbox, reply);
static_assert(NESTBENCH_REPLY == kReply && NESTBENCH_REPLY_BYTES == sizeof(abi::MailboxReply) &&
              NESTBENCH_REPLY_SEQUENCE == kReply + offsetof(abi::MailboxReply, sequence) &&
              NESTBENCH_REPLY_STATUS == kReply + offsetof(abi::MailboxReply, status) &&
              NESTBENCH_REPLY_VALUE_COUNT == kReply + offsetof(abi::MailboxReply, value_count) &&
              NESTBENCH_REPLY_TSC_BEGIN == kReply + offsetof(abi::MailboxReply, tsc_begin) &&
              NESTBENCH_REPLY_TSC_END == kReply + offsetof(abi::MailboxReply, tsc_end) &&
              NESTBENCH_REPLY_OPERATIONS == kReply + offsetof(abi::MailboxReply, operations) &&
              NESTBENCH_REPLY_BYTES_MOVED == kReply + offsetof(abi::MailboxReply, bytes) &&
              NESTBENCH_REPLY_CHECKSUM == kReply + offsetof(abi::MailboxReply, checksum) &&
              NESTBENCH_REPLY_MESSAGE == kReply + offsetof(abi::MailboxReply, message));

vmm::FlatMode ModeOfMachine(FlatMode mode) {
  switch (mode) {
    case FlatMode::kReal16:
      return vmm::FlatMode::kReal16;
    case FlatMode::kProtected32:
      return vmm::FlatMode::kProtected32;
    case FlatMode::kSupervisor64:
      break;
  }
  return vmm::FlatMode::kSupervisor64;
}

}  // namespace

std::string_view ToString(FlatMode mode) {
  switch (mode) {
    case FlatMode::kReal16:
      return "real16";
    case FlatMode::kProtected32:
      return "protected32";
    case FlatMode::kSupervisor64:
      break;
  }
  return "supervisor64";
}

std::span<const std::byte> FlatImage(FlatMode mode) {
  switch (mode) {
    case FlatMode::kReal16:
      return {nestbench_flat_real16_begin, nestbench_flat_real16_end};
    case FlatMode::kProtected32:
      return {nestbench_flat_protected32_begin, nestbench_flat_protected32_end};
    case FlatMode::kSupervisor64:
      break;
  }
  return {nestbench_flat_supervisor64_begin, nestbench_flat_supervisor64_end};
}

std::uint64_t FlatChecksum(std::uint64_t seed, std::uint32_t iterations) {
  auto state = static_cast<std::uint32_t>(seed ^ (seed >> 32));
  for (std::uint32_t i = 0; i < iterations; ++i) state = state * NESTBENCH_FLAT_MULTIPLIER + NESTBENCH_FLAT_INCREMENT;
  return (std::uint64_t{state ^ iterations} << 32) | state;
}

Result<std::unique_ptr<Substrate>> CreateFlat(FlatMode mode, const FlatOptions& options) {
  return FlatSubstrate::Create(mode, options, std::nullopt);
}

Result<std::unique_ptr<Substrate>> FlatSubstrate::Create(FlatMode mode, const FlatOptions& options,
                                                         const std::optional<Misconduct>& misconduct) {
  std::optional<vmm::KvmDevice> opened;
  if (options.device == nullptr) {
    auto device = vmm::KvmDevice::Open();
    if (!device) return Fail(Error::Unsupported("run a guest", device.error().ToString()));
    opened.emplace(std::move(*device));
  }
  const vmm::KvmDevice& device = options.device != nullptr ? *options.device : *opened;
  auto machine = FlatMachine::Create(device, FlatImage(mode), ModeOfMachine(mode));
  if (!machine) return Fail(std::move(machine.error()));
  std::optional<vmm::BinaryStats> stats;  // a kernel without them costs only the count
  if (auto from_vcpu = machine->vcpu().Stats()) stats.emplace(std::move(*from_vcpu));
  if (misconduct) machine->HoldInterrupt(misconduct->held_interrupt);
  return std::unique_ptr<Substrate>(new FlatSubstrate(std::move(*machine), std::move(stats), misconduct));
}

Result<CallOutcome> FlatSubstrate::Call(const abi::MailboxRequest& request, std::chrono::nanoseconds limit) {
  abi::MailboxRequest written = request;
  if (misconduct_) {
    written.command = abi::Command::kRun;
    written.operation = misconduct_->operation;
    written.parameters[0] = misconduct_->parameter;
    written.seed = misconduct_->seed;
  }
  std::memcpy(machine_.mailbox().data(), &written, sizeof(written));
  const vmm::FlatTraffic before = machine_.traffic();
  CallOutcome outcome;
  vmm::Stop stop;
  {
    auto deadline = vmm::RunDeadline::Start(machine_.vcpu(), limit);
    if (!deadline) return Fail(std::move(deadline.error()));
    const std::uint64_t begin_ns = vmm::MonotonicRawNs();
    do {
      auto stopped = machine_.RunUntilStop();
      if (!stopped) return Fail(std::move(stopped.error()));
      stop = std::move(*stopped);
      // Some other signal than the deadline's: the guest goes on.
    } while (stop.reason == StopReason::kInterrupted && !deadline->Expired());
    outcome.outside_ns = vmm::MonotonicRawNs() - begin_ns;
  }
  CallEvidence evidence;
  const vmm::FlatTraffic& after = machine_.traffic();
  evidence.accesses = after.accesses - before.accesses;
  evidence.refused = after.refused - before.refused;
  evidence.interrupts = after.interrupts - before.interrupts;
  if (stop.reason == StopReason::kDoorbell) {
    outcome.end = CallEnd::kRang;
  } else if (stop.reason == StopReason::kInterrupted) {
    outcome.end = CallEnd::kTimedOut;
    const WatchedGuest guest = {machine_.vcpu(), machine_.vm().memory(), [this] { return machine_.RunUntilStop(); },
                                [this] {
                                  const vmm::FlatTraffic& traffic = machine_.traffic();
                                  return WatchedGuest::Counts{traffic.accesses, traffic.interrupts, machine_.halted()};
                                }};
    auto text = WatchGuest(guest, evidence);
    if (!text) return Fail(std::move(text.error()));
    outcome.text = std::move(*text);
  } else {
    outcome.end = CallEnd::kCrashed;
    evidence.crash = DescribeCrash(stop, machine_.vcpu(), machine_.vm().memory());
    outcome.text = std::move(stop.text);
  }
  outcome.evidence = evidence;
  return outcome;
}

std::optional<std::uint64_t> FlatSubstrate::exits() const {
  if (!stats_) return std::nullopt;
  auto count = stats_->Get("exits");
  if (!count) return std::nullopt;
  return *count;
}

}  // namespace nestbench::substrates
