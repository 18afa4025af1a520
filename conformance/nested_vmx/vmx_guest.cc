#include "vmx_guest.h"

#include <algorithm>
#include <cstring>

#include "../harness/guest_code.h"

// RSI is the command. An exit of L2 comes to +0x200.
NESTBENCH_GUEST_CODE(VmxCommands,
                     "0: mov $0x50000, %esi\n"
                     "1: mov (%rsi), %rax\n"
                     " mov 8(%rsi), %rdx\n"
                     " mov 16(%rsi), %rcx\n"
                     " cmp $0, %eax\n je 20f\n"
                     " cmp $1, %eax\n je 21f\n"
                     " cmp $2, %eax\n je 22f\n"
                     " cmp $3, %eax\n je 23f\n"
                     " cmp $4, %eax\n je 24f\n"
                     " cmp $5, %eax\n je 25f\n"
                     " cmp $6, %eax\n je 26f\n"
                     " cmp $7, %eax\n je 27f\n"
                     " cmp $8, %eax\n je 28f\n"
                     " cmp $9, %eax\n je 29f\n"
                     " cmp $10, %eax\n je 30f\n"
                     " cmp $11, %eax\n je 31f\n"
                     " cmp $12, %eax\n je 32f\n"
                     " ud2\n"
                     "20: out %al, $0x10\n jmp 0b\n"
                     "21: vmxon 8(%rsi)\n jmp 10f\n"
                     "22: vmclear 8(%rsi)\n jmp 10f\n"
                     "23: vmptrld 8(%rsi)\n jmp 10f\n"
                     "24: vmptrst 16(%rsi)\n jmp 10f\n"
                     "25: vmwrite %rcx, %rdx\n jmp 10f\n"
                     "26: vmread %rdx, 16(%rsi)\n jmp 10f\n"
                     "27: mov %rsi, 0x5FFF0\n xor %eax, %eax\n vmlaunch\n jmp 10f\n"
                     "28: mov %rsi, 0x5FFF0\n xor %eax, %eax\n vmresume\n jmp 10f\n"
                     "29: vmxoff\n jmp 10f\n"
                     "30: invept 0x68000, %rdx\n jmp 10f\n"
                     "31: invvpid 0x68000, %rdx\n jmp 10f\n"
                     "32: mov %rcx, (%rdx)\n test %esi, %esi\n"
                     "10: pushfq\n popq 24(%rsi)\n"
                     "11: add $32, %rsi\n jmp 1b\n"
                     ".org nestbench_guest_VmxCommands_begin + 0x200\n"
                     " mov %rax, 0x5F000\n mov %rcx, 0x5F008\n mov %rdx, 0x5F010\n mov %rbx, 0x5F018\n"
                     " mov %rbp, 0x5F028\n mov %rsi, 0x5F030\n mov %rdi, 0x5F038\n"
                     " mov 0x5FFF0, %rsi\n"
                     " movq $-1, 24(%rsi)\n"
                     " jmp 11b\n")

