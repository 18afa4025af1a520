// What KVM_RUN returns with. Source: kernel document "The Definitive KVM API Documentation", The kvm_run structure.
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <thread>
#include <variant>

#include "../harness/guest.h"

namespace nestbench::conformance {
namespace {

using namespace std::chrono_literals;

using Exits = GuestTest;

// The kernel's kvm_signal_mask ends in a flexible array, which no C++ object can hold: this is the same, of one size.
struct SignalMask {
  std::uint32_t length_bytes;
  std::uint8_t bits[8];
};

NESTBENCH_CONDITION(kvm_api, Exits, APortWriteTellsPortWidthAndValue, "KVM API, KVM_EXIT_IO") {
  Load({0xBA, 0x34, 0x12,                    // mov dx, 0x1234
        0x66, 0xB8, 0x44, 0x33, 0x22, 0x11,  // mov eax, 0x11223344
        0xEE, 0xEF, 0x66, 0xEF, 0xF4});      // out dx, al; out dx, ax; out dx, eax; hlt
  for (const std::size_t width : {1, 2, 4}) {
    const auto exit = RunTo<vmm::IoExit>();
    if (!exit) return;
    EXPECT_TRUE(exit->is_write);
    EXPECT_EQ(exit->port, 0x1234);
    EXPECT_EQ(exit->width_bytes, width);
    EXPECT_EQ(exit->count, 1U);
    const std::uint32_t value = 0x11223344;
    EXPECT_EQ(std::memcmp(exit->data.data(), &value, width), 0) << "of " << width << " bytes";
  }
}

NESTBENCH_CONDITION(kvm_api, Exits, APortReadTakesTheValueThatUserSpaceGives, "KVM API, KVM_EXIT_IO: data_offset") {
  Load({0xBA, 0x34, 0x12, 0xED,  // mov dx, 0x1234; in ax, dx
        0x89, 0x06, 0x00, 0x30,  // mov [0x3000], ax
        0xE6, 0x10, 0xF4});      // out 0x10, al; hlt
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_FALSE(exit->is_write);
  ASSERT_EQ(exit->data.size(), 2U);
  exit->data[0] = std::byte{0xCD};
  exit->data[1] = std::byte{0xAB};
  if (!RunTo<vmm::IoExit>()) return;
  EXPECT_EQ(memory()[0x3000], std::byte{0xCD});
  EXPECT_EQ(memory()[0x3001], std::byte{0xAB});
}

NESTBENCH_CONDITION(kvm_api, Exits, AnInterruptedPortReadIsFinishedAtTheNextEntry,
                    "KVM API, KVM_EXIT_IO: the operation is completed by the next KVM_RUN") {
  Load({0xE4, 0x10, 0xE6, 0x11, 0xF4});  // in al, 0x10; out 0x11, al; hlt
  const auto read = RunTo<vmm::IoExit>();
  if (!read) return;
  read->data[0] = std::byte{0x66};
  vcpu().run()->immediate_exit = 1;
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_RUN), {EINTR}));
  vcpu().run()->immediate_exit = 0;
  EXPECT_EQ(vcpu().GetRegs()->rax & 0xFF, 0x66U) << "completed although nothing was run";
  const auto write = RunTo<vmm::IoExit>();
  if (!write) return;
  EXPECT_EQ(write->port, 0x11);
  EXPECT_EQ(write->data[0], std::byte{0x66});
}

NESTBENCH_CONDITION(kvm_api, Exits, AStringWriteMayMoveSeveralAtOnce, "KVM API, KVM_EXIT_IO: count") {
  Load({0xBE, 0x00, 0x30,          // mov si, 0x3000
        0xB9, 0x04, 0x00,          // mov cx, 4
        0xBA, 0x10, 0x00,          // mov dx, 0x10
        0xFC, 0xF3, 0x6E, 0xF4});  // cld; rep outsb; hlt
  const std::uint32_t bytes = 0x44332211;
  std::memcpy(memory().data() + 0x3000, &bytes, sizeof(bytes));
  std::uint32_t seen = 0;
  std::uint32_t got = 0;
  while (seen < 4) {
    const auto exit = RunTo<vmm::IoExit>();
    if (!exit) return;
    ASSERT_LE(seen + exit->count, 4U);
    std::memcpy(reinterpret_cast<std::byte*>(&got) + seen, exit->data.data(), exit->count);
    seen += exit->count;
    Evidence("bytes_in_one_exit", exit->count);
  }
  EXPECT_EQ(got, bytes);
}

