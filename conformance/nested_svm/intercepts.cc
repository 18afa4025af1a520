// Intercepts of L2's instructions, each asked for by its bit. Source: AMD64 Architecture Programmer's Manual volume 2,
// chapter "Secure Virtual Machine", sections of "Intercept Operation" and "Instruction Intercepts".
#include <cstring>

#include "svm_guest.h"

namespace nestbench::conformance {
namespace {

using namespace abi::svm;

using SvmIntercepts = SvmTest;

NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfCpuid, "AMD APM volume 2, Instruction Intercepts: CPUID") {
  ExpectIntercept1(kIntercept1Cpuid, {0x0F, 0xA2});
  EXPECT_EQ(vmcb().rip, kL2Code) << "L2 stands at the instruction";
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfHlt, "AMD APM volume 2, Instruction Intercepts: HLT") {
  ExpectIntercept1(kIntercept1Hlt, {0xF4});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfRdtsc, "AMD APM volume 2, Instruction Intercepts: RDTSC") {
  ExpectIntercept1(14, {0x0F, 0x31});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfRdpmc, "AMD APM volume 2, Instruction Intercepts: RDPMC") {
  ExpectIntercept1(15, {0x31, 0xC9, 0x0F, 0x33});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfPushf, "AMD APM volume 2, Instruction Intercepts: PUSHF") {
  ExpectIntercept1(16, {0x9C});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfPopf, "AMD APM volume 2, Instruction Intercepts: POPF") {
  ExpectIntercept1(17, {0x6A, 0x02, 0x9D});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfIret, "AMD APM volume 2, Instruction Intercepts: IRET") {
  ExpectIntercept1(20, {0x48, 0xCF});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfSoftwareInterrupts, "AMD APM volume 2, Instruction Intercepts: INTn") {
  ExpectIntercept1(21, {0xCD, 0x20});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfInvd, "AMD APM volume 2, Instruction Intercepts: INVD") {
  ExpectIntercept1(22, {0x0F, 0x08});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfPause, "AMD APM volume 2, Instruction Intercepts: PAUSE") {
  ExpectIntercept1(23, {0xF3, 0x90});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfInvlpg, "AMD APM volume 2, Instruction Intercepts: INVLPG") {
  ExpectIntercept1(25, {0x0F, 0x01, 0x3F});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfInvlpga, "AMD APM volume 2, Instruction Intercepts: INVLPGA") {
  ExpectIntercept1(26, {0x0F, 0x01, 0xDF});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfShutdown,
                    "AMD APM volume 2, Miscellaneous Intercepts: shutdown, of a triple fault in L2") {
  vmcb().idtr.limit = 0;
  ExpectIntercept1(kIntercept1Shutdown, {0x0F, 0x0B});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfVmrun, "AMD APM volume 2, Instruction Intercepts: VMRUN") {
  ExpectIntercept2(kIntercept2Vmrun, {0x0F, 0x01, 0xD8});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfVmmcall, "AMD APM volume 2, Instruction Intercepts: VMMCALL") {
  ExpectIntercept2(kIntercept2Vmmcall, {0x0F, 0x01, 0xD9});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfVmload, "AMD APM volume 2, Instruction Intercepts: VMLOAD") {
  ExpectIntercept2(2, {0x0F, 0x01, 0xDA});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfVmsave, "AMD APM volume 2, Instruction Intercepts: VMSAVE") {
  ExpectIntercept2(3, {0x0F, 0x01, 0xDB});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfStgi, "AMD APM volume 2, Instruction Intercepts: STGI") {
  ExpectIntercept2(4, {0x0F, 0x01, 0xDC});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfClgi, "AMD APM volume 2, Instruction Intercepts: CLGI") {
  ExpectIntercept2(5, {0x0F, 0x01, 0xDD});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfRdtscp, "AMD APM volume 2, Instruction Intercepts: RDTSCP") {
  ExpectIntercept2(7, {0x0F, 0x01, 0xF9});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfWbinvd, "AMD APM volume 2, Instruction Intercepts: WBINVD") {
  ExpectIntercept2(9, {0x0F, 0x09});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfMonitor, "AMD APM volume 2, Instruction Intercepts: MONITOR") {
  ExpectIntercept2(10, {0x31, 0xC9, 0x31, 0xD2, 0x89, 0xF8, 0x0F, 0x01, 0xC8});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfXsetbv, "AMD APM volume 2, Instruction Intercepts: XSETBV") {
  vmcb().cr4 |= abi::x86::kCr4Osxsave;
  ExpectIntercept2(13, {0x31, 0xC9, 0x31, 0xD2, 0xB8, 0x01, 0, 0, 0, 0x0F, 0x01, 0xD1});
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfAReadOfCr0, "AMD APM volume 2, Control-Register Intercepts") {
  LoadL2({0x0F, 0x20, 0xC0});
  vmcb().cr_intercepts = 1;
  ExpectExit(kExitReadCr0);
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfAWriteOfCr3, "AMD APM volume 2, Control-Register Intercepts") {
  LoadL2({0x0F, 0x20, 0xD8, 0x0F, 0x22, 0xD8});
  vmcb().cr_intercepts = 1U << (16 + 3);
  ExpectExit(kExitWriteCr0 + 3);
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfAReadOfDr7, "AMD APM volume 2, Debug-Register Intercepts") {
  LoadL2({0x0F, 0x21, 0xF8});
  vmcb().dr_intercepts = 1U << 7;
  ExpectExit(kExitReadDr0 + 7);
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfAWriteOfDr0, "AMD APM volume 2, Debug-Register Intercepts") {
  LoadL2({0x31, 0xC0, 0x0F, 0x23, 0xC0});
  vmcb().dr_intercepts = 1U << 16;
  ExpectExit(kExitWriteDr0);
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfAnUndefinedOpcode, "AMD APM volume 2, Exception Intercepts") {
  LoadL2({0x0F, 0x0B});
  vmcb().exception_intercepts = 1U << 6;
  ExpectExit(kExitException0 + 6);
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfAPageFaultTellsErrorAndAddress,
                    "AMD APM volume 2, Exception Intercepts: #PF, EXITINFO1 the error code, EXITINFO2 the address") {
  LoadL2({0x48, 0xA1, 0x00, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00});  // mov rax, [1 << 32]
  vmcb().exception_intercepts = 1U << 14;
  ExpectExit(kExitException0 + 14);
  EXPECT_EQ(vmcb().exit_info_1, 0U);
  EXPECT_EQ(vmcb().exit_info_2, 1ULL << 32);
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfAPortTellsPortWidthAndNextRip,
                    "AMD APM volume 2, IOIO Intercepts: EXITINFO1 and EXITINFO2") {
  std::memset(&Word(kIoPermissions), 0xFF, 0x3000);
  ExpectIntercept1(kIntercept1Ioio, {0x66, 0xE7, 0x42});  // out 0x42, ax
  EXPECT_EQ(vmcb().exit_info_1 >> 16, 0x42U);
  EXPECT_EQ(vmcb().exit_info_1 & 1, 0U) << "a write";
  EXPECT_EQ((vmcb().exit_info_1 >> 4) & 7, 2U) << "of 16 bits";
  EXPECT_EQ(vmcb().exit_info_2, kL2Code + 3);
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfAPortThatItsBitmapAllowsIsNone,
                    "AMD APM volume 2, IOIO Intercepts: I/O permissions map") {
  std::memset(&Word(kIoPermissions), 0xFF, 0x3000);
  reinterpret_cast<std::uint8_t*>(&Word(kIoPermissions))[0x42 / 8] = 0xFF & ~(1U << (0x42 % 8));
  LoadL2({0xE6, 0x42, 0xE6, 0x43});
  vmcb().intercepts_1 |= 1U << kIntercept1Ioio;
  const auto exit = RunTo<vmm::IoExit>();  // L2's own, past L1
  if (!exit) return;
  EXPECT_EQ(exit->port, 0x42);
  ExpectExit(kExitIoio);
  EXPECT_EQ(vmcb().exit_info_1 >> 16, 0x43U);
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfAnMsrReadByItsBit,
                    "AMD APM volume 2, MSR Intercepts: EXITINFO1 0 for a read") {
  std::memset(&Word(kMsrPermissions), 0xFF, 0x2000);
  ExpectIntercept1(kIntercept1Msr, {0xB9, 0x74, 0x01, 0, 0, 0x0F, 0x32});  // mov ecx, 0x174; rdmsr
  EXPECT_EQ(vmcb().exit_info_1, 0U);
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfAnMsrWriteByItsBit,
                    "AMD APM volume 2, MSR Intercepts: EXITINFO1 1 for a write") {
  std::memset(&Word(kMsrPermissions), 0xFF, 0x2000);
  ExpectIntercept1(kIntercept1Msr, {0xB9, 0x74, 0x01, 0, 0, 0x31, 0xC0, 0x31, 0xD2, 0x0F, 0x30});
  EXPECT_EQ(vmcb().exit_info_1, 1U);
}
NESTBENCH_CONDITION(nested_svm, SvmIntercepts, OfAnMsrThatItsBitmapAllowsIsNone,
                    "AMD APM volume 2, MSR Intercepts: MSR permissions map, two bits for each MSR") {
  std::memset(&Word(kMsrPermissions), 0xFF, 0x2000);
  reinterpret_cast<std::uint8_t*>(&Word(kMsrPermissions))[0x174 / 4] = 0xFF & ~(3U << (2 * (0x174 % 4)));
  LoadL2({0xB9, 0x74, 0x01, 0, 0, 0x0F, 0x32, 0xF4});  // mov ecx, 0x174; rdmsr; hlt
  vmcb().intercepts_1 |= 1U << kIntercept1Msr | 1U << kIntercept1Hlt;
  ExpectExit(kExitHlt);
}

}  // namespace
}  // namespace nestbench::conformance
