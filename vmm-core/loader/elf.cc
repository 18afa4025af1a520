#include "nestbench/vmm/loader/elf.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <string_view>
#include <utility>

#include "nestbench/abi/layout.h"
#include "nestbench/vmm/base/mutant.h"
#include "xen_note.h"

namespace nestbench::vmm {
namespace {

constexpr std::string_view kOperation = "load ELF image";

template <typename... Args>
auto Malformed(fmt::format_string<Args...> format, Args&&... args) {
  return Fail(Error::Malformed(kOperation, fmt::format(format, std::forward<Args>(args)...)));
}

// The structure at `offset_bytes`, whose bytes the caller has checked to be there. A file has no alignment.
template <typename T>
T ReadAt(std::span<const std::byte> bytes, std::uint64_t offset_bytes) {
  T value;
  std::memcpy(&value, bytes.data() + offset_bytes, sizeof(value));
  return value;
}

constexpr bool FitsIn(std::uint64_t offset, std::uint64_t bytes, std::uint64_t total_bytes) {
  return offset <= total_bytes && bytes <= total_bytes - offset;
}

constexpr std::uint64_t AlignUp(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) & ~(alignment - 1);
}

bool IsInExecutable(std::span<const ElfSegment> segments, std::uint64_t address) {
  return std::ranges::any_of(segments, [address](const ElfSegment& segment) {
    return segment.executable && segment.memory.Contains(abi::GuestPhysAddr(address), 1);
  });
}

}  // namespace

// One pass over one file: each step checks what the next one relies on.
class ElfParser {
 public:
  ElfParser(std::span<const std::byte> file, abi::GuestPhysRange allowed) : file_(file), allowed_(allowed) {}

  Result<ElfImage> Parse() {
    return CheckIdentification()
        .and_then([this] { return CheckHeader(); })
        .and_then([this] { return ReadProgramHeaders(); })
        .and_then([this] { return CheckSegmentsTogether(); })
        .and_then([this] { return CheckEntries(); })
        .map([this] { return std::move(image_); });
  }

 private:
  Result<void> CheckIdentification();
  Result<void> CheckHeader();
  Result<void> ReadProgramHeaders();
  Result<void> AddSegment(std::size_t index, const Elf64_Phdr& header);
  Result<void> ReadNotes(std::size_t index, const Elf64_Phdr& header);
  Result<void> CheckSegmentsTogether();
  Result<void> CheckEntries();

  std::span<const std::byte> file_;
  abi::GuestPhysRange allowed_;
  Elf64_Ehdr header_{};
  ElfImage image_;
};

Result<void> ElfParser::CheckIdentification() {
  if (file_.size() < sizeof(Elf64_Ehdr)) {
    return Malformed("the file has {} bytes, less than an ELF64 header ({})", file_.size(), sizeof(Elf64_Ehdr));
  }
  header_ = ReadAt<Elf64_Ehdr>(file_, 0);
  const unsigned char* ident = header_.e_ident;
  if (std::memcmp(ident, ELFMAG, SELFMAG) != 0) {
    return Malformed("e_ident starts with {:02x} {:02x} {:02x} {:02x}, not with 7f 45 4c 46: this is not an ELF file",
                     ident[0], ident[1], ident[2], ident[3]);
  }
  if (ident[EI_CLASS] != ELFCLASS64) {
    return Malformed("e_ident[EI_CLASS] is {}, not ELFCLASS64 ({})", ident[EI_CLASS], ELFCLASS64);
  }
  if (ident[EI_DATA] != ELFDATA2LSB) {
    return Malformed("e_ident[EI_DATA] is {}, not ELFDATA2LSB ({}): not little-endian", ident[EI_DATA], ELFDATA2LSB);
  }
  if (ident[EI_VERSION] != EV_CURRENT) {
    return Malformed("e_ident[EI_VERSION] is {}, not {}", ident[EI_VERSION], EV_CURRENT);
  }
  return {};
}

