#include "nestbench/vmm/machine/flat_machine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <initializer_list>
#include <string>
#include <vector>

#include "nestbench/vmm/kvm/deadline.h"

namespace nestbench::vmm {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr std::uint8_t kInterrupt = 32;

// A binary of empty stubs with `code` as its entry.
std::vector<std::byte> BinaryOf(std::initializer_list<int> code) {
  std::vector<std::byte> binary(kFlatEntry - kFlatCodeBase);
  for (const int value : code) binary.push_back(static_cast<std::byte>(value));
  return binary;
}

void PutStub(std::vector<std::byte>& binary, unsigned vector, std::initializer_list<int> code) {
  std::size_t at = std::size_t{vector} * kFlatStubBytes;
  for (const int value : code) binary[at++] = static_cast<std::byte>(value);
}

class FlatMachineTest : public ::testing::TestWithParam<FlatMode> {
 protected:
  void SetUp() override {
    auto device = KvmDevice::Open();
    if (!device) GTEST_SKIP() << device.error().ToString();
    device_.emplace(std::move(*device));
  }

  FlatMachine Create(const std::vector<std::byte>& binary, FlatMachineOptions options = {}) {
    auto machine = FlatMachine::Create(*device_, binary, GetParam(), options);
    if (!machine) throw std::runtime_error(machine.error().ToString());
    return std::move(*machine);
  }

  static Stop Run(FlatMachine& machine, std::chrono::nanoseconds limit = 5s) {
    auto deadline = RunDeadline::Start(machine.vcpu(), limit);
    if (!deadline) throw std::runtime_error(deadline.error().ToString());
    auto stop = machine.RunUntilStop();
    if (!stop) throw std::runtime_error(stop.error().ToString());
    return *stop;
  }

  // mov edx, port; out dx, eax; jmp to the out
  static std::vector<std::byte> WriteWithoutEnd(std::uint16_t port) {
    const int low = port & 0xFF;
    const int high = port >> 8;
    if (GetParam() == FlatMode::kReal16) return BinaryOf({0xBA, low, high, 0x66, 0xEF, 0xEB, 0xFC});
    return BinaryOf({0xBA, low, high, 0, 0, 0xEF, 0xEB, 0xFD});
  }

