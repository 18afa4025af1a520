// <linux/kvm.h> with the layout that the kernel uses. Include this one, never the other.
//
// Kernel headers up to 6.5 declare flexible arrays through an empty struct, which takes one byte in C++ and none in C.
// In C++ kvm_msrs, kvm_cpuid2, kvm_xsave and others are then too large, and as an ioctl's number holds the size of
// its argument, KVM_GET_MSRS and its kin become numbers that the kernel answers with ENOTTY. The macro is replaced by
// a plain flexible array before the first use.
#pragma once

#include <linux/stddef.h>

#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[]

#include <linux/kvm.h>  // IWYU pragma: export

static_assert(sizeof(kvm_msrs) == 8 && sizeof(kvm_cpuid2) == 8 && sizeof(kvm_xsave) == 4096,
              "<linux/kvm.h> was included before this header: its layouts are not the kernel's");
