// What the guest hypervisors (L1) do alike with the exits of their guest (L2), whatever a processor calls them. Each
// has a class `L2` of static functions: Register and SetRegister by number, Rip, and Skip, which goes on behind the
// instruction that left.
//
// In L2 virtual = physical = L1's physical address.
#pragma once

#include <cstddef>
#include <cstdint>

#include "nestbench/abi/hypervisor.h"
#include "nestbench/abi/layout.h"
#include "nestbench/abi/x86.h"

namespace nestbench::l1 {

constexpr unsigned kVectors = 256;
constexpr std::uint16_t kKernelCodeSelector = 0x08;
constexpr std::uint64_t kNoSuchHypercall = -1000ULL;  // Linux, Documentation/virt/kvm/x86/hypercalls.rst: KVM_ENOSYS
constexpr std::uint64_t kLongestInstruction = 15;

struct Gate {
  std::uint64_t low;
  std::uint64_t high;
};

inline abi::HypervisorData& Data() { return *reinterpret_cast<abi::HypervisorData*>(abi::kHypervisorDataBase); }

// The host hears of it and the machine ends.
[[noreturn]] inline void GiveUp(std::uint64_t exit_code) {
  for (;;) {
    asm volatile("outl %0, %1\n\thlt"
                 :
                 : "a"(abi::kHypervisorPanic | static_cast<std::uint32_t>(exit_code)),
                   "Nd"(std::uint16_t{abi::kPanicPort}));
  }
}

[[gnu::naked]] inline void InterruptStub() {
  asm volatile("incq %c[interrupts]\n\tiretq"
               :
               : [interrupts] "i"(abi::kHypervisorDataBase + offsetof(abi::HypervisorData, interrupts)));
}

// The host has written the gates of the exceptions, which are reported as L2's are; all other vectors are interrupts.
inline void SetUpInterrupts() {
  auto* const gates = reinterpret_cast<Gate*>(abi::kHypervisorIdtBase);
  const auto handler = reinterpret_cast<std::uint64_t>(&InterruptStub);
  for (unsigned vector = abi::x86::kExceptionVectors; vector < kVectors; ++vector) {
    gates[vector] = {abi::x86::InterruptGate(kKernelCodeSelector, handler), 0};
  }
}

template <typename L2>
void AnswerCpuid() {
  auto eax = static_cast<std::uint32_t>(L2::Register(abi::kRegisterRax));
  auto ecx = static_cast<std::uint32_t>(L2::Register(abi::kRegisterRcx));
  std::uint32_t ebx = 0;
  std::uint32_t edx = 0;
  asm volatile("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
  L2::SetRegister(abi::kRegisterRax, eax);
  L2::SetRegister(abi::kRegisterRbx, ebx);
  L2::SetRegister(abi::kRegisterRcx, ecx);
  L2::SetRegister(abi::kRegisterRdx, edx);
  L2::Skip();
}

// `bytes`: 1, 2 or 4.
template <typename L2>
void PassPortOn(std::uint16_t port, unsigned bytes, bool is_in) {
  const std::uint64_t rax = L2::Register(abi::kRegisterRax);
  auto eax = static_cast<std::uint32_t>(rax);
  if (bytes == 1) {
    if (is_in) asm volatile("inb %1, %b0" : "+a"(eax) : "d"(port));
    if (!is_in) asm volatile("outb %b0, %1" : : "a"(eax), "d"(port));
  } else if (bytes == 2) {
    if (is_in) asm volatile("inw %1, %w0" : "+a"(eax) : "d"(port));
    if (!is_in) asm volatile("outw %w0, %1" : : "a"(eax), "d"(port));
  } else {
    if (is_in) asm volatile("inl %1, %0" : "+a"(eax) : "d"(port));
    if (!is_in) asm volatile("outl %0, %1" : : "a"(eax), "d"(port));
  }
  // 32-bit results clear the upper half of RAX; shorter ones leave the rest as it is.
  constexpr std::uint64_t kUpperHalf = 0xFFFF'FFFF'0000'0000;
  if (is_in) L2::SetRegister(abi::kRegisterRax, (bytes < 4 ? rax & kUpperHalf : 0) | eax);
  L2::Skip();
}

inline bool IsMmio(std::uint64_t address) { return address >= abi::kDoorbellPage && address < abi::kMmioPagesEnd; }

// ModRM, SIB and displacement of an operand in memory; 0 for a register. AMD APM volume 3, section "ModRM and SIB
// Bytes".
inline unsigned OperandBytes(const std::uint8_t* at) {
  const unsigned mode = at[0] >> 6U;
  const unsigned base = at[0] & 7U;
  if (mode == 3) return 0;
  const bool has_sib = base == 4;
  const unsigned bytes = has_sib ? 2 : 1;
  if (mode == 1) return bytes + 1;
  const bool has_no_base = base == 5 || (has_sib && (at[1] & 7U) == 5);
  return mode == 2 || has_no_base ? bytes + 4 : bytes;
}

// A 32-bit store of a register or of a constant, which is all that payloads do there. `exit_code`: what L1 gives up
// with for anything else.
template <typename L2>
void PassMmioOn(std::uint64_t address, std::uint64_t exit_code) {
  constexpr std::uint8_t kStoreRegister = 0x89;
  constexpr std::uint8_t kStoreConstant = 0xC7;
  const std::uint64_t rip = L2::Rip();
  // What is not the image's text would be a page that L1 has not mapped.
  if (rip < abi::kImageBase || rip > abi::kImageBase + abi::kImageMaxBytes - kLongestInstruction) GiveUp(exit_code);
  const auto* const begin = reinterpret_cast<const std::uint8_t*>(rip);
  const std::uint8_t* at = begin;
  const std::uint8_t rex = (*at & 0xF0U) == 0x40 ? *at++ : 0;
  const bool is_wide = (rex & 8U) != 0;
  const std::uint8_t opcode = *at++;
  const unsigned operand_bytes = OperandBytes(at);
  if (operand_bytes == 0 || is_wide || (opcode != kStoreRegister && opcode != kStoreConstant)) GiveUp(exit_code);
  std::uint32_t value = 0;
  if (opcode == kStoreRegister) {
    value = static_cast<std::uint32_t>(L2::Register((*at >> 3U & 7U) | (rex << 1U & 8U)));
    at += operand_bytes;
  } else {
    at += operand_bytes;
    __builtin_memcpy(&value, at, sizeof(value));
    at += sizeof(value);
  }
  *reinterpret_cast<volatile std::uint32_t*>(address) = value;
  L2::SkipBytes(static_cast<std::uint64_t>(at - begin));
}

}  // namespace nestbench::l1

// Moves between L2's registers and abi::HypervisorData, for the entry's assembly; RAX and RSP are the hypervisor's
// business.
#define NESTBENCH_L1_MOVE_ALL(MOVE) \
  MOVE(1, rcx)                      \
  MOVE(2, rdx)                      \
  MOVE(3, rbx)                      \
  MOVE(5, rbp)                      \
  MOVE(6, rsi)                      \
  MOVE(7, rdi)                      \
  MOVE(8, r8)                       \
  MOVE(9, r9)                       \
  MOVE(10, r10)                     \
  MOVE(11, r11)                     \
  MOVE(12, r12)                     \
  MOVE(13, r13)                     \
  MOVE(14, r14)                     \
  MOVE(15, r15)
#define NESTBENCH_L1_LOAD(number, name) "movq %c[data] + 8 * " #number ", %%" #name "\n"
#define NESTBENCH_L1_SAVE(number, name) "movq %%" #name ", %c[data] + 8 * " #number "\n"
