// <linux/virtio_net.h> for C++: one of its structures has a member whose name is a keyword.
#pragma once

#include <linux/if_ether.h>
#include <linux/types.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_types.h>

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wpedantic"
#ifdef __clang__
#pragma GCC diagnostic ignored "-Wkeyword-macro"
#endif
#define class class_
#include <linux/virtio_net.h>
#undef class
#pragma GCC diagnostic pop
