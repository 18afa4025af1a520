#include "long_mode.h"

#include <algorithm>
#include <cstring>
#include <variant>
#include <vector>

#include "nestbench/abi/task_state.h"
#include "nestbench/vmm/kvm/segments.h"

namespace nestbench::conformance {
namespace {

using namespace abi::x86;

constexpr std::uint64_t kGdt = 0x1000;
constexpr std::uint64_t kIdt = 0x2000;
constexpr std::uint64_t kTss = 0x3000;
constexpr std::uint64_t kStubs = 0x6000;
constexpr std::uint64_t kStubBytes = 16;
constexpr std::uint64_t kRsp0 = 0x9000;
constexpr std::uint64_t kIst1 = 0xA000;
constexpr std::uint64_t kPdpt = 0x11000;

}  // namespace

void LongModeTest::SetUp() {
  VcpuTest::SetUp();
  if (IsSkipped() || HasFatalFailure()) return;
  memory_ = HostMemory(kMemoryBytes);
  ASSERT_EQ(SetSlot(0, 0, kMemoryBytes, memory_.data()), 0);
  auto cpuid = device().SupportedCpuid();
  ASSERT_TRUE(cpuid) << cpuid.error().ToString();
  ASSERT_TRUE(vcpu().SetCpuid(*cpuid));
  const std::uint64_t gdt[] = {0,
                               kDescriptorCode64,
                               kDescriptorData,
                               kDescriptorUserData,
                               kDescriptorUserCode64,
                               TaskStateDescriptor(TaskStateType(), kTss, 0x206B),
                               0};
  std::memcpy(&Word(kGdt), gdt, sizeof(gdt));
  for (unsigned vector = 0; vector < kExceptionVectors; ++vector) {
    const std::uint64_t stub = kStubs + vector * kStubBytes;
    const std::uint64_t privilege = vector == 3 || vector == 4 ? 3 : 0;  // INT3 and INTO are for CPL3 too
    const std::uint64_t stack = vector == kVectorDoubleFault ? 1 : 0;
    Word(kIdt + vector * 16ULL) = InterruptGate(0x08, stub, stack, privilege);
    // push 0 unless there is an error code; push vector; out 0xFE, al; add rsp, 16; iretq
    const std::uint8_t push[] = {0x6A, 0x00};
    const std::uint8_t rest[] = {0x6A, static_cast<std::uint8_t>(vector), 0xE6, 0xFE, 0x48, 0x83, 0xC4, 0x10, 0x48,
                                 0xCF};
    std::byte* at = memory_.data() + stub;
    if (!HasErrorCode(vector)) {
      std::memcpy(at, push, sizeof(push));
      at += sizeof(push);
    }
    std::memcpy(at, rest, sizeof(rest));
  }
  std::memcpy(memory_.data() + kTss + kTssRsp0Offset, &kRsp0, sizeof(kRsp0));
  std::memcpy(memory_.data() + kTss + kTssIst1Offset, &kIst1, sizeof(kIst1));
  const std::uint16_t map = kTssBytes;
  std::memcpy(memory_.data() + kTss + kTssIoMapBaseOffset, &map, sizeof(map));
  std::memset(memory_.data() + kTss + kTssBytes, 0xFF, kIoPermissionBitmapBytes + 1);
  memory_[kTss + kTssBytes + kDonePort / 8] = std::byte{0xFE};
  constexpr std::uint64_t kAll = kPtePresent | kPteWritable | kPteUser;
  Word(kPml4) = kPdpt | kAll;
  Word(kPdpt) = kPd | kAll;
  Word(kPd) = kPt | kAll;
  for (std::uint64_t i = 1; i < 4; ++i) Word(kPd + i * 8) = (i << 21) | kAll | kPteLarge;
  for (std::uint64_t i = 0; i < kPageTableEntries; ++i) {
    const std::uint64_t address = i << 12;
    std::uint64_t flags = kPtePresent | kPteWritable;
    if (address >= kCode + 0x1000) flags |= kPteUser | kPteNoExecute;
    Pte(address) = address | flags;
  }
}

void LongModeTest::Enter(unsigned privilege, std::initializer_list<int> code) {
  std::vector<std::byte> bytes(code.size());
  std::ranges::transform(code, bytes.begin(), [](int byte) { return static_cast<std::byte>(byte); });
  Enter(privilege, bytes);
}

void LongModeTest::Enter(unsigned privilege, std::span<const std::byte> code) {
  std::ranges::copy(code, memory_.begin() + kCode);
  if (privilege == 3) Pte(kCode) |= kPteUser;
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  const auto selector = [privilege](std::uint16_t kernel, std::uint16_t user) {
    return privilege == 3 ? user : kernel;
  };
  sregs->cs = vmm::FlatSegment(selector(0x08, 0x23), kSegmentTypeCodeReadAccessed, true);
  sregs->ss = sregs->ds = sregs->es = sregs->fs = sregs->gs =
      vmm::FlatSegment(selector(0x10, 0x1B), kSegmentTypeDataWriteAccessed, false);
  sregs->tr = vmm::TaskStateSegment(0x28, kTss, 0x206B, TaskStateType());
  sregs->gdt.base = kGdt;
  sregs->gdt.limit = 7 * 8 - 1;
  sregs->idt.base = kIdt;
  sregs->idt.limit = kExceptionVectors * 16 - 1;
  sregs->cr0 =
      kCr0ProtectedMode | kCr0MonitorCoprocessor | kCr0ExtensionType | kCr0NumericError | kCr0WriteProtect | kCr0Paging;
  sregs->cr3 = kPml4;
  sregs->cr4 |= kCr4Pae | kCr4Osfxsr | kCr4Osxmmexcpt;
  sregs->efer = kEferSyscall | kEferLongModeEnable | kEferLongModeActive | kEferNoExecute;
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  kvm_regs regs = {};
  regs.rip = kCode;
  regs.rsp = kStackTop;
  regs.rdi = kData;
  regs.rflags = kFirstFlags;
  ASSERT_TRUE(vcpu().SetRegs(regs));
}

void LongModeTest::SetCr0(std::uint64_t bits) {
  ChangeSregs([bits](kvm_sregs& sregs) { sregs.cr0 |= bits; });
}

void LongModeTest::SetRegister(__u64 kvm_regs::*which, std::uint64_t value) {
  auto regs = vcpu().GetRegs();
  ASSERT_TRUE(regs);
  (*regs).*which = value;
  ASSERT_TRUE(vcpu().SetRegs(*regs));
}

void LongModeTest::SetCr4(std::uint64_t bits) {
  ChangeSregs([bits](kvm_sregs& sregs) { sregs.cr4 |= bits; });
}

std::optional<Exception> LongModeTest::NextException() {
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return std::nullopt;
  if (exit->port != kFaultPort) {
    ADD_FAILURE() << "the code came to its end without an exception";
    return std::nullopt;
  }
  const std::uint64_t rsp = vcpu().GetRegs()->rsp;
  if (rsp + sizeof(Exception) > kMemoryBytes) {
    ADD_FAILURE() << "the stack of the exception is at " << rsp;
    return std::nullopt;
  }
  Exception exception;
  std::memcpy(static_cast<void*>(&exception), memory_.data() + rsp, 7 * sizeof(std::uint64_t));
  exception.cr2 = vcpu().GetSregs()->cr2;
  return exception;
}

bool LongModeTest::Done() {
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return false;
  if (exit->port == kDonePort) return true;
  const std::uint64_t rsp = vcpu().GetRegs()->rsp;
  if (rsp + sizeof(Exception) <= kMemoryBytes) {
    ADD_FAILURE() << "exception " << Word(rsp) << " with error code " << Word(rsp + 8) << " at code + "
                  << static_cast<std::int64_t>(Word(rsp + 16) - kCode);
  }
  return false;
}

void LongModeTest::Expect(std::uint64_t vector, std::uint64_t error, std::uint64_t offset) {
  const auto exception = NextException();
  if (!exception) return;
  EXPECT_EQ(exception->vector, vector);
  EXPECT_EQ(exception->error, error);
  EXPECT_EQ(exception->rip, kCode + offset);
}

void LongModeTest::ExpectPageFault(std::uint64_t error, std::uint64_t address) {
  const auto exception = NextException();
  if (!exception) return;
  EXPECT_EQ(exception->vector, kVectorPageFault);
  EXPECT_EQ(exception->error, error);
  EXPECT_EQ(exception->cr2, address);
}

}  // namespace nestbench::conformance
