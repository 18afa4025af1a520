// The life of one tenant: wait to be started, set the guest up, serve its load, report, end. Private to the tenant's
// program.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "filter.h"
#include "nestbench/tenants/channel.h"
#include "nestbench/tenants/protocol.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/loader/elf.h"
#include "nestbench/vmm/loader/loaded_file.h"

namespace nestbench::tenants {

// What every tenant of a program shares; made once, before any guest.
struct Inheritance {
  // An image and, where it is one, what it says: checked once, not by each guest.
  struct Image {
    vmm::LoadedFile file;
    std::optional<vmm::ElfImage> parsed;
  };
  std::vector<Image> images;
  std::optional<vmm::KvmDevice> device;   // none where /dev/kvm cannot be opened: only kBare then
  std::string device_reason;              // why not
  std::optional<vmm::CpuidPolicy> cpuid;  // that it supports: asking costs more than making a VM
  vmm::UniqueFd full_disk;                // /dev/full: every write to it fails with ENOSPC
  vmm::UniqueFd disk;                     // of those tenants that have one; invalid: none
  std::uint64_t disk_bytes = 0;
  bool disk_is_direct = false;                     // opened with O_DIRECT
  std::optional<SystemCallFilter> filter;          // for after a guest's set-up
  std::optional<SystemCallFilter> forking_filter;  // the same with processes
  std::optional<SystemCallFilter> device_filter;   // the same with the threads and the I/O of devices
};

// Runs the tenant of `spawn` on this thread to its end; returns its exit code. 0: stopped as asked, or the supervisor
// is gone. 1: it said why in a Fault.
int LiveAsTenant(const Inheritance& inheritance, const Spawn& spawn, Channel channel);

}  // namespace nestbench::tenants
