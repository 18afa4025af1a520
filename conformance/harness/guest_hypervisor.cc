#include "guest_hypervisor.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cstring>

#include "elf_builder.h"
#include "nestbench/abi/hypervisor.h"
#include "nestbench/abi/layout.h"
#include "nestbench/abi/x86.h"
#include "nestbench/hypervisors/images.h"
#include "nestbench/vmm/kvm/deadline.h"

namespace nestbench::conformance {

using namespace std::chrono_literals;
using vmm::Stop;
using vmm::StopReason;
using vmm::UserMachine;

namespace {

constexpr std::uint64_t kLocalApicBase = 0xFEE0'0000;

void Skip(const std::string& why) { GTEST_SKIP() << why; }

Stop RunMachine(UserMachine& machine, std::chrono::nanoseconds limit = 5s) {
  auto deadline = vmm::RunDeadline::Start(machine.vcpu(), limit);
  if (!deadline) return {.reason = StopReason::kUnexpected, .text = deadline.error().ToString()};
  auto stop = machine.RunUntilStop();
  if (!stop) return {.reason = StopReason::kUnexpected, .text = stop.error().ToString()};
  return *stop;
}

// AMD APM volume 2, section "Spurious Interrupts": APIC software enable, in the register at 0xF0.
void EnableLocalApic(UserMachine& machine) {
  auto state = machine.vcpu().GetLapic();
  ASSERT_TRUE(state) << state.error().ToString();
  constexpr std::uint32_t kEnabled = 0x1FF;
  std::memcpy(&state->regs[0xF0], &kEnabled, sizeof(kEnabled));
  ASSERT_TRUE(machine.vcpu().SetLapic(*state));
}

}  // namespace

void GuestHypervisorTest::SetUp() {
  KvmTest::SetUp();
  if (IsSkipped()) return;
  if (const auto can = vmm::CheckVirtualization(device(), processor_.virtualization); !can) {
    ASSERT_EQ(can.error().kind, vmm::ErrorKind::kUnsupported) << can.error().ToString();
    GTEST_SKIP() << can.error().detail;
  }
}

std::optional<UserMachine> GuestHypervisorTest::Create(const std::vector<int>& code, bool nested_paging) {
  std::vector<std::byte> bytes;
  for (const int value : code) bytes.push_back(static_cast<std::byte>(value));
  vmm::ElfBuilder builder;
  builder.header.e_type = ET_EXEC;
  builder.header.e_machine = EM_X86_64;
  builder.header.e_entry = abi::kImageBase;
  builder.Add(PT_LOAD, abi::kImageBase, PF_R | PF_X, bytes, bytes.size());
  vmm::UserMachineOptions options;
  // One that is injected from user space would go to L2 straight away: arch/x86/kvm/irq.c, kvm_cpu_has_extint.
  options.interrupt_chip = true;
  options.nested = {.svm = hypervisors::Svm(), .vmx = hypervisors::Vmx(), .nested_paging = nested_paging};
  file_ = builder.Build();
  auto machine = UserMachine::Create(device(), file_, options);
  if (machine) return std::move(*machine);
  if (machine.error().kind == vmm::ErrorKind::kUnsupported) {
    Skip(machine.error().detail);
  } else {
    ADD_FAILURE() << machine.error().ToString();
  }
  return std::nullopt;
}

void GuestHypervisorTest::ExpectPortWritesPassedOn() {
  for (const bool nested_paging : {true, false}) {
    // mov edx, 0xB20; out dx, eax; jmp to the out
    auto machine = Create({0xBA, 0x20, 0x0B, 0x00, 0x00, 0xEF, 0xEB, 0xFD}, nested_paging);
    if (!machine) return;
    for (int i = 0; i < 3; ++i) {
      const Stop stop = RunMachine(*machine);
      ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text << ", nested paging " << nested_paging;
    }
  }
}

void GuestHypervisorTest::ExpectStoresToMmioCarriedOut() {
  for (const bool nested_paging : {true, false}) {
    // mov r8d, 0xD0000000; mov [r8], r9d; mov dword [0xD0000000], 7, addressed by 32 bits; jmp to the first store
    auto machine =
        Create({0x41, 0xB8, 0x00, 0x00, 0x00, 0xD0, 0x45, 0x89, 0x08, 0x41, 0xC7, 0x00, 0x07, 0, 0, 0, 0xEB, 0xF4},
               nested_paging);
    if (!machine) return;
    for (int i = 0; i < 4; ++i) {
      const Stop stop = RunMachine(*machine);
      ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text << ", nested paging " << nested_paging;
    }
  }
}

void GuestHypervisorTest::ExpectHypercallAnswered() {
  for (const bool nested_paging : {true, false}) {
    // mov eax, 5; hypercall; mov [rdi + 8], rax; mov edx, 0xB20; out dx, eax
    std::vector<int> code = {0xB8, 5, 0, 0, 0};
    code.insert(code.end(), processor_.hypercall.begin(), processor_.hypercall.end());
    code.insert(code.end(), {0x48, 0x89, 0x47, 0x08, 0xBA, 0x20, 0x0B, 0, 0, 0xEF});
    auto machine = Create(code, nested_paging);
    if (!machine) return;
    const Stop stop = RunMachine(*machine);
    ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
    std::int64_t answer = 0;
    std::memcpy(&answer, machine->mailbox().data() + 8, sizeof(answer));
    EXPECT_EQ(answer, -1000) << "nested paging " << nested_paging;
  }
}

void GuestHypervisorTest::ExpectGeneralProtectionFaultLeftToL2() {
  for (const bool nested_paging : {true, false}) {
    auto machine = Create({0xE6, 0x80}, nested_paging);  // out 0x80, al
    if (!machine) return;
    const Stop stop = RunMachine(*machine);
    ASSERT_EQ(stop.reason, StopReason::kException) << stop.text << ", nested paging " << nested_paging;
    ASSERT_TRUE(stop.exception);
    EXPECT_EQ(stop.exception->vector, abi::x86::kVectorGeneralProtection);
    EXPECT_EQ(stop.exception->instruction_pointer, abi::kImageBase);
  }
}

void GuestHypervisorTest::ExpectPageFaultLeftToL2() {
  constexpr std::uint64_t kNowhere = abi::kFaultPage + 0x1000;
  for (const bool nested_paging : {true, false}) {
    auto machine =
        Create({0xB8, 0x00, 0x10, 0x00, 0xC0, 0x8B, 0x00}, nested_paging);  // mov eax, kNowhere; mov eax, [rax]
    if (!machine) return;
    const Stop stop = RunMachine(*machine);
    ASSERT_EQ(stop.reason, StopReason::kException) << stop.text << ", nested paging " << nested_paging;
    ASSERT_TRUE(stop.exception);
    EXPECT_EQ(stop.exception->vector, abi::x86::kVectorPageFault);
    EXPECT_EQ(stop.exception->error_code, 4U) << "a read by user code";
    EXPECT_EQ(stop.exception->cr2, kNowhere);
  }
}

void GuestHypervisorTest::ExpectL1OutOfReach() {
  // mov eax, kStackBase; mov eax, [rax]
  auto machine = Create({0xB8, 0x00, 0x00, 0x10, 0x0F, 0x8B, 0x00}, true);
  if (!machine) return;
  // L2 as its own kernel might: a page of its tables leads to L1's code.
  std::uint64_t entry_address = Level2Root(*machine);
  for (unsigned shift = 39;; shift -= 9) {
    entry_address += (abi::kStackBase >> shift) % abi::x86::kPageTableEntries * sizeof(std::uint64_t);
    if (shift == 12) break;
    entry_address = Read<std::uint64_t>(*machine, entry_address) & abi::x86::kPteAddressMask;
  }
  const auto entry = Read<std::uint64_t>(*machine, entry_address);
  ASSERT_EQ(entry & abi::x86::kPteAddressMask, abi::kStackBase);
  ASSERT_TRUE(machine->vm().memory().Write(abi::GuestPhysAddr(entry_address),
                                           (entry & ~abi::x86::kPteAddressMask) | abi::kHypervisorBase));
  const Stop stop = RunMachine(*machine);
  EXPECT_EQ(stop.reason, StopReason::kCrashed);
  EXPECT_THAT(stop.text,
              ::testing::EndsWith(fmt::format("no answer to the exit {}", processor_.nested_page_fault_exit)));
}

void GuestHypervisorTest::ExpectEndForAnUnknownExit() {
  for (const bool nested_paging : {true, false}) {
    auto machine =
        Create({0xBA, 0x20, 0x0B, 0x00, 0x00, 0x48, 0x89, 0xFE, 0x6E}, nested_paging);  // mov rsi, rdi; outsb
    if (!machine) return;
    const Stop stop = RunMachine(*machine);
    EXPECT_EQ(stop.reason, StopReason::kCrashed) << stop.text;
    EXPECT_THAT(stop.text, ::testing::EndsWith(fmt::format("no answer to the exit {}", processor_.port_exit)));
  }
}

void GuestHypervisorTest::ExpectInterruptTaken() {
  for (const bool nested_paging : {true, false}) {
    auto machine = Create({0xEB, 0xFE}, nested_paging);  // jmp to itself
    if (!machine) return;
    const auto taken = [&machine] { return Read<abi::HypervisorData>(*machine, abi::kHypervisorDataBase).interrupts; };
    ASSERT_EQ(RunMachine(*machine, 100ms).reason, StopReason::kInterrupted);
    ASSERT_EQ(taken(), 0U);
    EnableLocalApic(*machine);
    const auto sent = machine->vm().SignalMsi(kLocalApicBase, 0x41);
    ASSERT_TRUE(sent) << sent.error().ToString();
    ASSERT_EQ(*sent, 1);
    const Stop stop = RunMachine(*machine, 100ms);
    ASSERT_EQ(stop.reason, StopReason::kInterrupted) << stop.text;
    EXPECT_EQ(taken(), 1U) << "nested paging " << nested_paging;
  }
}

}  // namespace nestbench::conformance
