// The permission maps: which ports and MSRs leave L2, and what the exit says. Source: AMD64 Architecture Programmer's
// Manual volume 2, chapter "Secure Virtual Machine", sections "IOIO Intercepts" and "MSR Intercepts".
#include <cstdint>
#include <cstring>

#include "svm_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::svm;

constexpr std::uint64_t kPortShift = 16;

class SvmPorts : public SvmTest {
 protected:
  static constexpr std::uint64_t kOperation = 0x7F;  // direction, string, repeat and width, without the addresses

  void SetUp() override {
    SvmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    vmcb().intercepts_1 = 1U << kIntercept1Ioio | 1U << kIntercept1Hlt;
  }
  void Intercept(unsigned port) {
    reinterpret_cast<std::uint8_t*>(&Word(kIoPermissions))[port / 8] |= static_cast<std::uint8_t>(1U << port % 8);
  }
  // L2's code, whose last instruction uses port 0x42 and is the one that leaves.
  void ExpectPort(std::uint64_t operation, std::initializer_list<int> code, std::size_t instruction_bytes) {
    Intercept(0x42);
    LoadL2(code);
    ExpectExit(kExitIoio);
    EXPECT_EQ(vmcb().exit_info_1 >> kPortShift, 0x42U);
    EXPECT_EQ(vmcb().exit_info_1 & kOperation, operation);
    EXPECT_EQ(vmcb().rip, kL2Code + code.size() - instruction_bytes) << "L2 stands at the instruction";
    EXPECT_EQ(vmcb().exit_info_2, kL2Code + code.size()) << "and EXITINFO2 is behind it";
  }
};

