// A guest hypervisor (L1) of a few bytes and its guest (L2). L1 carries out a list of commands, each one instruction of
// VMX, and tells how each ended, so that the test sees every one; the VMCS's fields, L2's code and everything else that
// a hypervisor would do are the test's.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <map>
#include <vector>

#include "../harness/long_mode.h"
#include "nestbench/abi/vmx.h"
#include "nestbench/vmm/kvm/vmx.h"

namespace nestbench::conformance {

// L2 shares L1's memory, page tables (no EPT) and descriptor tables, and runs at CPL0 from kL2Code.
class VmxTest : public LongModeTest {
 protected:
  static constexpr std::uint64_t kL2Code = kCode + 0x800;
  static constexpr std::uint64_t kL2StackTop = 0x3F000;
  static constexpr std::uint64_t kCommands = 0x50000;
  static constexpr std::uint64_t kRegisters = 0x5F000;  // L2's at its exit, in the order of their numbers
  static constexpr std::uint64_t kVmxonRegion = 0x60000;
  static constexpr std::uint64_t kVmcs = 0x61000;
  static constexpr std::uint64_t kPortBitmaps = 0x62000;  // two pages
  static constexpr std::uint64_t kMsrPermissions = 0x64000;
  static constexpr std::uint64_t kEptTables = 0x65000;  // three pages
  static constexpr std::uint64_t kScratch = 0x68000;
  static constexpr std::uint64_t kNowhere = 1ULL << 62;  // beyond every physical address

  enum class Op : std::uint64_t {
    kEnd,
    kVmxon,    // a: address of the region
    kVmclear,  // a: address of the VMCS
    kVmptrld,  // a: address of the VMCS
    kVmptrst,  // b becomes the address
    kVmwrite,  // a: field, b: value
    kVmread,   // a: field; b becomes the value
    kVmlaunch,
    kVmresume,
    kVmxoff,
    kInvept,   // a: type; the descriptor is at kScratch
    kInvvpid,  // a: type; the descriptor is at kScratch
    kStore,    // b to the address a: a table that the processor may hold is L1's to change
  };
  struct Command {
    Op op;
    std::uint64_t a = 0;
    std::uint64_t b = 0;
    std::uint64_t flags = 0;  // RFLAGS after the instruction; kExited when L2 was entered and has left
  };
  static constexpr std::uint64_t kExited = ~0ULL;

  using LongModeTest::Expect;

  // How an instruction ended. Intel SDM volume 3, chapter "VMX Instruction Reference", section "Conventions".
  enum class Ending : std::uint8_t { kSucceeded, kFailedInvalid, kFailedValid, kExited };
  static Ending EndingOf(const Command& command);

  void SetUp() override;

  // The test has failed or is skipped: nothing after that means anything.
  static bool IsOver() { return HasFailure() || IsSkipped(); }

  // Runs L1 until it has carried out all of them; false, and the test has failed or is skipped, when it did not come to
  // the end.
  bool Do(std::vector<Command>& commands);
  // Has L1 carry out one command, without waiting: the next KVM_RUN may end in L2.
  void Start(Command command);
  // Do() for one command. Fails the test unless it ended so; what L1 holds of it afterwards.
  Command Expect(Ending ending, Command command);
  // VMfailValid with that number. Section "VM Instruction Error Numbers".
  void ExpectError(std::uint64_t number, Command command);

  // The VMCS before the first entry, and changes between entries.
  std::uint64_t Field(std::uint32_t field) { return fields_[field]; }
  void SetField(std::uint32_t field, std::uint64_t value) { fields_[field] = value; }
  void AddBits(std::uint32_t field, std::uint64_t bits) { fields_[field] |= bits; }
  // Sets the controls where the capability MSRs allow it; else skips the test. Call it as `if (Lacks(...)) return;`.
  [[nodiscard]] bool LacksControls(std::uint32_t field, std::uint32_t bits, const char* name);

  void LoadL2(std::initializer_list<int> code);
  // Guest-physical = L2's physical for the first 8 MiB, in pages of 2 MiB: the entries at Ept(i). Skips the test where
  // there is no EPT; call it as `if (LacksEpt()) return;`.
  [[nodiscard]] bool LacksEpt();
  std::uint64_t& Ept(std::uint64_t index) { return Word(EptAddress(index)); }
  static constexpr std::uint64_t EptAddress(std::uint64_t index) { return kEptTables + 0x2000 + index * 8; }

  // VMXON, VMCLEAR, VMPTRLD and all fields; once.
  bool EnterVmx();
  // Enters L2 (VMLAUNCH first, then VMRESUME) with all fields that were set since. False, and the test has failed, when
  // L2 was not entered or L1 did not come back.
  bool EnterL2();
  // EnterL2, which must end with that exit reason.
  void ExpectExit(std::uint32_t reason);
  // LoadL2, EnterL2, and an exit at the instruction at `offset`.
  void ExpectExitAt(std::uint32_t reason, std::uint64_t offset, std::initializer_list<int> code);
  // What the entry checks: fields that VMLAUNCH refuses with an error, and guest state that makes it leave at once.
  void ExpectControlsRefused() { ExpectEntryError(7); }
  void ExpectHostStateRefused() { ExpectEntryError(8); }
  void ExpectGuestStateRefused();
  void ExpectEntryError(std::uint64_t number);

  // A field as L1 reads it.
  std::uint64_t Read(std::uint32_t field);
  std::uint64_t L2Register(unsigned number) { return Word(kRegisters + number * 8ULL); }
  const vmm::VmxCapabilities& capabilities() const { return capabilities_; }

 private:
  std::vector<Command> Writes();

  vmm::VmxCapabilities capabilities_;
  std::map<std::uint32_t, std::uint64_t> fields_;
  std::map<std::uint32_t, std::uint64_t> written_;
  bool in_vmx_ = false;
  bool launched_ = false;
};

}  // namespace nestbench::conformance
