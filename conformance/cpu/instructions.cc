// Instructions that a 64-bit guest relies on: calls of the kernel, and what a processor says about itself.
#include <cstdint>
#include <string>
#include <utility>

#include "../harness/box_test.h"
#include "../harness/long_mode.h"

NESTBENCH_GUEST_CODE(CallTheKernel,
                     "3: syscall\n mov %cs, %eax\n out %al, $0x10\n .skip 0x80-(.-3b)\n out %al, $0x10\n sysretq")
NESTBENCH_GUEST_CODE(CpuidOfRax, "cpuid\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Rdtscp, "rdtscp\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Rdpid, "rdpid %rcx\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Rdfsbase, "rdfsbase %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Rdpmc, "rdpmc\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Sgdt, "sgdt (%rdi)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Sidt, "sidt (%rdi)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Sldt, "sldt (%rdi)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Str, "str (%rdi)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Smsw, "smsw (%rdi)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Popcnt, "popcnt %rax, %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Lzcnt, "lzcnt %rax, %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Tzcnt, "tzcnt %rax, %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Crc32, "crc32q %rax, %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Movbe, "movbe 0xC000, %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Pext, "pext %rax, %rax, %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Adcx, "adcx %rax, %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Aesenc, "aesenc %xmm0, %xmm0\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Pclmulqdq, "pclmulqdq $0, %xmm0, %xmm0\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Sha, "sha256msg1 %xmm0, %xmm0\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Pshufb, "pshufb %xmm0, %xmm0\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Fma, "vfmadd132ss %xmm0, %xmm0, %xmm0\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Avx2, "vpaddd %ymm0, %ymm0, %ymm0\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Rdrand, "rdrand %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Rdseed, "rdseed %rax\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Clflushopt, "clflushopt 0xC000\n out %al, $0x10")
NESTBENCH_GUEST_CODE(Clwb, "clwb 0xC000\n out %al, $0x10")

namespace nestbench::conformance {
namespace {

using namespace abi::x86;

constexpr std::uint32_t kMsrSfmask = 0xC000'0084;
constexpr std::uint32_t kMsrTscAux = 0xC000'0103;
constexpr std::uint64_t kDirectionFlag = 0x400;
constexpr std::uint64_t kCr4PerformanceCounters = 1ULL << 8;
constexpr std::uint64_t kCr4Umip = 1ULL << 11;
constexpr std::uint64_t kCr4FsGsBase = 1ULL << 16;

class Instructions : public LongModeTest {
 protected:
  void PrepareSyscall() {
    ASSERT_TRUE(vcpu().WriteMsr(kMsrStar, 0x0013'0008ULL << 32));
    ASSERT_TRUE(vcpu().WriteMsr(kMsrLstar, kCode + 0x80));
    ASSERT_TRUE(vcpu().WriteMsr(kMsrSfmask, kDirectionFlag));
    SetRegister(&kvm_regs::rflags, kRflagsReserved1 | kDirectionFlag);
  }
  // With CR4.UMIP each is #GP at CPL3; without, it works.
  void ExpectUmip(std::span<const std::byte> code) {
    if (Lacks(CpuidBit{"CPUID 7:ECX.UMIP", 7, &kvm_cpuid_entry2::ecx, 2})) return;
    User(code);
    if (!Done()) return;
    User(code);
    SetCr4(kCr4Umip);
    Expect(kVectorGeneralProtection, 0, 0);
  }
};

// Calls of the kernel.

NESTBENCH_CONDITION(cpu, Instructions, SyscallEntersCpl0AtLstar, "Intel SDM volume 2, SYSCALL-Fast System Call") {
  User(CallTheKernel());
  PrepareSyscall();
  if (!Done()) return;
  const auto regs = vcpu().GetRegs();
  const auto sregs = vcpu().GetSregs();
  EXPECT_EQ(sregs->cs.selector, 0x08U);
  EXPECT_EQ(sregs->cs.dpl, 0U);
  EXPECT_EQ(sregs->ss.selector, 0x10U);
  EXPECT_EQ(regs->rcx, kCode + 2) << "where to return to";
  EXPECT_EQ(regs->r11, kRflagsReserved1 | kDirectionFlag) << "the flags as they were";
  EXPECT_EQ(regs->rflags & kDirectionFlag, 0U) << "masked by SFMASK";
}
NESTBENCH_CONDITION(cpu, Instructions, SysretComesBackToCpl3,
                    "Intel SDM volume 2, SYSRET-Return From Fast System Call") {
  User(CallTheKernel());
  PrepareSyscall();
  if (!Done() || !Done()) return;
  EXPECT_EQ(Rax() & 0xFF, 0x23U) << "CS";
  EXPECT_EQ(vcpu().GetSregs()->ss.selector, 0x1BU);
  EXPECT_EQ(vcpu().GetRegs()->rflags & kDirectionFlag, kDirectionFlag) << "restored from R11";
}
NESTBENCH_CONDITION(cpu, Instructions, SyscallWithoutItsEnableIsUd,
                    "Intel SDM volume 2, SYSCALL: #UD if IA32_EFER.SCE = 0") {
  User(CallTheKernel());
  PrepareSyscall();
  ChangeSregs([](kvm_sregs& sregs) { sregs.efer &= ~kEferSyscall; });
  Expect(kVectorInvalidOpcode, 0, 0);
}

// What a processor says about itself.

NESTBENCH_CONDITION(cpu, Instructions, CpuidAtCpl0TellsWhatUserSpaceSet, "KVM API, KVM_SET_CPUID2") {
  auto policy = device().SupportedCpuid();
  ASSERT_TRUE(policy && policy->Find(0x8000'0002) != nullptr);
  policy->Find(0x8000'0002)->ebx = 0x6E65'7374;
  ASSERT_TRUE(vcpu().SetCpuid(*policy));
  Kernel(CpuidOfRax());
  SetRegister(&kvm_regs::rax, 0x8000'0002);
  if (!Done()) return;
  EXPECT_EQ(vcpu().GetRegs()->rbx, 0x6E65'7374U);
}
NESTBENCH_CONDITION(cpu, Instructions, CpuidAtCpl3TellsWhatUserSpaceSet, "KVM API, KVM_SET_CPUID2") {
  auto policy = device().SupportedCpuid();
  ASSERT_TRUE(policy && policy->Find(0x8000'0002) != nullptr);
  policy->Find(0x8000'0002)->ebx = 0x6E65'7374;
  ASSERT_TRUE(vcpu().SetCpuid(*policy));
  User(CpuidOfRax());
  SetRegister(&kvm_regs::rax, 0x8000'0002);
  if (!Done()) return;
  EXPECT_EQ(vcpu().GetRegs()->rbx, 0x6E65'7374U);
}
NESTBENCH_CONDITION(cpu, Instructions, RdtscpReadsTscAux,
                    "Intel SDM volume 3, IA32_TSC_AUX Register and RDTSCP Support") {
  if (Lacks(CpuidBit{"CPUID 80000001:EDX.RDTSCP", 0x8000'0001, &kvm_cpuid_entry2::edx, 27})) return;
  User(Rdtscp());
  ASSERT_TRUE(vcpu().WriteMsr(kMsrTscAux, 0x1234));
  if (!Done()) return;
  EXPECT_EQ(vcpu().GetRegs()->rcx, 0x1234U);
}
NESTBENCH_CONDITION(cpu, Instructions, RdpidReadsTscAux, "Intel SDM volume 2, RDPID-Read Processor ID") {
  if (Lacks(CpuidBit{"CPUID 7:ECX.RDPID", 7, &kvm_cpuid_entry2::ecx, 22})) return;
  User(Rdpid());
  ASSERT_TRUE(vcpu().WriteMsr(kMsrTscAux, 0x1234));
  if (!Done()) return;
  EXPECT_EQ(vcpu().GetRegs()->rcx, 0x1234U);
}
NESTBENCH_CONDITION(cpu, Instructions, RdfsbaseReadsTheBaseWhenAllowed,
                    "Intel SDM volume 2, RDFSBASE/RDGSBASE: CR4.FSGSBASE") {
  if (Lacks(CpuidBit{"CPUID 7:EBX.FSGSBASE", 7, &kvm_cpuid_entry2::ebx, 0})) return;
  User(Rdfsbase());
  ChangeSregs([](kvm_sregs& sregs) {
    sregs.fs.base = 0x7654'3210'0000;
    sregs.cr4 |= kCr4FsGsBase;
  });
  if (!Done()) return;
  EXPECT_EQ(Rax(), 0x7654'3210'0000U);
}
NESTBENCH_CONDITION(cpu, Instructions, RdfsbaseWithoutItsEnableIsUd,
                    "Intel SDM volume 2, RDFSBASE/RDGSBASE: #UD if CR4.FSGSBASE = 0") {
  User(Rdfsbase());
  Expect(kVectorInvalidOpcode, 0, 0);
}
NESTBENCH_CONDITION(cpu, Instructions, RdpmcAtCpl3WithoutItsEnableIsGp, "Intel SDM volume 2, RDPMC: CR4.PCE") {
  User(Rdpmc());
  EXPECT_EQ(vcpu().GetSregs()->cr4 & kCr4PerformanceCounters, 0U);
  Expect(kVectorGeneralProtection, 0, 0);
}
NESTBENCH_CONDITION(cpu, Instructions, SgdtAtCpl3IsGpWithUmip, "Intel SDM volume 3, Control Registers: CR4.UMIP") {
  ExpectUmip(Sgdt());
}
NESTBENCH_CONDITION(cpu, Instructions, SidtAtCpl3IsGpWithUmip, "Intel SDM volume 3, Control Registers: CR4.UMIP") {
  ExpectUmip(Sidt());
}
NESTBENCH_CONDITION(cpu, Instructions, SldtAtCpl3IsGpWithUmip, "Intel SDM volume 3, Control Registers: CR4.UMIP") {
  ExpectUmip(Sldt());
}
NESTBENCH_CONDITION(cpu, Instructions, StrAtCpl3IsGpWithUmip, "Intel SDM volume 3, Control Registers: CR4.UMIP") {
  ExpectUmip(Str());
}
NESTBENCH_CONDITION(cpu, Instructions, SmswAtCpl3IsGpWithUmip, "Intel SDM volume 3, Control Registers: CR4.UMIP") {
  ExpectUmip(Smsw());
}

using InstructionsOfCpuid = CodeTest;

NESTBENCH_CONDITION(cpu, InstructionsOfCpuid, WhatCpuidPromisesIsNoUd,
                    "Intel SDM volume 2, CPUID: feature information") {
  using Entry = kvm_cpuid_entry2;
  const std::pair<CpuidBit, std::span<const std::byte>> all[] = {
      {{"POPCNT", 1, &Entry::ecx, 23}, Popcnt()},      {{"LZCNT", 0x8000'0001, &Entry::ecx, 5}, Lzcnt()},
      {{"BMI1", 7, &Entry::ebx, 3}, Tzcnt()},          {{"SSE4.2", 1, &Entry::ecx, 20}, Crc32()},
      {{"MOVBE", 1, &Entry::ecx, 22}, Movbe()},        {{"BMI2", 7, &Entry::ebx, 8}, Pext()},
      {{"ADX", 7, &Entry::ebx, 19}, Adcx()},           {{"AES", 1, &Entry::ecx, 25}, Aesenc()},
      {{"PCLMULQDQ", 1, &Entry::ecx, 1}, Pclmulqdq()}, {{"SHA", 7, &Entry::ebx, 29}, Sha()},
      {{"SSSE3", 1, &Entry::ecx, 9}, Pshufb()},        {{"FMA", 1, &Entry::ecx, 12}, Fma()},
      {{"AVX2", 7, &Entry::ebx, 5}, Avx2()},           {{"RDRAND", 1, &Entry::ecx, 30}, Rdrand()},
      {{"RDSEED", 7, &Entry::ebx, 18}, Rdseed()},      {{"CLFLUSHOPT", 7, &Entry::ebx, 23}, Clflushopt()},
      {{"CLWB", 7, &Entry::ebx, 24}, Clwb()}};
  int promised = 0;
  for (const auto& [feature, code] : all) {
    if (!Has(feature)) continue;
    ++promised;
    auto box = Start(BoxMode::kUser64, code);
    if (!box) return;
    const Box::Said said = box->RunToPort();
    EXPECT_EQ(said.port, Box::kOpenPorts) << feature.name << ": " << said.text;
  }
  Evidence("features", promised);
}

}  // namespace
}  // namespace nestbench::conformance
