#include "nestbench/vmm/loader/linux.h"

#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <vector>

namespace nestbench::vmm {
namespace {

// A bzImage of one set-up sector and 4 KiB of kernel, right in every field.
std::vector<std::byte> BzImage(const std::function<void(setup_header&)>& change = {}) {
  std::vector<std::byte> file(1024 + 4096);
  setup_header header{};
  header.setup_sects = 1;
  header.syssize = 4096 / 16;
  header.boot_flag = 0xAA55;
  header.header = 0x5372'6448;
  header.version = 0x020F;
  header.xloadflags = XLF_KERNEL_64;
  header.pref_address = 0x100'0000;
  header.init_size = 0x20'0000;
  header.initrd_addr_max = 0x7FFF'FFFF;
  header.cmdline_size = 2047;
  if (change) change(header);
  std::memcpy(file.data() + 0x1F1, &header, sizeof(header));
  return file;
}

TEST(LinuxTest, ReadsABzImage) {
  const auto file = BzImage();
  const auto image = ParseLinux(file);
  ASSERT_TRUE(image) << image.error().ToString();
  EXPECT_EQ(image->entry_kind, LinuxEntry::kBoot64);
  EXPECT_EQ(image->entry, abi::GuestPhysAddr(0x100'0200));
  ASSERT_EQ(image->pieces.size(), 1U);
  EXPECT_EQ(image->pieces[0].bytes.size(), 4096U);
  EXPECT_EQ(image->range.size_bytes, 0x20'0000U);
  EXPECT_EQ(image->initrd_max, 0x7FFF'FFFFU);
}

TEST(LinuxTest, RefusesOtherKernels) {
  const auto kind = [](const std::function<void(setup_header&)>& change) {
    const auto file = BzImage(change);
    const auto image = ParseLinux(file);
    return image ? ErrorKind::kTimedOut : image.error().kind;
  };
  EXPECT_EQ(kind([](setup_header& h) { h.header = 0; }), ErrorKind::kMalformed);
  EXPECT_EQ(kind([](setup_header& h) { h.boot_flag = 0; }), ErrorKind::kMalformed);
  EXPECT_EQ(kind([](setup_header& h) { h.version = 0x0206; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](setup_header& h) { h.xloadflags = 0; }), ErrorKind::kUnsupported);
  EXPECT_EQ(kind([](setup_header& h) { h.setup_sects = 9; }), ErrorKind::kMalformed);
  EXPECT_EQ(kind([](setup_header& h) { h.syssize = 0x1000; }), ErrorKind::kMalformed);
  EXPECT_EQ(kind([](setup_header& h) { h.pref_address = 0x8000; }), ErrorKind::kMalformed);
  EXPECT_EQ(kind([](setup_header& h) { h.pref_address = ~0ULL; }), ErrorKind::kMalformed);
  EXPECT_EQ(kind([](setup_header& h) { h.init_size = 0xFFFF'FFFF; }), ErrorKind::kMalformed);
  EXPECT_EQ(ParseLinux({}).error().kind, ErrorKind::kMalformed);
}

// Cut anywhere, it is refused and never read past its end.
TEST(LinuxTest, RefusesEveryCut) {
  const auto file = BzImage();
  for (std::size_t size = 0; size < file.size(); size += 13) {
    const std::vector<std::byte> cut(file.begin(), file.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_FALSE(ParseLinux(cut)) << size;
  }
}

std::vector<std::byte> Vmlinux(std::uint64_t physical, std::uint32_t entry, bool with_note = true) {
  std::vector<std::byte> file(0x1000);
  Elf64_Ehdr header{};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = ELFCLASS64;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_machine = EM_X86_64;
  header.e_phentsize = sizeof(Elf64_Phdr);
  header.e_phoff = 64;
  header.e_phnum = 2;
  Elf64_Phdr load{};
  load.p_type = PT_LOAD;
  load.p_offset = 0x800;
  load.p_filesz = 0x400;
  load.p_memsz = 0x2000;
  load.p_vaddr = 0xFFFF'FFFF'8000'0000 + physical;
  load.p_paddr = physical;
  Elf64_Phdr note{};
  note.p_type = with_note ? PT_NOTE : PT_NULL;
  note.p_offset = 0x400;
  note.p_filesz = 12 + 4 + 4;
  const std::uint32_t words[] = {4, 4, 18, 0x006E'6558, entry};  // sizes, type, "Xen", value
  std::memcpy(file.data(), &header, sizeof(header));
  std::memcpy(file.data() + 64, &load, sizeof(load));
  std::memcpy(file.data() + 64 + sizeof(load), &note, sizeof(note));
  std::memcpy(file.data() + 0x400, words, sizeof(words));
  return file;
}

TEST(LinuxTest, ReadsAVmlinuxByItsPhysicalAddresses) {
  const auto file = Vmlinux(0x100'0000, 0x100'0040);
  const auto image = ParseLinux(file);
  ASSERT_TRUE(image) << image.error().ToString();
  EXPECT_EQ(image->entry_kind, LinuxEntry::kPvh);
  EXPECT_EQ(image->entry, abi::GuestPhysAddr(0x100'0040));
  EXPECT_EQ(image->range, (abi::GuestPhysRange{abi::GuestPhysAddr(0x100'0000), 0x2000}));
}

TEST(LinuxTest, RefusesAVmlinuxThatCannotBeEntered) {
  EXPECT_EQ(ParseLinux(Vmlinux(0x100'0000, 0x100'0040, false)).error().kind, ErrorKind::kUnsupported);
  EXPECT_EQ(ParseLinux(Vmlinux(0x100'0000, 0x300'0000)).error().kind, ErrorKind::kMalformed);
  EXPECT_EQ(ParseLinux(Vmlinux(0x1000, 0x1000)).error().kind, ErrorKind::kMalformed);
}

}  // namespace
}  // namespace nestbench::vmm