NESTBENCH_CONDITION(kvm_api, Exits, AStringReadFillsMemory, "KVM API, KVM_EXIT_IO: direction KVM_EXIT_IO_IN, count") {
  Load({0xBF, 0x00, 0x30,    // mov di, 0x3000
        0xB9, 0x04, 0x00,    // mov cx, 4
        0xBA, 0x10, 0x00,    // mov dx, 0x10
        0xFC, 0xF3, 0x6C,    // cld; rep insb
        0xE6, 0x11, 0xF4});  // out 0x11, al; hlt
  std::uint8_t next = 1;
  for (;;) {
    const auto exit = RunTo<vmm::IoExit>();
    if (!exit) return;
    if (exit->is_write) break;
    for (std::byte& byte : exit->data) byte = static_cast<std::byte>(next++);
    ASSERT_LE(next, 5);
  }
  const std::uint32_t wanted = 0x04030201;
  EXPECT_EQ(std::memcmp(memory().data() + 0x3000, &wanted, sizeof(wanted)), 0);
}

NESTBENCH_CONDITION(kvm_api, Exits, AHaltWithoutAnInKernelChipLeavesTheGuest, "KVM API, KVM_EXIT_HLT") {
  Load({0xF4});
  EXPECT_TRUE(RunTo<vmm::HaltExit>());
}

NESTBENCH_CONDITION(kvm_api, Exits, AfterAHaltTheGuestGoesOnBehindIt,
                    "KVM API, KVM_EXIT_HLT; Intel SDM volume 2, HLT: the saved instruction pointer") {
  Load({0xF4, 0xE6, 0x10});
  if (!RunTo<vmm::HaltExit>()) return;
  EXPECT_EQ(vcpu().GetRegs()->rip, kEntry + 1U);
  EXPECT_TRUE(RunTo<vmm::IoExit>());
}

NESTBENCH_CONDITION(kvm_api, Exits, AnAccessWithoutMemoryTellsAddressAndWidth, "KVM API, KVM_EXIT_MMIO") {
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->ds.base = 0x40000;
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  Load({0xB8, 0x22, 0x11,    // mov ax, 0x1122
        0xA3, 0x10, 0x00,    // mov [0x10], ax
        0xA0, 0x21, 0x00,    // mov al, [0x21]
        0xE6, 0x10, 0xF4});  // out 0x10, al; hlt
  const auto write = RunTo<vmm::MmioExit>();
  if (!write) return;
  EXPECT_TRUE(write->is_write);
  EXPECT_EQ(write->address.value(), 0x40010U);
  ASSERT_EQ(write->data.size(), 2U);
  EXPECT_EQ(write->data[0], std::byte{0x22});
  EXPECT_EQ(write->data[1], std::byte{0x11});
  const auto read = RunTo<vmm::MmioExit>();
  if (!read) return;
  EXPECT_FALSE(read->is_write);
  EXPECT_EQ(read->address.value(), 0x40021U);
  ASSERT_EQ(read->data.size(), 1U);
  read->data[0] = std::byte{0x99};
  const auto out = RunTo<vmm::IoExit>();
  if (!out) return;
  EXPECT_EQ(out->data[0], std::byte{0x99});
}

NESTBENCH_CONDITION(kvm_api, Exits, AFetchWithoutMemoryIsNoAccess,
                    "KVM API, KVM_EXIT_INTERNAL_ERROR: KVM_INTERNAL_ERROR_EMULATION") {
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->cs.base = 0x40000;
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  const vmm::Exit exit = Run();
  EXPECT_FALSE(std::holds_alternative<vmm::InterruptedExit>(exit)) << "it must not spin";
  EXPECT_FALSE(std::holds_alternative<vmm::IoExit>(exit));
  Evidence("exit", vmm::ToString(exit).substr(0, 100));
}

