// x87, SSE, AVX and AVX-512: registers and control words over exits, and what enables the instructions.
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "../harness/long_mode.h"

// Each fills its registers from kData, leaves by a port, by MMIO and by a port, and stores them 0x1000 above.
#define NESTBENCH_LEAVE "out %al, $0x10\n mov %eax, (%rsi)\n mov (%rsi), %eax\n out %al, $0x10\n"
#define NESTBENCH_SIXTEEN "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
NESTBENCH_GUEST_CODE(KeepSse, ".irp n," NESTBENCH_SIXTEEN "\n movups 16*\\n(%rdi), %xmm\\n\n .endr\n" NESTBENCH_LEAVE
                              ".irp n," NESTBENCH_SIXTEEN
                              "\n movups %xmm\\n, 0x1000+16*\\n(%rdi)\n .endr\n"
                              "out %al, $0x10\n")
NESTBENCH_GUEST_CODE(KeepAvx, ".irp n," NESTBENCH_SIXTEEN "\n vmovups 32*\\n(%rdi), %ymm\\n\n .endr\n" NESTBENCH_LEAVE
                              ".irp n," NESTBENCH_SIXTEEN
                              "\n vmovups %ymm\\n, 0x1000+32*\\n(%rdi)\n .endr\n"
                              "out %al, $0x10\n")
NESTBENCH_GUEST_CODE(KeepAvx512, ".irp n," NESTBENCH_SIXTEEN
                                 ",16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
                                 "vmovups 64*\\n(%rdi), %zmm\\n\n .endr\n" NESTBENCH_LEAVE ".irp n," NESTBENCH_SIXTEEN
                                 ",16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31\n"
                                 "vmovups %zmm\\n, 0x1000+64*\\n(%rdi)\n .endr\n out %al, $0x10\n")
NESTBENCH_GUEST_CODE(KeepMasks, ".irp n,0,1,2,3,4,5,6,7\n kmovw 2*\\n(%rdi), %k\\n\n .endr\n" NESTBENCH_LEAVE
                                ".irp n,0,1,2,3,4,5,6,7\n kmovw %k\\n, 0x1000+2*\\n(%rdi)\n .endr\n out %al, $0x10\n")
NESTBENCH_GUEST_CODE(KeepX87, "fninit\n .irp n,7,6,5,4,3,2,1,0\n fldt 10*\\n(%rdi)\n .endr\n" NESTBENCH_LEAVE
                              ".irp n,0,1,2,3,4,5,6,7\n fstpt 0x1000+10*\\n(%rdi)\n .endr\n out %al, $0x10\n")
NESTBENCH_GUEST_CODE(KeepControls,
                     "fninit\n fldcw (%rdi)\n ldmxcsr 4(%rdi)\n fld1\n fldz\n" NESTBENCH_LEAVE
                     "fnstcw 0x1000(%rdi)\n stmxcsr 0x1004(%rdi)\n fnstsw 0x1008(%rdi)\n out %al, $0x10\n")
NESTBENCH_GUEST_CODE(UseX87, "fld1\n out %al, $0x10")
NESTBENCH_GUEST_CODE(UseSse, "addps %xmm0, %xmm0\n out %al, $0x10")
NESTBENCH_GUEST_CODE(UseAvx, "vaddps %ymm0, %ymm0, %ymm0\n out %al, $0x10")
NESTBENCH_GUEST_CODE(UseAvx512, "vaddps %zmm0, %zmm0, %zmm0\n out %al, $0x10")
NESTBENCH_GUEST_CODE(ReadXcr0, "xor %ecx, %ecx\n xgetbv\n out %al, $0x10")
NESTBENCH_GUEST_CODE(WriteXcr0, "xor %ecx, %ecx\n xor %edx, %edx\n xsetbv\n xgetbv\n out %al, $0x10")
NESTBENCH_GUEST_CODE(SaveAndRestore,
                     "movups 0x800(%rdi), %xmm3\n mov $-1, %eax\n mov %eax, %edx\n xsave (%rdi)\n out %al, $0x10\n"
                     "pxor %xmm3, %xmm3\n mov $-1, %eax\n mov %eax, %edx\n xrstor (%rdi)\n movups %xmm3, 0x810(%rdi)\n"
                     "out %al, $0x10")
