// Interrupts that arrive: by message, by a route, by an eventfd, by a line. Source: kernel document "The Definitive KVM
// API Documentation", KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING, KVM_IRQFD and KVM_IRQ_LINE.
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "../harness/guest.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::conformance {
namespace {

// In real mode with interrupts on; each interrupt of kVector writes to kTakenPort.
class Delivery : public GuestTest {
 protected:
  static constexpr std::uint32_t kVector = 0x41;
  static constexpr std::uint16_t kHandler = 0x3000;
  static constexpr std::uint16_t kReadyPort = 0x11;
  static constexpr std::uint16_t kTakenPort = 0x41;
  static constexpr std::uint32_t kLine = 20;  // an I/O APIC's alone: the PICs have 16

  void PrepareVm() override {
    auto made = vm().CreateIrqChip();
    ASSERT_TRUE(made) << made.error().ToString();
  }
  void SetUp() override {
    GuestTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    Load({0xE6, kReadyPort, 0xFB, 0xEB, 0xFE});  // out; sti; jmp to itself
    Load({0xE6, kTakenPort, 0xCF}, kHandler);    // out; iret
    const std::uint16_t entry[] = {kHandler, 0};
    std::memcpy(memory().data() + kVector * sizeof(entry), entry, sizeof(entry));
    auto state = vcpu().GetLapic();
    ASSERT_TRUE(state) << state.error().ToString();
    constexpr std::uint32_t kEnabled = abi::x86::kApicSoftwareEnable | abi::x86::kApicSpuriousVector;
    std::memcpy(&state->regs[abi::x86::kApicSpuriousInterrupt], &kEnabled, sizeof(kEnabled));
    ASSERT_TRUE(vcpu().SetLapic(*state));
    const auto ready = RunTo<vmm::IoExit>();
    ASSERT_TRUE(ready);
    ASSERT_EQ(ready->port, kReadyPort);
  }
  void ExpectTaken() {
    const auto exit = RunTo<vmm::IoExit>();
    if (!exit) return;
    EXPECT_EQ(exit->port, kTakenPort);
  }
  void ExpectNone() {
    EXPECT_TRUE(std::holds_alternative<vmm::InterruptedExit>(RunQuietly(std::chrono::milliseconds(100))));
  }
  // As Run(), but to be interrupted is what is expected.
  vmm::Exit RunQuietly(std::chrono::milliseconds limit) {
    auto deadline = vmm::RunDeadline::Start(vcpu(), limit);
    EXPECT_TRUE(deadline) << deadline.error().ToString();
    auto exit = vcpu().Run();
    EXPECT_TRUE(exit) << exit.error().ToString();
    return exit ? std::move(*exit) : vmm::Exit(vmm::HaltExit{});
  }
  // The line leads to kVector as a message.
  void RouteAsMessage() {
    kvm_irq_routing_entry route = {};
    route.gsi = kLine;
    route.type = KVM_IRQ_ROUTING_MSI;
    route.u.msi.address_lo = abi::x86::kApicMmioBase;
    route.u.msi.data = kVector;
    const auto set = vm().SetGsiRouting({&route, 1});
    ASSERT_TRUE(set) << set.error().ToString();
  }
};

NESTBENCH_CONDITION(kvm_api, Delivery, AMessageArrivesOnce, "KVM API, KVM_SIGNAL_MSI: > 0 delivered") {
  if (Lacks(KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI")) return;
  const auto sent = vm().SignalMsi(abi::x86::kApicMmioBase, kVector);
  ASSERT_TRUE(sent) << sent.error().ToString();
  EXPECT_GT(*sent, 0);
  ExpectTaken();
  ExpectNone();
}
NESTBENCH_CONDITION(kvm_api, Delivery, AMaskedLineBringsNothing,
                    "KVM API, KVM_IRQ_LINE; Intel 82093AA, Interrupt Mask: set after reset") {
  ASSERT_TRUE(vm().SetIrqLine(kLine, true));
  ExpectNone();
}
NESTBENCH_CONDITION(kvm_api, Delivery, ALineGoesWhereTheIoApicSays, "KVM API, KVM_IRQ_LINE, KVM_SET_IRQCHIP") {
  kvm_irqchip chip = {};
  chip.chip_id = KVM_IRQCHIP_IOAPIC;
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_GET_IRQCHIP, &chip), 0);
  chip.chip.ioapic.redirtbl[kLine].bits = kVector;  // edge, fixed, physical, to local APIC 0, not masked
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_SET_IRQCHIP, &chip), 0);
  ASSERT_TRUE(vm().SetIrqLine(kLine, true));
  ExpectTaken();
}
NESTBENCH_CONDITION(kvm_api, Delivery, ARouteTurnsALineIntoAMessage,
                    "KVM API, KVM_SET_GSI_ROUTING: KVM_IRQ_ROUTING_MSI") {
  if (Lacks(KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING")) return;
  RouteAsMessage();
  ASSERT_TRUE(vm().SetIrqLine(kLine, true));
  ExpectTaken();
}
NESTBENCH_CONDITION(kvm_api, Delivery, AnEventFdRaisesItsLine, "KVM API, KVM_IRQFD") {
  if (Lacks(KVM_CAP_IRQFD, "KVM_CAP_IRQFD")) return;
  RouteAsMessage();
  const vmm::UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  ASSERT_TRUE(vm().AttachIrqFd(event.get(), kLine));
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(event.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  ExpectTaken();
}
NESTBENCH_CONDITION(kvm_api, Delivery, AnEventFdThatIsDetachedRaisesNothing, "KVM API, KVM_IRQFD: FLAG_DEASSIGN") {
  if (Lacks(KVM_CAP_IRQFD, "KVM_CAP_IRQFD")) return;
  RouteAsMessage();
  const vmm::UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  ASSERT_TRUE(vm().AttachIrqFd(event.get(), kLine));
  ASSERT_TRUE(vm().DetachIrqFd(event.get(), kLine));
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(event.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  ExpectNone();
}
NESTBENCH_CONDITION(kvm_api, Delivery, AResampledLineTellsOfTheEndOfItsInterrupt,
                    "KVM API, KVM_IRQFD: FLAG_RESAMPLE, the resample eventfd is signalled at the end of interrupt") {
  if (Lacks(KVM_CAP_IRQFD_RESAMPLE, "KVM_CAP_IRQFD_RESAMPLE")) return;
  // Level-triggered; the handler: es = 0xF000 (base made 0xFEE00000), mov dword [es:0xB0], 0, the end of interrupt.
  kvm_irqchip chip = {};
  chip.chip_id = KVM_IRQCHIP_IOAPIC;
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_GET_IRQCHIP, &chip), 0);
  chip.chip.ioapic.redirtbl[kLine].bits = kVector | 1ULL << 15;
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_SET_IRQCHIP, &chip), 0);
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->es.base = abi::x86::kApicMmioBase;
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  Load({0x26, 0x66, 0xC7, 0x06, 0xB0, 0x00, 0, 0, 0, 0, 0xE6, kTakenPort, 0xCF}, kHandler);
  const vmm::UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  const vmm::UniqueFd resample(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const auto attached = vm().AttachIrqFd(event.get(), kLine, resample.get());
  ASSERT_TRUE(attached) << attached.error().ToString();
  std::uint64_t count = 0;
  EXPECT_EQ(::read(resample.get(), &count, sizeof(count)), -1) << "nothing has happened yet";
  const std::uint64_t one = 1;
  ASSERT_EQ(::write(event.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  ExpectTaken();
  EXPECT_EQ(::read(resample.get(), &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
  EXPECT_EQ(count, 1U);
}

}  // namespace
}  // namespace nestbench::conformance
