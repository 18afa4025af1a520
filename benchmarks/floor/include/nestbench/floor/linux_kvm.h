// <linux/kvm.h> with the layout that the kernel uses. Include this one, never the other.
//
// Kernel headers up to 6.5 declare flexible arrays through an empty struct, which takes one byte in C++ and none in C,
// so that ioctl numbers, which hold the size of the argument, come out wrong. A plain flexible array replaces it.
#pragma once

#include <linux/stddef.h>

#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[]

#include <linux/kvm.h>  // IWYU pragma: export

static_assert(sizeof(kvm_cpuid2) == 8, "<linux/kvm.h> was included before this header");
