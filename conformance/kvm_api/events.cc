// Doorbells and interrupts without an exit. Source: kernel document "The Definitive KVM API Documentation",
// KVM_IOEVENTFD, KVM_IRQFD, KVM_SIGNAL_MSI, KVM_SET_GSI_ROUTING and the irqchips.
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <vector>

#include "../harness/guest.h"
#include "nestbench/vmm/base/unique_fd.h"

namespace nestbench::conformance {
namespace {

class Events : public GuestTest {
 protected:
  static vmm::UniqueFd EventFd() { return vmm::UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)); }
  // How often it was signalled since the last look.
  static std::uint64_t Count(const vmm::UniqueFd& event) {
    std::uint64_t count = 0;
    return ::read(event.get(), &count, sizeof(count)) == sizeof(count) ? count : 0;
  }
  int Attach(const vmm::UniqueFd& event, std::uint64_t address, std::uint32_t bytes, std::uint32_t flags,
             std::uint64_t value = 0) {
    kvm_ioeventfd request = {};
    request.fd = event.get();
    request.addr = address;
    request.len = bytes;
    request.flags = flags;
    request.datamatch = value;
    return ErrorOf(vm().fd(), KVM_IOEVENTFD, &request);
  }
};

NESTBENCH_CONDITION(kvm_api, Events, ADoorbellPortSignalsAndDoesNotLeave,
                    "KVM API, KVM_IOEVENTFD: KVM_IOEVENTFD_FLAG_PIO") {
  if (Lacks(KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD")) return;
  const auto event = EventFd();
  ASSERT_EQ(Attach(event, 0x10, 1, KVM_IOEVENTFD_FLAG_PIO), 0);
  Load({0xE6, 0x10, 0xE6, 0x10, 0xE6, 0x11, 0xF4});  // out 0x10, al, twice; out 0x11, al
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->port, 0x11) << "the first port to leave for";
  EXPECT_EQ(Count(event), 2U);
}

NESTBENCH_CONDITION(kvm_api, Events, ADoorbellAddressSignalsAndDoesNotLeave, "KVM API, KVM_IOEVENTFD") {
  if (Lacks(KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD")) return;
  const auto event = EventFd();
  ASSERT_EQ(Attach(event, 0x40000, 1, 0), 0);
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->ds.base = 0x40000;
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  Load({0xA2, 0x00, 0x00, 0xE6, 0x11, 0xF4});  // mov [0], al; out 0x11, al
  if (!RunTo<vmm::IoExit>()) return;
  EXPECT_EQ(Count(event), 1U);
}

NESTBENCH_CONDITION(kvm_api, Events, ADoorbellOfOneWidthIgnoresOthers, "KVM API, KVM_IOEVENTFD: len must match") {
  if (Lacks(KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD")) return;
  const auto event = EventFd();
  ASSERT_EQ(Attach(event, 0x10, 2, KVM_IOEVENTFD_FLAG_PIO), 0);
  Load({0xE6, 0x10, 0xF4});  // out 0x10, al: one byte
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->port, 0x10);
  EXPECT_EQ(Count(event), 0U);
}

NESTBENCH_CONDITION(kvm_api, Events, ADoorbellOfOneValueIgnoresOthers,
                    "KVM API, KVM_IOEVENTFD: KVM_IOEVENTFD_FLAG_DATAMATCH") {
  if (Lacks(KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD")) return;
  const auto event = EventFd();
  ASSERT_EQ(Attach(event, 0x10, 1, KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH, 0x42), 0);
  Load({0xB0, 0x42, 0xE6, 0x10,          // mov al, 0x42; out 0x10, al
        0xB0, 0x43, 0xE6, 0x10, 0xF4});  // mov al, 0x43; out 0x10, al
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->data[0], std::byte{0x43});
  EXPECT_EQ(Count(event), 1U);
}

NESTBENCH_CONDITION(kvm_api, Events, ADoorbellOfAnyWidthTakesAll, "KVM API, KVM_CAP_IOEVENTFD_ANY_LENGTH: len 0") {
  if (Lacks(KVM_CAP_IOEVENTFD_ANY_LENGTH, "KVM_CAP_IOEVENTFD_ANY_LENGTH")) return;
  const auto event = EventFd();
  ASSERT_EQ(Attach(event, 0x10, 0, KVM_IOEVENTFD_FLAG_PIO), 0);
  Load({0xE6, 0x10, 0xE7, 0x10, 0x66, 0xE7, 0x10, 0xE6, 0x11, 0xF4});  // out 0x10 with al, ax, eax
  if (!RunTo<vmm::IoExit>()) return;
  EXPECT_EQ(Count(event), 3U);
}

NESTBENCH_CONDITION(kvm_api, Events, ARemovedDoorbellLeavesAgain, "KVM API, KVM_IOEVENTFD_FLAG_DEASSIGN") {
  if (Lacks(KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD")) return;
  const auto event = EventFd();
  ASSERT_EQ(Attach(event, 0x10, 1, KVM_IOEVENTFD_FLAG_PIO), 0);
  EXPECT_EQ(Attach(event, 0x10, 1, KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN), 0);
  EXPECT_TRUE(FailsWith(Attach(event, 0x10, 1, KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DEASSIGN), {ENOENT}))
      << "a second time";
  Load({0xE6, 0x10, 0xF4});
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->port, 0x10);
}

NESTBENCH_CONDITION(kvm_api, Events, TheSameDoorbellCannotBeTakenTwice, "virt/kvm/eventfd.c, ioeventfd: EEXIST") {
  if (Lacks(KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD")) return;
  const auto first = EventFd();
  const auto second = EventFd();
  ASSERT_EQ(Attach(first, 0x10, 1, KVM_IOEVENTFD_FLAG_PIO), 0);
  EXPECT_TRUE(FailsWith(Attach(second, 0x10, 1, KVM_IOEVENTFD_FLAG_PIO), {EEXIST}));
}

NESTBENCH_CONDITION(kvm_api, Events, AStrangeWidthIsRefused, "KVM API, KVM_IOEVENTFD: len 1, 2, 4 or 8 bytes") {
  if (Lacks(KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD")) return;
  const auto event = EventFd();
  for (const std::uint32_t bytes : {3U, 5U, 16U}) {
    EXPECT_TRUE(FailsWith(Attach(event, 0x10, bytes, KVM_IOEVENTFD_FLAG_PIO), {EINVAL})) << bytes << " bytes";
  }
}

NESTBENCH_CONDITION(kvm_api, Events, UnknownFlagsAreRefused, "KVM API, KVM_IOEVENTFD: flags") {
  if (Lacks(KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD")) return;
  EXPECT_TRUE(FailsWith(Attach(EventFd(), 0x10, 1, 1U << 20), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Events, WhatIsNoEventFdIsRefused, "KVM API, KVM_IOEVENTFD: fd is an eventfd") {
  if (Lacks(KVM_CAP_IOEVENTFD, "KVM_CAP_IOEVENTFD")) return;
  kvm_ioeventfd request = {};
  request.fd = vm().fd();
  request.addr = 0x10;
  request.len = 1;
  request.flags = KVM_IOEVENTFD_FLAG_PIO;
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_IOEVENTFD, &request), {EINVAL, EBADF}));
}

class Interrupts : public VmTest {};

NESTBENCH_CONDITION(kvm_api, Interrupts, ASecondChipIsRefused, "KVM API, KVM_CREATE_IRQCHIP: EEXIST") {
  if (Lacks(KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP")) return;
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_CREATE_IRQCHIP), 0);
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_CREATE_IRQCHIP), {EEXIST}));
}

NESTBENCH_CONDITION(kvm_api, Interrupts, AChipComesBeforeTheVcpus, "KVM API, KVM_CREATE_IRQCHIP: EINVAL after a vCPU") {
  if (Lacks(KVM_CAP_IRQCHIP, "KVM_CAP_IRQCHIP")) return;
  ASSERT_GE(::ioctl(vm().fd(), KVM_CREATE_VCPU, 0), 0);
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_CREATE_IRQCHIP), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Interrupts, ALineNeedsAChip, "KVM API, KVM_IRQ_LINE: ENXIO without KVM_CREATE_IRQCHIP") {
  kvm_irq_level level = {.irq = 4, .level = 1};
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_IRQ_LINE, &level), {ENXIO}));
}

NESTBENCH_CONDITION(kvm_api, Interrupts, ALineCanBeRaisedAndLowered, "KVM API, KVM_IRQ_LINE") {
  ASSERT_TRUE(vm().CreateIrqChip());
  EXPECT_TRUE(vm().SetIrqLine(4, true));
  EXPECT_TRUE(vm().SetIrqLine(4, false));
}

NESTBENCH_CONDITION(kvm_api, Interrupts, AChipsStateComesBackAsItWasSet,
                    "KVM API, KVM_GET_IRQCHIP and KVM_SET_IRQCHIP") {
  ASSERT_TRUE(vm().CreateIrqChip());
  kvm_irqchip chip = {};
  chip.chip_id = KVM_IRQCHIP_IOAPIC;
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_GET_IRQCHIP, &chip), 0);
  chip.chip.ioapic.redirtbl[5].fields.vector = 0x55;
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_SET_IRQCHIP, &chip), 0);
  kvm_irqchip back = {};
  back.chip_id = KVM_IRQCHIP_IOAPIC;
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_GET_IRQCHIP, &back), 0);
  EXPECT_EQ(back.chip.ioapic.redirtbl[5].fields.vector, 0x55);
}

