#include "nestbench/substrates/guest_faults.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "flat_substrate.h"
#include "nestbench/flat/guest_layout.h"
#include "nestbench/substrates/mailbox_reader.h"

namespace nestbench::substrates {
namespace {

constexpr std::string_view kFlatGuest = "64-bit guest at CPL0, workloads/flat/faults.S";
constexpr std::uint8_t kStormVector = NESTBENCH_FLAT_STORM_VECTOR;
constexpr std::uint64_t kSweepSteps = 256;

constexpr GuestCause kTripleFaultCauses[] = {GuestCause::kTripleFault};
constexpr GuestCause kExceptionLoopCauses[] = {GuestCause::kExceptionLoop};
// Where the target lies beyond what addresses can be, the jump itself faults.
constexpr GuestCause kWildJumpCauses[] = {GuestCause::kWildJump, GuestCause::kException};
// AMD's hardware leaves no registers behind after a triple fault, so that the tables cannot be named.
constexpr GuestCause kPageTableCauses[] = {GuestCause::kBadPageTables, GuestCause::kTripleFault};
constexpr GuestCause kSpinCauses[] = {GuestCause::kSpinInterruptsOff};
constexpr GuestCause kHaltedCauses[] = {GuestCause::kHalted};
constexpr GuestCause kExitStormCauses[] = {GuestCause::kExitStorm};
constexpr GuestCause kInterruptStormCauses[] = {GuestCause::kInterruptStorm};
constexpr GuestCause kWildAccessCauses[] = {GuestCause::kWildAccesses};
constexpr GuestCause kLieCauses[] = {GuestCause::kLies};

constexpr std::array<GuestFaultInfo, 10> kFaults = {{
    {GuestFault::kTripleFault, "triple_fault", "the guest raises an exception without an interrupt table to handle it",
     kFlatGuest, "", GuestFaultClass::kGuestFault, CallEnd::kCrashed, kTripleFaultCauses, false},
    {GuestFault::kExceptionLoop, "exception_loop", "an exception's handler returns to the instruction that faults",
     kFlatGuest, "", GuestFaultClass::kHang, CallEnd::kTimedOut, kExceptionLoopCauses, false},
    {GuestFault::kWildJump, "wild_jump", "the guest jumps to an address where it has no code", kFlatGuest, "",
     GuestFaultClass::kGuestFault, CallEnd::kCrashed, kWildJumpCauses, false},
    {GuestFault::kPageTableGarbage, "page_table_garbage", "the guest fills one of its page tables with noise",
     kFlatGuest, "", GuestFaultClass::kGuestFault, CallEnd::kCrashed, kPageTableCauses, false},
    {GuestFault::kSpinInterruptsOff, "spin_interrupts_off", "the guest turns interrupts off and loops", kFlatGuest, "",
     GuestFaultClass::kHang, CallEnd::kTimedOut, kSpinCauses, false},
    {GuestFault::kHungVcpu, "hung_vcpu", "the guest halts, and nothing can wake it", kFlatGuest, "",
     GuestFaultClass::kHang, CallEnd::kTimedOut, kHaltedCauses, false},
    {GuestFault::kExitStorm, "exit_storm", "the guest writes to a port without end", kFlatGuest, "",
     GuestFaultClass::kHang, CallEnd::kTimedOut, kExitStormCauses, false},
    {GuestFault::kInterruptStorm, "interrupt_storm", "an interrupt that nobody quietens keeps the guest from its work",
     kFlatGuest, "holds an interrupt line up", GuestFaultClass::kHang, CallEnd::kTimedOut, kInterruptStormCauses,
     false},
    {GuestFault::kWriteUnmapped, "write_unmapped",
     "the guest writes to ports without a device and to addresses without memory", kFlatGuest, "",
     GuestFaultClass::kGuestFault, CallEnd::kRang, kWildAccessCauses, true},
    {GuestFault::kMailboxLies, "mailbox_lies", "the guest rings, and its reply cannot be true", kFlatGuest, "",
     GuestFaultClass::kGuestFault, CallEnd::kRang, kLieCauses, true},
}};

// Source: S. Vigna, "splitmix64", public domain.
std::uint64_t Scramble(std::uint64_t value) {
  value += 0x9E37'79B9'7F4A'7C15;
  value = (value ^ (value >> 30)) * 0xBF58'476D'1CE4'E5B9;
  value = (value ^ (value >> 27)) * 0x94D0'49BB'1331'11EB;
  return value ^ (value >> 31);
}

// In turn: mapped but without memory, not mapped, not canonical.
std::uint64_t WildTarget(std::uint64_t seed) {
  const std::uint64_t noise = Scramble(seed);
  constexpr std::uint64_t kCanonicalBits = 47;
  switch (noise % 3) {
    case 0:
      return NESTBENCH_FLAT_MEMORY_BYTES + (noise >> 8) % (NESTBENCH_FLAT_HIGH - NESTBENCH_FLAT_MEMORY_BYTES);
    case 1:
      return NESTBENCH_FLAT_HIGH_END + (noise >> 8) % ((1ULL << kCanonicalBits) - NESTBENCH_FLAT_HIGH_END);
    default:
      return (1ULL << 63) | (noise >> 8);
  }
}

// The tables on the way to the guest's own code: level 4, level 3, level 2.
std::uint64_t TableOf(std::uint64_t seed) { return vmm::kFlatPageTablesBase + Scramble(seed) % 3 * abi::kPageBytes; }

FlatSubstrate::Misconduct MisconductOf(GuestFault fault, std::uint64_t seed) {
  switch (fault) {
    case GuestFault::kTripleFault:
      return {.operation = NESTBENCH_FLAT_TRIPLE_FAULT};
    case GuestFault::kExceptionLoop:
      return {.operation = NESTBENCH_FLAT_EXCEPTION_LOOP};
    case GuestFault::kWildJump:
      return {.operation = NESTBENCH_FLAT_WILD_JUMP, .parameter = WildTarget(seed)};
    case GuestFault::kPageTableGarbage:
      return {.operation = NESTBENCH_FLAT_GARBAGE_TABLE, .parameter = TableOf(seed)};
    case GuestFault::kSpinInterruptsOff:
      return {.operation = NESTBENCH_FLAT_SPIN};
    case GuestFault::kHungVcpu:
      return {.operation = NESTBENCH_FLAT_HALT};
    case GuestFault::kExitStorm:
      return {.operation = NESTBENCH_FLAT_EXIT_STORM};
    case GuestFault::kInterruptStorm:
      return {.operation = NESTBENCH_FLAT_INTERRUPT_STORM, .held_interrupt = kStormVector};
    case GuestFault::kWriteUnmapped:
      return {.operation = NESTBENCH_FLAT_SWEEP, .parameter = kSweepSteps};
    case GuestFault::kMailboxLies:
      break;
  }
  return {.operation = NESTBENCH_FLAT_LIE, .parameter = Scramble(seed) % NESTBENCH_LIES};
}

}  // namespace

std::span<const GuestFaultInfo> GuestFaults() { return kFaults; }

const GuestFaultInfo* FindGuestFault(std::uint32_t number) {
  const auto* found = std::ranges::find(kFaults, static_cast<GuestFault>(number), &GuestFaultInfo::fault);
  return found == kFaults.end() ? nullptr : found;
}

const GuestFaultInfo* FindGuestFault(std::string_view name) {
  const auto* found = std::ranges::find(kFaults, name, &GuestFaultInfo::name);
  return found == kFaults.end() ? nullptr : found;
}

bool IsRight(const GuestFaultInfo& fault, const GuestVerdict& verdict) {
  return verdict.fault_class == fault.expected && verdict.survives == fault.survives &&
         std::ranges::find(fault.causes, verdict.cause) != fault.causes.end();
}

Result<std::unique_ptr<Substrate>> CreateFaulty(GuestFault fault, std::uint64_t seed, const FlatOptions& options) {
  if (FindGuestFault(static_cast<std::uint32_t>(fault)) == nullptr) {
    return Fail(Error::InvalidArgument("create faulty guest",
                                       fmt::format("there is no guest fault {}", static_cast<std::uint32_t>(fault))));
  }
  FlatSubstrate::Misconduct misconduct = MisconductOf(fault, seed);
  misconduct.seed = seed;
  return FlatSubstrate::Create(FlatMode::kSupervisor64, options, misconduct);
}

Result<void> TryGuestFault(GuestFault fault, const FlatOptions& options, std::chrono::nanoseconds limit) {
  auto guest = CreateFaulty(fault, 0, options);
  if (!guest) return Fail(std::move(guest.error()));
  abi::MailboxRequest request = {};
  request.magic = abi::kMailboxMagic;
  request.version = abi::kMailboxVersion;
  request.command = abi::Command::kRun;
  request.doorbell = (*guest)->doorbell();
  request.sequence = 1;
  request.iterations = 1;
  auto outcome = (*guest)->Call(request, limit);
  if (!outcome) return Fail(std::move(outcome.error()));
  auto reply = ReadReply((*guest)->mailbox(), request);
  const GuestVerdict verdict = ClassifyGuestFault(*outcome, reply ? nullptr : &reply.error());
  const GuestFaultInfo* info = FindGuestFault(static_cast<std::uint32_t>(fault));
  if (IsRight(*info, verdict)) return {};
  return Fail(Error::Unsupported(
      "commit guest fault", fmt::format("{} ends as {} ({}) here: {}", info->name, ToString(verdict.fault_class),
                                        verdict.words.empty() ? "nothing was wrong" : verdict.words, outcome->text)));
}

}  // namespace nestbench::substrates
