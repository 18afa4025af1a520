// The operations whose cost is measured: machine code that runs in a loop at CPL0, in 64-bit mode.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace nestbench::costs {

using Bytes = std::span<const std::uint8_t>;

// Guest-physical address of the VMCB, for operations with a level 2.
inline constexpr std::uint32_t kVmcb = 0x8'0000;

// Where an operation that measures itself leaves its value of each pass: 8 bytes each, at the number of passes that are
// left. Guest-physical.
inline constexpr std::uint32_t kValues = 0xA'0000;
inline constexpr std::uint64_t kMostValues = 512;

// Pages of 4 KiB, for operations that need some: the page table is at kPageTable (guest-physical), its entry 0 is for a
// page at kUserPage (guest-virtual) that CPL3 may execute and whose code is `user_code`; entry 1 for a page at
// kMovingPage, where physical pages lie at kFirstPage and kSecondPage, which hold 0 and 2.
inline constexpr std::uint32_t kPageTable = 0xA'1000;
inline constexpr std::uint64_t kUserPage = 1ULL << 39;
inline constexpr std::uint64_t kMovingPage = kUserPage + 0x1000;
inline constexpr std::uint32_t kFirstPage = 0xA'6000;
inline constexpr std::uint32_t kSecondPage = 0xA'7000;

// Guest-physical: 4 bytes to which a second vCPU adds one for each interrupt that it has answered.
inline constexpr std::uint32_t kAnswers = 0xA'B000;

// A handler's vector that no exception and no device has.
inline constexpr unsigned kFreeVector = 47;

// Whether the operation needs a guest of the guest (L2), how that one's memory is translated, and what it does:
// kNestedFault loads from an address that the nested tables lack, kShadowPaging and kNestedPaging do VMMCALL. With the
// last two the loop itself is in L2, at CPL3, under the hypervisors that the substrates nested and nested_shadow have
// (workloads/hypervisors/); only `set_up`, `code` and `least_passes` are for those.
enum class Level2 : std::uint8_t { kNone, kShadowPaging, kNestedPaging, kNestedFault, kHypervisor, kHypervisorShadow };

// Whether it needs KVM's interrupt controllers, and how the local APIC's registers are reached. It is enabled.
enum class Apic : std::uint8_t { kNone, kXapic, kX2apic };

struct Operation {
  std::string_view name;
  std::string_view summary;
  Bytes set_up;             // once before the loop; may change all registers but R13, R15 and RSP
  Bytes code;               // may change all registers but R13-R15 and RSP, and what set_up left must serve it again
  int handled_vector = -1;  // what `code` raises or comes back through, and its own handler returns from
  Bytes handler = {};       // at most vmm::kFlatStubBytes
  std::uint16_t event_port = 0;   // a port whose writes end in the kernel, as an eventfd; 0: none
  Level2 level2 = Level2::kNone;  // its VMCB is at kVmcb; what it does is intercepted
  Apic apic = Apic::kNone;
  bool needs_tsc_deadline = false;
  bool has_user_msrs = false;  // MSRs that KVM does not know leave for the VMM
  Bytes user_code = {};        // for CPL3; SYSCALL leads to the handler of kFreeVector
  bool has_small_pages = false;
  bool has_second_vcpu = false;  // which sleeps, and runs the handler of kFreeVector; with x2APIC and small pages
  // What happens adds one to R13 for each pass, be it in a handler: that it did is checked.
  bool is_counted = false;
  // The length of the first loop, and of all where instructions are counted. Shorter ones meet fewer timers of the
  // host: what takes long needs few passes.
  std::uint64_t least_passes = 64;
  // Each pass leaves a number of TSC ticks at kValues: these are the samples, not what the loop takes.
  bool measures_itself = false;
};

constexpr bool RunsInLevel2(const Operation& operation) {
  return operation.level2 == Level2::kHypervisor || operation.level2 == Level2::kHypervisorShadow;
}

std::span<const Operation> Operations();

}  // namespace nestbench::costs
