// State of one vCPU, of another, and of the thread that runs them. Source: kernel document "The Definitive KVM API
// Documentation", KVM_RUN and the sections of the state ioctls; arch/x86/kvm/x86.c, vcpu_enter_guest,
// kvm_load_guest_fpu and kvm_put_guest_fpu; Intel SDM, volume 3, Processor State After Reset.
#include <asm/prctl.h>
#include <linux/hw_breakpoint.h>
#include <linux/perf_event.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "../harness/box_test.h"

// Stores XMM0-15 at 0xD000 and tells it, then fills them from 0xC000, over and over.
NESTBENCH_GUEST_CODE(SwapSse,
                     "1: .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups %xmm\\n, 0xD000+16*\\n\n .endr\n"
                     "stmxcsr 0xD100\n fnstcw 0xD104\n out %al, $0x10\n"
                     ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups 0xC000+16*\\n, %xmm\\n\n .endr\n"
                     "ldmxcsr 0xC100\n fldcw 0xC104\n out %al, $0x11\n jmp 1b")
NESTBENCH_GUEST_CODE(SwapAvx,
                     "1: .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovups %ymm\\n, 0xD000+32*\\n\n .endr\n"
                     "out %al, $0x10\n"
                     ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n vmovups 0xC000+32*\\n, %ymm\\n\n .endr\n"
                     "out %al, $0x11\n jmp 1b")
NESTBENCH_GUEST_CODE(SwapAvx512,
                     "1: .irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
                     "vmovups %zmm\\n, 0xD000+64*\\n\n .endr\n out %al, $0x10\n"
                     ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
                     "vmovups 0xC000+64*\\n, %zmm\\n\n .endr\n out %al, $0x11\n jmp 1b")
// Each register is its neighbour's next value: what is lost or exchanged shows.
NESTBENCH_GUEST_CODE(
    CountInRegisters,
    "1: inc %rbx\n inc %rcx\n inc %rbp\n inc %rsi\n inc %rdi\n inc %r8\n inc %r9\n inc %r10\n inc %r11\n"
    "inc %r12\n inc %r13\n inc %r14\n inc %r15\n out %al, $0x10\n jmp 1b")
