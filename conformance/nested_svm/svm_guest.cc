#include "svm_guest.h"

#include <algorithm>

namespace nestbench::conformance {
namespace {

using namespace abi::svm;

}  // namespace

void SvmTest::SetUp() {
  LongModeTest::SetUp();
  if (IsSkipped() || HasFatalFailure()) return;
  if (const auto can = vmm::CheckSvm(device()); !can) {
    ASSERT_EQ(can.error().kind, vmm::ErrorKind::kUnsupported) << can.error().ToString();
    GTEST_SKIP() << can.error().detail;
  }
  Kernel({0xB8, 0x00, 0x00, 0x05, 0x00,                        // mov eax, kVmcb
          0x0F, 0x01, 0xD8,                                    // vmrun
          0xE6, kDonePort,                                     // out
          0xEB, 0xF4});                                        // jmp to the begin
  SetRegister(&kvm_regs::rflags, abi::x86::kRflagsReserved1);  // L1 takes no interrupt that is meant for its L2
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs) << sregs.error().ToString();
  vmm::FillVmcb(*sregs, kVmcb, vmcb());
  vmcb().rip = kL2Code;
  vmcb().rsp = kL2StackTop;
  ASSERT_TRUE(vmm::AllowSvm(vcpu(), kVmcb));
}

void SvmTest::LoadAt(std::uint64_t address, std::initializer_list<int> code) {
  auto* at = reinterpret_cast<std::byte*>(&Word(address));
  std::ranges::transform(code, at, [](int byte) { return static_cast<std::byte>(byte); });
}

void SvmTest::UseNestedPaging() {
  constexpr std::uint64_t kAll = abi::x86::kPtePresent | abi::x86::kPteWritable | abi::x86::kPteUser;
  Word(kNestedTables) = (kNestedTables + 0x1000) | kAll;
  Word(kNestedTables + 0x1000) = (kNestedTables + 0x2000) | kAll;
  for (std::uint64_t i = 0; i < 4; ++i) {
    Word(kNestedTables + 0x2000 + i * 8) = (i << 21) | kAll | abi::x86::kPteLarge;
  }
  vmm::UseNestedPaging(kNestedTables, vmcb());
}

bool SvmTest::ReachPort(std::uint16_t port) {
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return false;
  EXPECT_EQ(exit->port, port) << std::hex << "exit code in the VMCB 0x" << vmcb().exit_code;
  return exit->port == port;
}

bool SvmTest::EnterL2() {
  vmcb().exit_code = 0xDEAD;  // no exit has this code
  return Done() && vmcb().exit_code != 0xDEAD;
}

void SvmTest::ExpectExit(std::uint64_t exit_code) {
  if (!EnterL2()) {
    if (!IsSkipped() && !HasFailure()) ADD_FAILURE() << "VMRUN ended without an exit code";
    return;
  }
  EXPECT_EQ(vmcb().exit_code, exit_code) << std::hex << "exit code 0x" << vmcb().exit_code << ", EXITINFO1 0x"
                                         << vmcb().exit_info_1 << ", EXITINFO2 0x" << vmcb().exit_info_2 << ", RIP 0x"
                                         << vmcb().rip;
}

void SvmTest::ExpectIntercept1(unsigned bit, std::initializer_list<int> code) {
  LoadL2(code);
  vmcb().intercepts_1 |= 1U << bit;
  ExpectExit(kExitIntercept1 + bit);
}

void SvmTest::ExpectIntercept2(unsigned bit, std::initializer_list<int> code) {
  LoadL2(code);
  vmcb().intercepts_2 |= 1U << bit;
  ExpectExit(kExitIntercept2 + bit);
}

}  // namespace nestbench::conformance