  std::optional<KvmDevice> device_;
};

INSTANTIATE_TEST_SUITE_P(Modes, FlatMachineTest,
                         ::testing::Values(FlatMode::kReal16, FlatMode::kProtected32, FlatMode::kSupervisor64),
                         [](const auto& info) -> std::string {
                           switch (info.param) {
                             case FlatMode::kReal16:
                               return "Real16";
                             case FlatMode::kProtected32:
                               return "Protected32";
                             case FlatMode::kSupervisor64:
                               break;
                           }
                           return "Supervisor64";
                         });

TEST_P(FlatMachineTest, RingsAndRingsAgain) {
  FlatMachine machine = Create(WriteWithoutEnd(abi::kDoorbellPort));
  for (int i = 0; i < 3; ++i) {
    const Stop stop = Run(machine);
    ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
  }
  EXPECT_EQ(machine.traffic().accesses, 3U);
  EXPECT_EQ(machine.traffic().refused, 0U);
}

TEST_P(FlatMachineTest, WritesToPortsWithoutADeviceAreCountedUntilTheDeadline) {
  FlatMachine machine = Create(WriteWithoutEnd(0x80));
  EXPECT_EQ(Run(machine, 50ms).reason, StopReason::kInterrupted);
  EXPECT_GT(machine.traffic().refused, 10U);
  EXPECT_EQ(machine.traffic().refused, machine.traffic().accesses);
}

TEST_P(FlatMachineTest, ASpinningGuestIsStoppedByTheDeadline) {
  FlatMachine machine = Create(BinaryOf({0xEB, 0xFE}));
  EXPECT_EQ(Run(machine, 30ms).reason, StopReason::kInterrupted);
  EXPECT_FALSE(machine.halted());
  EXPECT_EQ(machine.traffic().accesses, 0U);
}

TEST_P(FlatMachineTest, AHaltedGuestSleepsUntilTheDeadlineAndStaysHalted) {
  FlatMachine machine = Create(BinaryOf({0xF4, 0xEB, 0xFD}));  // hlt; jmp to the hlt
  for (int i = 0; i < 2; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_EQ(Run(machine, 30ms).reason, StopReason::kInterrupted);
    EXPECT_GE(std::chrono::steady_clock::now() - begin, 30ms);
    EXPECT_TRUE(machine.halted());
  }
  EXPECT_EQ(machine.traffic().halts, 1U);
}

TEST_P(FlatMachineTest, AHeldInterruptIsDeliveredEachTimeThatTheGuestAcceptsIt) {
  // sti; jmp $; the interrupt's stub: iret of the mode's width
  std::vector<std::byte> binary = BinaryOf({0xFB, 0xEB, 0xFE});
  if (GetParam() == FlatMode::kSupervisor64) {
    PutStub(binary, kInterrupt, {0x48, 0xCF});
  } else {
    PutStub(binary, kInterrupt, {0xCF});
  }
  FlatMachine machine = Create(binary);
  machine.HoldInterrupt(kInterrupt);
  const Stop stop = Run(machine, 50ms);
  if (stop.exit_reason == KVM_EXIT_INTERNAL_ERROR && GetParam() == FlatMode::kProtected32) {
    EXPECT_EQ(machine.traffic().interrupts, 1U);
    GTEST_SKIP() << "the interrupt arrives, but this KVM cannot emulate IRET in protected mode: " << stop.text;
  }
  EXPECT_EQ(stop.reason, StopReason::kInterrupted) << stop.text;
  EXPECT_GT(machine.traffic().interrupts, 10U);

  machine.HoldInterrupt(std::nullopt);
  const std::uint64_t before = machine.traffic().interrupts;
  EXPECT_EQ(Run(machine, 20ms).reason, StopReason::kInterrupted);
  EXPECT_EQ(machine.traffic().interrupts, before);
}

TEST_P(FlatMachineTest, AHeldInterruptRunsTheGuestsOwnHandler) {
  // sti; jmp $; the interrupt's stub: mov edx, port; out dx, eax. Counts are the machine's word, a ring is the guest's.
  std::vector<std::byte> binary = BinaryOf({0xFB, 0xEB, 0xFE});
  if (GetParam() == FlatMode::kReal16) {
    PutStub(binary, kInterrupt, {0xBA, 0x20, 0x0B, 0x66, 0xEF});
  } else {
    PutStub(binary, kInterrupt, {0xBA, 0x20, 0x0B, 0, 0, 0xEF});
  }
  FlatMachine machine = Create(binary);
  machine.HoldInterrupt(kInterrupt);
  const Stop stop = Run(machine);
  EXPECT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
}

TEST_P(FlatMachineTest, AHeldInterruptWakesAGuestThatAcceptsIt) {
  // sti; hlt; mov edx, port; out; the stub: iret
  std::vector<std::byte> ring = WriteWithoutEnd(abi::kDoorbellPort);
  const auto entry = static_cast<std::ptrdiff_t>(kFlatEntry - kFlatCodeBase);
  ring.insert(ring.begin() + entry, {std::byte{0xFB}, std::byte{0xF4}});
  if (GetParam() == FlatMode::kSupervisor64) {
    PutStub(ring, kInterrupt, {0xFA, 0x48, 0xCF});
  } else {
    PutStub(ring, kInterrupt, {0xFA, 0xCF});
  }
  FlatMachine machine = Create(ring);
  ASSERT_EQ(Run(machine, 30ms).reason, StopReason::kInterrupted);
  ASSERT_TRUE(machine.halted());
  machine.HoldInterrupt(kInterrupt);
  auto deadline = RunDeadline::Start(machine.vcpu(), 50ms);
  ASSERT_TRUE(deadline);
  (void)machine.RunUntilStop();
  EXPECT_FALSE(machine.halted());
  EXPECT_GT(machine.traffic().interrupts, 0U);
}

TEST_P(FlatMachineTest, WithAnInterruptChipTheMaskOfThe8259IsNoEmptyBus) {
  // in al, 0x21; mov edx, port; out dx, eax: after reset no line is masked, where an empty bus reads as ones
  const bool is_real = GetParam() == FlatMode::kReal16;
  const auto binary = is_real ? BinaryOf({0xE4, 0x21, 0xBA, 0x20, 0x0B, 0x66, 0xEF})
                              : BinaryOf({0xE4, 0x21, 0xBA, 0x20, 0x0B, 0, 0, 0xEF});
  for (const bool with_chip : {false, true}) {
    FlatMachine machine = Create(binary, {.with_interrupt_chip = with_chip});
    const Stop stop = Run(machine);
    ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
    auto regs = machine.vcpu().GetRegs();
    ASSERT_TRUE(regs);
    EXPECT_EQ(regs->rax & 0xFF, with_chip ? 0x00U : 0xFFU);
    EXPECT_EQ(machine.traffic().refused, with_chip ? 0U : 1U);
  }
}

TEST_P(FlatMachineTest, WithAnInterruptChipAHaltedGuestStillMeetsItsDeadline) {
  FlatMachine machine = Create(BinaryOf({0xF4, 0xEB, 0xFD}), {.with_interrupt_chip = true});  // hlt; jmp to the hlt
  EXPECT_EQ(Run(machine, 30ms).reason, StopReason::kInterrupted);
}

TEST_P(FlatMachineTest, AnMsrThatLeavesReadsAsZeroAndIsCounted) {
  if (device_->CheckCapability(KVM_CAP_X86_USER_SPACE_MSR) <= 0) GTEST_SKIP() << "no KVM_CAP_X86_USER_SPACE_MSR";
  // mov al, 1; mov ecx, 0x20000000; rdmsr; mov edx, port; out dx, eax
  const bool is_real = GetParam() == FlatMode::kReal16;
  const auto binary = is_real ? BinaryOf({0xB0, 1, 0x66, 0xB9, 0, 0, 0, 0x20, 0x0F, 0x32, 0xBA, 0x20, 0x0B, 0x66, 0xEF})
                              : BinaryOf({0xB0, 1, 0xB9, 0, 0, 0, 0x20, 0x0F, 0x32, 0xBA, 0x20, 0x0B, 0, 0, 0xEF});
  FlatMachine machine = Create(binary);
  const std::uint64_t reasons = KVM_MSR_EXIT_REASON_UNKNOWN;
  ASSERT_TRUE(machine.vm().EnableCapability(KVM_CAP_X86_USER_SPACE_MSR, {&reasons, 1}));
  const Stop stop = Run(machine);
  ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
  auto regs = machine.vcpu().GetRegs();
  ASSERT_TRUE(regs);
  EXPECT_EQ(regs->rax, 0U);
  EXPECT_EQ(machine.traffic().accesses, 2U);
  EXPECT_EQ(machine.traffic().refused, 1U);
}

TEST_P(FlatMachineTest, CpuidIsGivenOnDemand) {
  for (const bool with_cpuid : {false, true}) {
    FlatMachine machine = Create(BinaryOf({0xF4}), {.with_cpuid = with_cpuid});
    auto policy = machine.vcpu().GetCpuid();
    ASSERT_TRUE(policy) << policy.error().ToString();
    EXPECT_EQ(policy->Find(1) != nullptr, with_cpuid);
  }
}

TEST_P(FlatMachineTest, AnExceptionStopsTheMachineWithItsFrame) {
  // xor ecx, ecx; div ecx; the stub: push 0 (error code); push 0 (vector); mov edx, 0xB28; out dx, eax
  std::vector<std::byte> binary = BinaryOf({0x31, 0xC9, 0xF7, 0xF1});
  if (GetParam() == FlatMode::kReal16) {
    PutStub(binary, 0, {0x6A, 0, 0x6A, 0, 0xBA, 0x28, 0x0B, 0x66, 0xEF, 0xF4});
  } else {
    PutStub(binary, 0, {0x6A, 0, 0x6A, 0, 0xBA, 0x28, 0x0B, 0, 0, 0xEF, 0xF4});
  }
  FlatMachine machine = Create(binary);
  const Stop stop = Run(machine);
  ASSERT_EQ(stop.reason, StopReason::kException) << stop.text;
  ASSERT_TRUE(stop.exception.has_value());
  EXPECT_EQ(stop.exception->vector, 0U);
  EXPECT_EQ(stop.exception->instruction_pointer, kFlatEntry + 2);
  EXPECT_THAT(stop.text, HasSubstr("vector 0"));
}

TEST_P(FlatMachineTest, ATripleFaultIsACrashWithRegisters) {
  if (GetParam() == FlatMode::kReal16) GTEST_SKIP() << "KVM's emulator does not check the limit of a real-mode table";
  // lidt of zeroes at 0x6000 (above the stack, never written); xor ecx, ecx; div ecx
  const bool is_long = GetParam() == FlatMode::kSupervisor64;
  const auto binary = is_long ? BinaryOf({0x0F, 0x01, 0x1C, 0x25, 0x00, 0x60, 0, 0, 0x31, 0xC9, 0xF7, 0xF1})
                              : BinaryOf({0x0F, 0x01, 0x1D, 0x00, 0x60, 0, 0, 0x31, 0xC9, 0xF7, 0xF1});
  FlatMachine machine = Create(binary);
  const Stop stop = Run(machine);
  ASSERT_EQ(stop.reason, StopReason::kCrashed) << stop.text;
  EXPECT_EQ(stop.exit_reason, std::uint32_t{KVM_EXIT_SHUTDOWN});
  EXPECT_THAT(stop.text, HasSubstr("rip"));
}

TEST_P(FlatMachineTest, RefusesABinaryWithoutAnEntryAndOneThatIsTooLarge) {
  for (const std::size_t bytes :
       {std::size_t{0}, std::size_t{kFlatEntry - kFlatCodeBase}, std::size_t{kFlatCodeMaxBytes + 1}}) {
    auto machine = FlatMachine::Create(*device_, std::vector<std::byte>(bytes), GetParam());
    ASSERT_FALSE(machine);
    EXPECT_EQ(machine.error().kind, ErrorKind::kInvalidArgument);
  }
}

}  // namespace
}  // namespace nestbench::vmm
