// Payload images: ELF64 executables, checked as hostile files before a byte of them is used.
//
// Sources: "System V Application Binary Interface" (gABI), chapters "Object Files" and "Program Loading and Dynamic
// Linking"; the x86-64 psABI, chapter "Object Files"; for the PVH note, Xen's public/elfnote.h
// (XEN_ELFNOTE_PHYS32_ENTRY) and "x86/HVM direct boot ABI".
//
// An image is loaded at guest-physical = guest-virtual addresses, so p_paddr must equal p_vaddr. Each segment starts on
// a page of its own, so that each can have its own permissions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"

namespace nestbench::vmm {

// Program headers a file may have.
inline constexpr std::size_t kElfMaxProgramHeaders = 64;

// One PT_LOAD segment that is not empty.
struct ElfSegment {
  abi::GuestPhysRange memory;             // where it lies; starts on a 4 KiB page
  std::span<const std::byte> file_bytes;  // its first bytes; the rest of `memory` is zero. Never more than `memory`
  bool readable = false;
  bool writable = false;  // never together with executable
  bool executable = false;
};

// What a checked file says. Borrows: `file_bytes` points into the bytes that were parsed, which must outlive it.
class ElfImage {
 public:
  // In ascending order of address, none overlapping, all inside the allowed range. Never empty.
  [[nodiscard]] std::span<const ElfSegment> segments() const { return segments_; }

  // The smallest range that holds every segment.
  [[nodiscard]] abi::GuestPhysRange range() const { return range_; }

  // In an executable segment.
  [[nodiscard]] abi::GuestVirtAddr entry() const { return entry_; }

  // The 32-bit entry of the PVH boot protocol, when the file has that note; in an executable segment.
  [[nodiscard]] std::optional<abi::GuestPhysAddr> pvh_entry() const { return pvh_entry_; }

 private:
  friend class ElfParser;
  ElfImage() = default;

  std::vector<ElfSegment> segments_;
  abi::GuestPhysRange range_;
  abi::GuestVirtAddr entry_;
  std::optional<abi::GuestPhysAddr> pvh_entry_;
};

// Checks `file` and describes it; copies nothing. Every segment must lie inside `allowed`. kMalformed names the field,
// its value and what it should have been; kInvalidArgument when `allowed` is not a range. Any thread.
[[nodiscard]] Result<ElfImage> ParseElf(std::span<const std::byte> file, abi::GuestPhysRange allowed);

}  // namespace nestbench::vmm
