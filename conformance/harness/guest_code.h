// Guest code in the assembler's own words, for the conditions that are more than a few bytes.
#pragma once

#include <cstddef>
#include <span>

// Guest code in the assembler's own words, outside every namespace: afterwards `name()` is its bytes. It ends in 64-bit
// mode; say .code16 or .code32 for the others. It must not depend on where it lies.
#define NESTBENCH_GUEST_CODE(name, text)                                                                  \
  asm(".pushsection .rodata\nnestbench_guest_" #name "_begin:\n" text "\n.code64\nnestbench_guest_" #name \
      "_end:\n"                                                                                           \
      ".popsection\n");                                                                                   \
  extern "C" const std::byte nestbench_guest_##name##_begin[];                                            \
  extern "C" const std::byte nestbench_guest_##name##_end[];                                              \
  static inline std::span<const std::byte> name() {                                                       \
    return {nestbench_guest_##name##_begin, nestbench_guest_##name##_end};                                \
  }