Result<void> ElfParser::CheckHeader() {
  if (header_.e_type != ET_EXEC) {
    return Malformed("e_type is {}, not ET_EXEC ({}): the image must be linked at a fixed address", header_.e_type,
                     ET_EXEC);
  }
  if (header_.e_machine != EM_X86_64) {
    return Malformed("e_machine is {}, not EM_X86_64 ({})", header_.e_machine, EM_X86_64);
  }
  if (header_.e_version != EV_CURRENT) return Malformed("e_version is {}, not {}", header_.e_version, EV_CURRENT);
  if (header_.e_ehsize != sizeof(Elf64_Ehdr)) {
    return Malformed("e_ehsize is {}, not {}", header_.e_ehsize, sizeof(Elf64_Ehdr));
  }
  if (header_.e_phentsize != sizeof(Elf64_Phdr)) {
    return Malformed("e_phentsize is {}, not {}", header_.e_phentsize, sizeof(Elf64_Phdr));
  }
  if (header_.e_phnum == 0 || header_.e_phnum > kElfMaxProgramHeaders) {
    return Malformed("e_phnum is {}, not 1 to {}", header_.e_phnum, kElfMaxProgramHeaders);
  }
  const std::uint64_t table_bytes = header_.e_phnum * sizeof(Elf64_Phdr);
  if (!FitsIn(header_.e_phoff, table_bytes, file_.size())) {
    return Malformed("e_phoff is {:#x}: {} program headers ({} bytes) from there leave the file of {} bytes",
                     header_.e_phoff, header_.e_phnum, table_bytes, file_.size());
  }
  return {};
}

Result<void> ElfParser::ReadProgramHeaders() {
  for (std::size_t i = 0; i < header_.e_phnum; ++i) {
    const auto header = ReadAt<Elf64_Phdr>(file_, header_.e_phoff + i * sizeof(Elf64_Phdr));
    Result<void> done;
    switch (header.p_type) {
      case PT_LOAD:
        done = AddSegment(i, header);
        break;
      case PT_NOTE:
        done = ReadNotes(i, header);
        break;
      case PT_INTERP:
      case PT_DYNAMIC:
      case PT_TLS:
        return Malformed("program header {}: p_type is {} (PT_{}), but nobody links or sets up threads in a guest", i,
                         header.p_type,
                         header.p_type == PT_INTERP ? "INTERP" : (header.p_type == PT_DYNAMIC ? "DYNAMIC" : "TLS"));
      default:
        break;
    }
    if (!done) return done;
  }
  return {};
}

Result<void> ElfParser::AddSegment(std::size_t index, const Elf64_Phdr& header) {
  if (header.p_filesz > header.p_memsz) {
    return Malformed("program header {}: p_filesz {:#x} is more than p_memsz {:#x}", index, header.p_filesz,
                     header.p_memsz);
  }
  if (!FitsIn(header.p_offset, header.p_filesz, file_.size())) {
    return Malformed("program header {}: p_offset {:#x} + p_filesz {:#x} leaves the file of {:#x} bytes", index,
                     header.p_offset, header.p_filesz, file_.size());
  }
  if (header.p_memsz == 0) return {};  // linkers leave such headers; there is nothing to load
  if (header.p_vaddr % abi::kPageBytes != 0) {
    return Malformed("program header {}: p_vaddr {:#x} is not a multiple of {}: segments may not share a page", index,
                     header.p_vaddr, abi::kPageBytes);
  }
  if (header.p_align > 1) {
    if (!std::has_single_bit(header.p_align)) {
      return Malformed("program header {}: p_align {:#x} is not a power of two", index, header.p_align);
    }
    if (((header.p_vaddr - header.p_offset) & (header.p_align - 1)) != 0) {
      return Malformed("program header {}: p_vaddr {:#x} and p_offset {:#x} differ modulo p_align {:#x}", index,
                       header.p_vaddr, header.p_offset, header.p_align);
    }
  }
  if (header.p_paddr != header.p_vaddr) {
    return Malformed("program header {}: p_paddr {:#x} is not p_vaddr {:#x}", index, header.p_paddr, header.p_vaddr);
  }
  if (!allowed_.Contains(abi::GuestPhysAddr(header.p_vaddr), header.p_memsz)) {
    return Malformed("program header {}: p_vaddr {:#x} + p_memsz {:#x} is not inside the allowed [{:#x}, +{:#x})",
                     index, header.p_vaddr, header.p_memsz, allowed_.start.value(), allowed_.size_bytes);
  }
  if ((header.p_flags & PF_W) != 0 && (header.p_flags & PF_X) != 0 && !Mutated("elf-writable-code-accepted")) {
    return Malformed("program header {}: p_flags {:#x} is writable and executable at once", index, header.p_flags);
  }
  image_.segments_.push_back(ElfSegment{
      .memory = {abi::GuestPhysAddr(header.p_vaddr), header.p_memsz},
      .file_bytes = file_.subspan(header.p_offset, header.p_filesz),
      .readable = (header.p_flags & PF_R) != 0,
      .writable = (header.p_flags & PF_W) != 0,
      .executable = (header.p_flags & PF_X) != 0,
  });
  return {};
}

