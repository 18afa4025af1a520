// One virtual machine: its descriptor, its memory slots and in-kernel interrupt controllers.
//
// Source: kernel document "The Definitive KVM API Documentation" (VM ioctls). Move-only. A Vm outlives its vCPUs.
// Slots are changed from one thread at a time; SignalMsi and the irqfds work from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "nestbench/abi/address.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/base/unique_fd.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/kvm/linux_kvm.h"
#include "nestbench/vmm/kvm/stats.h"
#include "nestbench/vmm/memory/guest_memory.h"

namespace nestbench::vmm {

// Pages of a slot that the guest wrote, one bit each, from KVM_GET_DIRTY_LOG.
class DirtyBitmap {
 public:
  DirtyBitmap(std::uint64_t pages, std::vector<std::uint64_t> words) : pages_(pages), words_(std::move(words)) {}

  [[nodiscard]] std::uint64_t pages() const { return pages_; }
  [[nodiscard]] bool IsDirty(std::uint64_t page) const {
    return page < pages_ && ((words_[page / 64] >> (page % 64)) & 1) != 0;
  }
  [[nodiscard]] std::uint64_t CountDirty() const;
  [[nodiscard]] std::span<const std::uint64_t> words() const { return words_; }

 private:
  std::uint64_t pages_;
  std::vector<std::uint64_t> words_;
};

// What an ioeventfd listens for. width_bytes 0 matches any width (KVM_CAP_IOEVENTFD_ANY_LENGTH).
struct IoEventMatch {
  bool is_port = false;
  std::uint64_t address = 0;
  std::uint32_t width_bytes = 4;
  bool match_value = false;
  std::uint64_t value = 0;
};

class Vm {
 public:
  // `type` is the machine type of KVM_CREATE_VM; 0 is the ordinary one.
  static Result<Vm> Create(const KvmDevice& device, unsigned long type = 0);

  // Memory. Add each region before its slot is used; create the interrupt controllers after the first slot: with
  // them in place some hosts take a hundred times as long for a slot.
  Result<std::uint32_t> AddMemory(MemoryRegion region, bool log_dirty_pages = false);  // returns the slot
  Result<void> RemoveMemory(std::uint32_t slot);
  Result<void> SetDirtyLogging(std::uint32_t slot, bool enabled);
  [[nodiscard]] const GuestMemory& memory() const { return *memory_; }

  // Dirty log, bitmap form. Get clears the log unless manual protection is on, then ClearDirtyLog does.
  [[nodiscard]] Result<DirtyBitmap> GetDirtyLog(std::uint32_t slot) const;
  Result<void> EnableManualDirtyProtect();
  Result<void> ClearDirtyLog(std::uint32_t slot, const DirtyBitmap& pages);
  // Dirty log, ring form: before the first vCPU is created. `entries` is a power of two.
  Result<void> EnableDirtyRing(std::uint32_t entries);
  Result<std::uint32_t> ResetDirtyRings();  // returns how many pages were protected again
  [[nodiscard]] std::uint32_t dirty_ring_entries() const { return dirty_ring_entries_; }

  // Interrupts.
  Result<void> CreateIrqChip();
  Result<void> CreateSplitIrqChip(std::uint32_t ioapic_pins);
  Result<void> CreatePit();
  Result<void> AttachIrqFd(int eventfd, std::uint32_t gsi, int resample_eventfd = -1);
  Result<void> DetachIrqFd(int eventfd, std::uint32_t gsi);
  Result<void> AttachIoEvent(int eventfd, const IoEventMatch& match);
  Result<void> DetachIoEvent(int eventfd, const IoEventMatch& match);
  Result<void> SetIrqLine(std::uint32_t gsi, bool level);
  Result<void> SetGsiRouting(std::span<const kvm_irq_routing_entry> entries);
  Result<int> SignalMsi(std::uint64_t address, std::uint32_t data);  // > 0: delivered, 0: blocked

  // The value of KVM_CHECK_EXTENSION on this VM: some capabilities differ by VM.
  [[nodiscard]] int CheckCapability(int capability) const;
  Result<void> EnableCapability(std::uint32_t capability, std::span<const std::uint64_t> arguments = {},
                                std::uint32_t flags = 0);

  [[nodiscard]] Result<BinaryStats> Stats() const;
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] std::size_t vcpu_mmap_bytes() const { return vcpu_mmap_bytes_; }

 private:
  struct Slot {
    abi::GuestPhysRange range;  // size 0: free
    std::uint64_t host_address = 0;
    std::uint32_t flags = 0;
  };

  Vm(UniqueFd fd, std::size_t vcpu_mmap_bytes)
      : fd_(std::move(fd)), vcpu_mmap_bytes_(vcpu_mmap_bytes), memory_(std::make_unique<GuestMemory>()) {}
  Result<void> SetSlot(std::uint32_t slot, const Slot& value);
  [[nodiscard]] Result<const Slot*> FindSlot(std::uint32_t slot) const;
  Result<void> ChangeIrqFd(int eventfd, std::uint32_t gsi, int resample_eventfd, std::uint32_t flags);
  Result<void> ChangeIoEvent(int eventfd, const IoEventMatch& match, std::uint32_t flags);

  UniqueFd fd_;
  std::size_t vcpu_mmap_bytes_;
  std::unique_ptr<GuestMemory> memory_;  // on the heap: vCPUs point to it while the Vm moves
  std::vector<Slot> slots_;
  std::uint32_t dirty_ring_entries_ = 0;
};

}  // namespace nestbench::vmm
