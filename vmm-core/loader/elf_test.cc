#include "nestbench/vmm/loader/elf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <functional>
#include <string>
#include <utility>

#include "elf_builder.h"

namespace nestbench::vmm {
namespace {

using abi::GuestPhysAddr;
using abi::GuestPhysRange;
using testing::AllOf;
using testing::HasSubstr;

constexpr std::uint64_t kBase = 0x1000'0000;
constexpr GuestPhysRange kAllowed{GuestPhysAddr(kBase), 16ULL << 20};
constexpr std::uint64_t kText = kBase;
constexpr std::uint64_t kData = kBase + 0x2000;

// Text of 0x10 bytes, then data of 0x20 bytes in 0x3000 of memory.
ElfBuilder GoodImage() {
  ElfBuilder elf;
  elf.Add(PT_LOAD, kText, PF_R | PF_X, 0x10, 0x10);
  elf.Add(PT_LOAD, kData, PF_R | PF_W, 0x20, 0x3000);
  elf.header.e_entry = kText + 8;
  return elf;
}

// What ParseElf says against the good image after `change`.
std::string Refusal(const std::function<void(ElfBuilder&)>& change, GuestPhysRange allowed = kAllowed) {
  ElfBuilder elf = GoodImage();
  change(elf);
  const std::vector<std::byte> file = elf.Build();
  const auto image = ParseElf(file, allowed);
  if (image) return "(accepted)";
  EXPECT_EQ(image.error().kind, ErrorKind::kMalformed);
  return image.error().ToString();
}

TEST(ElfTest, DescribesAGoodImage) {
  const std::vector<std::byte> file = GoodImage().Build();
  const auto image = ParseElf(file, kAllowed);
  ASSERT_TRUE(image) << image.error().ToString();
  EXPECT_EQ(image->entry().value(), kText + 8);
  EXPECT_EQ(image->range(), (GuestPhysRange{GuestPhysAddr(kText), 0x5000}));
  EXPECT_FALSE(image->pvh_entry());
  ASSERT_EQ(image->segments().size(), 2U);
  const ElfSegment& text = image->segments()[0];
  EXPECT_EQ(text.memory, (GuestPhysRange{GuestPhysAddr(kText), 0x10}));
  EXPECT_EQ(text.file_bytes.data(), file.data() + ElfBuilder::kFirstContentOffset);
  EXPECT_EQ(text.file_bytes.size(), 0x10U);
  EXPECT_TRUE(text.readable && text.executable && !text.writable);
  const ElfSegment& data = image->segments()[1];
  EXPECT_EQ(data.memory, (GuestPhysRange{GuestPhysAddr(kData), 0x3000}));
  EXPECT_EQ(data.file_bytes.size(), 0x20U);
  EXPECT_TRUE(data.readable && data.writable && !data.executable);
}

TEST(ElfTest, SortsSegmentsByAddress) {
  ElfBuilder elf = GoodImage();
  std::swap(elf.programs[0], elf.programs[1]);
  const std::vector<std::byte> file = elf.Build();
  const auto image = ParseElf(file, kAllowed);
  ASSERT_TRUE(image) << image.error().ToString();
  EXPECT_LT(image->segments()[0].memory.start, image->segments()[1].memory.start);
}

TEST(ElfTest, SkipsEmptySegmentsAndUnknownHeaders) {
  ElfBuilder elf = GoodImage();
  elf.Add(PT_LOAD, 0, PF_R, 0, 0);
  elf.Add(PT_GNU_STACK, 0, PF_R | PF_W, 0, 0);
  const std::vector<std::byte> file = elf.Build();
  const auto image = ParseElf(file, kAllowed);
  ASSERT_TRUE(image) << image.error().ToString();
  EXPECT_EQ(image->segments().size(), 2U);
}

TEST(ElfTest, AcceptsAnImageThatFillsTheAllowedRangeToItsLastByte) {
  EXPECT_EQ(Refusal([](ElfBuilder& elf) { elf.programs[1].p_memsz = kAllowed.size_bytes - 0x2000; }), "(accepted)");
}

TEST(ElfTest, RefusesEveryTruncationOfAGoodFile) {
  ElfBuilder elf;
  elf.Add(PT_LOAD, kText, PF_R | PF_X, 0x1000, 0x1000);
  elf.header.e_entry = kText;
  const std::vector<std::byte> file = elf.Build();
  ASSERT_TRUE(ParseElf(file, kAllowed));
  for (std::size_t size = 0; size < file.size(); ++size) {
    const auto image = ParseElf(std::span(file).first(size), kAllowed);
    ASSERT_FALSE(image) << size;
    EXPECT_EQ(image.error().kind, ErrorKind::kMalformed);
  }
}

TEST(ElfTest, RefusesAnEmptyFileAndSaysHowShortItIs) {
  const auto image = ParseElf({}, kAllowed);
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().ToString(), "load ELF image: the file has 0 bytes, less than an ELF64 header (64)");
}

TEST(ElfTest, RefusesAFileThatIsNoElf) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_ident[0] = '#'; }), HasSubstr("23 45 4c 46"));
}