NESTBENCH_CONDITION(kvm_api, Interrupts, AnUnknownChipIsRefused, "KVM API, KVM_GET_IRQCHIP: chip_id") {
  ASSERT_TRUE(vm().CreateIrqChip());
  kvm_irqchip chip = {};
  chip.chip_id = 17;
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_GET_IRQCHIP, &chip), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Interrupts, ATimerComesAfterTheChip,
                    "KVM API, KVM_CREATE_PIT2: needs KVM_CREATE_IRQCHIP") {
  if (Lacks(KVM_CAP_PIT2, "KVM_CAP_PIT2")) return;
  kvm_pit_config config = {};
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_CREATE_PIT2, &config), {ENOENT, ENXIO, EINVAL}));
  ASSERT_TRUE(vm().CreateIrqChip());
  EXPECT_EQ(ErrorOf(vm().fd(), KVM_CREATE_PIT2, &config), 0);
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_CREATE_PIT2, &config), {EEXIST})) << "a second one";
}

NESTBENCH_CONDITION(kvm_api, Interrupts, ATimersStateComesBackAsItWasSet, "KVM API, KVM_GET_PIT2 and KVM_SET_PIT2") {
  if (Lacks(KVM_CAP_PIT_STATE2, "KVM_CAP_PIT_STATE2")) return;
  ASSERT_TRUE(vm().CreateIrqChip());
  ASSERT_TRUE(vm().CreatePit());
  kvm_pit_state2 state = {};
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_GET_PIT2, &state), 0);
  state.channels[2].count = 0x1234;
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_SET_PIT2, &state), 0);
  kvm_pit_state2 back = {};
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_GET_PIT2, &back), 0);
  EXPECT_EQ(back.channels[2].count, 0x1234U);
}

