// String instructions with a repeat prefix: across pages, faults, memory-mapped I/O and ports.
#include <cstring>
#include <string>
#include <vector>

#include "../harness/box_test.h"
#include "../harness/long_mode.h"

NESTBENCH_GUEST_CODE(CopyBytes, "cld\n rep movsb\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(CopyBytesDown, "std\n rep movsb\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(StoreDwords, "cld\n rep stosl\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(ScanForByte, "cld\n repne scasb\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(CompareBytes, "cld\n repe cmpsb\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(SendWords, "cld\n mov $0x14, %edx\n rep outsw\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(ReceiveDwords, "cld\n mov $0x14, %edx\n rep insl\n out %al, $0x10\n hlt")

namespace nestbench::conformance {
namespace {

using namespace abi::x86;

constexpr std::uint64_t kEnd = Box::kBytes;  // of the memory; what follows is mapped and not there

class Strings : public CodeTest {
 protected:
  std::optional<Box> With(std::span<const std::byte> code, BoxMode mode, std::uint64_t rsi, std::uint64_t rdi,
                          std::uint64_t rcx, std::uint64_t rax = 0) {
    auto box = Start(mode, code);
    if (!box) return box;
    auto regs = box->vcpu().GetRegs();
    EXPECT_TRUE(regs);
    regs->rsi = rsi;
    regs->rdi = rdi;
    regs->rcx = rcx;
    regs->rax = rax;
    EXPECT_TRUE(box->vcpu().SetRegs(*regs));
    return box;
  }

  static void ExpectRegisters(Box& box, std::uint64_t rsi, std::uint64_t rdi, std::uint64_t rcx) {
    const auto regs = box.vcpu().GetRegs();
    ASSERT_TRUE(regs);
    EXPECT_EQ(regs->rsi, rsi);
    EXPECT_EQ(regs->rdi, rdi);
    EXPECT_EQ(regs->rcx, rcx);
  }

  // Runs to the port write at the code's end, a device of 4 KiB behind the memory's end meanwhile.
  bool RunWithDevice(Box& box, std::vector<std::uint8_t>& device) {
    for (int exits = 0; exits < 1000; ++exits) {
      auto exit = box.Run();
      if (!exit) {
        ADD_FAILURE() << exit.error().ToString();
        return false;
      }
      const auto* mmio = std::get_if<vmm::MmioExit>(&*exit);
      if (mmio == nullptr) {
        const auto* io = std::get_if<vmm::IoExit>(&*exit);
        if (io != nullptr && io->port == Box::kOpenPorts) return true;
        if (LacksInstruction(*exit)) {
          SkipFor(vmm::ToString(*exit));
        } else {
          ADD_FAILURE() << "the guest left with " << vmm::ToString(*exit);
        }
        return false;
      }
      const std::uint64_t offset = mmio->address.value() - kEnd;
      if (offset > device.size() || mmio->data.size() > device.size() - offset) {
        ADD_FAILURE() << "an access at " << mmio->address.value();
        return false;
      }
      if (mmio->is_write) {
        std::memcpy(device.data() + offset, mmio->data.data(), mmio->data.size());
      } else {
        std::memcpy(mmio->data.data(), device.data() + offset, mmio->data.size());
      }
    }
    ADD_FAILURE() << "exits without end";
    return false;
  }
};

constexpr BoxMode kModes[] = {BoxMode::kSupervisor64, BoxMode::kUser64};

NESTBENCH_CONDITION(cpu, Strings, ACopyIntoADeviceBeginsInMemory,
                    "Intel SDM volume 2, REP/REPE/REPZ/REPNE/REPNZ-Repeat String Operation Prefix") {
  for (const BoxMode mode : kModes) {
    auto box = With(CopyBytes(), mode, Box::kData, kEnd - 16, 32);
    if (!box) return;
    for (std::uint8_t i = 0; i < 32; ++i) box->Put<std::uint8_t>(Box::kData + i, i + 1);
    std::vector<std::uint8_t> device(4096);
    if (!RunWithDevice(*box, device)) return;
    for (unsigned i = 0; i < 16; ++i) {
      ASSERT_EQ(box->Get<std::uint8_t>(kEnd - 16 + i), i + 1);
      ASSERT_EQ(device[i], i + 17);
    }
    EXPECT_EQ(device[16], 0);
    ExpectRegisters(*box, Box::kData + 32, kEnd + 16, 0);
  }
}

NESTBENCH_CONDITION(cpu, Strings, ACopyOutOfADeviceEndsInMemory,
                    "Intel SDM volume 2, REP/REPE/REPZ/REPNE/REPNZ-Repeat String Operation Prefix") {
  for (const BoxMode mode : kModes) {
    auto box = With(CopyBytesDown(), mode, kEnd + 15, Box::kData + 31, 32);
    if (!box) return;
    for (std::uint8_t i = 0; i < 16; ++i) box->Put<std::uint8_t>(kEnd - 16 + i, i + 1);
    std::vector<std::uint8_t> device(4096);
    for (std::uint8_t i = 0; i < 16; ++i) device[i] = i + 17;
    if (!RunWithDevice(*box, device)) return;
    for (unsigned i = 0; i < 32; ++i) ASSERT_EQ(box->Get<std::uint8_t>(Box::kData + i), i + 1);
    ExpectRegisters(*box, kEnd - 17, Box::kData - 1, 0);
  }
}

NESTBENCH_CONDITION(cpu, Strings, AStoreIntoADeviceReachesEveryElement,
                    "Intel SDM volume 2, REP/REPE/REPZ/REPNE/REPNZ-Repeat String Operation Prefix") {
  for (const BoxMode mode : kModes) {
    auto box = With(StoreDwords(), mode, 0, kEnd - 8, 10, 0x1234'5678);
    if (!box) return;
    std::vector<std::uint8_t> device(4096);
    if (!RunWithDevice(*box, device)) return;
    for (unsigned i = 0; i < 9; ++i) {
      std::uint32_t value = 0;
      std::memcpy(&value, device.data() + i * std::size_t{4}, sizeof(value));
      ASSERT_EQ(value, i < 8 ? 0x1234'5678U : 0U) << i;
    }
    EXPECT_EQ(box->Get<std::uint64_t>(kEnd - 8), 0x1234'5678'1234'5678U);
    ExpectRegisters(*box, 0, kEnd + 32, 0);
  }
}

NESTBENCH_CONDITION(cpu, Strings, NoRepetitionTouchesNothing,
                    "Intel SDM volume 2, REP/REPE/REPZ/REPNE/REPNZ-Repeat String Operation Prefix") {
  for (const BoxMode mode : kModes) {
    auto box = With(CopyBytes(), mode, kEnd, kEnd + 0x10'0000, 0);
    if (!box || !Says(*box)) return;
    ExpectRegisters(*box, kEnd, kEnd + 0x10'0000, 0);
  }
}

NESTBENCH_CONDITION(cpu, Strings, OverlappingBytesAreCopiedOneAfterAnother, "Intel SDM volume 2, MOVS/MOVSB; REP") {
  for (const BoxMode mode : kModes) {
    auto box = With(CopyBytes(), mode, Box::kData + 0xFF0, Box::kData + 0xFF1, 40);
    if (!box) return;
    box->Put(Box::kData + 0xFF0, std::uint8_t{0x6B});
    if (!Says(*box)) return;
    for (unsigned i = 0; i < 41; ++i) ASSERT_EQ(box->Get<std::uint8_t>(Box::kData + 0xFF0 + i), 0x6B) << i;
    EXPECT_EQ(box->Get<std::uint8_t>(Box::kData + 0xFF0 + 41), 0);
  }
}

NESTBENCH_CONDITION(cpu, Strings, ScasStopsBehindWhatItFound, "Intel SDM volume 2, SCAS; REPNE: ends when ZF is 1") {
  for (const BoxMode mode : kModes) {
    auto box = With(ScanForByte(), mode, 0, Box::kData, 0x2000, 0x5C);
    if (!box) return;
    box->Put(Box::kData + 0x1001, std::uint8_t{0x5C});  // in the next page
    if (!Says(*box)) return;
    ExpectRegisters(*box, 0, Box::kData + 0x1002, 0x2000 - 0x1002);
  }
}

NESTBENCH_CONDITION(cpu, Strings, CmpsStopsBehindTheFirstDifference,
                    "Intel SDM volume 2, CMPS; REPE: ends when ZF is 0") {
  for (const BoxMode mode : kModes) {
    auto box = With(CompareBytes(), mode, Box::kData, Box::kData + 0x800, 0x400);
    if (!box) return;
    box->Put(Box::kData + 0x123, std::uint8_t{1});
    if (!Says(*box)) return;
    ExpectRegisters(*box, Box::kData + 0x124, Box::kData + 0x924, 0x400 - 0x124);
    EXPECT_EQ(box->vcpu().GetRegs()->rflags & 0x41, 0U) << "1 is above 0: neither CF nor ZF";
  }
}

NESTBENCH_CONDITION(cpu, Strings, OutsAcrossAPageTellsEveryWordInOrder,
                    "Intel SDM volume 2, OUTS; KVM API, KVM_EXIT_IO: count") {
  for (const BoxMode mode : kModes) {
    constexpr std::uint64_t kFrom = Box::kData + 0xFF7;  // one word lies on both pages
    auto box = With(SendWords(), mode, kFrom, 0, 20);
    if (!box) return;
    for (std::uint16_t i = 0; i < 20; ++i) box->Put<std::uint16_t>(kFrom + i * 2U, 0x1100 + i);
    std::vector<std::uint16_t> heard;
    while (heard.size() < 20) {
      const auto exit = box->Run();
      ASSERT_TRUE(exit) << exit.error().ToString();
      const auto* io = std::get_if<vmm::IoExit>(&*exit);
      ASSERT_TRUE(io != nullptr && io->is_write && io->port == 0x14 && io->width_bytes == 2) << vmm::ToString(*exit);
      for (std::uint32_t i = 0; i < io->count; ++i) {
        std::uint16_t word = 0;
        std::memcpy(&word, io->data.data() + i * std::size_t{2}, sizeof(word));
        heard.push_back(word);
      }
    }
    for (std::uint16_t i = 0; i < 20; ++i) ASSERT_EQ(heard[i], 0x1100 + i);
    if (!Says(*box)) return;
    ExpectRegisters(*box, kFrom + 40, 0, 0);
  }
}

NESTBENCH_CONDITION(cpu, Strings, InsAcrossAPageStoresEveryDwordInOrder,
                    "Intel SDM volume 2, INS; KVM API, KVM_EXIT_IO: data_offset") {
  for (const BoxMode mode : kModes) {
    constexpr std::uint64_t kTo = Box::kData + 0xFF6;
    auto box = With(ReceiveDwords(), mode, 0, kTo, 12);
    if (!box) return;
    std::uint32_t next = 0x2200'0000;
    while (next < 0x2200'0000 + 12) {
      const auto exit = box->Run();
      ASSERT_TRUE(exit) << exit.error().ToString();
      const auto* io = std::get_if<vmm::IoExit>(&*exit);
      ASSERT_TRUE(io != nullptr && !io->is_write && io->port == 0x14 && io->width_bytes == 4) << vmm::ToString(*exit);
      for (std::uint32_t i = 0; i < io->count; ++i, ++next) {
        std::memcpy(io->data.data() + i * std::size_t{4}, &next, sizeof(next));
      }
    }
    if (!Says(*box)) return;
    for (std::uint32_t i = 0; i < 12; ++i) ASSERT_EQ(box->Get<std::uint32_t>(kTo + i * 4), 0x2200'0000 + i);
    EXPECT_EQ(box->Get<std::uint32_t>(kTo + 48), 0U);
    ExpectRegisters(*box, 0, kTo + 48, 0);
  }
}

using StringFaults = LongModeTest;

NESTBENCH_CONDITION(cpu, StringFaults, ACopyStopsAtAnAbsentPageAndGoesOnWhenItComes,
                    "Intel SDM volume 2, REP: exceptions while a string operation repeats") {
  User(CopyBytes());
  auto regs = vcpu().GetRegs();
  regs->rsi = kData;
  regs->rdi = kData + 0x1FF0;
  regs->rcx = 0x40;
  ASSERT_TRUE(vcpu().SetRegs(*regs));
  for (std::uint64_t i = 0; i < 8; ++i) Word(kData + i * 8) = 0x0101'0101'0101'0101 * (i + 1);
  const std::uint64_t entry = Pte(kData + 0x2000);
  Pte(kData + 0x2000) = 0;
  ExpectPageFault(6, kData + 0x2000);
  if (IsSkipped() || HasFailure()) return;
  regs = vcpu().GetRegs();
  EXPECT_EQ(regs->rcx, 0x30U) << "what is left";
  EXPECT_EQ(regs->rsi, kData + 0x10);
  EXPECT_EQ(regs->rdi, kData + 0x2000);
  Pte(kData + 0x2000) = entry;
  if (!Done()) return;
  for (std::uint64_t i = 0; i < 8; ++i) EXPECT_EQ(Word(kData + 0x1FF0 + i * 8), 0x0101'0101'0101'0101 * (i + 1));
  EXPECT_EQ(vcpu().GetRegs()->rcx, 0U);
}

}  // namespace
}  // namespace nestbench::conformance