NESTBENCH_CONDITION(nested_svm, SvmPorts, Out8, "AMD APM volume 2, IOIO Intercepts: EXITINFO1, SZ8") {
  ExpectPort(kIo8, {0xE6, 0x42}, 2);  // out 0x42, al
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, Out16, "AMD APM volume 2, IOIO Intercepts: EXITINFO1, SZ16") {
  ExpectPort(kIo16, {0x66, 0xBA, 0x42, 0x00, 0x66, 0xEF}, 2);  // mov dx, 0x42; out dx, ax
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, Out32, "AMD APM volume 2, IOIO Intercepts: EXITINFO1, SZ32") {
  ExpectPort(kIo32, {0xE7, 0x42}, 2);  // out 0x42, eax
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, In8, "AMD APM volume 2, IOIO Intercepts: EXITINFO1, TYPE and SZ8") {
  ExpectPort(kIoIn | kIo8, {0xE4, 0x42}, 2);  // in al, 0x42
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, In16, "AMD APM volume 2, IOIO Intercepts: EXITINFO1, TYPE and SZ16") {
  ExpectPort(kIoIn | kIo16, {0x66, 0xE5, 0x42}, 3);  // in ax, 0x42
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, In32, "AMD APM volume 2, IOIO Intercepts: EXITINFO1, TYPE and SZ32") {
  ExpectPort(kIoIn | kIo32, {0x66, 0xBA, 0x42, 0x00, 0xED}, 1);  // mov dx, 0x42; in eax, dx
}
// RSI and RDI are L1's: RDI is kData; RSI is loaded.
NESTBENCH_CONDITION(nested_svm, SvmPorts, Outs8, "AMD APM volume 2, IOIO Intercepts: EXITINFO1, STR") {
  ExpectPort(kIoString | kIo8, {0xBE, 0x00, 0x00, 0x04, 0x00, 0x66, 0xBA, 0x42, 0x00, 0x6E}, 1);  // ...; outsb
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, OutsWithAddressesOf64Bits,
                    "AMD APM volume 2, IOIO Intercepts: EXITINFO1, A32 and A64") {
  ExpectPort(kIoString | kIo8, {0xBE, 0x00, 0x00, 0x04, 0x00, 0x66, 0xBA, 0x42, 0x00, 0x6E}, 1);
  EXPECT_EQ(vmcb().exit_info_1 & (kIoAddress32 | kIoAddress64), kIoAddress64);
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, OutsWithAddressesOf32Bits,
                    "AMD APM volume 2, IOIO Intercepts: EXITINFO1, A32 and A64") {
  ExpectPort(kIoString | kIo8, {0xBE, 0x00, 0x00, 0x04, 0x00, 0x66, 0xBA, 0x42, 0x00, 0x67, 0x6E}, 2);
  EXPECT_EQ(vmcb().exit_info_1 & (kIoAddress32 | kIoAddress64), kIoAddress32);
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, Ins16, "AMD APM volume 2, IOIO Intercepts: EXITINFO1, TYPE and STR") {
  ExpectPort(kIoIn | kIoString | kIo16, {0x66, 0xBA, 0x42, 0x00, 0x66, 0x6D}, 2);  // mov dx, 0x42; insw
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, RepOuts32, "AMD APM volume 2, IOIO Intercepts: EXITINFO1, REP") {
  ExpectPort(kIoString | kIoRepeat | kIo32,
             {0xBE, 0x00, 0x00, 0x04, 0x00, 0xB9, 0x02, 0, 0, 0, 0x66, 0xBA, 0x42, 0x00, 0xF3, 0x6F}, 2);
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, RepIns8, "AMD APM volume 2, IOIO Intercepts: EXITINFO1, TYPE, STR and REP") {
  ExpectPort(kIoIn | kIoString | kIoRepeat | kIo8, {0xB9, 0x02, 0, 0, 0, 0x66, 0xBA, 0x42, 0x00, 0xF3, 0x6C},
             2);  // ecx: 2; edx: 0x42; rep insb
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, AWideAccessLeavesForItsLastPort,
                    "AMD APM volume 2, I/O Permissions Map: every byte of the access has its bit checked") {
  Intercept(0x45);
  LoadL2({0xE7, 0x42});  // out 0x42, eax: 0x42 to 0x45
  ExpectExit(kExitIoio);
  EXPECT_EQ(vmcb().exit_info_1 >> kPortShift, 0x42U);
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, AnAccessDoesNotLeaveForItsNeighbours,
                    "AMD APM volume 2, I/O Permissions Map: a clear bit is no intercept") {
  Intercept(0x41);
  Intercept(0x44);
  LoadL2({0x66, 0xE7, 0x42, 0xF4});  // out 0x42, ax: 0x42 and 0x43; hlt
  if (!ReachPort(0x42)) return;
  ExpectExit(kExitHlt);
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, TheLastPortHasItsBit,
                    "AMD APM volume 2, I/O Permissions Map: 64K bits for as many ports") {
  Intercept(0xFFFF);
  LoadL2({0x66, 0xBA, 0xFE, 0xFF, 0xEE,  // mov dx, 0xFFFE; out dx, al
          0x66, 0xFF, 0xC2, 0xEE});      // inc dx; out dx, al
  if (!ReachPort(0xFFFE)) return;
  ExpectExit(kExitIoio);
  EXPECT_EQ(vmcb().exit_info_1 >> kPortShift, 0xFFFFU);
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, AnAccessBeyondTheLastPortUsesTheBitsBehindIt,
                    "AMD APM volume 2, I/O Permissions Map: the third page, for accesses that wrap") {
  Intercept(0x10000);
  LoadL2({0x66, 0xBA, 0xFF, 0xFF, 0x66, 0xEF});  // mov dx, 0xFFFF; out dx, ax
  ExpectExit(kExitIoio);
  EXPECT_EQ(vmcb().exit_info_1 >> kPortShift, 0xFFFFU);
}
NESTBENCH_CONDITION(nested_svm, SvmPorts, TheMapIsNotReadWithoutTheIntercept,
                    "AMD APM volume 2, IOIO Intercepts: IOIO_PROT") {
  std::memset(&Word(kIoPermissions), 0xFF, 0x3000);
  vmcb().intercepts_1 = 1U << kIntercept1Hlt;
  LoadL2({0xE6, 0x42, 0xF4});  // out 0x42, al; hlt
  if (!ReachPort(0x42)) return;
  ExpectExit(kExitHlt);
}

class SvmMsrs : public SvmTest {
 protected:
  static constexpr unsigned kRead = 1;
  static constexpr unsigned kWrite = 2;