NESTBENCH_CONDITION(kvm_api, Interrupts, ASplitChipIsAskedForBeforeTheOther,
                    "KVM API, KVM_CAP_SPLIT_IRQCHIP: args[0] pins; excludes KVM_CREATE_IRQCHIP") {
  if (Lacks(KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP")) return;
  ASSERT_TRUE(vm().CreateSplitIrqChip(24));
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_CREATE_IRQCHIP), {EEXIST}));
}

NESTBENCH_CONDITION(kvm_api, Interrupts, TooManyPinsAreRefused, "KVM API, KVM_CAP_SPLIT_IRQCHIP: EINVAL") {
  if (Lacks(KVM_CAP_SPLIT_IRQCHIP, "KVM_CAP_SPLIT_IRQCHIP")) return;
  kvm_enable_cap enable = {};
  enable.cap = KVM_CAP_SPLIT_IRQCHIP;
  enable.args[0] = 1'000'000;
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_ENABLE_CAP, &enable), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Interrupts, AnIrqFdNeedsAChip, "KVM API, KVM_IRQFD; virt/kvm/eventfd.c") {
  if (Lacks(KVM_CAP_IRQFD, "KVM_CAP_IRQFD")) return;
  const vmm::UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  kvm_irqfd request = {};
  request.fd = static_cast<std::uint32_t>(event.get());
  request.gsi = 4;
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_IRQFD, &request), {EINVAL, ENXIO}));
}

NESTBENCH_CONDITION(kvm_api, Interrupts, AnIrqFdCanBeAttachedOnceAndDetached,
                    "KVM API, KVM_IRQFD: EBUSY; FLAG_DEASSIGN") {
  if (Lacks(KVM_CAP_IRQFD, "KVM_CAP_IRQFD")) return;
  ASSERT_TRUE(vm().CreateIrqChip());
  const vmm::UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  kvm_irqfd request = {};
  request.fd = static_cast<std::uint32_t>(event.get());
  request.gsi = 4;
  ASSERT_EQ(ErrorOf(vm().fd(), KVM_IRQFD, &request), 0);
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_IRQFD, &request), {EBUSY}));
  request.flags = KVM_IRQFD_FLAG_DEASSIGN;
  EXPECT_EQ(ErrorOf(vm().fd(), KVM_IRQFD, &request), 0);
}

