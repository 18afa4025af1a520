// A guest hypervisor (L1) of a few bytes and its guest (L2). L1 is a loop of VMRUN and a port write, so that the test
// sees each #VMEXIT; the VMCB, L2's code and everything else that a hypervisor would do are the test's.
#pragma once

#include <cstdint>
#include <initializer_list>

#include "../harness/long_mode.h"
#include "nestbench/abi/svm.h"
#include "nestbench/vmm/kvm/svm.h"

namespace nestbench::conformance {

// L2 shares L1's memory, page tables (shadow paging) and descriptor tables, and runs at CPL0 from kL2Code.
class SvmTest : public LongModeTest {
 protected:
  static constexpr std::uint64_t kL2Code = kCode + 0x800;
  static constexpr std::uint64_t kL2StackTop = 0x3F000;
  static constexpr std::uint64_t kVmcb = 0x50000;
  static constexpr std::uint64_t kHostSave = kVmcb + vmm::kSvmHostSaveOffset;
  static constexpr std::uint64_t kMsrPermissions = kVmcb + vmm::kSvmMsrPermissionsOffset;
  static constexpr std::uint64_t kIoPermissions = kVmcb + vmm::kSvmIoPermissionsOffset;
  static constexpr std::uint64_t kNestedTables = 0x58000;  // three pages

  void SetUp() override;
  abi::svm::Vmcb& vmcb() { return *reinterpret_cast<abi::svm::Vmcb*>(&Word(kVmcb)); }
  void LoadL2(std::initializer_list<int> code) { LoadAt(kL2Code, code); }
  // In place of the loop: what L1 does to its flags, and VMRUN, are then the test's.
  void LoadL1(std::initializer_list<int> code) { LoadAt(kCode, code); }
  void LoadAt(std::uint64_t address, std::initializer_list<int> code);
  // Guest-physical = L2's physical for the first 8 MiB, in pages of 2 MiB.
  void UseNestedPaging();

  // Runs until L1 or L2 writes to that port, which nobody intercepts; anything else fails the test.
  bool ReachPort(std::uint16_t port);
  // Enters L2 until its next #VMEXIT; false when L1 did not come back to tell, and then the test has failed.
  bool EnterL2();
  // EnterL2, which must end with that exit code.
  void ExpectExit(std::uint64_t exit_code);
  // LoadL2, with these intercepts beside that of VMRUN, and ExpectExit.
  void ExpectIntercept1(unsigned bit, std::initializer_list<int> code);
  void ExpectIntercept2(unsigned bit, std::initializer_list<int> code);
};

}  // namespace nestbench::conformance