NESTBENCH_GUEST_CODE(RestoreNonsense, "mov $-1, %eax\n mov %eax, %edx\n xrstor (%rdi)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(StoreXmm5, "movups %xmm5, (%rdi)\n out %al, $0x10")
NESTBENCH_GUEST_CODE(LoadReservedMxcsr, "movl $0x10000, (%rdi)\n ldmxcsr (%rdi)\n out %al, $0x10")

namespace nestbench::conformance {
namespace {

using namespace abi::x86;

constexpr std::uint64_t kCr0Emulation = 1ULL << 2;
constexpr std::uint64_t kCr0TaskSwitched = 1ULL << 3;
constexpr unsigned kDeviceNotAvailable = 7;
constexpr CpuidBit kXsave = {"CPUID 1:ECX.XSAVE", 1, &kvm_cpuid_entry2::ecx, 26};
constexpr CpuidBit kAvx = {"CPUID 1:ECX.AVX", 1, &kvm_cpuid_entry2::ecx, 28};
constexpr CpuidBit kAvx512 = {"CPUID 7:EBX.AVX512F", 7, &kvm_cpuid_entry2::ebx, 16};

class Fpu : public LongModeTest {
 protected:
  static constexpr std::uint64_t kDevice = 0x5000;  // the virtual address of a page without memory

  std::uint8_t* Bytes(std::uint64_t address) { return reinterpret_cast<std::uint8_t*>(&Word(address)); }
  void SetXcr0(std::uint64_t value) {
    SetCr4(kCr4Osxsave);
    ASSERT_TRUE(vcpu().SetXcr0(value));
  }
  void FillData(std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) Bytes(kData)[i] = static_cast<std::uint8_t>(i * 7 + i / 256 + 1);
  }

  // The code leaves by a port, by MMIO twice and by a port; in between this thread uses the same registers itself. What
  // CPUID does not promise may be #UD; where it works all the same, it is kept too.
  void ExpectKept(std::span<const std::byte> code, const CpuidBit* feature = nullptr, std::uint64_t xcr0 = 0) {
    User(code);
    const bool is_promised = feature == nullptr || Has(*feature);
    if (is_promised && xcr0 != 0) SetXcr0(xcr0);
    Pte(kDevice) = 0x1000'0000 | kPtePresent | kPteWritable | kPteUser;
    SetRegister(&kvm_regs::rsi, kDevice);
    const auto first = RunTo<vmm::IoExit>();
    if (!first) return;
    if (first->port == kFaultPort && !is_promised && Lacks(*feature)) return;
    ASSERT_EQ(first->port, kDonePort) << "exception " << Word(vcpu().GetRegs()->rsp);
    UseThem();
    for (int i = 0; i < 2; ++i) {
      const auto mmio = RunTo<vmm::MmioExit>();
      if (!mmio) return;
      EXPECT_EQ(mmio->is_write, i == 0);
      UseThem();
    }
    if (!Done()) return;
    UseThem();
    ASSERT_TRUE(Done() || IsSkipped());
  }
  void ExpectSame(std::size_t bytes) {
    if (IsSkipped() || HasFailure()) return;
    for (std::size_t i = 0; i < bytes; ++i) ASSERT_EQ(Bytes(kData + 0x1000)[i], Bytes(kData)[i]) << "byte " << i;
  }

  void ExpectException(unsigned vector, std::uint64_t offset = 0) { Expect(vector, 0, offset); }

 private:
  static void UseThem() {
    asm volatile("pxor %%xmm0, %%xmm0\n pxor %%xmm15, %%xmm15\n fldz\n fstp %%st(0)" ::: "xmm0", "xmm15", "st");
  }
};

// Kept over exits.

NESTBENCH_CONDITION(cpu, Fpu, SseRegistersAreKeptOverExits, "KVM API, KVM_RUN; Intel SDM volume 1, XMM Registers") {
  FillData(256);
  ExpectKept(KeepSse());
  ExpectSame(256);
}
NESTBENCH_CONDITION(cpu, Fpu, AvxRegistersAreKeptOverExits, "KVM API, KVM_RUN; Intel SDM volume 1, 256-Bit Wide SIMD") {
  FillData(512);
  ExpectKept(KeepAvx(), &kAvx, kXcr0X87 | kXcr0Sse | kXcr0Avx);
  ExpectSame(512);
}
NESTBENCH_CONDITION(cpu, Fpu, Avx512RegistersAreKeptOverExits,
                    "KVM API, KVM_RUN; Intel SDM volume 1, 512-Bit Wide SIMD") {
  FillData(2048);
  ExpectKept(KeepAvx512(), &kAvx512, kXcr0X87 | kXcr0Sse | kXcr0Avx | kXcr0Avx512);
  ExpectSame(2048);
}
NESTBENCH_CONDITION(cpu, Fpu, Avx512MasksAreKeptOverExits, "KVM API, KVM_RUN; Intel SDM volume 1, Opmask Registers") {
  FillData(16);
  ExpectKept(KeepMasks(), &kAvx512, kXcr0X87 | kXcr0Sse | kXcr0Avx | kXcr0Avx512);
  ExpectSame(16);
}
NESTBENCH_CONDITION(cpu, Fpu, TheX87StackIsKeptOverExits,
                    "KVM API, KVM_RUN; Intel SDM volume 1, x87 FPU Data Registers") {
  for (std::uint64_t i = 0; i < 8; ++i) {  // normal numbers: 1.xxx times a power of 2
    const std::uint64_t significand = 0x8000'0000'0000'0001 + i * 0x0111'1111'1111'1111;
    const auto exponent = static_cast<std::uint16_t>(0x3FFF + i);
    std::memcpy(Bytes(kData) + i * 10, &significand, sizeof(significand));
    std::memcpy(Bytes(kData) + i * 10 + 8, &exponent, sizeof(exponent));
  }
  ExpectKept(KeepX87());
  ExpectSame(80);
}
NESTBENCH_CONDITION(cpu, Fpu, ControlAndStatusWordsAreKeptOverExits,
                    "Intel SDM volume 1, x87 FPU Control Word; MXCSR Control and Status Register") {
  Word(kData) = 0x0000'7FBF'0000'0F7F;  // MXCSR: masked, toward zero, all flags set but none of DAZ
  ExpectKept(KeepControls());
  if (IsSkipped() || HasFailure()) return;
  EXPECT_EQ(Word(kData + 0x1000), 0x0000'7FBF'0000'0F7FU);
  EXPECT_EQ(Word(kData + 0x1008) & 0x3800, 6U << 11) << "TOP after two loads";
}
NESTBENCH_CONDITION(cpu, Fpu, ARegisterThatUserSpaceSetIsTheGuests, "KVM API, KVM_SET_XSAVE") {
  User(StoreXmm5());
  auto area = vcpu().GetXsave();
  ASSERT_TRUE(area && area->size() >= 576);
  for (std::size_t i = 0; i < 16; ++i) (*area)[160 + 5 * 16 + i] = static_cast<std::byte>(0xA0 + i);
  (*area)[512] |= std::byte{3};  // XSTATE_BV: x87 and SSE
  ASSERT_TRUE(vcpu().SetXsave(*area));
  if (!Done()) return;
  for (std::uint8_t i = 0; i < 16; ++i) ASSERT_EQ(Bytes(kData)[i], 0xA0 + i);
}
NESTBENCH_CONDITION(cpu, Fpu, XsaveAndXrstorBringBackWhatWasThere, "Intel SDM volume 2, XSAVE; XRSTOR") {
  if (Lacks(kXsave)) return;
  User(SaveAndRestore());
  SetXcr0(kXcr0X87 | kXcr0Sse);
  Word(kData + 0x800) = 0x1122'3344'5566'7788;
  Word(kData + 0x808) = 0x99AA'BBCC'DDEE'FF00;
  if (!Done() || !Done()) return;
  EXPECT_EQ(Word(kData + 0x810), 0x1122'3344'5566'7788U);
  EXPECT_EQ(Word(kData + 0x818), 0x99AA'BBCC'DDEE'FF00U);
  EXPECT_EQ(Word(kData + 160 + 48), 0x1122'3344'5566'7788U) << "XMM3 in the legacy region";
  EXPECT_EQ(Word(kData + 512) & ~(kXcr0X87 | kXcr0Sse), 0U) << "XSTATE_BV holds what XCR0 enables";
}
NESTBENCH_CONDITION(cpu, Fpu, XrstorOfAComponentThatIsNotEnabledIsGp, "Intel SDM volume 2, XRSTOR: #GP for XSTATE_BV") {
  if (Lacks(kXsave)) return;
  User(RestoreNonsense());
  SetXcr0(kXcr0X87 | kXcr0Sse);
  Word(kData + 512) = 1ULL << 40;
  Expect(kVectorGeneralProtection, 0, 7);
}
NESTBENCH_CONDITION(cpu, Fpu, LdmxcsrOfAReservedBitIsGp, "Intel SDM volume 2, LDMXCSR: #GP for reserved bits") {
  User(LoadReservedMxcsr());
  Expect(kVectorGeneralProtection, 0, 6);
}

// What enables them.

NESTBENCH_CONDITION(cpu, Fpu, AvxIsUdWhenXcr0DoesNotHaveIt,
                    "Intel SDM volume 1, Enabling the XSAVE Feature Set and XSAVE-Enabled Features") {
  if (Lacks(kAvx)) return;
  User(UseAvx());
  SetXcr0(kXcr0X87 | kXcr0Sse | kXcr0Avx);
  if (!Done()) return;
  User(UseAvx());
  SetXcr0(kXcr0X87 | kXcr0Sse);
  ExpectException(kVectorInvalidOpcode);
}
NESTBENCH_CONDITION(cpu, Fpu, AvxIsUdWithoutOsxsave,
                    "Intel SDM volume 1, Enabling the XSAVE Feature Set and XSAVE-Enabled Features") {
  User(UseAvx());
  ExpectException(kVectorInvalidOpcode);
}
NESTBENCH_CONDITION(cpu, Fpu, Avx512IsUdWhenXcr0DoesNotHaveIt,
                    "Intel SDM volume 1, Enabling the XSAVE Feature Set and XSAVE-Enabled Features") {
  if (Lacks(kAvx512)) return;
  User(UseAvx512());
  SetXcr0(kXcr0X87 | kXcr0Sse | kXcr0Avx);
  ExpectException(kVectorInvalidOpcode);
}
NESTBENCH_CONDITION(cpu, Fpu, XgetbvTellsXcr0, "Intel SDM volume 2, XGETBV-Get Value of Extended Control Register") {
  if (Lacks(kXsave)) return;
  User(ReadXcr0());
  SetXcr0(kXcr0X87 | kXcr0Sse);
  if (!Done()) return;
  EXPECT_EQ(Rax(), kXcr0X87 | kXcr0Sse);
}
NESTBENCH_CONDITION(cpu, Fpu, XgetbvIsUdWithoutOsxsave, "Intel SDM volume 2, XGETBV: #UD if CR4.OSXSAVE = 0") {
  User(ReadXcr0());
  ExpectException(kVectorInvalidOpcode, 2);
}
NESTBENCH_CONDITION(cpu, Fpu, XsetbvAtCpl3IsGp,
                    "Intel SDM volume 2, XSETBV: #GP if the current privilege level is not 0") {
  if (Lacks(kXsave)) return;
  User(WriteXcr0());
  SetXcr0(kXcr0X87);
  Expect(kVectorGeneralProtection, 0, 4);
}
NESTBENCH_CONDITION(cpu, Fpu, XsetbvAtCpl0SetsXcr0, "Intel SDM volume 2, XSETBV-Set Extended Control Register") {
  if (Lacks(kXsave)) return;
  Kernel(WriteXcr0());
  SetXcr0(kXcr0X87);
  SetRegister(&kvm_regs::rax, kXcr0X87 | kXcr0Sse);
  if (!Done()) return;
  EXPECT_EQ(vcpu().GetXcrs()->xcrs[0].value, kXcr0X87 | kXcr0Sse);
}
NESTBENCH_CONDITION(cpu, Fpu, XsetbvWithoutX87OrWithAvxAloneIsGp, "Intel SDM volume 2, XSETBV: #GP for XCR0") {
  if (Lacks(kXsave)) return;
  for (const std::uint64_t value :
       {std::uint64_t{0}, kXcr0Sse, kXcr0X87 | kXcr0Avx, kXcr0X87 | std::uint64_t{1} << 30}) {
    Kernel(WriteXcr0());
    SetXcr0(kXcr0X87);
    SetRegister(&kvm_regs::rax, value);
    Expect(kVectorGeneralProtection, 0, 4);
    if (IsSkipped() || HasFailure()) return;
  }
}
NESTBENCH_CONDITION(cpu, Fpu, SseIsUdWhenX87IsEmulated, "Intel SDM volume 3, Control Registers: CR0.EM") {
  User(UseSse());
  SetCr0(kCr0Emulation);
  ExpectException(kVectorInvalidOpcode);
}
NESTBENCH_CONDITION(cpu, Fpu, X87IsNmWhenItIsEmulated, "Intel SDM volume 3, Control Registers: CR0.EM") {
  User(UseX87());
  SetCr0(kCr0Emulation);
  ExpectException(kDeviceNotAvailable);
}
NESTBENCH_CONDITION(cpu, Fpu, SseIsNmAfterATaskSwitch, "Intel SDM volume 3, Control Registers: CR0.TS") {
  User(UseSse());
  SetCr0(kCr0TaskSwitched);
  ExpectException(kDeviceNotAvailable);
}
NESTBENCH_CONDITION(cpu, Fpu, SseIsUdWithoutOsfxsr, "Intel SDM volume 3, Control Registers: CR4.OSFXSR") {
  User(UseSse());
  ChangeSregs([](kvm_sregs& sregs) { sregs.cr4 &= ~kCr4Osfxsr; });
  ExpectException(kVectorInvalidOpcode);
}

}  // namespace
}  // namespace nestbench::conformance