Result<void> ElfParser::ReadNotes(std::size_t index, const Elf64_Phdr& header) {
  if (!FitsIn(header.p_offset, header.p_filesz, file_.size())) {
    return Malformed("program header {}: p_offset {:#x} + p_filesz {:#x} leaves the file of {:#x} bytes", index,
                     header.p_offset, header.p_filesz, file_.size());
  }
  const std::span<const std::byte> notes = file_.subspan(header.p_offset, header.p_filesz);
  // gABI, "Note Section", says 8 for ELF64, yet tools pad to 4 unless the segment is aligned to 8.
  const std::uint64_t alignment = header.p_align == 8 ? 8 : 4;
  std::uint64_t at = 0;
  while (at < notes.size()) {
    if (!FitsIn(at, sizeof(Elf64_Nhdr), notes.size())) {
      return Malformed("program header {}: the note at {:#x} is cut off by the segment's end {:#x}", index, at,
                       notes.size());
    }
    const auto note = ReadAt<Elf64_Nhdr>(notes, at);  // n_namesz and n_descsz are 32 bits wide: sums cannot overflow
    const std::uint64_t name_at = at + sizeof(note);
    const std::uint64_t value_at = AlignUp(name_at + note.n_namesz, alignment);
    if (!FitsIn(name_at, note.n_namesz, notes.size()) || !FitsIn(value_at, note.n_descsz, notes.size())) {
      return Malformed("program header {}: the note at {:#x} with n_namesz {:#x} and n_descsz {:#x} leaves its segment",
                       index, at, note.n_namesz, note.n_descsz);
    }
    const std::string_view name(reinterpret_cast<const char*>(notes.data() + name_at), note.n_namesz);
    at = AlignUp(value_at + note.n_descsz, alignment);
    if (note.n_type != kXenNotePhys32Entry || name != std::string_view("Xen\0", 4)) continue;

    // Written as one pointer of the image's class by some tools, as 32 bits by others.
    std::uint64_t entry = 0;
    if (note.n_descsz == sizeof(std::uint32_t)) {
      entry = ReadAt<std::uint32_t>(notes, value_at);
    } else if (note.n_descsz == sizeof(std::uint64_t)) {
      entry = ReadAt<std::uint64_t>(notes, value_at);
    } else {
      return Malformed("XEN_ELFNOTE_PHYS32_ENTRY: n_descsz is {}, not 4 or 8", note.n_descsz);
    }
    if (image_.pvh_entry_) return Malformed("XEN_ELFNOTE_PHYS32_ENTRY is there twice");
    image_.pvh_entry_ = abi::GuestPhysAddr(entry);
  }
  return {};
}

Result<void> ElfParser::CheckSegmentsTogether() {
  std::vector<ElfSegment>& segments = image_.segments_;
  if (segments.empty()) {
    return Malformed("none of the {} program headers is a PT_LOAD with memory", header_.e_phnum);
  }
  std::ranges::sort(segments, {}, [](const ElfSegment& segment) { return segment.memory.start; });
  for (std::size_t i = 1; i < segments.size(); ++i) {
    const abi::GuestPhysRange& low = segments[i - 1].memory;
    const abi::GuestPhysRange& high = segments[i].memory;
    if (low.Overlaps(high) && !Mutated("elf-overlap-accepted")) {
      return Malformed("segments [{:#x}, +{:#x}) and [{:#x}, +{:#x}) overlap", low.start.value(), low.size_bytes,
                       high.start.value(), high.size_bytes);
    }
  }
  const abi::GuestPhysAddr start = segments.front().memory.start;
  const abi::GuestPhysRange& last = segments.back().memory;
  image_.range_ = {start, last.start.value() - start.value() + last.size_bytes};
  return {};
}

Result<void> ElfParser::CheckEntries() {
  if (!IsInExecutable(image_.segments_, header_.e_entry)) {
    return Malformed("e_entry {:#x} lies in no executable segment", header_.e_entry);
  }
  image_.entry_ = abi::GuestVirtAddr(header_.e_entry);
  if (!image_.pvh_entry_) return {};
  const std::uint64_t pvh_entry = image_.pvh_entry_->value();
  if (pvh_entry > std::numeric_limits<std::uint32_t>::max() || !IsInExecutable(image_.segments_, pvh_entry)) {
    return Malformed("XEN_ELFNOTE_PHYS32_ENTRY {:#x} lies in no executable segment below 4 GiB", pvh_entry);
  }
  return {};
}

Result<ElfImage> ParseElf(std::span<const std::byte> file, abi::GuestPhysRange allowed) {
  if (!allowed.IsValid()) {
    return Fail(Error::InvalidArgument(kOperation, fmt::format("the allowed range [{:#x}, +{:#x}) wraps around",
                                                               allowed.start.value(), allowed.size_bytes)));
  }
  return ElfParser(file, allowed).Parse();
}

}  // namespace nestbench::vmm
