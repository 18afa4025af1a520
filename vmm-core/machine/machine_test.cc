#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <initializer_list>
#include <string>
#include <vector>

#include "nestbench/abi/x86.h"
#include "nestbench/vmm/machine/page_tables.h"
#include "nestbench/vmm/machine/user_machine.h"

namespace nestbench::vmm {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

// The smallest ELF image: one executable segment that holds `code`, entered at its start.
std::vector<std::byte> ImageOf(std::initializer_list<int> code) {
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_ident[EI_VERSION] = EV_CURRENT;
  header.e_type = ET_EXEC;
  header.e_machine = EM_X86_64;
  header.e_version = EV_CURRENT;
  header.e_entry = abi::kImageBase;
  header.e_phoff = sizeof(header);
  header.e_ehsize = sizeof(header);
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phnum = 1;
  Elf64_Phdr segment = {};
  segment.p_type = PT_LOAD;
  segment.p_flags = PF_R | PF_X;
  segment.p_offset = 4096;
  segment.p_vaddr = segment.p_paddr = abi::kImageBase;
  segment.p_filesz = segment.p_memsz = code.size();
  segment.p_align = 4096;
  std::vector<std::byte> file(4096 + code.size());
  std::memcpy(file.data(), &header, sizeof(header));
  std::memcpy(file.data() + sizeof(header), &segment, sizeof(segment));
  std::size_t at = 4096;
  for (const int value : code) file[at++] = static_cast<std::byte>(value);
  return file;
}

class UserMachineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto device = KvmDevice::Open();
    if (!device) GTEST_SKIP() << device.error().ToString();
    device_.emplace(std::move(*device));
  }

  UserMachine Create(std::initializer_list<int> code, const UserMachineOptions& options = {}) {
    auto machine = UserMachine::Create(*device_, ImageOf(code), options);
    if (!machine) throw std::runtime_error(machine.error().ToString());
    return std::move(*machine);
  }

  static Stop Run(UserMachine& machine, std::chrono::nanoseconds limit = 5s) {
    auto deadline = RunDeadline::Start(machine.vcpu(), limit);
    if (!deadline) throw std::runtime_error(deadline.error().ToString());
    auto stop = machine.RunUntilStop();
    if (!stop) throw std::runtime_error(stop.error().ToString());
    return *stop;
  }

  std::optional<KvmDevice> device_;
};

// mov edx, 0xB20; out dx, eax; jmp to the out
constexpr std::initializer_list<int> kRingPort = {0xBA, 0x20, 0x0B, 0x00, 0x00, 0xEF, 0xEB, 0xFD};
// mov eax, 0xD0000000; mov [rax], eax; jmp to the mov
constexpr std::initializer_list<int> kRingPage = {0xB8, 0x00, 0x00, 0x00, 0xD0, 0x89, 0x00, 0xEB, 0xFC};

TEST_F(UserMachineTest, RunsAtCpl3AndRingsByPort) {
  UserMachine machine = Create(kRingPort);
  for (int i = 0; i < 3; ++i) {
    const Stop stop = Run(machine);
    ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
  }
  auto sregs = machine.vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  EXPECT_EQ(sregs->cs.selector & 3, 3);
}

TEST_F(UserMachineTest, RingsByMmio) {
  UserMachine machine = Create(kRingPage);
  for (int i = 0; i < 3; ++i) {
    const Stop stop = Run(machine);
    ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
  }
}

TEST_F(UserMachineTest, EntersWithTheMailboxInRdiAndAnAlignedStack) {
  UserMachine machine = Create(kRingPort);
  auto regs = machine.vcpu().GetRegs();
  ASSERT_TRUE(regs);
  EXPECT_EQ(regs->rdi, abi::kMailboxBase);
  EXPECT_EQ(regs->rsp % 16, 8U);
}