namespace nestbench::conformance {
namespace {

using namespace abi::vmx;

constexpr std::uint64_t kExitOffset = 0x200;
constexpr std::uint64_t kCommandsEnd = 0x5F000;
constexpr std::uint64_t kCarry = 1U << 0;
constexpr std::uint64_t kZero = 1U << 6;

void Skip(const std::string& why) { GTEST_SKIP() << why; }

std::uint64_t AllowedOf(const vmm::VmxControls& controls, std::uint32_t field) {
  switch (field) {
    case kPinControls:
      return controls.pin;
    case kProcessorControls:
      return controls.processor;
    case kSecondaryControls:
      return controls.secondary;
    case kExitControls:
      return controls.exit;
    default:
      return controls.entry;
  }
}

}  // namespace

VmxTest::Ending VmxTest::EndingOf(const Command& command) {
  if (command.flags == kExited) return Ending::kExited;
  if ((command.flags & kCarry) != 0) return Ending::kFailedInvalid;
  return (command.flags & kZero) != 0 ? Ending::kFailedValid : Ending::kSucceeded;
}

void VmxTest::SetUp() {
  LongModeTest::SetUp();
  if (IsSkipped() || HasFatalFailure()) return;
  if (const auto can = vmm::CheckVmx(device()); !can) {
    ASSERT_EQ(can.error().kind, vmm::ErrorKind::kUnsupported) << can.error().ToString();
    GTEST_SKIP() << can.error().detail;
  }
  Kernel({});
  SetRegister(&kvm_regs::rflags, abi::x86::kRflagsReserved1);  // L1 takes no interrupt that is meant for its L2
  std::memcpy(&Word(kCode), VmxCommands().data(), VmxCommands().size());
  LoadL2({0xF4});
  auto found = vmm::ReadVmxCapabilities(device());
  ASSERT_TRUE(found) << found.error().ToString();
  capabilities_ = *found;
  ASSERT_TRUE(vmm::AllowVmx(vcpu()));
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs) << sregs.error().ToString();
  auto values = vmm::FillVmcs(capabilities_, *sregs, *sregs, {.processor = kProcessorHlt});
  ASSERT_TRUE(values) << values.error().ToString();
  for (const vmm::VmcsValue& value : *values) fields_[value.field] = value.value;
  SetField(kGuestRip, kL2Code);
  SetField(kGuestRsp, kL2StackTop);
  SetField(kHostRip, kCode + kExitOffset);
  SetField(kHostRsp, kStackTop);
  for (const std::uint64_t region : {kVmxonRegion, kVmcs}) {
    std::memcpy(&Word(region), &capabilities_.revision, sizeof(capabilities_.revision));
  }
}

bool VmxTest::Do(std::vector<Command>& commands) {
  std::vector<Command> all = commands;
  all.push_back({.op = Op::kEnd});
  if (all.size() * sizeof(Command) > kCommandsEnd - kCommands) {
    ADD_FAILURE() << all.size() << " commands";
    return false;
  }
  std::memcpy(&Word(kCommands), all.data(), all.size() * sizeof(Command));
  const bool done = Done();
  std::memcpy(static_cast<void*>(commands.data()), &Word(kCommands), commands.size() * sizeof(Command));
  return done;
}

void VmxTest::Start(Command command) {
  const Command all[] = {command, {.op = Op::kEnd}};
  std::memcpy(&Word(kCommands), all, sizeof(all));
}

VmxTest::Command VmxTest::Expect(Ending ending, Command command) {
  std::vector<Command> one = {command};
  if (!Do(one)) return command;
  EXPECT_EQ(static_cast<int>(EndingOf(one[0])), static_cast<int>(ending))
      << "the instruction ended with RFLAGS " << std::hex << one[0].flags;
  return one[0];
}

void VmxTest::ExpectError(std::uint64_t number, Command command) {
  Expect(Ending::kFailedValid, command);
  if (IsOver()) return;
  EXPECT_EQ(Read(kInstructionError), number);
}

bool VmxTest::LacksControls(std::uint32_t field, std::uint32_t bits, const char* name) {
  const std::uint64_t allowed = AllowedOf(capabilities_.controls, field);
  if ((allowed >> 32 & bits) != bits) {
    Skip(std::string("the capability MSRs of this KVM's guests do not allow ") + name);
    return true;
  }
  AddBits(field, bits);
  return false;
}

void VmxTest::LoadL2(std::initializer_list<int> code) {
  std::ranges::transform(code, reinterpret_cast<std::byte*>(&Word(kL2Code)),
                         [](int byte) { return static_cast<std::byte>(byte); });
}

bool VmxTest::LacksEpt() {
  if (const auto can = vmm::CheckVmxNestedPaging(device()); !can) {
    Skip(can.error().detail);
    return true;
  }
  constexpr std::uint64_t kAll = kEptRead | kEptWrite | kEptExecute;
  Word(kEptTables) = (kEptTables + 0x1000) | kAll;
  Word(kEptTables + 0x1000) = (kEptTables + 0x2000) | kAll;
  for (std::uint64_t i = 0; i < 4; ++i) Ept(i) = (i << 21) | kAll | kEptWriteBack | abi::x86::kPteLarge;
  AddBits(kSecondaryControls, kSecondaryEpt);
  SetField(kEptPointer, kEptTables | kEptPointerFourLevels | kEptPointerWriteBack);
  return false;
}

