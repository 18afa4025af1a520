// A guest in 64-bit mode: descriptor tables, TSS, page tables, code at CPL0 or CPL3, and stubs that report exceptions.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>

#include "guest.h"
#include "guest_code.h"
#include "nestbench/abi/task_state.h"
#include "nestbench/abi/x86.h"

namespace nestbench::conformance {

struct Exception {
  std::uint64_t vector = 0;
  std::uint64_t error = 0;  // 0 where the vector has none
  std::uint64_t rip = 0;
  std::uint64_t cs = 0;
  std::uint64_t rflags = 0;
  std::uint64_t rsp = 0;
  std::uint64_t ss = 0;
  std::uint64_t cr2 = 0;
};

// The first 8 MiB are mapped one to one: 4 KiB pages for the first 2 MiB, then pages of 2 MiB. Code writes to kDonePort
// at its end; a stub writes to kFaultPort, and resumes with IRETQ from the frame as the test left it.
class LongModeTest : public VcpuTest {
 protected:
  static constexpr std::uint64_t kMemoryBytes = 8ULL << 20;
  static constexpr std::uint64_t kPml4 = 0x10000;
  static constexpr std::uint64_t kPd = 0x12000;
  static constexpr std::uint64_t kPt = 0x13000;
  static constexpr std::uint64_t kCode = 0x20000;
  static constexpr std::uint64_t kStackTop = 0x30000;
  static constexpr std::uint64_t kData = 0x40000;  // user, writable, not executable; and all that follows
  static constexpr std::uint16_t kDonePort = 0x10;
  static constexpr std::uint16_t kFaultPort = 0xFE;

  void SetUp() override;
  void User(std::initializer_list<int> code) { Enter(3, code); }
  void Kernel(std::initializer_list<int> code) { Enter(0, code); }
  void User(std::span<const std::byte> code) { Enter(3, code); }
  void Kernel(std::span<const std::byte> code) { Enter(0, code); }
  // Changes what KVM_SET_SREGS sets. TR is as it was: KVM says of an available one that it is busy.
  template <typename Change>
  void ChangeSregs(Change change) {
    auto sregs = vcpu().GetSregs();
    ASSERT_TRUE(sregs);
    sregs->tr.type = abi::x86::TaskStateType();
    change(*sregs);
    ASSERT_TRUE(vcpu().SetSregs(*sregs));
  }
  void SetCr0(std::uint64_t bits);  // sets these; the others stay
  void SetCr4(std::uint64_t bits);
  void SetRegister(__u64 kvm_regs::*which, std::uint64_t value);

  // The next exit is the report of an exception, or the code's end; else the test fails or is skipped.
  std::optional<Exception> NextException();
  bool Done();
  void Expect(std::uint64_t vector, std::uint64_t error, std::uint64_t offset);
  void ExpectPageFault(std::uint64_t error, std::uint64_t address);

  std::uint64_t& Word(std::uint64_t address) { return *reinterpret_cast<std::uint64_t*>(memory_.data() + address); }
  std::uint64_t& Pte(std::uint64_t address) { return Word(kPt + (address >> 12) * 8); }
  std::uint64_t Rax() { return vcpu().GetRegs()->rax; }

 private:
  void Enter(unsigned privilege, std::initializer_list<int> code);
  void Enter(unsigned privilege, std::span<const std::byte> code);
  std::span<std::byte> memory_;
};

}  // namespace nestbench::conformance
