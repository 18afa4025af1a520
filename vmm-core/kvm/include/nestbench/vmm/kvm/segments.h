// Segment registers as KVM_SET_SREGS takes them.
#pragma once

#include <cstdint>

#include "nestbench/vmm/kvm/linux_kvm.h"

namespace nestbench::vmm {

// A segment of 4 GiB at 0 whose privilege is that of its selector. `is_long_code`: code of 64-bit mode; all else, code
// of 32-bit mode as well, has D/B set. AMD APM, sections "Legacy Segment Descriptors", "Long-Mode Segment Descriptors".
constexpr kvm_segment FlatSegment(std::uint16_t selector, std::uint8_t type, bool is_long_code) {
  kvm_segment segment = {};
  segment.selector = selector;
  segment.limit = 0xFFFF'FFFF;
  segment.type = type;
  segment.present = 1;
  segment.dpl = selector & 3;
  segment.db = is_long_code ? 0 : 1;
  segment.s = 1;
  segment.l = is_long_code ? 1 : 0;
  segment.g = 1;
  return segment;
}

// TR. `type`: abi::x86::TaskStateType(), or busy where a mode without an I/O permission bitmap is entered.
constexpr kvm_segment TaskStateSegment(std::uint16_t selector, std::uint64_t base, std::uint32_t limit_bytes,
                                       std::uint8_t type) {
  kvm_segment segment = {};
  segment.selector = selector;
  segment.base = base;
  segment.limit = limit_bytes;
  segment.type = type;
  segment.present = 1;
  return segment;
}

}  // namespace nestbench::vmm