std::vector<VmxTest::Command> VmxTest::Writes() {
  std::vector<Command> commands;
  for (const auto& [field, value] : fields_) {
    const auto known = written_.find(field);
    if (known == written_.end() || known->second != value) commands.push_back({Op::kVmwrite, field, value});
  }
  written_ = fields_;
  return commands;
}

bool VmxTest::EnterVmx() {
  std::vector<Command> commands;
  if (!in_vmx_) {
    commands = {{Op::kVmxon, kVmxonRegion}, {Op::kVmclear, kVmcs}, {Op::kVmptrld, kVmcs}};
  }
  in_vmx_ = true;
  std::ranges::copy(Writes(), std::back_inserter(commands));
  if (!Do(commands)) return false;
  for (const Command& command : commands) {
    if (EndingOf(command) == Ending::kSucceeded) continue;
    ADD_FAILURE() << "command " << static_cast<std::uint64_t>(command.op) << " of " << std::hex << command.a << ", "
                  << command.b << " ended with RFLAGS " << command.flags;
    return false;
  }
  return true;
}

bool VmxTest::EnterL2() {
  if (!EnterVmx()) return false;
  // After an exit these are the processor's, not what was written.
  constexpr std::uint32_t kChanged[] = {kGuestRip,          kGuestRsp, kGuestRflags, kGuestInterruptibility,
                                        kGuestActivity,     kGuestCr0, kGuestCr3,    kGuestCr4,
                                        kGuestPendingDebug, kGuestDr7, kGuestEfer,   kEntryEvent};
  std::vector<Command> commands = {{launched_ ? Op::kVmresume : Op::kVmlaunch}};
  for (const std::uint32_t field : kChanged) commands.push_back({Op::kVmread, field});
  if (!Do(commands)) return false;
  if (EndingOf(commands[0]) != Ending::kExited) {
    ADD_FAILURE() << "L2 was not entered: VM-instruction error " << Read(kInstructionError);
    return false;
  }
  for (std::size_t i = 1; i < commands.size(); ++i) {
    const auto field = static_cast<std::uint32_t>(commands[i].a);
    written_[field] = fields_[field] = commands[i].b;
  }
  launched_ = launched_ || (Read(kExitReason) & kReasonEntryFailed) == 0;
  return true;
}

void VmxTest::ExpectExit(std::uint32_t reason) {
  if (!EnterL2()) return;
  EXPECT_EQ(Read(kExitReason), reason) << std::hex << "exit reason 0x" << Read(kExitReason) << ", qualification 0x"
                                       << Read(kExitQualification) << ", event 0x" << Read(kExitEvent) << ", RIP 0x"
                                       << Read(kGuestRip);
}

void VmxTest::ExpectExitAt(std::uint32_t reason, std::uint64_t offset, std::initializer_list<int> code) {
  LoadL2(code);
  ExpectExit(reason);
  if (IsOver()) return;
  EXPECT_EQ(Read(kGuestRip), kL2Code + offset);
}

void VmxTest::ExpectEntryError(std::uint64_t number) {
  if (EnterVmx()) ExpectError(number, {Op::kVmlaunch});
}

void VmxTest::ExpectGuestStateRefused() {
  if (!EnterVmx()) return;
  Expect(Ending::kExited, {Op::kVmlaunch});
  if (IsOver()) return;
  EXPECT_EQ(Read(kExitReason), kReasonInvalidGuestState | kReasonEntryFailed);
}

std::uint64_t VmxTest::Read(std::uint32_t field) {
  const Command done = Expect(Ending::kSucceeded, {Op::kVmread, field});
  return done.b;
}

}  // namespace nestbench::conformance
