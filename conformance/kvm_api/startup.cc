// How a second vCPU starts: by INIT and start-up interrupts of the first, or by KVM_SET_MP_STATE. Source: kernel
// document "The Definitive KVM API Documentation", KVM_GET_MP_STATE; Intel SDM volume 3, sections "Interrupt Command
// Register (ICR)" and "MP Initialization Protocol".
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <optional>
#include <variant>
#include <vector>

#include "../harness/guest.h"
#include "nestbench/abi/x86.h"

namespace nestbench::conformance {
namespace {

class Startup : public GuestTest {
 protected:
  static constexpr std::uint32_t kInit = 0x4500;     // delivery mode 5, assert
  static constexpr std::uint32_t kStartup = 0x4600;  // delivery mode 6; the page is the vector
  static constexpr std::uint16_t kSecondCode = 0x9000;
  static constexpr std::uint16_t kSecondPage = kSecondCode >> 12;
  static constexpr std::uint16_t kSentPort = 0x11;
  static constexpr std::uint16_t kStartedPort = 0x42;

  void PrepareVm() override {
    auto made = vm().CreateIrqChip();
    ASSERT_TRUE(made) << made.error().ToString();
  }
  void SetUp() override {
    GuestTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    auto second = vmm::Vcpu::Create(vm(), abi::VcpuId(1));
    ASSERT_TRUE(second) << second.error().ToString();
    second_.emplace(std::move(*second));
    Load({0xE6, kStartedPort, 0xEB, 0xFE}, kSecondCode);  // out; jmp to itself
  }
  // The first vCPU writes these to its local APIC's command register, for the second.
  void Send(std::initializer_list<std::uint32_t> commands) {
    auto sregs = vcpu().GetSregs();
    ASSERT_TRUE(sregs);
    sregs->ds.base = abi::x86::kApicMmioBase;
    ASSERT_TRUE(vcpu().SetSregs(*sregs));
    std::vector<std::uint8_t> code;
    const auto store = [&code](std::uint16_t apic_register, std::uint32_t value) {
      const std::uint8_t bytes[] = {0x66, 0xC7, 0x06};  // mov dword [apic_register], value
      code.insert(code.end(), std::begin(bytes), std::end(bytes));
      for (unsigned i = 0; i < 2; ++i) code.push_back(static_cast<std::uint8_t>(apic_register >> (8 * i)));
      for (unsigned i = 0; i < 4; ++i) code.push_back(static_cast<std::uint8_t>(value >> (8 * i)));
    };
    // As every kernel does first. Until then KVM's map of local APICs may lack the second: it is made before that vCPU.
    store(abi::x86::kApicSpuriousInterrupt, abi::x86::kApicSoftwareEnable | abi::x86::kApicSpuriousVector);
    for (const std::uint32_t command : commands) {
      store(abi::x86::kApicInterruptCommand + 0x10, 1U << 24);  // to the local APIC 1
      store(abi::x86::kApicInterruptCommand, command);
    }
    code.push_back(0xE6);
    code.push_back(kSentPort);
    std::memcpy(memory().data() + kEntry, code.data(), code.size());
    auto regs = vcpu().GetRegs();
    ASSERT_TRUE(regs);
    regs->rip = kEntry;
    ASSERT_TRUE(vcpu().SetRegs(*regs));
    const auto exit = RunTo<vmm::IoExit>();
    ASSERT_TRUE(exit);
    ASSERT_EQ(exit->port, kSentPort);
  }
  // KVM_RUN ends with EAGAIN whenever a vCPU that waits has taken an event in.
  vmm::Exit RunSecond(std::chrono::milliseconds limit = std::chrono::seconds(2)) {
    auto deadline = vmm::RunDeadline::Start(*second_, limit);
    EXPECT_TRUE(deadline) << deadline.error().ToString();
    for (int tries = 0; deadline && tries < 10; ++tries) {
      auto exit = second_->Run();
      if (exit) return std::move(*exit);
      if (exit.error().error_number != EAGAIN) {
        ADD_FAILURE() << exit.error().ToString();
        break;
      }
    }
    return vmm::InterruptedExit{};
  }
  void ExpectStarted() {
    const vmm::Exit exit = RunSecond();
    const auto* const io = std::get_if<vmm::IoExit>(&exit);
    if (io == nullptr) return Complain(exit);
    EXPECT_EQ(io->port, kStartedPort);
    const auto sregs = second_->GetSregs();
    ASSERT_TRUE(sregs);
    EXPECT_EQ(sregs->cs.base, kSecondCode);
    EXPECT_EQ(sregs->cs.selector, kSecondCode >> 4);
  }
  std::uint32_t State() {
    const auto state = second_->GetMpState();
    EXPECT_TRUE(state) << state.error().ToString();
    return state ? state->mp_state : ~0U;
  }
  vmm::Vcpu& second() { return *second_; }

