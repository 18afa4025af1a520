// A machine of one vCPU that runs a flat binary at the highest privilege: in 16-bit real mode, in 32-bit protected mode
// without paging, or in 64-bit mode at CPL0.
//
// No boot code runs: descriptor tables, page tables (64-bit only) and the vCPU's state are written from outside. All
// that the guest needs lies in the first 64 KiB, so that one map serves 16-bit addresses too. The binary is loaded at
// kFlatCodeBase and begins with kFlatVectors stubs of kFlatStubBytes each, to which the interrupt table points; its
// entry comes directly after them. A stub of a vector that nobody handles leaves, on the stack and in words of the
// mode's width, vector, error code (0 where the vector has none), instruction pointer, code segment and flags, and
// writes to abi::kPanicPort; the machine then stops with the cause.
//
// There are no devices but the doorbell and the panic port, and unless FlatMachineOptions ask for them no interrupt
// controllers and no CPUID: all other ports and addresses answer as an empty bus does, and are counted, as are MSRs
// that leave the guest (read as zero). Whatever the guest does with its own memory and registers is its own harm.
//
// Move-only. Used from one thread, the one that created it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "nestbench/abi/layout.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"
#include "nestbench/vmm/machine/stop.h"

namespace nestbench::vmm {

// Guest-physical addresses. 64-bit code sees the first 4 GiB at the same virtual addresses, memory or not, and above
// them kFlatHighPages pages of 2 MiB that stand for guest-physical 4 GiB, 8 GiB, 16 GiB and 32 GiB.
inline constexpr std::uint64_t kFlatMemoryBytes = 1ULL << 20;
inline constexpr std::uint64_t kFlatGdtBase = 0x1000;
inline constexpr std::uint64_t kFlatIdtBase = 0x2000;  // in real mode the table is at 0
inline constexpr std::uint64_t kFlatTssBase = 0x3000;
inline constexpr std::uint64_t kFlatStackTop = 0x6000;
inline constexpr std::uint64_t kFlatFaultStackTop = 0x7000;  // of a double fault in 64-bit mode
inline constexpr std::uint64_t kFlatMailboxBase = 0x7000;
inline constexpr std::uint64_t kFlatCodeBase = 0x8000;
inline constexpr std::uint64_t kFlatCodeMaxBytes = 0x7000;
inline constexpr std::uint64_t kFlatPageTablesBase = 0x1'0000;
inline constexpr std::uint64_t kFlatHighBase = 4ULL << 30;
inline constexpr unsigned kFlatHighPages = 4;

inline constexpr unsigned kFlatVectors = 48;  // 32 exceptions, 16 interrupts
inline constexpr unsigned kFlatStubBytes = 16;
inline constexpr std::uint64_t kFlatEntry = kFlatCodeBase + kFlatVectors * kFlatStubBytes;

enum class FlatMode : std::uint8_t { kReal16, kProtected32, kSupervisor64 };

struct FlatMachineOptions {
  // KVM's own local APIC, I/O APIC and 8259A. HLT then sleeps in KVM, and neither halted() nor HoldInterrupt() serve.
  bool with_interrupt_chip = false;
  // All that KVM offers a guest, and the local APIC's TSC deadline, which it does not list.
  bool with_cpuid = false;
};

// What has left the guest so far.
struct FlatTraffic {
  std::uint64_t accesses = 0;    // to ports, MSRs and addresses without memory; the ring included
  std::uint64_t refused = 0;     // of these, those that no device claims or in a way it does not take
  std::uint64_t interrupts = 0;  // delivered
  std::uint64_t halts = 0;
};

class FlatMachine {
 public:
  // kInvalidArgument for a binary that is too large or too short to have an entry; else what failed: memory or an
  // ioctl.
  static Result<FlatMachine> Create(const KvmDevice& device, std::span<const std::byte> binary, FlatMode mode,
                                    FlatMachineOptions options = {});

  FlatMachine(FlatMachine&&) noexcept;
  FlatMachine& operator=(FlatMachine&&) = delete;
  FlatMachine(const FlatMachine&) = delete;
  FlatMachine& operator=(const FlatMachine&) = delete;
  ~FlatMachine();

  // Enters the guest until it rings or can go no further. A guest that halts sleeps, and this call with it, until an
  // interrupt that it accepts or a kick; halted() then says so. Never returns while a guest neither rings nor fails:
  // hold a RunDeadline.
  Result<Stop> RunUntilStop();

  // Holds an interrupt line up, or lets it go with nullopt: while it is up, `vector` is delivered each time that the
  // guest accepts interrupts, as from a level-triggered device that nobody quietens.
  void HoldInterrupt(std::optional<std::uint8_t> vector) { held_interrupt_ = vector; }

  // The host's view of the mailbox page. What the guest writes there is hostile.
  [[nodiscard]] std::span<std::byte> mailbox() const { return mailbox_; }
  [[nodiscard]] const FlatTraffic& traffic() const { return traffic_; }
  [[nodiscard]] bool halted() const { return halted_; }
  [[nodiscard]] FlatMode mode() const { return mode_; }
  [[nodiscard]] Vcpu& vcpu() { return vcpu_; }
  [[nodiscard]] Vm& vm() { return vm_; }

 private:
  struct Board;  // devices and buses point to each other: on the heap, so that the machine can move

  FlatMachine(Vm vm, Vcpu vcpu, std::unique_ptr<Board> board, FlatMode mode);
  Result<void> OfferInterrupt();
  void SleepUntilKicked();
  void CountAccess(bool is_refused);
  [[nodiscard]] Stop StopForGood(const Exit& exit) const;
  [[nodiscard]] Stop DescribeException() const;

  Vm vm_;
  Vcpu vcpu_;
  std::unique_ptr<Board> board_;
  FlatMode mode_;
  std::span<std::byte> mailbox_;
  FlatTraffic traffic_;
  std::optional<std::uint8_t> held_interrupt_;
  bool halted_ = false;
};

}  // namespace nestbench::vmm