NESTBENCH_CONDITION(kvm_api, Exits, ATripleFaultIsAShutdown,
                    "KVM API, KVM_EXIT_SHUTDOWN; Intel SDM volume 3, Interrupt 8: Double Fault Exception") {
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->idt.limit = 0;
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  Load({0x0F, 0x0B});  // ud2
  const vmm::Exit exit = Run();
  if (std::holds_alternative<vmm::InterruptedExit>(exit)) {
    GTEST_SKIP() << "this KVM's emulator does not check the limit of a real-mode interrupt table";
  }
  EXPECT_TRUE(std::holds_alternative<vmm::ShutdownExit>(exit)) << vmm::ToString(exit);
}

NESTBENCH_CONDITION(kvm_api, Exits, ImmediateExitEntersNothing, "KVM API, The kvm_run structure: immediate_exit") {
  if (Lacks(KVM_CAP_IMMEDIATE_EXIT, "KVM_CAP_IMMEDIATE_EXIT")) return;
  Load({0xE6, 0x10, 0xF4});
  vcpu().run()->immediate_exit = 1;
  for (int i = 0; i < 100; ++i) EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_RUN), {EINTR}));
  EXPECT_EQ(vcpu().GetRegs()->rip, kEntry);
  vcpu().run()->immediate_exit = 0;
  EXPECT_TRUE(RunTo<vmm::IoExit>());
}

NESTBENCH_CONDITION(kvm_api, Exits, ASignalInterruptsASpinningGuest, "KVM API, KVM_RUN: EINTR, an unmasked signal") {
  Load({0xEB, 0xFE});  // jmp to itself
  const auto begin = std::chrono::steady_clock::now();
  const vmm::Exit exit = Run(100ms);
  const auto took = std::chrono::steady_clock::now() - begin;
  EXPECT_TRUE(std::holds_alternative<vmm::InterruptedExit>(exit)) << vmm::ToString(exit);
  EXPECT_EQ(vcpu().run()->exit_reason, static_cast<std::uint32_t>(KVM_EXIT_INTR));
  Evidence("stopped_after_ms", std::chrono::duration_cast<std::chrono::milliseconds>(took).count());
}

NESTBENCH_CONDITION(kvm_api, Exits, APendingSignalInterruptsAtOnce, "KVM API, KVM_RUN and KVM_SET_SIGNAL_MASK") {
  Load({0xEB, 0xFE});
  ::signal(SIGUSR1, [](int) {});
  sigset_t usr1;
  sigset_t none;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  sigemptyset(&none);
  ASSERT_EQ(::pthread_sigmask(SIG_BLOCK, &usr1, nullptr), 0);
  SignalMask mask{.length_bytes = sizeof(mask.bits), .bits = {}};
  ASSERT_EQ(ErrorOf(vcpu().fd(), KVM_SET_SIGNAL_MASK, &mask), 0);
  ASSERT_EQ(::raise(SIGUSR1), 0);
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_RUN), {EINTR}));
}

NESTBENCH_CONDITION(kvm_api, Exits, ASignalMaskHasTheKernelsSize, "KVM API, KVM_SET_SIGNAL_MASK: EINVAL") {
  SignalMask mask{.length_bytes = 4, .bits = {}};
  EXPECT_TRUE(FailsWith(ErrorOf(vcpu().fd(), KVM_SET_SIGNAL_MASK, &mask), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, Exits, TheInterruptWindowOpensWhenTheGuestAllows,
                    "KVM API, KVM_EXIT_IRQ_WINDOW_OPEN: request_interrupt_window") {
  Load({0xFB, 0x90, 0x90, 0xEB, 0xFC});  // sti; nop; nop; jmp back
  vcpu().run()->request_interrupt_window = 1;
  EXPECT_TRUE(RunTo<vmm::IrqWindowExit>());
  EXPECT_EQ(vcpu().run()->ready_for_interrupt_injection, 1);
  EXPECT_EQ(vcpu().run()->if_flag, 1);
}

NESTBENCH_CONDITION(kvm_api, Exits, AQueuedInterruptGoesThroughTheGuestsTable,
                    "KVM API, KVM_INTERRUPT; Intel SDM volume 3, Real-Address Mode Operation: interrupt table") {
  Load({0xFB, 0x90, 0xEB, 0xFD});                // sti; nop; jmp to the nop
  Load({0xB0, 0x55, 0xE6, 0x10, 0xF4}, 0x2000);  // mov al, 0x55; out 0x10, al; hlt
  const std::uint16_t entry[] = {0x2000, 0x0000};
  std::memcpy(memory().data() + std::size_t{4} * 0x21, entry, sizeof(entry));
  vcpu().run()->request_interrupt_window = 1;
  if (!RunTo<vmm::IrqWindowExit>()) return;
  vcpu().run()->request_interrupt_window = 0;
  ASSERT_TRUE(vcpu().InjectInterrupt(0x21));
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->data[0], std::byte{0x55});
}

NESTBENCH_CONDITION(kvm_api, Exits, AnNmiGoesThroughVector2, "KVM API, KVM_NMI; Intel SDM volume 3, NMI: vector 2") {
  if (Lacks(KVM_CAP_USER_NMI, "KVM_CAP_USER_NMI")) return;
  Load({0xEB, 0xFE});
  Load({0xB0, 0x66, 0xE6, 0x10, 0xF4}, 0x2000);
  const std::uint16_t entry[] = {0x2000, 0x0000};
  std::memcpy(memory().data() + std::size_t{4} * 2, entry, sizeof(entry));
  ASSERT_TRUE(vcpu().InjectNmi());
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->data[0], std::byte{0x66});
}

