// What a guest hypervisor must not reach: the classes of known vulnerabilities, and instructions without the right to
// them. Source: AMD64 Architecture Programmer's Manual volume 2, chapter "Secure Virtual Machine", volume 3, chapter
// "System Instruction Reference", and the CVEs that are named.
#include <atomic>
#include <cstdint>
#include <cstring>
#include <thread>

#include "svm_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::svm;

class SvmHardening : public SvmTest {
 protected:
  static constexpr std::uint64_t kVirtualVmsave = 1U << 1;  // of lbr_control
  static constexpr std::uint64_t kPage = 0x60'0000;

  void SetUp() override {
    SvmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    LoadL2({0xF4});
    vmcb().intercepts_1 = 1U << kIntercept1Hlt;
  }
  std::uint64_t PhysicalBits() {
    auto cpuid = device().SupportedCpuid();
    const kvm_cpuid_entry2* leaf = cpuid ? cpuid->Find(0x8000'0008) : nullptr;
    return leaf == nullptr ? 36 : leaf->eax & 0xFF;
  }
};

NESTBENCH_CONDITION(nested_svm, SvmHardening, AvicOfL1sVmcbOpensNoApicOfTheHost,
                    "CVE-2021-3653: int_ctl of L1's VMCB must not turn AVIC on for L2") {
  // L2 reads the APIC's version where AVIC would answer from the host's page; without it, nothing is there.
  Word(kPd + 3 * 8) = 0xFEE0'0000 | abi::x86::kPtePresent | abi::x86::kPteWritable | abi::x86::kPteLarge;
  LoadL2({0x8B, 0x04, 0x25, 0x30, 0x00, 0x60, 0x00, 0xF4});  // mov eax, [kPage + 0x30]; hlt
  vmcb().virtual_interrupt = kVirtualAvicEnable;
  std::memset(vmcb().reserved_98, 0, sizeof(vmcb().reserved_98));
  const std::uint64_t bar = 0xFEE0'0000;
  std::memcpy(vmcb().reserved_98, &bar, sizeof(bar));  // AVIC_APIC_BAR
  const auto exit = RunTo<vmm::MmioExit>();
  if (!exit) return;
  EXPECT_FALSE(exit->is_write);
  EXPECT_EQ(exit->address.value(), 0xFEE0'0030U);
}
NESTBENCH_CONDITION(nested_svm, SvmHardening, AVirtualVmsaveStaysInL1sMemory,
                    "CVE-2021-3656: L2's VMSAVE with virtual VMLOAD and VMSAVE asked for, and no intercept") {
  std::memset(&Word(kPage), 0x5A, 0x1000);
  vmcb().lbr_control = kVirtualVmsave;
  LoadL2({0xB8, 0x00, 0x00, 0x60, 0x00, 0x0F, 0x01, 0xDB, 0xF4});  // mov eax, kPage; vmsave; hlt
  ExpectExit(kExitHlt);
  EXPECT_NE(Word(kPage + offsetof(Vmcb, fs)), 0x5A5A'5A5A'5A5A'5A5AU) << "it is not where L1 has this address";
}
NESTBENCH_CONDITION(nested_svm, SvmHardening, AVirtualVmloadReadsL1sMemory,
                    "CVE-2021-3656: L2's VMLOAD with virtual VMLOAD and VMSAVE asked for, and no intercept") {
  std::memset(&Word(kPage), 0, 0x1000);
  constexpr std::uint64_t kStarValue = 0x1122'3344'5566'7788;
  Word(kPage + offsetof(Vmcb, star)) = kStarValue;
  vmcb().lbr_control = kVirtualVmsave;
  LoadL2({0xB8, 0x00, 0x00, 0x60, 0x00, 0x0F, 0x01, 0xDA, 0xF4});  // mov eax, kPage; vmload; hlt
  ExpectExit(kExitHlt);
  const auto star = vcpu().ReadMsr(abi::x86::kMsrStar);
  ASSERT_TRUE(star) << star.error().ToString();
  EXPECT_EQ(*star, kStarValue);
}
NESTBENCH_CONDITION(nested_svm, SvmHardening, AVmcbThatChangesDuringVmrunPassesNoCheck,
                    "CVE-2021-29657: what was checked of L1's VMCB is what runs, though L1 changes it meanwhile") {
  // L2's VMRUN leaves for L1 with the intercept, and without it L2 is never entered: nothing is between the two.
  LoadL2({0x0F, 0x01, 0xD8, 0xF4});  // vmrun; hlt
  std::atomic<bool> stop = false;
  std::thread other([&] {
    volatile std::uint32_t& intercepts = vmcb().intercepts_2;
    for (std::uint32_t i = 0; !stop.load(std::memory_order_relaxed); ++i) intercepts = i & 1;
  });
  long long entered = 0;
  long long refused = 0;
  for (int i = 0; i < 500 && !HasFailure(); ++i) {
    vmcb().rip = kL2Code;
    if (!EnterL2()) break;
    EXPECT_TRUE(vmcb().exit_code == kExitVmrun || vmcb().exit_code == kExitInvalid)
        << std::hex << "exit code 0x" << vmcb().exit_code;
    ++(vmcb().exit_code == kExitVmrun ? entered : refused);
  }
  stop = true;
  other.join();
  Evidence("entered", entered);
  Evidence("refused", refused);
}
NESTBENCH_CONDITION(nested_svm, SvmHardening, AnIoMapBeyondThePhysicalAddressesIsRefused,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: IOPM beyond the physical addresses") {
  vmcb().iopm_base_pa = 1ULL << PhysicalBits();
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmHardening, AnMsrMapBeyondThePhysicalAddressesIsRefused,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: MSRPM beyond the physical addresses") {
  vmcb().msrpm_base_pa = 1ULL << PhysicalBits();
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmHardening, AnIoMapThatEndsBeyondThePhysicalAddressesIsRefused,
                    "AMD APM volume 2, Canonicalization and Consistency Checks: IOPM extends beyond") {
  vmcb().iopm_base_pa = (1ULL << PhysicalBits()) - 0x1000;  // of three pages
  ExpectExit(kExitInvalid);
}
NESTBENCH_CONDITION(nested_svm, SvmHardening, ReservedFieldsOfTheVmcbChangeNothing,
                    "AMD APM volume 2, appendix B, VMCB Layout: reserved fields") {
  std::memset(vmcb().reserved_14 + 4, 0xFF, 0x3C - 0x18);  // before the filter of PAUSE
  std::memset(vmcb().reserved_4a0, 0xFF, 0x4C0 - 0x4A0);
  ExpectExit(kExitHlt);
}

NESTBENCH_CONDITION(nested_svm, SvmHardening, VmrunAtCpl3IsGp, "AMD APM volume 3, VMRUN: #GP, CPL is not 0") {
  User({0xB8, 0x00, 0x00, 0x05, 0x00, 0x0F, 0x01, 0xD8});  // mov eax, kVmcb; vmrun
  ASSERT_TRUE(vmm::AllowSvm(vcpu(), kVmcb));
  Expect(abi::x86::kVectorGeneralProtection, 0, 5);
}
NESTBENCH_CONDITION(nested_svm, SvmHardening, VmrunOfAnAddressThatIsNotAPagesIsGp,
                    "AMD APM volume 3, VMRUN: #GP, rAX not aligned to 4 KiB") {
  LoadL1({0xB8, 0x08, 0x00, 0x05, 0x00, 0x0F, 0x01, 0xD8, 0xE6, kDonePort});  // mov eax, kVmcb + 8; vmrun; out
  Expect(abi::x86::kVectorGeneralProtection, 0, 5);
}
NESTBENCH_CONDITION(nested_svm, SvmHardening, VmrunOfAnAddressBeyondThePhysicalOnesIsGp,
                    "AMD APM volume 3, VMRUN: #GP, rAX above the maximum physical address") {
  LoadL1({0x48, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0x40, 0x0F, 0x01, 0xD8, 0xE6, kDonePort});  // mov rax, 1 << 62; vmrun
  Expect(abi::x86::kVectorGeneralProtection, 0, 10);
}

// L1 without EFER.SVME.
class SvmDisabled : public SvmTest {
 protected:
  void ExpectUndefined(int last) {
    Kernel({0xB8, 0x00, 0x00, 0x05, 0x00, 0x0F, 0x01, last, 0xE6, kDonePort});  // mov eax, kVmcb; ...; out
    const auto sregs = vcpu().GetSregs();
    ASSERT_TRUE(sregs);
    ASSERT_EQ(sregs->efer & kEferSvme, 0U);
    Expect(abi::x86::kVectorInvalidOpcode, 0, 5);
  }
};

NESTBENCH_CONDITION(nested_svm, SvmDisabled, VmrunIsUd, "AMD APM volume 3, VMRUN: #UD, EFER.SVME is 0") {
  ExpectUndefined(0xD8);
}
NESTBENCH_CONDITION(nested_svm, SvmDisabled, VmloadIsUd, "AMD APM volume 3, VMLOAD: #UD, EFER.SVME is 0") {
  ExpectUndefined(0xDA);
}
NESTBENCH_CONDITION(nested_svm, SvmDisabled, VmsaveIsUd, "AMD APM volume 3, VMSAVE: #UD, EFER.SVME is 0") {
  ExpectUndefined(0xDB);
}
NESTBENCH_CONDITION(nested_svm, SvmDisabled, StgiIsUd,
                    "AMD APM volume 3, STGI: #UD, EFER.SVME is 0 and there is no SKINIT") {
  ExpectUndefined(0xDC);
}
NESTBENCH_CONDITION(nested_svm, SvmDisabled, ClgiIsUd, "AMD APM volume 3, CLGI: #UD, EFER.SVME is 0") {
  ExpectUndefined(0xDD);
}
NESTBENCH_CONDITION(nested_svm, SvmDisabled, SkinitIsUd,
                    "AMD APM volume 3, SKINIT: #UD, EFER.SVME is 0 and there is no SKINIT") {
  ExpectUndefined(0xDE);
}
NESTBENCH_CONDITION(nested_svm, SvmDisabled, InvlpgaIsUd, "AMD APM volume 3, INVLPGA: #UD, EFER.SVME is 0") {
  ExpectUndefined(0xDF);
}

}  // namespace
}  // namespace nestbench::conformance