TEST_F(UserMachineTest, AClosedPortIsAGeneralProtectionFault) {
  UserMachine machine = Create({0xE6, 0x80, 0xEB, 0xFE});  // out 0x80, al; jmp $
  const Stop stop = Run(machine);
  EXPECT_EQ(stop.reason, StopReason::kException) << stop.text;
  EXPECT_THAT(stop.text, HasSubstr("vector 13"));
  EXPECT_THAT(stop.text, HasSubstr("rip 0x10000000"));
}

TEST_F(UserMachineTest, ThePortBehindTheSerialPortIsClosed) {
  UserMachine machine = Create({0xBA, 0x00, 0x04, 0, 0, 0xEE, 0xEB, 0xFE});  // mov edx, 0x400; out dx, al; jmp $
  const Stop stop = Run(machine);
  EXPECT_EQ(stop.reason, StopReason::kException) << stop.text;
  EXPECT_THAT(stop.text, HasSubstr("vector 13"));
}

TEST_F(UserMachineTest, AnAccessToTheSupervisorAreaIsAPageFault) {
  UserMachine machine = Create({0xA1, 0, 0x10, 0, 0, 0, 0, 0, 0, 0xEB, 0xFE});  // mov eax, [0x1000] (the GDT)
  const Stop stop = Run(machine);
  EXPECT_EQ(stop.reason, StopReason::kException) << stop.text;
  EXPECT_THAT(stop.text, HasSubstr("vector 14"));
  EXPECT_THAT(stop.text, HasSubstr("cr2 0x1000"));
}

TEST_F(UserMachineTest, APrivilegedInstructionIsAGeneralProtectionFault) {
  UserMachine machine = Create({0x0F, 0x20, 0xD8, 0xEB, 0xFE});  // mov rax, cr3
  const Stop stop = Run(machine);
  EXPECT_EQ(stop.reason, StopReason::kException) << stop.text;
  EXPECT_THAT(stop.text, HasSubstr("vector 13"));
}

TEST_F(UserMachineTest, APayloadWithoutAStackStillEndsWithACause) {
  // xor esp, esp; push rax: a page fault on a stack that is not there, taken on the supervisor's own stack.
  UserMachine machine = Create({0x31, 0xE4, 0x50, 0xEB, 0xFE});
  const Stop stop = Run(machine);
  EXPECT_EQ(stop.reason, StopReason::kException) << stop.text;
}

TEST_F(UserMachineTest, CodeCannotBeWritten) {
  // mov eax, 0x10000000; mov [rax], eax
  UserMachine machine = Create({0xB8, 0, 0, 0, 0x10, 0x89, 0x00, 0xEB, 0xFE});
  const Stop stop = Run(machine);
  EXPECT_EQ(stop.reason, StopReason::kException) << stop.text;
  EXPECT_THAT(stop.text, HasSubstr("vector 14, error code 0x7"));
}

TEST_F(UserMachineTest, TheStackCannotBeExecuted) {
  // mov dword [rsp], 0xFEEB (jmp $); jmp rsp
  UserMachine machine = Create({0xC7, 0x04, 0x24, 0xEB, 0xFE, 0, 0, 0xFF, 0xE4});
  const Stop stop = Run(machine);
  EXPECT_EQ(stop.reason, StopReason::kException) << stop.text;
  EXPECT_THAT(stop.text, HasSubstr("vector 14, error code 0x15"));  // a fetch, by user code, from a page that is there
}

TEST_F(UserMachineTest, TheFaultPageIsHandledInsideTheGuest) {
  // lea rcx, [rip+9]; mov eax, 0xC0000000; mov eax, [rax]; (rcx:) mov edx, 0xB20; out dx, eax
  UserMachine machine = Create({0x48, 0x8D, 0x0D, 0x07, 0, 0,    0,    0xB8, 0, 0, 0, 0xC0, 0x8B, 0x00,  //
                                0xBA, 0x20, 0x0B, 0,    0, 0xEF, 0xEB, 0xFE});
  const Stop stop = Run(machine);
  EXPECT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
}