 private:
  std::optional<vmm::Vcpu> second_;
};

NESTBENCH_CONDITION(kvm_api, Startup, TheFirstRunsAndTheSecondWaits,
                    "KVM API, KVM_GET_MP_STATE: KVM_MP_STATE_RUNNABLE and KVM_MP_STATE_UNINITIALIZED") {
  const auto first = vcpu().GetMpState();
  ASSERT_TRUE(first) << first.error().ToString();
  EXPECT_EQ(first->mp_state, static_cast<std::uint32_t>(KVM_MP_STATE_RUNNABLE));
  EXPECT_EQ(State(), static_cast<std::uint32_t>(KVM_MP_STATE_UNINITIALIZED));
}
NESTBENCH_CONDITION(kvm_api, Startup, InitAndAStartupInterruptStartTheSecondAtItsPage,
                    "Intel SDM volume 3, MP Initialization Protocol: INIT-SIPI, the vector is a page") {
  Send({kInit, kStartup | kSecondPage});
  if (HasFailure() || IsSkipped()) return;
  ExpectStarted();
  EXPECT_EQ(State(), static_cast<std::uint32_t>(KVM_MP_STATE_RUNNABLE));
}
NESTBENCH_CONDITION(kvm_api, Startup, AStartupInterruptWithoutInitStartsNothing,
                    "KVM API, KVM_GET_MP_STATE: KVM_MP_STATE_UNINITIALIZED has not received an INIT signal") {
  Send({kStartup | kSecondPage});
  if (HasFailure() || IsSkipped()) return;
  EXPECT_TRUE(std::holds_alternative<vmm::InterruptedExit>(RunSecond(std::chrono::milliseconds(100))));
  EXPECT_EQ(State(), static_cast<std::uint32_t>(KVM_MP_STATE_UNINITIALIZED));
}
NESTBENCH_CONDITION(kvm_api, Startup, InitAloneMakesItWaitForTheStartupInterrupt,
                    "KVM API, KVM_GET_MP_STATE: KVM_MP_STATE_INIT_RECEIVED") {
  Send({kInit});
  if (HasFailure() || IsSkipped()) return;
  EXPECT_EQ(State(), static_cast<std::uint32_t>(KVM_MP_STATE_INIT_RECEIVED));
  Send({kStartup | kSecondPage});
  if (!HasFailure()) ExpectStarted();
}
NESTBENCH_CONDITION(kvm_api, Startup, InitStopsOneThatRuns,
                    "Intel SDM volume 3, Interrupt Command Register (ICR): INIT; KVM_MP_STATE_INIT_RECEIVED") {
  Send({kInit, kStartup | kSecondPage});
  if (HasFailure() || IsSkipped()) return;
  ExpectStarted();
  if (HasFailure() || IsSkipped()) return;
  Send({kInit});
  EXPECT_EQ(State(), static_cast<std::uint32_t>(KVM_MP_STATE_INIT_RECEIVED));
}
NESTBENCH_CONDITION(kvm_api, Startup, AStartupInterruptToOneThatRunsIsIgnored,
                    "Intel SDM volume 3, Interrupt Command Register (ICR): start up, only after INIT") {
  Send({kInit, kStartup | kSecondPage});
  if (HasFailure() || IsSkipped()) return;
  ExpectStarted();
  if (HasFailure() || IsSkipped()) return;
  Send({kStartup | (kSecondPage + 1)});
  EXPECT_TRUE(std::holds_alternative<vmm::InterruptedExit>(RunSecond(std::chrono::milliseconds(100))));
  const auto sregs = second().GetSregs();
  ASSERT_TRUE(sregs);
  EXPECT_EQ(sregs->cs.base, kSecondCode) << "it runs on where it was";
}
NESTBENCH_CONDITION(kvm_api, Startup, SetMpStateStartsTheSecondWhereItsRegistersPoint,
                    "KVM API, KVM_SET_MP_STATE: KVM_MP_STATE_RUNNABLE") {
  auto sregs = second().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->cs.base = kSecondCode;
  sregs->cs.selector = kSecondCode >> 4;
  ASSERT_TRUE(second().SetSregs(*sregs));
  kvm_regs regs = {};
  regs.rflags = abi::x86::kRflagsReserved1;
  ASSERT_TRUE(second().SetRegs(regs));
  ASSERT_TRUE(second().SetMpState(KVM_MP_STATE_RUNNABLE));
  ExpectStarted();
}

}  // namespace
}  // namespace nestbench::conformance