TEST(ElfTest, RefusesA32BitImage) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_ident[EI_CLASS] = ELFCLASS32; }),
              HasSubstr("e_ident[EI_CLASS] is 1, not ELFCLASS64 (2)"));
}

TEST(ElfTest, RefusesABigEndianImage) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_ident[EI_DATA] = ELFDATA2MSB; }),
              HasSubstr("e_ident[EI_DATA] is 2, not ELFDATA2LSB (1)"));
}

TEST(ElfTest, RefusesUnknownVersions) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_ident[EI_VERSION] = 2; }), HasSubstr("EI_VERSION"));
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_version = 0; }), HasSubstr("e_version is 0, not 1"));
}

TEST(ElfTest, RefusesAPositionIndependentImage) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_type = ET_DYN; }), HasSubstr("e_type is 3, not ET_EXEC (2)"));
}

TEST(ElfTest, RefusesAnotherMachine) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_machine = EM_AARCH64; }),
              HasSubstr("e_machine is 183, not EM_X86_64 (62)"));
}

TEST(ElfTest, RefusesHeaderSizesThatAreNotOurs) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_ehsize = 52; }), HasSubstr("e_ehsize is 52, not 64"));
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_phentsize = 32; }), HasSubstr("e_phentsize is 32, not 56"));
}

TEST(ElfTest, RefusesNoneAndTooManyProgramHeaders) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_phnum = 0; }), HasSubstr("e_phnum is 0, not 1 to 64"));
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_phnum = 65; }), HasSubstr("e_phnum is 65, not 1 to 64"));
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.header.e_phnum = PN_XNUM; }), HasSubstr("e_phnum is 65535"));
}

TEST(ElfTest, RefusesAProgramHeaderTableOutsideTheFile) {
  for (const std::uint64_t offset : {0x2FFFULL, 0x3000ULL, ~0ULL - 8}) {
    EXPECT_THAT(Refusal([offset](ElfBuilder& elf) { elf.header.e_phoff = offset; }), HasSubstr("e_phoff is 0x"));
  }
}

TEST(ElfTest, RefusesASegmentOutsideTheFile) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[1].p_offset = 0x3000; }),
              AllOf(HasSubstr("program header 1: p_offset 0x3000 + p_filesz 0x20"), HasSubstr("0x3000 bytes")));
}

TEST(ElfTest, RefusesAnOffsetAndSizeWhoseSumOverflows) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[1].p_offset = ~0ULL & ~0xFFFULL; }), HasSubstr("p_offset 0x"));
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[1].p_filesz = elf.programs[1].p_memsz = ~0ULL; }),
              HasSubstr("p_filesz 0xffffffffffffffff"));
}

TEST(ElfTest, RefusesMoreFileThanMemory) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[1].p_memsz = 0x1F; }),
              HasSubstr("program header 1: p_filesz 0x20 is more than p_memsz 0x1f"));
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[1].p_memsz = 0; }), HasSubstr("more than p_memsz 0x0"));
}

