#include "nestbench/vmm/machine/linux_machine.h"

#include <asm/bootparam.h>
#include <elf.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstring>
#include <initializer_list>
#include <mutex>
#include <string>
#include <vector>

namespace nestbench::vmm {
namespace {

using namespace std::chrono_literals;
using ::testing::HasSubstr;

constexpr std::size_t kCodeAt = 1024 + 0x200;  // of the file: behind the set-up sectors, the 64-bit entry

// A bzImage whose 64-bit entry is `code`.
std::vector<std::byte> KernelOf(std::initializer_list<int> code) {
  std::vector<std::byte> file(kCodeAt + 1024);
  setup_header header{};
  header.setup_sects = 1;
  header.syssize = static_cast<__u32>((file.size() - 1024) / 16);
  header.boot_flag = 0xAA55;
  header.header = 0x5372'6448;
  header.version = 0x020F;
  header.xloadflags = XLF_KERNEL_64;
  header.pref_address = 0x100'0000;
  header.init_size = 0x10'0000;
  header.initrd_addr_max = 0x7FFF'FFFF;
  header.cmdline_size = 2047;
  std::memcpy(file.data() + 0x1F1, &header, sizeof(header));
  std::size_t at = kCodeAt;
  for (const int value : code) file[at++] = static_cast<std::byte>(value);
  return file;
}

// A vmlinux whose PVH entry is `code`: one segment at 16 MiB, and the note that says where to enter it.
std::vector<std::byte> VmlinuxOf(std::initializer_list<int> code) {
  constexpr std::uint32_t kEntry = 0x100'0000;
  constexpr std::size_t kNoteAt = 0x100;
  constexpr std::size_t kSegmentAt = 0x200;
  std::vector<std::byte> file(kSegmentAt + 256);
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_machine = EM_X86_64;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phoff = sizeof(header);
  header.e_phnum = 2;
  std::memcpy(file.data(), &header, sizeof(header));
  struct Note {
    Elf64_Nhdr header{4, 4, 18};  // XEN_ELFNOTE_PHYS32_ENTRY
    char name[4] = {'X', 'e', 'n', 0};
    std::uint32_t entry = kEntry;
  } const note;
  std::memcpy(file.data() + kNoteAt, &note, sizeof(note));
  Elf64_Phdr programs[2]{};
  programs[0].p_type = PT_LOAD;
  programs[0].p_offset = kSegmentAt;
  programs[0].p_paddr = kEntry;
  programs[0].p_filesz = programs[0].p_memsz = 256;
  programs[1].p_type = PT_NOTE;
  programs[1].p_offset = kNoteAt;
  programs[1].p_filesz = sizeof(note);
  std::memcpy(file.data() + sizeof(header), programs, sizeof(programs));
  std::size_t at = kSegmentAt;
  for (const int value : code) file[at++] = static_cast<std::byte>(value);
  return file;
}

class Console final : public ByteSink {
 public:
  void Put(std::span<const std::byte> bytes) override {
    const std::scoped_lock lock(mutex_);
    for (const std::byte byte : bytes) text_ += std::to_integer<char>(byte);
  }
  [[nodiscard]] std::string text() {
    const std::scoped_lock lock(mutex_);
    return text_;
  }

 private:
  std::mutex mutex_;
  std::string text_;
};

class LinuxMachineTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto device = KvmDevice::Open();
    if (!device) GTEST_SKIP() << device.error().ToString();
    device_.emplace(std::move(*device));
  }

  LinuxOutcome Run(const std::vector<std::byte>& kernel, std::uint32_t vcpus = 1,
                   std::chrono::nanoseconds first_output = 20s) {
    auto machine = LinuxMachine::Create(*device_, {.kernel = kernel,
                                                   .initramfs = {},
                                                   .command_line = "quiet",
                                                   .vcpus = vcpus,
                                                   .memory_bytes = kLinuxMinMemoryBytes,
                                                   .serial_output = &console_,
                                                   .devices = {}});
    if (!machine) return {LinuxEnd::kFailed, machine.error().ToString()};
    return (*machine)->Run({.total = 30s, .first_output = first_output});
  }

  std::optional<KvmDevice> device_;
  Console console_;
};

// mov edx, 3F8h; mov al, 'x'; out dx, al; mov edx, 604h; mov eax, 3400h; out dx, ax; hlt
TEST_F(LinuxMachineTest, PassesOutputOnAndSwitchesOff) {
  const auto outcome =
      Run(KernelOf({0xBA, 0xF8, 3, 0, 0, 0xB0, 'x', 0xEE, 0xBA, 4, 6, 0, 0, 0xB8, 0, 0x34, 0, 0, 0x66, 0xEF, 0xF4}));
  EXPECT_EQ(outcome.end, LinuxEnd::kPoweredOff) << outcome.text;
  EXPECT_EQ(console_.text(), "x");
}

// mov edx, 3F8h; mov al, [ebx]; out dx, al; then as above. EBX points to the start information, whose magic number
// begins with 'x'.
TEST_F(LinuxMachineTest, EntersByPvh) {
  const auto outcome =
      Run(VmlinuxOf({0xBA, 0xF8, 3, 0, 0, 0x8A, 3, 0xEE, 0xBA, 4, 6, 0, 0, 0xB8, 0, 0x34, 0, 0, 0x66, 0xEF, 0xF4}));
  EXPECT_EQ(outcome.end, LinuxEnd::kPoweredOff) << outcome.text;
  EXPECT_EQ(console_.text(), "x");
}