NESTBENCH_CONDITION(kvm_api, Exits, EachInstructionCanBeStepped,
                    "KVM API, KVM_SET_GUEST_DEBUG: KVM_GUESTDBG_SINGLESTEP, KVM_EXIT_DEBUG") {
  if (Lacks(KVM_CAP_SET_GUEST_DEBUG, "KVM_CAP_SET_GUEST_DEBUG")) return;
  Load({0x90, 0x90, 0x90, 0xF4});
  kvm_guest_debug debug = {};
  debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
  ASSERT_TRUE(vcpu().SetGuestDebug(debug));
  for (std::uint64_t i = 1; i <= 3; ++i) {
    const auto exit = RunTo<vmm::DebugExit>();
    if (!exit) return;
    EXPECT_EQ(exit->program_counter, kEntry + i);
  }
}

NESTBENCH_CONDITION(kvm_api, Exits, AHardwareBreakpointStopsAtItsAddress,
                    "KVM API, KVM_SET_GUEST_DEBUG: KVM_GUESTDBG_USE_HW_BP") {
  if (Lacks(KVM_CAP_SET_GUEST_DEBUG, "KVM_CAP_SET_GUEST_DEBUG")) return;
  Load({0x90, 0x90, 0x90, 0xE6, 0x10, 0xF4});
  kvm_guest_debug debug = {};
  debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
  debug.arch.debugreg[0] = kEntry + 2;
  debug.arch.debugreg[7] = 0x402;  // breakpoint 0: execution, global
  ASSERT_TRUE(vcpu().SetGuestDebug(debug));
  const auto exit = RunTo<vmm::DebugExit>();
  if (!exit) return;
  EXPECT_EQ(exit->program_counter, kEntry + 2U);
}

NESTBENCH_CONDITION(kvm_api, Exits, TheInstructionAfterAnExitIsTheNextOne, "KVM API, KVM_EXIT_IO") {
  Load({0xE6, 0x10, 0xE6, 0x11, 0xE6, 0x12, 0xF4});
  for (const int port : {0x10, 0x11, 0x12}) {
    const auto exit = RunTo<vmm::IoExit>();
    if (!exit) return;
    EXPECT_EQ(exit->port, port);
  }
  EXPECT_TRUE(RunTo<vmm::HaltExit>());
}

NESTBENCH_CONDITION(kvm_api, Exits, RunningAVcpuOfAClosedVmStillWorks,
                    "KVM API, KVM_CREATE_VM: a VM lives as long as one of its descriptors") {
  Load({0xE6, 0x10, 0xF4});
  const int copy = ::dup(vcpu().fd());
  ASSERT_GE(copy, 0);
  ASSERT_EQ(::close(vm().fd()), 0);
  EXPECT_EQ(ErrorOf(copy, KVM_RUN), 0);
  EXPECT_EQ(vcpu().run()->exit_reason, static_cast<std::uint32_t>(KVM_EXIT_IO));
}

}  // namespace
}  // namespace nestbench::conformance