TEST(ElfTest, RefusesASegmentThatDoesNotStartOnAPage) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) {
                elf.programs[1].p_vaddr = elf.programs[1].p_paddr = kData + 0x10;
                elf.programs[1].p_align = 1;
              }),
              HasSubstr("p_vaddr 0x10002010 is not a multiple of 4096"));
}

TEST(ElfTest, RefusesAnAlignmentThatIsNoPowerOfTwo) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[1].p_align = 0x1800; }),
              HasSubstr("p_align 0x1800 is not a power of two"));
}

TEST(ElfTest, RefusesAnOffsetThatIsNotCongruentToTheAddress) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[1].p_offset += 8; }),
              HasSubstr("p_vaddr 0x10002000 and p_offset 0x2008 differ modulo p_align 0x1000"));
}

TEST(ElfTest, RefusesAPhysicalAddressThatIsNotTheVirtualOne) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[1].p_paddr = 0x2000; }),
              HasSubstr("p_paddr 0x2000 is not p_vaddr 0x10002000"));
}

TEST(ElfTest, RefusesASegmentThatOverlapsAnother) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[0].p_memsz = 0x2001; }),
              HasSubstr("segments [0x10000000, +0x2001) and [0x10002000, +0x3000) overlap"));
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[1].p_vaddr = elf.programs[1].p_paddr = kText; }),
              HasSubstr("overlap"));
}

TEST(ElfTest, RefusesASegmentOutsideTheAllowedRange) {
  const auto move_to = [](std::uint64_t address) {
    return Refusal([address](ElfBuilder& elf) { elf.programs[1].p_vaddr = elf.programs[1].p_paddr = address; });
  };
  EXPECT_THAT(move_to(kBase - 0x1000), HasSubstr("is not inside the allowed [0x10000000, +0x1000000)"));
  EXPECT_THAT(move_to(kBase + kAllowed.size_bytes - 0x2000), HasSubstr("is not inside the allowed"));
  EXPECT_THAT(move_to(~0ULL & ~0xFFFULL), HasSubstr("is not inside the allowed"));
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[1].p_memsz = ~0ULL; }),
              HasSubstr("is not inside the allowed"));
  EXPECT_THAT(Refusal([](ElfBuilder&) {}, GuestPhysRange{GuestPhysAddr(kBase), 0}), HasSubstr("is not inside"));
}

TEST(ElfTest, RefusesASegmentThatIsWritableAndExecutable) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.programs[0].p_flags = PF_R | PF_W | PF_X; }),
              HasSubstr("program header 0: p_flags 0x7 is writable and executable"));
}

TEST(ElfTest, RefusesAnEntryOutsideEveryExecutableSegment) {
  for (const std::uint64_t entry : {std::uint64_t{0}, kText + 0x10, kData, ~std::uint64_t{0}}) {
    EXPECT_THAT(Refusal([entry](ElfBuilder& elf) { elf.header.e_entry = entry; }),
                HasSubstr("lies in no executable segment"));
  }
}

TEST(ElfTest, RefusesAnImageWithNothingToLoad) {
  EXPECT_THAT(Refusal([](ElfBuilder& elf) {
                elf.programs[0].p_type = PT_GNU_STACK;
                elf.programs[1].p_type = PT_NULL;
              }),
              HasSubstr("none of the 2 program headers is a PT_LOAD with memory"));
}

TEST(ElfTest, RefusesWhatNeedsADynamicLinkerOrThreadSetUp) {
  for (const auto& [type, name] : {std::pair{PT_INTERP, "PT_INTERP"}, {PT_DYNAMIC, "PT_DYNAMIC"}, {PT_TLS, "PT_TLS"}}) {
    EXPECT_THAT(Refusal([type](ElfBuilder& elf) { elf.programs[1].p_type = static_cast<Elf64_Word>(type); }),
                HasSubstr(name));
  }
}

