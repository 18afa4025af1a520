// The guest hypervisors that the substrate `nested` measures (workloads/hypervisors/): what their guest does ends as it
// would in a plain guest, with nested paging and with shadow paging. What is checked is the same for each of them; a
// condition names its processor's source.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "guest.h"
#include "nestbench/abi/address.h"
#include "nestbench/vmm/kvm/virtualization.h"
#include "nestbench/vmm/machine/user_machine.h"

namespace nestbench::conformance {

class GuestHypervisorTest : public KvmTest {
 protected:
  // How the processor's manual calls things.
  struct Processor {
    vmm::Virtualization virtualization;
    std::vector<int> hypercall;               // its bytes
    std::string_view nested_page_fault_exit;  // as the host is told of exits that L1 cannot handle
    std::string_view port_exit;
  };
  explicit GuestHypervisorTest(const Processor& processor) : processor_(processor) {}
  // Where the page tables are that L2 runs on, from what L1 was given at abi::kHypervisorControl.
  virtual std::uint64_t Level2Root(vmm::UserMachine& machine) = 0;

  void SetUp() override;

  void ExpectPortWritesPassedOn();
  void ExpectStoresToMmioCarriedOut();
  void ExpectHypercallAnswered();
  void ExpectGeneralProtectionFaultLeftToL2();
  void ExpectPageFaultLeftToL2();
  void ExpectL1OutOfReach();
  void ExpectEndForAnUnknownExit();
  void ExpectInterruptTaken();

  template <typename T>
  static T Read(vmm::UserMachine& machine, std::uint64_t address) {
    auto value = machine.vm().memory().Read<T>(abi::GuestPhysAddr(address));
    EXPECT_TRUE(value) << value.error().ToString();
    return value.value_or(T{});
  }

 private:
  // Skips the test where this KVM has no such paging for guest hypervisors.
  std::optional<vmm::UserMachine> Create(const std::vector<int>& code, bool nested_paging);

  Processor processor_;
  std::vector<std::byte> file_;
};

}  // namespace nestbench::conformance
