// Builds small ELF64 files for tests, right or wrong on purpose. Every field can be changed after the fact.
#pragma once

#include <elf.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace nestbench::vmm {

class ElfBuilder {
 public:
  // File offset of the first segment's bytes. Segments follow each other on pages of their own.
  static constexpr std::uint64_t kFirstContentOffset = 0x1000;

  ElfBuilder() {
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    header.e_type = ET_EXEC;
    header.e_machine = EM_X86_64;
    header.e_version = EV_CURRENT;
    header.e_ehsize = sizeof(Elf64_Ehdr);
    header.e_phentsize = sizeof(Elf64_Phdr);
    header.e_phoff = sizeof(Elf64_Ehdr);
  }

  // Adds a program header with `file_bytes` bytes of content and returns it, to be changed at will. The reference is
  // valid until the next call.
  Elf64_Phdr& Add(std::uint32_t type, std::uint64_t address, std::uint32_t flags, std::uint64_t file_bytes,
                  std::uint64_t memory_bytes) {
    return Add(type, address, flags, std::vector<std::byte>(file_bytes, std::byte{0xC3}), memory_bytes);
  }

  Elf64_Phdr& Add(std::uint32_t type, std::uint64_t address, std::uint32_t flags, std::vector<std::byte> content,
                  std::uint64_t memory_bytes) {
    Elf64_Phdr entry{};
    entry.p_type = type;
    entry.p_flags = flags;
    entry.p_offset = kFirstContentOffset + content_.size();
    entry.p_vaddr = address;
    entry.p_paddr = address;
    entry.p_filesz = content.size();
    entry.p_memsz = memory_bytes;
    entry.p_align = 0x1000;
    content_.insert(content_.end(), content.begin(), content.end());
    content_.resize((content_.size() + 0xFFF) / 0x1000 * 0x1000);
    programs.push_back(entry);
    header.e_phnum = static_cast<std::uint16_t>(programs.size());
    return programs.back();
  }

  // One ELF note, padded to `alignment_bytes`.
  static std::vector<std::byte> Note(std::string_view name, std::uint32_t type, std::span<const std::byte> value,
                                     std::size_t alignment_bytes = 4) {
    Elf64_Nhdr note{};
    note.n_namesz = static_cast<std::uint32_t>(name.size() + 1);  // with its NUL
    note.n_descsz = static_cast<std::uint32_t>(value.size());
    note.n_type = type;
    std::vector<std::byte> bytes(sizeof(note));
    std::memcpy(bytes.data(), &note, sizeof(note));
    const auto pad = [&] { bytes.resize((bytes.size() + alignment_bytes - 1) / alignment_bytes * alignment_bytes); };
    for (const char c : name) bytes.push_back(static_cast<std::byte>(c));
    bytes.push_back(std::byte{0});
    pad();
    bytes.insert(bytes.end(), value.begin(), value.end());
    pad();
    return bytes;
  }

  [[nodiscard]] std::vector<std::byte> Build() const {
    std::vector<std::byte> file(kFirstContentOffset + content_.size());
    std::memcpy(file.data(), &header, sizeof(header));
    if (!programs.empty()) {
      std::memcpy(file.data() + sizeof(header), programs.data(), programs.size() * sizeof(Elf64_Phdr));
    }
    std::ranges::copy(content_, file.begin() + kFirstContentOffset);
    return file;
  }

  Elf64_Ehdr header{};
  std::vector<Elf64_Phdr> programs;

 private:
  std::vector<std::byte> content_;
};

}  // namespace nestbench::vmm