// mov al, FEh; out 64h, al; hlt
TEST_F(LinuxMachineTest, ResetsThroughTheKeyboardController) {
  EXPECT_EQ(Run(KernelOf({0xB0, 0xFE, 0xE6, 0x64, 0xF4})).end, LinuxEnd::kReset);
}

// ud2, without an interrupt table
TEST_F(LinuxMachineTest, TakesATripleFaultBeforeTheFirstWordForAHostThatCannot) {
  const auto outcome = Run(KernelOf({0x0F, 0x0B}));
  EXPECT_EQ(outcome.end, LinuxEnd::kUnsupported);
  EXPECT_THAT(outcome.text, HasSubstr("rip"));
}

// jmp to itself
TEST_F(LinuxMachineTest, SaysWhereAGuestIsThatGivesNoSignOfLife) {
  const auto start = std::chrono::steady_clock::now();
  const auto outcome = Run(KernelOf({0xEB, 0xFE}), 1, 200ms);
  EXPECT_EQ(outcome.end, LinuxEnd::kUnsupported);
  EXPECT_THAT(outcome.text, HasSubstr("rip 0x0000000001000200"));
  EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
}

// The second vCPU waits in KVM until the first has sent it INIT and a start-up interrupt; in between KVM_RUN returns
// EAGAIN. Here the second one prints and switches off.
TEST_F(LinuxMachineTest, StartsTheSecondProcessor) {
  const auto outcome =
      Run(KernelOf({
              // lea rsi, [rip + 59]; mov edi, 8000h; mov ecx, 14; rep movsb
              0x48,
              0x8D,
              0x35,
              0x3B,
              0,
              0,
              0,
              0xBF,
              0,
              0x80,
              0,
              0,
              0xB9,
              14,
              0,
              0,
              0,
              0xF3,
              0xA4,
              // mov ebx, FEE00000h; mov dword [rbx + F0h], 1FFh; mov dword [rbx + 310h], 1000000h
              0xBB,
              0,
              0,
              0xE0,
              0xFE,
              0xC7,
              0x83,
              0xF0,
              0,
              0,
              0,
              0xFF,
              1,
              0,
              0,  //
              0xC7,
              0x83,
              0x10,
              3,
              0,
              0,
              0,
              0,
              0,
              1,
              // mov dword [rbx + 300h], 4500h: INIT; then 4608h: start at 8000h
              0xC7,
              0x83,
              0,
              3,
              0,
              0,
              0,
              0x45,
              0,
              0,
              0xC7,
              0x83,
              0,
              3,
              0,
              0,
              8,
              0x46,
              0,
              0,
              // jmp to itself
              0xEB,
              0xFE,
              // 16 bits: mov dx, 3F8h; mov al, '2'; out dx, al; mov dx, 604h; mov ax, 3400h; out dx, ax; hlt
              0xBA,
              0xF8,
              3,
              0xB0,
              '2',
              0xEE,
              0xBA,
              4,
              6,
              0xB8,
              0,
              0x34,
              0xEF,
              0xF4,
          }),
          2);
  EXPECT_EQ(outcome.end, LinuxEnd::kPoweredOff) << outcome.text;
  EXPECT_EQ(console_.text(), "2");
}

// Holds on a KVM that runs kernels and on one that emulates them: what it says is what a guest then meets.
TEST_F(LinuxMachineTest, NamesTheInstructionThatThisKvmRefuses) {
  const auto refused = FindRefusedInstruction(*device_);
  // int3, without an interrupt table
  const auto outcome = Run(KernelOf({0xCC}));
  EXPECT_EQ(outcome.end, LinuxEnd::kUnsupported);
  if (refused) {
    EXPECT_THAT(*refused, HasSubstr("INT3 (cc)"));
    EXPECT_THAT(*refused, HasSubstr("KVM_EXIT_INTERNAL_ERROR"));
    EXPECT_THAT(*refused, HasSubstr("rip"));
    EXPECT_THAT(outcome.text, HasSubstr("KVM_EXIT_INTERNAL_ERROR"));
  } else {
    EXPECT_THAT(outcome.text, HasSubstr("KVM_EXIT_SHUTDOWN"));
  }
}

TEST_F(LinuxMachineTest, RefusesWhatItCannotBe) {
  const auto kernel = KernelOf({0xF4});
  const auto kind = [&](LinuxMachineOptions options) {
    auto machine = LinuxMachine::Create(*device_, options);
    return machine ? ErrorKind::kTimedOut : machine.error().kind;
  };
  LinuxMachineOptions options{.kernel = kernel, .initramfs = {}, .command_line = {}, .devices = {}};
  options.vcpus = 0;
  EXPECT_EQ(kind(options), ErrorKind::kInvalidArgument);
  options.vcpus = kLinuxMaxVcpus + 1;
  EXPECT_EQ(kind(options), ErrorKind::kInvalidArgument);
  options.vcpus = 1;
  options.memory_bytes = 1 << 20;
  EXPECT_EQ(kind(options), ErrorKind::kInvalidArgument);
  options.memory_bytes = kLinuxMinMemoryBytes;
  options.command_line = std::string(3000, 'x');
  EXPECT_EQ(kind(options), ErrorKind::kInvalidArgument);
  options.command_line = {};
  const std::vector<std::byte> initramfs(kLinuxMinMemoryBytes);
  options.initramfs = initramfs;
  EXPECT_EQ(kind(options), ErrorKind::kInvalidArgument);
}

}  // namespace
}  // namespace nestbench::vmm