TEST_F(UserMachineTest, APayloadThatSpinsIsStoppedByTheDeadline) {
  UserMachine machine = Create({0xEB, 0xFE});
  EXPECT_EQ(Run(machine, 30ms).reason, StopReason::kInterrupted);
}

TEST_F(UserMachineTest, WritesToTheEventPortAndPageSignalTheEventInTheKernel) {
  // mov edx, 0xB24; out dx, eax; mov eax, 0xD0001000; mov [rax], eax; mov edx, 0xB20; out dx, eax
  UserMachine machine = Create({0xBA, 0x24, 0x0B, 0, 0, 0xEF, 0xB8, 0x00, 0x10, 0x00, 0xD0, 0x89, 0x00,  //
                                0xBA, 0x20, 0x0B, 0, 0, 0xEF, 0xEB, 0xFE});
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  auto attached = machine.AttachEvent(event.get());
  ASSERT_TRUE(attached) << attached.error().ToString();
  EXPECT_EQ(Run(machine).reason, StopReason::kDoorbell);
  std::uint64_t count = 0;
  ASSERT_EQ(::read(event.get(), &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
  EXPECT_EQ(count, 2U);
  EXPECT_EQ(machine.refused_accesses(), 0U);
}

TEST_F(UserMachineTest, UnclaimedAndMisshapenAccessesAreCountedAndSurvived) {
  // out dx, al to the doorbell (wrong width), out to the event port without an event, then ring
  UserMachine machine = Create({0xBA, 0x20, 0x0B, 0, 0, 0xEE, 0xBA, 0x24, 0x0B, 0, 0, 0xEF,  //
                                0xBA, 0x20, 0x0B, 0, 0, 0xEF, 0xEB, 0xFE});
  EXPECT_EQ(Run(machine).reason, StopReason::kDoorbell);
  EXPECT_EQ(machine.refused_accesses(), 2U);
}

TEST_F(UserMachineTest, TheSerialPortReachesTheSink) {
  class StringSink final : public ByteSink {
   public:
    void Put(std::span<const std::byte> bytes) override {
      for (const std::byte value : bytes) text += static_cast<char>(value);
    }
    std::string text;
  } sink;
  // mov edx, 0x3F8; mov al, 'o'; out dx, al; mov al, 'k'; out dx, al; ring
  UserMachine machine = Create({0xBA, 0xF8, 0x03, 0, 0, 0xB0, 'o', 0xEE, 0xB0, 'k', 0xEE,  //
                                0xBA, 0x20, 0x0B, 0, 0, 0xEF, 0xEB, 0xFE},
                               {.serial_output = &sink});
  EXPECT_EQ(Run(machine).reason, StopReason::kDoorbell);
  EXPECT_EQ(sink.text, "ok");
}

TEST_F(UserMachineTest, Avx2WorksWhereTheHostHasIt) {
  if (!__builtin_cpu_supports("avx2")) GTEST_SKIP() << "this CPU has no AVX2";
  // vpaddd ymm0, ymm0, ymm0; ring
  UserMachine machine = Create({0xC5, 0xFD, 0xFE, 0xC0, 0xBA, 0x20, 0x0B, 0, 0, 0xEF, 0xEB, 0xFE});
  const Stop stop = Run(machine);
  EXPECT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
}

TEST_F(UserMachineTest, Avx512WorksWhereTheHostHasIt) {
  if (!__builtin_cpu_supports("avx512f")) GTEST_SKIP() << "this CPU has no AVX-512";
  // vpaddd zmm0, zmm0, zmm0; ring
  UserMachine machine = Create({0x62, 0xF1, 0x7D, 0x48, 0xFE, 0xC0, 0xBA, 0x20, 0x0B, 0, 0, 0xEF, 0xEB, 0xFE});
  const Stop stop = Run(machine);
  EXPECT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
}

TEST_F(UserMachineTest, TheArenaIsMappedWithSmallAndWithLargePages) {
  for (const std::uint64_t page_bytes : {abi::kPageBytes, abi::kLargePageBytes}) {
    // mov eax, 0x203FFFFC; mov dword [rax], 0x5A; ring
    UserMachine machine = Create({0xB8, 0xFC, 0xFF, 0x3F, 0x20, 0xC7, 0x00, 0x5A, 0, 0, 0,  //
                                  0xBA, 0x20, 0x0B, 0, 0, 0xEF, 0xEB, 0xFE},
                                 {.arena_bytes = 4ULL << 20, .guest_page_bytes = page_bytes});
    const Stop stop = Run(machine);
    ASSERT_EQ(stop.reason, StopReason::kDoorbell) << stop.text;
    ASSERT_NE(machine.arena(), nullptr);
    EXPECT_EQ(machine.arena()->bytes()[(4ULL << 20) - 4], std::byte{0x5A});
  }
}

TEST_F(UserMachineTest, RefusesAnImageThatIsNoElfFile) {
  const std::vector<std::byte> garbage(8192, std::byte{0x41});
  auto machine = UserMachine::Create(*device_, garbage, {});
  ASSERT_FALSE(machine);
  EXPECT_EQ(machine.error().kind, ErrorKind::kMalformed);
}

// Intel SDM, volume 3, table "Format of an EPT Page-Directory Entry (PDE) that Maps a 2-MByte Page".
TEST(PageTablesTest, WritesTheEntriesOfExtendedTables) {
  GuestMemory memory;
  auto region = MemoryRegion::Create({abi::GuestPhysAddr(0), 0x10000}, {});
  ASSERT_TRUE(region) << region.error().ToString();
  ASSERT_TRUE(memory.Add(std::move(*region)));
  auto builder = PageTableBuilder::Create(memory, {abi::GuestPhysAddr(0), 0x4000}, PageTableFormat::kExtended);
  ASSERT_TRUE(builder) << builder.error().ToString();
  constexpr std::uint64_t kPage = 2ULL << 20;
  ASSERT_TRUE(builder->Map(abi::GuestVirtAddr(0), abi::GuestPhysAddr(kPage), kPage, kPage, {.writable = true}));
  const auto upper = memory.Read<std::uint64_t>(abi::GuestPhysAddr(0));
  const auto leaf = memory.Read<std::uint64_t>(abi::GuestPhysAddr(0x2000));
  ASSERT_TRUE(upper && leaf);
  EXPECT_EQ(*upper, 0x1007U) << "read, write, execute";
  EXPECT_EQ(*leaf, kPage | 0xB3) << "2 MiB, write-back, read, write; no rights of users, no execution";
}

TEST(PageTablesTest, RefusesAMappingTwiceAndOneThatDoesNotFit) {
  GuestMemory memory;
  auto region = MemoryRegion::Create({abi::GuestPhysAddr(0), 0x10000}, {});
  ASSERT_TRUE(region);
  ASSERT_TRUE(memory.Add(std::move(*region)));
  auto builder = PageTableBuilder::Create(memory, {abi::GuestPhysAddr(0), 0x4000});
  ASSERT_TRUE(builder);
  const abi::GuestVirtAddr page(0x1000'0000);
  ASSERT_TRUE(builder->Map(page, abi::GuestPhysAddr(0), 4096, 4096, {.user = true}));
  EXPECT_FALSE(builder->Map(page, abi::GuestPhysAddr(0), 4096, 4096, {.user = true}));
  // Another gigabyte needs two more tables, and the pool of four pages is used up.
  auto full = builder->Map(abi::GuestVirtAddr(0x8000'0000), abi::GuestPhysAddr(0), 4096, 4096, {});
  ASSERT_FALSE(full);
  EXPECT_THAT(full.error().ToString(), HasSubstr("full"));
  EXPECT_FALSE(builder->Map(abi::GuestVirtAddr(1ULL << 47), abi::GuestPhysAddr(0), 4096, 4096, {}));
  EXPECT_FALSE(builder->Map(abi::GuestVirtAddr(0x1001), abi::GuestPhysAddr(0), 4096, 4096, {}));
}

}  // namespace
}  // namespace nestbench::vmm
