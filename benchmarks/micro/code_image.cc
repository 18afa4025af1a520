#include "code_image.h"

#include <elf.h>

#include <cstring>

namespace nestbench::micro {

std::vector<std::byte> MakeCodeImage(const std::vector<std::uint8_t>& code, std::uint64_t data_bytes) {
  const bool has_data = data_bytes != 0;
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
  header.e_phnum = has_data ? 2 : 1;

  Elf64_Phdr text = {};
  text.p_type = PT_LOAD;
  text.p_flags = PF_R | PF_X;
  text.p_offset = abi::kPageBytes;
  text.p_vaddr = text.p_paddr = abi::kImageBase;
  text.p_filesz = text.p_memsz = code.size();
  text.p_align = abi::kPageBytes;
  Elf64_Phdr data = {};
  data.p_type = PT_LOAD;
  data.p_flags = PF_R | PF_W;
  data.p_offset = abi::kPageBytes;
  data.p_vaddr = data.p_paddr = kCodeImageData;
  data.p_memsz = data_bytes;
  data.p_align = abi::kPageBytes;

  std::vector<std::byte> file(abi::kPageBytes + code.size());
  std::memcpy(file.data(), &header, sizeof(header));
  std::memcpy(file.data() + sizeof(header), &text, sizeof(text));
  if (has_data) std::memcpy(file.data() + sizeof(header) + sizeof(text), &data, sizeof(data));
  std::memcpy(file.data() + abi::kPageBytes, code.data(), code.size());
  return file;
}

}  // namespace nestbench::micro