  void SetUp() override {
    SvmTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    vmcb().intercepts_1 = 1U << kIntercept1Msr | 1U << kIntercept1Hlt;
  }
  // Two bits for an MSR: read, write; 2 KiB for each of the ranges.
  void Intercept(std::uint32_t msr, unsigned bits) {
    const std::uint32_t range = msr >= 0xC001'0000 ? 2 : msr >= 0xC000'0000 ? 1 : 0;
    auto* const map = reinterpret_cast<std::uint8_t*>(&Word(kMsrPermissions)) + range * 0x800;
    const std::uint32_t index = msr & 0x1FFF;
    map[index / 4] |= static_cast<std::uint8_t>(bits << index % 4 * 2);
  }
  void ExpectMsr(std::uint64_t exit_info_1, std::uint64_t offset) {
    ExpectExit(kExitMsr);
    EXPECT_EQ(vmcb().exit_info_1, exit_info_1);
    EXPECT_EQ(vmcb().rip, kL2Code + offset) << "the other access runs on";
  }
  static int Byte(std::uint32_t value, unsigned index) { return static_cast<int>(value >> (8 * index) & 0xFF); }
  // L2 writes zero, then reads.
  void ExpectOnlyRead(std::uint32_t msr) {
    Intercept(msr, kRead);
    LoadL2({0xB9, Byte(msr, 0), Byte(msr, 1), Byte(msr, 2), Byte(msr, 3),  // mov ecx, msr
            0x31, 0xC0, 0x31, 0xD2,                                        // xor eax, eax; xor edx, edx
            0x0F, 0x30, 0x0F, 0x32, 0xF4});                                // wrmsr; rdmsr; hlt
    ExpectMsr(0, 11);
  }
  // L2 reads, then writes what it read.
  void ExpectOnlyWrite(std::uint32_t msr) {
    Intercept(msr, kWrite);
    LoadL2({0xB9, Byte(msr, 0), Byte(msr, 1), Byte(msr, 2), Byte(msr, 3),  // mov ecx, msr
            0x0F, 0x32, 0x0F, 0x30, 0xF4});                                // rdmsr; wrmsr; hlt
    ExpectMsr(1, 7);
  }
  void ExpectOutside(std::uint32_t msr) {
    LoadL2({0xB9, Byte(msr, 0), Byte(msr, 1), Byte(msr, 2), Byte(msr, 3), 0x0F, 0x32, 0xF4});  // rdmsr; hlt
    ExpectMsr(0, 5);
  }
};

constexpr std::uint32_t kSysenterCs = 0x174;
constexpr std::uint32_t kLstar = 0xC000'0082;
constexpr std::uint32_t kHwcr = 0xC001'0015;

NESTBENCH_CONDITION(nested_svm, SvmMsrs, AReadInTheFirstRangeHasItsBit,
                    "AMD APM volume 2, MSR Intercepts: MSRs 0000_0000 to 0000_1FFF, read") {
  ExpectOnlyRead(kSysenterCs);
}
NESTBENCH_CONDITION(nested_svm, SvmMsrs, AWriteInTheFirstRangeHasItsBit,
                    "AMD APM volume 2, MSR Intercepts: MSRs 0000_0000 to 0000_1FFF, write") {
  ExpectOnlyWrite(kSysenterCs);
}
NESTBENCH_CONDITION(nested_svm, SvmMsrs, AReadInTheSecondRangeHasItsBit,
                    "AMD APM volume 2, MSR Intercepts: MSRs C000_0000 to C000_1FFF, read") {
  ExpectOnlyRead(kLstar);
}
NESTBENCH_CONDITION(nested_svm, SvmMsrs, AWriteInTheSecondRangeHasItsBit,
                    "AMD APM volume 2, MSR Intercepts: MSRs C000_0000 to C000_1FFF, write") {
  ExpectOnlyWrite(kLstar);
}
NESTBENCH_CONDITION(nested_svm, SvmMsrs, AReadInTheThirdRangeHasItsBit,
                    "AMD APM volume 2, MSR Intercepts: MSRs C001_0000 to C001_1FFF, read") {
  ExpectOnlyRead(kHwcr);
}
NESTBENCH_CONDITION(nested_svm, SvmMsrs, AWriteInTheThirdRangeHasItsBit,
                    "AMD APM volume 2, MSR Intercepts: MSRs C001_0000 to C001_1FFF, write") {
  ExpectOnlyWrite(kHwcr);
}
NESTBENCH_CONDITION(nested_svm, SvmMsrs, BehindTheFirstRangeEachLeaves,
                    "AMD APM volume 2, MSR Intercepts: MSRs outside the ranges always leave") {
  ExpectOutside(0x2000);
}
NESTBENCH_CONDITION(nested_svm, SvmMsrs, BetweenTheRangesEachLeaves,
                    "AMD APM volume 2, MSR Intercepts: MSRs outside the ranges always leave") {
  ExpectOutside(0x4000'0000);
}
NESTBENCH_CONDITION(nested_svm, SvmMsrs, BehindTheLastRangeEachLeaves,
                    "AMD APM volume 2, MSR Intercepts: MSRs outside the ranges always leave") {
  ExpectOutside(0xC001'2000);
}
NESTBENCH_CONDITION(nested_svm, SvmMsrs, TheMapIsNotReadWithoutTheIntercept,
                    "AMD APM volume 2, MSR Intercepts: MSR_PROT") {
  Intercept(kSysenterCs, kRead | kWrite);
  vmcb().intercepts_1 = 1U << kIntercept1Hlt;
  LoadL2({0xB9, 0x74, 0x01, 0, 0, 0x0F, 0x32, 0xF4});  // mov ecx, 0x174; rdmsr; hlt
  ExpectExit(kExitHlt);
}

}  // namespace
}  // namespace nestbench::conformance