NESTBENCH_GUEST_CODE(SpoilEverything,
                     ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups 0xC000, %xmm\\n\n .endr\n"
                     "mov $0x5A5A5A5A5A5A5A5A, %rax\n mov %rax, %rbx\n mov %rax, %rcx\n mov %rax, %rbp\n"
                     "mov %rax, %rsi\n mov %rax, %rdi\n mov %rax, %r8\n mov %rax, %r9\n mov %rax, %r10\n"
                     "mov %rax, %r11\n mov %rax, %r12\n mov %rax, %r13\n mov %rax, %r14\n mov %rax, %r15\n"
                     "ldmxcsr 0xC100\n fldcw 0xC104\n fldpi\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(WriteDebugRegisters,
                     "mov $0xC000, %eax\n mov %rax, %dr0\n mov $0xC008, %eax\n mov %rax, %dr1\n"
                     "mov $0xC010, %eax\n mov %rax, %dr2\n mov $0xC018, %eax\n mov %rax, %dr3\n"
                     "mov $0xFFFF02AA, %eax\n mov %rax, %dr7\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(ReadDebugRegisters,
                     "mov %dr0, %rax\n mov %rax, 0xC000\n mov %dr1, %rax\n mov %rax, 0xC008\n mov %dr2, %rax\n"
                     "mov %rax, 0xC010\n mov %dr3, %rax\n mov %rax, 0xC018\n mov %dr7, %rax\n mov %rax, 0xC020\n"
                     "out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(WriteMsrFromMemory,
                     "mov 0xC000, %ecx\n mov 0xC004, %eax\n mov 0xC008, %edx\n wrmsr\n"
                     "out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(ReadMsrToMemory,
                     "mov 0xC000, %ecx\n rdmsr\n mov %eax, 0xC004\n mov %edx, 0xC008\n"
                     "out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(NopsAndOut, "nop\n nop\n nop\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(TouchForever, "1: mov 0xC000, %rax\n mov %rax, 0xC000\n out %al, $0x10\n jmp 1b")

namespace nestbench::conformance {
namespace {

using namespace std::chrono_literals;
using namespace abi::x86;

class VcpuState : public BoxTest {
 protected:
  std::optional<Box> With(std::span<const std::byte> code, BoxMode mode = BoxMode::kSupervisor64) {
    auto box = MakeBox(mode);
    if (box) box->Load(code);
    return box;
  }

  // Two guests that take turns on this thread, each filling its vector registers with bytes of its own.
  void ExpectVectorRegistersStayApart(std::span<const std::byte> code, std::size_t bytes) {
    auto first = With(code, BoxMode::kUser64);
    auto second = With(code, BoxMode::kUser64);
    if (!first || !second) return;
    const auto fill = [bytes](Box& box, int value) {
      std::memset(box.memory().data() + Box::kData, value, bytes);
      box.Put(Box::kData + 0x100, std::uint32_t{value == 0x11 ? 0x1F80U : 0x3F80U});
      box.Put(Box::kData + 0x104, std::uint32_t{value == 0x11 ? 0x037FU : 0x0F7FU});
    };
    const bool is_sse = bytes == 256;
    if (is_sse) bytes += 6;
    fill(*first, 0x11);
    fill(*second, 0x22);
    for (int round = 0; round < 30; ++round) {
      for (Box* box : {&*first, &*second}) {
        const Box::Said said = box->RunToPort();
        ASSERT_EQ(said.port, 0x10) << said.text;
        const auto* loaded = box->memory().data() + Box::kData;
        const auto* stored = box->memory().data() + Box::kData + 0x1000;
        if (round == 0) {  // a fresh vCPU's registers are zero, whoever ran before on this thread
          const std::size_t registers = is_sse ? 256 : bytes;
          for (std::size_t i = 0; i < registers; ++i) ASSERT_EQ(stored[i], std::byte{0}) << "byte " << i;
        } else {
          ASSERT_EQ(std::memcmp(loaded, stored, bytes), 0) << "round " << round;
        }
        ASSERT_EQ(box->RunToPort().port, 0x11);
      }
    }
  }

  bool HasXcr0(std::uint64_t bits) {
    const auto policy = device().SupportedCpuid();
    return policy && (policy->SupportedXcr0() & bits) == bits;
  }
};

NESTBENCH_CONDITION(isolation, VcpuState, SseAndControlWordsOfTwoVmsStayApart,
                    "arch/x86/kvm/x86.c, kvm_load_guest_fpu: each vCPU has an FPU state of its own") {
  ExpectVectorRegistersStayApart(SwapSse(), 256);
}

NESTBENCH_CONDITION(isolation, VcpuState, AvxOfTwoVmsStaysApart,
                    "arch/x86/kvm/x86.c, kvm_load_guest_fpu: each vCPU has an FPU state of its own") {
  if (!HasXcr0(kXcr0Avx)) GTEST_SKIP() << "KVM gives guests no AVX (XCR0)";
  ExpectVectorRegistersStayApart(SwapAvx(), 512);
}

NESTBENCH_CONDITION(isolation, VcpuState, Avx512OfTwoVmsStaysApart,
                    "arch/x86/kvm/x86.c, kvm_load_guest_fpu: each vCPU has an FPU state of its own") {
  if (!HasXcr0(kXcr0Avx512)) GTEST_SKIP() << "KVM gives guests no AVX-512 (XCR0)";
  ExpectVectorRegistersStayApart(SwapAvx512(), 2048);
}

NESTBENCH_CONDITION(isolation, VcpuState, GeneralRegistersOfTwoVmsInTurnStayApart,
                    "KVM API, KVM_RUN and KVM_GET_REGS: registers belong to a vCPU") {
  for (const BoxMode mode : {BoxMode::kSupervisor64, BoxMode::kUser64}) {
    auto first = With(CountInRegisters(), mode);
    auto second = With(CountInRegisters(), mode);
    if (!first || !second) return;
    std::uint64_t base = 0x1000'0000'0000;
    for (Box* box : {&*first, &*second}) {
      auto regs = box->vcpu().GetRegs();
      ASSERT_TRUE(regs);
      for (auto* one : {&regs->rbx, &regs->rcx, &regs->rbp, &regs->rsi, &regs->rdi, &regs->r8, &regs->r9, &regs->r10,
                        &regs->r11, &regs->r12, &regs->r13, &regs->r14, &regs->r15}) {
        *one = base;
        base += 0x1'0000'0000;
      }
      ASSERT_TRUE(box->vcpu().SetRegs(*regs));
    }
    for (std::uint64_t round = 1; round <= 50; ++round) {
      base = 0x1000'0000'0000;
      for (Box* box : {&*first, &*second}) {
        ASSERT_EQ(box->RunToPort().port, 0x10);
        const auto regs = box->vcpu().GetRegs();
        ASSERT_TRUE(regs);
        for (const auto one : {regs->rbx, regs->rcx, regs->rbp, regs->rsi, regs->rdi, regs->r8, regs->r9, regs->r10,
                               regs->r11, regs->r12, regs->r13, regs->r14, regs->r15}) {
          ASSERT_EQ(one, base + round);
          base += 0x1'0000'0000;
        }
      }
    }
  }
}

NESTBENCH_CONDITION(isolation, VcpuState, ANewVcpuHasNothingOfAnEarlierOne,
                    "Intel SDM volume 3, Processor State After Reset; KVM API, KVM_CREATE_VCPU") {
  const auto state_of = [](vmm::Vcpu& vcpu) {
    const auto regs = vcpu.GetRegs();
    const auto sregs = vcpu.GetSregs();
    const auto fpu = vcpu.GetFpu();
    const auto xsave = vcpu.GetXsave();
    const auto debug = vcpu.GetDebugRegs();
    const auto events = vcpu.GetEvents();
    EXPECT_TRUE(regs && sregs && fpu && xsave && debug && events);
    std::vector<std::string> parts;
    const auto add = [&parts](const auto& value) {
      parts.emplace_back(reinterpret_cast<const char*>(&value), sizeof(value));
    };
    add(*regs);
    add(*sregs);
    add(*fpu);
    parts.emplace_back(reinterpret_cast<const char*>(xsave->data()), xsave->size());
    add(*debug);
    add(*events);
    return parts;
  };
  const auto create = [this] {
    auto vm = vmm::Vm::Create(device());
    EXPECT_TRUE(vm);
    auto vcpu = vmm::Vcpu::Create(*vm, abi::VcpuId(0));
    EXPECT_TRUE(vcpu);
    return std::pair(std::move(*vm), std::move(*vcpu));
  };
  auto before = create();
  const auto wanted = state_of(before.second);
  {
    auto spoiler = With(SpoilEverything(), BoxMode::kUser64);
    if (!spoiler) return;
    std::memset(spoiler->memory().data() + Box::kData, 0x5A, 0x100);
    spoiler->Put(Box::kData + 0x100, std::uint32_t{0x3F80});
    spoiler->Put(Box::kData + 0x104, std::uint32_t{0x0F7F});
    ASSERT_EQ(spoiler->RunToPort().port, 0x10);
    kvm_debugregs debug = {};
    debug.db[0] = debug.db[1] = debug.db[2] = debug.db[3] = 0x5A5A'5A58;
    debug.dr6 = 0xFFFF'0FF0;
    debug.dr7 = 0x4AA;
    ASSERT_TRUE(spoiler->vcpu().SetDebugRegs(debug));
  }
  auto after = create();
  const auto seen = state_of(after.second);
  const char* const names[] = {"registers", "segments", "FPU", "XSAVE area", "debug registers", "events"};
  for (std::size_t i = 0; i < wanted.size(); ++i) EXPECT_TRUE(wanted[i] == seen[i]) << names[i];
}

NESTBENCH_CONDITION(isolation, VcpuState, MsrsThatAnEarlierGuestWroteAreNotANewOnes,
                    "KVM API, KVM_SET_MSRS and KVM_GET_MSRS: of a vCPU; Intel SDM volume 3, State After Reset") {
  constexpr std::uint32_t kMsrs[] = {0xC000'0081, 0xC000'0082, 0xC000'0083, 0xC000'0084, 0xC000'0102,
                                     0x174,       0x175,       0x176,       0xC000'0103};
  int written = 0;
  for (const std::uint32_t msr : kMsrs) {
    auto writer = MakeBox(BoxMode::kSupervisor64);
    auto reader = MakeBox(BoxMode::kSupervisor64);
    if (!writer || !reader) return;
    writer->Load(WriteMsrFromMemory());
    reader->Load(ReadMsrToMemory());
    for (Box* box : {&*writer, &*reader}) box->Put(Box::kData, msr);
    writer->Put(Box::kData + 4, std::uint32_t{0x5A5A});
    if (writer->RunToPort().port != 0x10) continue;  // no such register here
    ++written;
    const Box::Said said = reader->RunToPort();
    ASSERT_EQ(said.port, 0x10) << said.text;
    EXPECT_NE(reader->Get<std::uint32_t>(Box::kData + 4), 0x5A5AU) << "MSR " << msr;
    EXPECT_NE(reader->vcpu().ReadMsr(msr).value_or(0), 0x5A5AU) << "MSR " << msr;
  }
  Evidence("msrs", written);
  if (written == 0) GTEST_SKIP() << "the guest can write none of them";
}

NESTBENCH_CONDITION(isolation, VcpuState, DebugRegistersOfOneVmAreNotSeenByAnother,
                    "KVM API, KVM_GET_DEBUGREGS; arch/x86/kvm/x86.c, vcpu_enter_guest: switch_db_regs") {
  auto writer = With(WriteDebugRegisters());
  auto reader = With(ReadDebugRegisters());
  if (!writer || !reader) return;
  const Box::Said wrote = writer->RunToPort();
  if (wrote.port != 0x10) GTEST_SKIP() << "the guest cannot write debug registers: " << wrote.text;
  const Box::Said said = reader->RunToPort();
  ASSERT_EQ(said.port, 0x10) << said.text;
  for (std::uint64_t i = 0; i < 4; ++i) EXPECT_EQ(reader->Get<std::uint64_t>(Box::kData + i * 8), 0U) << "DR" << i;
  EXPECT_EQ(reader->Get<std::uint64_t>(Box::kData + 32), 0x400U) << "DR7";
}

NESTBENCH_CONDITION(isolation, VcpuState, ABreakpointOfOneVmDoesNotStopAnother,
                    "KVM API, KVM_SET_GUEST_DEBUG: of a vCPU") {
  if (Lacks(KVM_CAP_SET_GUEST_DEBUG, "KVM_CAP_SET_GUEST_DEBUG")) return;
  auto stopped = With(NopsAndOut());
  auto free = With(NopsAndOut());
  if (!stopped || !free) return;
  kvm_guest_debug debug = {};
  debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
  debug.arch.debugreg[0] = Box::kCode + 2;
  debug.arch.debugreg[7] = 0x402;
  ASSERT_TRUE(stopped->vcpu().SetGuestDebug(debug));
  for (int round = 0; round < 20; ++round) {
    ASSERT_TRUE(stopped->Restart() && free->Restart());
    const auto exit = stopped->Run();
    ASSERT_TRUE(exit) << exit.error().ToString();
    if (!std::holds_alternative<vmm::DebugExit>(*exit)) {
      GTEST_SKIP() << "the breakpoint does not stop its own guest either: " << vmm::ToString(*exit);
    }
    const Box::Said said = free->RunToPort();
    ASSERT_EQ(said.port, 0x10) << said.text;
  }
}

NESTBENCH_CONDITION(isolation, VcpuState, ABreakpointOfOneVcpuDoesNotStopItsSibling,
                    "KVM API, KVM_SET_GUEST_DEBUG: of a vCPU") {
  if (Lacks(KVM_CAP_SET_GUEST_DEBUG, "KVM_CAP_SET_GUEST_DEBUG")) return;
  auto box = With(NopsAndOut());
  if (!box) return;
  auto sibling = box->MakeSibling(1);
  ASSERT_TRUE(sibling) << sibling.error().ToString();
  kvm_guest_debug debug = {};
  debug.control = KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP;
  ASSERT_TRUE(box->vcpu().SetGuestDebug(debug));
  const auto exit = box->Run();
  ASSERT_TRUE(exit && std::holds_alternative<vmm::DebugExit>(*exit));
  auto deadline = vmm::RunDeadline::Start(*sibling, 2s);
  ASSERT_TRUE(deadline);
  const auto other = sibling->Run();
  ASSERT_TRUE(other) << other.error().ToString();
  EXPECT_TRUE(std::holds_alternative<vmm::IoExit>(*other)) << vmm::ToString(*other);
}

// The thread's own state.

std::optional<Box> Spoiler(VcpuState& /*test*/, const vmm::KvmDevice& device) {
  auto box = Box::Create(device, BoxMode::kUser64);
  if (!box) {
    ADD_FAILURE() << box.error().ToString();
    return std::nullopt;
  }
  box->Load(SpoilEverything());
  std::memset(box->memory().data() + Box::kData, 0x5A, 0x100);
  box->Put(Box::kData + 0x100, std::uint32_t{0x7F80});  // MXCSR: round toward zero
  box->Put(Box::kData + 0x104, std::uint32_t{0x0F7F});  // FCW: likewise
  return std::move(*box);
}

NESTBENCH_CONDITION(isolation, VcpuState, TheThreadsVectorRegistersSurviveARun,
                    "arch/x86/kvm/x86.c, kvm_put_guest_fpu: the FPU state of user space is restored") {
  auto box = Spoiler(*this, device());
  if (!box) return;
  alignas(64) std::array<std::uint8_t, 256> before;
  alignas(64) std::array<std::uint8_t, 256> after = {};
  for (std::size_t i = 0; i < before.size(); ++i) before[i] = static_cast<std::uint8_t>(i * 7 + 1);
  std::uint64_t result = SYS_ioctl;
  // One block of assembly: the compiler itself uses these registers between two statements.
  asm volatile(
      ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups 16*\\n(%[before]), %%xmm\\n\n .endr\n"
      "syscall\n"
      ".irp n,0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\n movups %%xmm\\n, 16*\\n(%[after])\n .endr\n"
      : "+a"(result)
      : "D"(static_cast<std::uint64_t>(box->vcpu().fd())), "S"(std::uint64_t{KVM_RUN}),
        "d"(0ULL), [before] "r"(before.data()), [after] "r"(after.data())
      : "rcx", "r11", "memory", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10",
        "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");
  ASSERT_EQ(result, 0U);
  ASSERT_EQ(box->vcpu().run()->exit_reason, static_cast<std::uint32_t>(KVM_EXIT_IO));
  EXPECT_EQ(std::memcmp(before.data(), after.data(), before.size()), 0);
}

NESTBENCH_CONDITION(isolation, VcpuState, TheThreadsGeneralRegistersSurviveARun,
                    "System V ABI, AMD64, Calling Conventions of the kernel: all but RAX, RCX and R11 are kept") {
  auto box = Spoiler(*this, device());
  if (!box) return;
  std::uint64_t seen[6] = {};
  std::uint64_t result = SYS_ioctl;
  std::uint64_t* out = seen;
  const std::uint64_t fd = static_cast<std::uint64_t>(box->vcpu().fd());
  asm volatile(
      "push %%rbx\n push %%rbp\n push %[out]\n"
      "mov $0xB1, %%ebx\n mov $0xB2, %%ebp\n mov $0xB3, %%r12d\n mov $0xB4, %%r13d\n mov $0xB5, %%r14d\n"
      "mov $0xB6, %%r15d\n syscall\n pop %%rcx\n"
      "mov %%rbx, (%%rcx)\n mov %%rbp, 8(%%rcx)\n mov %%r12, 16(%%rcx)\n mov %%r13, 24(%%rcx)\n"
      "mov %%r14, 32(%%rcx)\n mov %%r15, 40(%%rcx)\n pop %%rbp\n pop %%rbx\n"
      : "+a"(result)
      : "D"(fd), "S"(std::uint64_t{KVM_RUN}), "d"(0ULL), [out] "r"(out)
      : "rcx", "r11", "r12", "r13", "r14", "r15", "memory");
  ASSERT_EQ(result, 0U);
  for (std::uint64_t i = 0; i < 6; ++i) EXPECT_EQ(seen[i], 0xB1 + i);
}

NESTBENCH_CONDITION(isolation, VcpuState, TheThreadsControlWordsSurviveARun,
                    "arch/x86/kvm/x86.c, kvm_put_guest_fpu: the FPU state of user space is restored") {
  auto box = Spoiler(*this, device());
  if (!box) return;
  const auto words = [] {
    std::uint32_t mxcsr = 0;
    std::uint16_t control = 0;
    std::uint16_t status = 0;
    asm volatile("stmxcsr %0\n fnstcw %1\n fnstsw %2" : "=m"(mxcsr), "=m"(control), "=m"(status));
    return std::array<std::uint32_t, 3>{mxcsr & 0xFFC0, control, status};
  };
  const auto before = words();
  const auto exit = box->Run();
  const auto after = words();
  ASSERT_TRUE(exit && std::holds_alternative<vmm::IoExit>(*exit)) << vmm::ToString(*exit);
  EXPECT_EQ(before, after);
}

NESTBENCH_CONDITION(isolation, VcpuState, TheThreadsSegmentsSurviveARun,
                    "arch/x86/kvm/vmx/vmx.c, vmx_prepare_switch_to_host; arch/x86/kvm/svm/svm.c, svm_vcpu_run") {
  auto box = Spoiler(*this, device());
  if (!box) return;
  auto sregs = box->vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->fs.base = 0x1234'5000;
  sregs->gs.base = 0x1234'6000;
  ASSERT_TRUE(box->vcpu().SetSregs(*sregs));
  const auto segments = [] {
    std::array<std::uint64_t, 7> all = {};
    std::uint16_t selector = 0;
    asm volatile("mov %%ds, %0" : "=r"(selector));
    all[0] = selector;
    asm volatile("mov %%es, %0" : "=r"(selector));
    all[1] = selector;
    asm volatile("mov %%fs, %0" : "=r"(selector));
    all[2] = selector;
    asm volatile("mov %%gs, %0" : "=r"(selector));
    all[3] = selector;
    asm volatile("mov %%ss, %0" : "=r"(selector));
    all[4] = selector;
    ::syscall(SYS_arch_prctl, ARCH_GET_FS, &all[5]);
    ::syscall(SYS_arch_prctl, ARCH_GET_GS, &all[6]);
    return all;
  };
  ASSERT_EQ(::syscall(SYS_arch_prctl, ARCH_SET_GS, 0x7654'3000UL), 0);
  const auto before = segments();
  const auto exit = box->Run();
  const auto after = segments();
  ASSERT_TRUE(exit && std::holds_alternative<vmm::IoExit>(*exit)) << vmm::ToString(*exit);
  EXPECT_EQ(before, after);
}

NESTBENCH_CONDITION(isolation, VcpuState, TheHostsWatchpointsSurviveARunAndDoNotCountTheGuest,
                    "arch/x86/kvm/x86.c, vcpu_enter_guest: hw_breakpoint_restore; perf_event_open(2)") {
  if (TaskStateType() == kSegmentTypeTssAvailable) {
    GTEST_SKIP() << "QEMU's software emulator, which this host runs on, has ended with SIGSEGV in a run with this test";
  }
  auto box = With(TouchForever());
  if (!box) return;
  alignas(8) static volatile std::uint64_t watched = 0;
  perf_event_attr attr = {};
  attr.type = PERF_TYPE_BREAKPOINT;
  attr.size = sizeof(attr);
  attr.bp_type = HW_BREAKPOINT_W;
  attr.bp_addr = reinterpret_cast<std::uint64_t>(&watched);
  attr.bp_len = HW_BREAKPOINT_LEN_8;
  attr.exclude_kernel = 1;
  attr.exclude_hv = 1;
  const int fd = static_cast<int>(::syscall(SYS_perf_event_open, &attr, 0, -1, -1, 0));
  if (fd < 0) GTEST_SKIP() << "no hardware breakpoint from perf_event_open: " << ErrorName(errno);
  watched = 1;
  std::uint64_t count = 0;
  ASSERT_EQ(::read(fd, &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
  if (count != 1) GTEST_SKIP() << "this host's breakpoints do not count: " << count << " after one write";
  kvm_debugregs debug = {};
  debug.db[0] = debug.db[1] = debug.db[2] = debug.db[3] = Box::kData;
  debug.dr6 = 0xFFFF'0FF0;
  debug.dr7 = 0x400;
  ASSERT_TRUE(box->vcpu().SetDebugRegs(debug));
  for (std::uint64_t round = 0; round < 20; ++round) {
    ASSERT_EQ(box->RunToPort().port, 0x10);
    watched = round;
  }
  ASSERT_EQ(::read(fd, &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
  EXPECT_EQ(count, 21U);
  ::close(fd);
}

}  // namespace
}  // namespace nestbench::conformance
