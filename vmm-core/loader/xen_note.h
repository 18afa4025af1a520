// Where an ELF kernel says how it is entered by the PVH boot protocol. Source: Xen's public/elfnote.h.
#pragma once

#include <cstdint>

namespace nestbench::vmm {

inline constexpr std::uint32_t kXenNotePhys32Entry = 18;  // XEN_ELFNOTE_PHYS32_ENTRY, of the name "Xen"

}  // namespace nestbench::vmm
