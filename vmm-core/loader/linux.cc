#include "nestbench/vmm/loader/linux.h"

#include <elf.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "xen_note.h"

namespace nestbench::vmm {
namespace {

using abi::GuestPhysAddr;

// Kernel document "The Linux/x86 Boot Protocol", sections "The Real-Mode Kernel Header" and "64-bit Boot Protocol".
constexpr const char* kWhat = "load Linux kernel";
constexpr std::size_t kHeaderOffset = 0x1F1;
constexpr std::uint32_t kHeaderMagic = 0x5372'6448;  // "HdrS"
constexpr std::uint16_t kBootFlag = 0xAA55;
constexpr std::uint16_t kOldestProtocol = 0x020C;  // 2.12: xloadflags
constexpr std::size_t kSectorBytes = 512;
constexpr std::uint8_t kSetupSectorsDefault = 4;
constexpr std::uint64_t kEntry64Offset = 0x200;
constexpr std::uint64_t kMaxEnd = 1ULL << 30;  // what the page tables of the entry and any guest's memory surely cover
constexpr std::uint64_t kLowestLoad = 0x10'0000;

Result<LinuxImage> ParseBzImage(std::span<const std::byte> file, const setup_header& header) {
  if (header.version < kOldestProtocol || (header.xloadflags & XLF_KERNEL_64) == 0) {
    return Fail(Error::Unsupported(
        kWhat, fmt::format("boot protocol {}.{:02}{}: a 64-bit kernel of protocol 2.12 or newer is needed",
                           header.version >> 8, header.version & 0xFF,
                           (header.xloadflags & XLF_KERNEL_64) == 0 ? " without a 64-bit entry" : "")));
  }
  const std::size_t sectors = header.setup_sects == 0 ? kSetupSectorsDefault : header.setup_sects;
  const std::size_t setup_bytes = (sectors + 1) * kSectorBytes;
  if (file.size() <= setup_bytes + kEntry64Offset) {
    return Fail(Error::Malformed(
        kWhat, fmt::format("{} bytes, of which {} are set-up code: the kernel is cut off", file.size(), setup_bytes)));
  }
  const auto kernel = file.subspan(setup_bytes);
  if (std::uint64_t{header.syssize} * 16 > kernel.size()) {
    return Fail(Error::Malformed(kWhat, fmt::format("the header promises {} bytes of kernel, the file has {}",
                                                    std::uint64_t{header.syssize} * 16, kernel.size())));
  }
  const std::uint64_t load = header.pref_address;
  const std::uint64_t needed = std::max(std::uint64_t{header.init_size}, std::uint64_t{kernel.size()});
  if (load < kLowestLoad || load >= kMaxEnd || needed > kMaxEnd - load) {
    return Fail(Error::Malformed(kWhat, fmt::format("it wants {:#x} bytes at {:#x}", needed, load)));
  }
  LinuxImage image;
  image.entry_kind = LinuxEntry::kBoot64;
  image.entry = GuestPhysAddr(load + kEntry64Offset);
  image.pieces.push_back({GuestPhysAddr(load), kernel});
  image.range = {GuestPhysAddr(load), needed};
  image.header = header;
  image.initrd_max = header.initrd_addr_max;
  image.command_line_max_bytes = std::min(std::uint32_t{header.cmdline_size}, std::uint32_t{0xFFFF});
  return image;
}

// An uncompressed kernel lies at physical addresses that are not its virtual ones: p_paddr counts, and the entry is the
// physical one of the note. (elf.h wants the two to be equal, as they are in a payload.)
class VmlinuxParser {
 public:
  explicit VmlinuxParser(std::span<const std::byte> file) : file_(file) {}

