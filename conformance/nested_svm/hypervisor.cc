// The guest hypervisor that the substrate `nested` measures (workloads/hypervisors/svm.cc): what its guest does ends as
// it would in a plain guest, with nested paging and with shadow paging. Source: AMD64 Architecture Programmer's Manual
// volume 2, chapter "Secure Virtual Machine".
#include <cstring>
#include <initializer_list>
#include <vector>

#include "../harness/guest.h"
#include "elf_builder.h"
#include "nestbench/abi/hypervisor.h"
#include "nestbench/abi/svm.h"
#include "nestbench/abi/x86.h"
#include "nestbench/hypervisors/images.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/machine/user_machine.h"

namespace nestbench::conformance {
namespace {

using namespace std::chrono_literals;
using vmm::Stop;
using vmm::StopReason;
using vmm::UserMachine;

class GuestHypervisor : public KvmTest {
 protected:
  static constexpr std::uint64_t kLocalApicBase = 0xFEE0'0000;

  // Skips the test where this KVM's guests can have no guests.
  std::optional<UserMachine> Create(std::initializer_list<int> code, bool nested_paging) {
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
    options.nested = {.hypervisor = hypervisors::Svm(), .nested_paging = nested_paging};
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

  static Stop Run(UserMachine& machine, std::chrono::nanoseconds limit = 5s) {
    auto deadline = vmm::RunDeadline::Start(machine.vcpu(), limit);
    if (!deadline) return {.reason = StopReason::kUnexpected, .text = deadline.error().ToString()};
    auto stop = machine.RunUntilStop();
    if (!stop) return {.reason = StopReason::kUnexpected, .text = stop.error().ToString()};
    return *stop;
  }

  // AMD APM volume 2, section "Spurious Interrupts": APIC software enable, in the register at 0xF0.
  static void EnableLocalApic(UserMachine& machine) {
    auto state = machine.vcpu().GetLapic();
    ASSERT_TRUE(state) << state.error().ToString();
    constexpr std::uint32_t kEnabled = 0x1FF;
    std::memcpy(&state->regs[0xF0], &kEnabled, sizeof(kEnabled));
    ASSERT_TRUE(machine.vcpu().SetLapic(*state));
  }

  template <typename T>
  static T Read(UserMachine& machine, std::uint64_t address) {
    auto value = machine.vm().memory().Read<T>(abi::GuestPhysAddr(address));
    EXPECT_TRUE(value) << value.error().ToString();
    return value.value_or(T{});
  }

 private:
  static void Skip(const std::string& why) { GTEST_SKIP() << why; }
  std::vector<std::byte> file_;
};

NESTBENCH_CONDITION(nested_svm, GuestHypervisor, PassesAPortWriteOn, "AMD APM volume 2, I/O Intercepts") {
  for (const bool nested_paging : {true, false}) {
    // mov edx, 0xB20; out dx, eax; jmp to the out
    auto machine = Create({0xBA, 0x20, 0x0B, 0x00, 0x00, 0xEF, 0xEB, 0xFD}, nested_paging);
    if (!machine) return;
    for (int i = 0; i < 3; ++i) {
      const Stop stop = Run(*machine);
      ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text << ", nested paging " << nested_paging;
    }
  }
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, CarriesOutAStoreToAnMmioPage,
                    "AMD APM volume 2, Nested Paging: nested page faults; Exception Intercepts: #PF") {
  for (const bool nested_paging : {true, false}) {
    // mov r8d, 0xD0000000; mov [r8], r9d; mov dword [0xD0000000], 7, addressed by 32 bits; jmp to the first store
    auto machine =
        Create({0x41, 0xB8, 0x00, 0x00, 0x00, 0xD0, 0x45, 0x89, 0x08, 0x41, 0xC7, 0x00, 0x07, 0, 0, 0, 0xEB, 0xF4},
               nested_paging);
    if (!machine) return;
    for (int i = 0; i < 4; ++i) {
      const Stop stop = Run(*machine);
      ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text << ", nested paging " << nested_paging;
    }
  }
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, AnswersAHypercall, "AMD APM volume 2, VMMCALL Instruction") {
  for (const bool nested_paging : {true, false}) {
    // mov eax, 5; vmmcall; mov [rdi + 8], rax; mov edx, 0xB20; out dx, eax
    auto machine = Create({0xB8, 5, 0, 0, 0, 0x0F, 0x01, 0xD9, 0x48, 0x89, 0x47, 0x08, 0xBA, 0x20, 0x0B, 0, 0, 0xEF},
                          nested_paging);
    if (!machine) return;
    const Stop stop = Run(*machine);
    ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
    std::int64_t answer = 0;
    std::memcpy(&answer, machine->mailbox().data() + 8, sizeof(answer));
    EXPECT_EQ(answer, -1000) << "nested paging " << nested_paging;
  }
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, LeavesL2ItsOwnGeneralProtectionFault,
                    "AMD APM volume 2, I/O Intercepts: the intercept comes after the check of the permission bitmap") {
  for (const bool nested_paging : {true, false}) {
    auto machine = Create({0xE6, 0x80}, nested_paging);  // out 0x80, al
    if (!machine) return;
    const Stop stop = Run(*machine);
    ASSERT_EQ(stop.reason, StopReason::kException) << stop.text << ", nested paging " << nested_paging;
    ASSERT_TRUE(stop.exception);
    EXPECT_EQ(stop.exception->vector, abi::x86::kVectorGeneralProtection);
    EXPECT_EQ(stop.exception->instruction_pointer, abi::kImageBase);
  }
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, LeavesL2ItsOwnPageFault,
                    "AMD APM volume 2, Event Injection: exception with an error code") {
  constexpr std::uint64_t kNowhere = abi::kFaultPage + 0x1000;
  for (const bool nested_paging : {true, false}) {
    auto machine =
        Create({0xB8, 0x00, 0x10, 0x00, 0xC0, 0x8B, 0x00}, nested_paging);  // mov eax, kNowhere; mov eax, [rax]
    if (!machine) return;
    const Stop stop = Run(*machine);
    ASSERT_EQ(stop.reason, StopReason::kException) << stop.text << ", nested paging " << nested_paging;
    ASSERT_TRUE(stop.exception);
    EXPECT_EQ(stop.exception->vector, abi::x86::kVectorPageFault);
    EXPECT_EQ(stop.exception->error_code, 4U) << "a read by user code";
    EXPECT_EQ(stop.exception->cr2, kNowhere);
  }
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, IsOutOfReachOfL2, "AMD APM volume 2, Nested Paging: guest-physical") {
  // mov eax, kStackBase; mov eax, [rax]
  auto machine = Create({0xB8, 0x00, 0x00, 0x10, 0x0F, 0x8B, 0x00}, true);
  if (!machine) return;
  // L2 as its own kernel might: a page of its tables leads to L1's code.
  const auto block = Read<abi::svm::Vmcb>(*machine, abi::kHypervisorVmcb);
  std::uint64_t entry_address = block.cr3;
  for (unsigned shift = 39;; shift -= 9) {
    entry_address += (abi::kStackBase >> shift) % abi::x86::kPageTableEntries * sizeof(std::uint64_t);
    if (shift == 12) break;
    entry_address = Read<std::uint64_t>(*machine, entry_address) & abi::x86::kPteAddressMask;
  }
  const auto entry = Read<std::uint64_t>(*machine, entry_address);
  ASSERT_EQ(entry & abi::x86::kPteAddressMask, abi::kStackBase);
  ASSERT_TRUE(machine->vm().memory().Write(abi::GuestPhysAddr(entry_address),
                                           (entry & ~abi::x86::kPteAddressMask) | abi::kHypervisorBase));
  const Stop stop = Run(*machine);
  EXPECT_EQ(stop.reason, StopReason::kCrashed);
  EXPECT_NE(stop.text.find("no answer to the exit 0x400"), std::string::npos) << stop.text;
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, EndsTheMachineForAnExitThatItDoesNotKnow,
                    "AMD APM volume 2, I/O Intercepts: EXITINFO1.STR") {
  for (const bool nested_paging : {true, false}) {
    auto machine =
        Create({0xBA, 0x20, 0x0B, 0x00, 0x00, 0x48, 0x89, 0xFE, 0x6E}, nested_paging);  // mov rsi, rdi; outsb
    if (!machine) return;
    const Stop stop = Run(*machine);
    EXPECT_EQ(stop.reason, StopReason::kCrashed) << stop.text;
    EXPECT_NE(stop.text.find("no answer to the exit 0x7b"), std::string::npos) << stop.text;
  }
}
NESTBENCH_CONDITION(nested_svm, GuestHypervisor, TakesAnInterruptThatComesWhileL2Runs,
                    "AMD APM volume 2, Interrupt Intercepts: INTR; V_INTR_MASKING") {
  for (const bool nested_paging : {true, false}) {
    auto machine = Create({0xEB, 0xFE}, nested_paging);  // jmp to itself
    if (!machine) return;
    const auto taken = [&machine] { return Read<abi::HypervisorData>(*machine, abi::kHypervisorDataBase).interrupts; };
    ASSERT_EQ(Run(*machine, 100ms).reason, StopReason::kInterrupted);
    ASSERT_EQ(taken(), 0U);
    EnableLocalApic(*machine);
    const auto sent = machine->vm().SignalMsi(kLocalApicBase, 0x41);
    ASSERT_TRUE(sent) << sent.error().ToString();
    ASSERT_EQ(*sent, 1);
    const Stop stop = Run(*machine, 100ms);
    ASSERT_EQ(stop.reason, StopReason::kInterrupted) << stop.text;
    EXPECT_EQ(taken(), 1U) << "nested paging " << nested_paging;
  }
}

}  // namespace
}  // namespace nestbench::conformance