TEST(ElfTest, RefusesAnAllowedRangeThatIsNone) {
  const std::vector<std::byte> file = GoodImage().Build();
  const auto image = ParseElf(file, {GuestPhysAddr(~0ULL), 2});
  ASSERT_FALSE(image);
  EXPECT_EQ(image.error().kind, ErrorKind::kInvalidArgument);
}

// The PVH note.

template <typename T>
std::vector<std::byte> PvhNote(T entry, std::size_t alignment_bytes = 4) {
  return ElfBuilder::Note("Xen", 18, std::as_bytes(std::span(&entry, 1)), alignment_bytes);
}

std::string RefusalOfNotes(std::vector<std::byte> notes) {
  return Refusal([&notes](ElfBuilder& elf) { elf.Add(PT_NOTE, 0, PF_R, notes, 0); });
}

TEST(ElfTest, FindsThePvhEntryOf32And64BitsAmongOtherNotes) {
  const std::array<std::byte, 5> value{};
  for (const std::size_t alignment : {4U, 8U}) {
    for (const auto& pvh :
         {PvhNote<std::uint32_t>(kText + 4, alignment), PvhNote<std::uint64_t>(kText + 4, alignment)}) {
      std::vector<std::byte> notes = ElfBuilder::Note("GNU", 18, value, alignment);
      notes.insert(notes.end(), pvh.begin(), pvh.end());
      const std::vector<std::byte> last = ElfBuilder::Note("Xen", 5, value, alignment);
      notes.insert(notes.end(), last.begin(), last.end());
      ElfBuilder elf = GoodImage();
      elf.Add(PT_NOTE, 0, PF_R, notes, 0).p_align = alignment;
      const std::vector<std::byte> file = elf.Build();
      const auto image = ParseElf(file, kAllowed);
      ASSERT_TRUE(image) << image.error().ToString();
      EXPECT_EQ(image->pvh_entry(), GuestPhysAddr(kText + 4));
    }
  }
}

TEST(ElfTest, RefusesAPvhEntryOutsideEveryExecutableSegmentOr32Bits) {
  EXPECT_THAT(RefusalOfNotes(PvhNote<std::uint32_t>(kData)),
              HasSubstr("PHYS32_ENTRY 0x10002000 lies in no executable"));
  EXPECT_THAT(RefusalOfNotes(PvhNote<std::uint64_t>(kText + (1ULL << 32))), HasSubstr("below 4 GiB"));
}

TEST(ElfTest, RefusesAPvhNoteOfAnotherSize) {
  EXPECT_THAT(RefusalOfNotes(PvhNote<std::uint16_t>(0)), HasSubstr("n_descsz is 2, not 4 or 8"));
}

TEST(ElfTest, RefusesTwoPvhNotes) {
  std::vector<std::byte> notes = PvhNote<std::uint32_t>(kText);
  const std::vector<std::byte> again = notes;
  notes.insert(notes.end(), again.begin(), again.end());
  EXPECT_THAT(RefusalOfNotes(notes), HasSubstr("twice"));
}

TEST(ElfTest, RefusesNotesThatLeaveTheirSegmentOrTheFile) {
  std::vector<std::byte> notes = PvhNote<std::uint32_t>(kText);
  notes.resize(notes.size() - 4);
  EXPECT_THAT(RefusalOfNotes(notes), HasSubstr("n_descsz 0x4 leaves its segment"));
  EXPECT_THAT(RefusalOfNotes(std::vector<std::byte>(11)), HasSubstr("is cut off"));
  EXPECT_THAT(RefusalOfNotes(std::vector<std::byte>(16, std::byte{0xFF})), HasSubstr("n_namesz 0xffffffff"));
  EXPECT_THAT(Refusal([](ElfBuilder& elf) { elf.Add(PT_NOTE, 0, PF_R, 0, 0).p_filesz = ~0ULL; }),
              HasSubstr("leaves the file"));
}

}  // namespace
}  // namespace nestbench::vmm