  Result<LinuxImage> Parse() {
    if (file_.size() < sizeof(header_)) return Malformed("the file is shorter than an ELF header");
    std::memcpy(&header_, file_.data(), sizeof(header_));
    if (header_.e_ident[EI_CLASS] != ELFCLASS64 || header_.e_ident[EI_DATA] != ELFDATA2LSB ||
        header_.e_machine != EM_X86_64 || header_.e_phentsize != sizeof(Elf64_Phdr)) {
      return Malformed("not an ELF64 file for x86-64");
    }
    const std::uint64_t table_bytes = std::uint64_t{header_.e_phnum} * sizeof(Elf64_Phdr);
    if (header_.e_phnum > kElfMaxProgramHeaders || !IsInFile(header_.e_phoff, table_bytes)) {
      return Malformed(fmt::format("{} program headers at {:#x} leave the file", header_.e_phnum, header_.e_phoff));
    }
    image_.entry_kind = LinuxEntry::kPvh;
    for (std::size_t i = 0; i < header_.e_phnum; ++i) {
      Elf64_Phdr program;
      std::memcpy(&program, file_.data() + header_.e_phoff + i * sizeof(program), sizeof(program));
      if (program.p_type != PT_LOAD && program.p_type != PT_NOTE) continue;
      if (!IsInFile(program.p_offset, program.p_filesz)) {
        return Malformed(fmt::format("program header {} leaves the file", i));
      }
      if (program.p_type == PT_NOTE) {
        FindEntry(file_.subspan(program.p_offset, program.p_filesz));
      } else if (auto added = Add(i, program); !added) {
        return Fail(std::move(added.error()));
      }
    }
    if (!has_entry_) {
      return Fail(Error::Unsupported(kWhat, "an ELF file without a PVH entry (CONFIG_PVH): give its bzImage"));
    }
    if (!image_.range.Contains(image_.entry, 1)) {
      return Malformed(fmt::format("its PVH entry {:#x} is not in what it loads", image_.entry.value()));
    }
    return std::move(image_);
  }

 private:
  [[nodiscard]] bool IsInFile(std::uint64_t offset, std::uint64_t bytes) const {
    return offset <= file_.size() && bytes <= file_.size() - offset;
  }
  static tl::unexpected<Error> Malformed(std::string what) { return Fail(Error::Malformed(kWhat, std::move(what))); }

  Result<void> Add(std::size_t index, const Elf64_Phdr& program) {
    if (program.p_memsz == 0) return {};
    const abi::GuestPhysRange allowed{GuestPhysAddr(kLowestLoad), kMaxEnd - kLowestLoad};
    if (program.p_filesz > program.p_memsz || !allowed.Contains(GuestPhysAddr(program.p_paddr), program.p_memsz)) {
      return Malformed(
          fmt::format("program header {} wants {:#x} bytes at {:#x}", index, program.p_memsz, program.p_paddr));
    }
    image_.pieces.push_back({GuestPhysAddr(program.p_paddr), file_.subspan(program.p_offset, program.p_filesz)});
    const std::uint64_t start =
        image_.range.size_bytes == 0 ? program.p_paddr : std::min(image_.range.start.value(), program.p_paddr);
    const std::uint64_t end =
        std::max(image_.range.start.value() + image_.range.size_bytes, program.p_paddr + program.p_memsz);
    image_.range = {GuestPhysAddr(start), end - start};
    return {};
  }

  // Notes that make no sense are passed over: a kernel has many, and only one is wanted.
  void FindEntry(std::span<const std::byte> notes) {
    std::uint64_t at = 0;
    Elf64_Nhdr note;
    while (at + sizeof(note) <= notes.size()) {
      std::memcpy(&note, notes.data() + at, sizeof(note));
      const auto padded = [](std::uint64_t bytes) { return (bytes + 3) / 4 * 4; };
      const std::uint64_t name_at = at + sizeof(note);
      const std::uint64_t value_at = name_at + padded(note.n_namesz);
      at = value_at + padded(note.n_descsz);
      if (at > notes.size()) return;
      if (note.n_type != kXenNotePhys32Entry || note.n_namesz != 4 || note.n_descsz < sizeof(std::uint32_t) ||
          std::memcmp(notes.data() + name_at, "Xen", 4) != 0) {
        continue;
      }
      std::uint32_t entry = 0;
      std::memcpy(&entry, notes.data() + value_at, sizeof(entry));
      image_.entry = GuestPhysAddr(entry);
      has_entry_ = true;
    }
  }

  std::span<const std::byte> file_;
  Elf64_Ehdr header_{};
  LinuxImage image_;
  bool has_entry_ = false;
};

}  // namespace

Result<LinuxImage> ParseLinux(std::span<const std::byte> file) {
  constexpr std::array kElfMagic = {std::byte{0x7F}, std::byte{'E'}, std::byte{'L'}, std::byte{'F'}};
  if (file.size() >= kElfMagic.size() && std::ranges::equal(file.first(kElfMagic.size()), kElfMagic)) {
    return VmlinuxParser(file).Parse();
  }
  setup_header header{};
  if (file.size() >= kHeaderOffset + sizeof(header)) {
    std::memcpy(&header, file.data() + kHeaderOffset, sizeof(header));
  }
  if (header.header != kHeaderMagic || header.boot_flag != kBootFlag) {
    return Fail(Error::Malformed(kWhat, "neither a bzImage nor an ELF file"));
  }
  return ParseBzImage(file, header);
}

}  // namespace nestbench::vmm