NESTBENCH_CONDITION(kvm_api, Interrupts, AnIrqFdRefusesUnknownFlags, "KVM API, KVM_IRQFD: flags") {
  if (Lacks(KVM_CAP_IRQFD, "KVM_CAP_IRQFD")) return;
  ASSERT_TRUE(vm().CreateIrqChip());
  const vmm::UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  kvm_irqfd request = {};
  request.fd = static_cast<std::uint32_t>(event.get());
  request.flags = 1U << 20;
  EXPECT_TRUE(FailsWith(ErrorOf(vm().fd(), KVM_IRQFD, &request), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Interrupts, AMessageToNobodyIsNotDelivered,
                    "KVM API, KVM_SIGNAL_MSI: > 0 delivered, 0 blocked, -1 error") {
  if (Lacks(KVM_CAP_SIGNAL_MSI, "KVM_CAP_SIGNAL_MSI")) return;
  ASSERT_TRUE(vm().CreateIrqChip());
  kvm_msi msi = {};
  msi.address_lo = 0xFEE0'0000 | 0x55 << 12;  // APIC 0x55 does not exist
  msi.data = 0x40;
  const int delivered = ::ioctl(vm().fd(), KVM_SIGNAL_MSI, &msi);
  Evidence("returned", delivered);
  EXPECT_LE(delivered, 0);
}

NESTBENCH_CONDITION(kvm_api, Interrupts, ARouteToAPinThatDoesNotExistIsRefused,
                    "KVM API, KVM_SET_GSI_ROUTING: EINVAL") {
  if (Lacks(KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING")) return;
  ASSERT_TRUE(vm().CreateIrqChip());
  kvm_irq_routing_entry entry = {};
  entry.gsi = 5;
  entry.type = KVM_IRQ_ROUTING_IRQCHIP;
  entry.u.irqchip.irqchip = KVM_IRQCHIP_IOAPIC;
  entry.u.irqchip.pin = 1000;
  EXPECT_FALSE(vm().SetGsiRouting({&entry, 1}));
}

NESTBENCH_CONDITION(kvm_api, Interrupts, ARouteOfAnUnknownTypeIsRefused, "KVM API, KVM_SET_GSI_ROUTING: type") {
  if (Lacks(KVM_CAP_IRQ_ROUTING, "KVM_CAP_IRQ_ROUTING")) return;
  ASSERT_TRUE(vm().CreateIrqChip());
  kvm_irq_routing_entry entry = {};
  entry.gsi = 5;
  entry.type = 77;
  EXPECT_FALSE(vm().SetGsiRouting({&entry, 1}));
}

NESTBENCH_CONDITION(kvm_api, Interrupts, TheLocalApicsStateComesBackAsItWasSet,
                    "KVM API, KVM_GET_LAPIC and KVM_SET_LAPIC") {
  ASSERT_TRUE(vm().CreateIrqChip());
  auto vcpu = vmm::Vcpu::Create(vm(), abi::VcpuId(0));
  ASSERT_TRUE(vcpu) << vcpu.error().ToString();
  auto state = vcpu->GetLapic();
  ASSERT_TRUE(state) << state.error().ToString();
  state->regs[0x80] = 0x20;  // task-priority register (Intel SDM volume 3, Local APIC Register Address Map)
  ASSERT_TRUE(vcpu->SetLapic(*state));
  EXPECT_EQ(vcpu->GetLapic()->regs[0x80], 0x20);
}

NESTBENCH_CONDITION(kvm_api, Interrupts, WithoutAChipThereIsNoLocalApic, "KVM API, KVM_GET_LAPIC; arch/x86/kvm/x86.c") {
  auto vcpu = vmm::Vcpu::Create(vm(), abi::VcpuId(0));
  ASSERT_TRUE(vcpu) << vcpu.error().ToString();
  kvm_lapic_state state = {};
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu->fd(), KVM_GET_LAPIC, &state), {EINVAL}));
}

}  // namespace
}  // namespace nestbench::conformance
