#include "nestbench/vmm/kvm/vm.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstring>
#include <utility>

#include "ioctl.h"
#include "nestbench/abi/layout.h"
#include "nestbench/vmm/base/mutant.h"

namespace nestbench::vmm {

using internal::Call;

std::uint64_t DirtyBitmap::CountDirty() const {
  std::uint64_t count = 0;
  for (const std::uint64_t word : words_) count += static_cast<std::uint64_t>(std::popcount(word));
  return count;
}

Result<Vm> Vm::Create(const KvmDevice& device, unsigned long type) {
  // EINTR: creating a VM takes locks that a signal may interrupt; the call has no effect then.
  for (;;) {
    auto fd =
        Call(device.fd(), NESTBENCH_KVM_REQUEST(KVM_CREATE_VM), type, [&] { return fmt::format("type {}", type); });
    if (fd) return Vm(UniqueFd(*fd), device.vcpu_mmap_bytes());
    if (fd.error().error_number != EINTR) return Fail(std::move(fd.error()));
  }
}

Result<void> Vm::SetSlot(std::uint32_t slot, const Slot& value) {
  kvm_userspace_memory_region region = {};
  region.slot = slot;
  region.flags = value.flags;
  region.guest_phys_addr = value.range.start.value();
  region.memory_size = value.range.size_bytes;
  region.userspace_addr = value.host_address;
  if (Mutated("slot-a-page-too-high")) region.guest_phys_addr += abi::kPageBytes;
  if (Mutated("slot-a-page-too-long") && region.memory_size != 0) region.memory_size += abi::kPageBytes;
  auto done = NESTBENCH_KVM_CALL(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region, [&] {
    return fmt::format("slot {}, guest-physical [{:#x}, +{:#x}), flags {:#x}", slot, region.guest_phys_addr,
                       region.memory_size, region.flags);
  });
  if (!done) return Fail(std::move(done.error()));
  return {};
}

Result<std::uint32_t> Vm::AddMemory(MemoryRegion region, bool log_dirty_pages) {
  auto added = memory_->Add(std::move(region));
  if (!added) return Fail(std::move(added.error()));
  const MemoryRegion& memory = **added;
  const auto free =
      std::find_if(slots_.begin(), slots_.end(), [](const Slot& slot) { return slot.range.size_bytes == 0; });
  const auto slot = static_cast<std::uint32_t>(free - slots_.begin());
  Slot value{memory.range(), reinterpret_cast<std::uint64_t>(memory.bytes().data()), 0};
  if (memory.read_only_for_guest() && !Mutated("slot-read-only-lost")) value.flags |= KVM_MEM_READONLY;
  if (log_dirty_pages) value.flags |= KVM_MEM_LOG_DIRTY_PAGES;
  if (auto set = SetSlot(slot, value); !set) {
    // The region leaves again, so that a failed call changes nothing; removing what was just added cannot fail.
    (void)memory_->Remove(value.range.start);
    return Fail(std::move(set.error()));
  }
  if (free == slots_.end()) {
    slots_.push_back(value);
  } else {
    *free = value;
  }
  return slot;
}

Result<const Vm::Slot*> Vm::FindSlot(std::uint32_t slot) const {
  if (slot >= slots_.size() || slots_[slot].range.size_bytes == 0) {
    return Fail(Error::InvalidArgument("memory slot", fmt::format("slot {} is not in use", slot)));
  }
  return &slots_[slot];
}

Result<void> Vm::RemoveMemory(std::uint32_t slot) {
  auto found = FindSlot(slot);
  if (!found) return Fail(std::move(found.error()));
  const abi::GuestPhysAddr start = (*found)->range.start;
  if (auto removed = SetSlot(slot, Slot{{start, 0}, 0, 0}); !removed) return removed;
  slots_[slot] = Slot{};
  return memory_->Remove(start);
}

Result<void> Vm::SetDirtyLogging(std::uint32_t slot, bool enabled) {
  auto found = FindSlot(slot);
  if (!found) return Fail(std::move(found.error()));
  Slot value = **found;
  value.flags = enabled ? value.flags | KVM_MEM_LOG_DIRTY_PAGES : value.flags & ~std::uint32_t{KVM_MEM_LOG_DIRTY_PAGES};
  if (auto set = SetSlot(slot, value); !set) return set;
  slots_[slot] = value;
  return {};
}

Result<DirtyBitmap> Vm::GetDirtyLog(std::uint32_t slot) const {
  auto found = FindSlot(slot);
  if (!found) return Fail(std::move(found.error()));
  const std::uint64_t pages = (*found)->range.size_bytes / abi::kPageBytes;
  std::vector<std::uint64_t> words((pages + 63) / 64);
  kvm_dirty_log log = {};
  log.slot = slot;
  log.dirty_bitmap = words.data();
  auto done = NESTBENCH_KVM_CALL(fd_.get(), KVM_GET_DIRTY_LOG, &log, [&] { return fmt::format("slot {}", slot); });
  if (!done) return Fail(std::move(done.error()));
  if (Mutated("dirty-bit-lost")) words[0] &= words[0] - 1;
  return DirtyBitmap(pages, std::move(words));
}

Result<void> Vm::EnableManualDirtyProtect() {
  const std::uint64_t mode = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
  return EnableCapability(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, {&mode, 1});
}

Result<void> Vm::ClearDirtyLog(std::uint32_t slot, const DirtyBitmap& pages) {
  auto found = FindSlot(slot);
  if (!found) return Fail(std::move(found.error()));
  std::vector<std::uint64_t> words(pages.words().begin(), pages.words().end());
  kvm_clear_dirty_log clear = {};
  clear.slot = slot;
  clear.num_pages = static_cast<std::uint32_t>(pages.pages());
  clear.dirty_bitmap = words.data();
  auto done = NESTBENCH_KVM_CALL(fd_.get(), KVM_CLEAR_DIRTY_LOG, &clear, [&] { return fmt::format("slot {}", slot); });
  if (!done) return Fail(std::move(done.error()));
  return {};
}

Result<void> Vm::EnableDirtyRing(std::uint32_t entries) {
  if (!std::has_single_bit(entries)) {
    return Fail(
        Error::InvalidArgument("KVM_CAP_DIRTY_LOG_RING", fmt::format("{} entries: not a power of two", entries)));
  }
  // The acquire/release flavour is the documented one for new code; x86 kernels before 6.1 have only the other.
  const std::uint32_t capability =
      CheckCapability(KVM_CAP_DIRTY_LOG_RING_ACQ_REL) > 0 ? KVM_CAP_DIRTY_LOG_RING_ACQ_REL : KVM_CAP_DIRTY_LOG_RING;
  if (CheckCapability(static_cast<int>(capability)) <= 0) {
    return Fail(Error::Unsupported("KVM_CAP_DIRTY_LOG_RING", "this KVM has no dirty ring"));
  }
  const std::uint64_t ring_bytes = std::uint64_t{entries} * sizeof(kvm_dirty_gfn);
  if (auto done = EnableCapability(capability, {&ring_bytes, 1}); !done) return done;
  dirty_ring_entries_ = entries;
  return {};
}

Result<std::uint32_t> Vm::ResetDirtyRings() {
  auto count = Call(fd_.get(), NESTBENCH_KVM_REQUEST(KVM_RESET_DIRTY_RINGS));
  if (!count) return Fail(std::move(count.error()));
  return static_cast<std::uint32_t>(*count);
}

Result<void> Vm::CreateIrqChip() {
  auto done = Call(fd_.get(), NESTBENCH_KVM_REQUEST(KVM_CREATE_IRQCHIP));
  if (!done) return Fail(std::move(done.error()));
  return {};
}

Result<void> Vm::CreateSplitIrqChip(std::uint32_t ioapic_pins) {
  const std::uint64_t pins = ioapic_pins;
  return EnableCapability(KVM_CAP_SPLIT_IRQCHIP, {&pins, 1});
}

Result<void> Vm::CreatePit() {
  kvm_pit_config config = {};
  auto done = NESTBENCH_KVM_CALL(fd_.get(), KVM_CREATE_PIT2, &config);
  if (!done) return Fail(std::move(done.error()));
  return {};
}

Result<void> Vm::ChangeIrqFd(int eventfd, std::uint32_t gsi, int resample_eventfd, std::uint32_t flags) {
  kvm_irqfd irqfd = {};
  irqfd.fd = static_cast<std::uint32_t>(eventfd);
  irqfd.gsi = Mutated("irqfd-on-wrong-line") ? gsi + 1 : gsi;
  irqfd.flags = flags;
  if (resample_eventfd >= 0) {
    irqfd.flags |= KVM_IRQFD_FLAG_RESAMPLE;
    irqfd.resamplefd = static_cast<std::uint32_t>(resample_eventfd);
  }
  auto done = NESTBENCH_KVM_CALL(fd_.get(), KVM_IRQFD, &irqfd,
                                 [&] { return fmt::format("gsi {}, flags {:#x}", gsi, irqfd.flags); });
  if (!done) return Fail(std::move(done.error()));
  return {};
}

Result<void> Vm::AttachIrqFd(int eventfd, std::uint32_t gsi, int resample_eventfd) {
  return ChangeIrqFd(eventfd, gsi, resample_eventfd, 0);
}

Result<void> Vm::DetachIrqFd(int eventfd, std::uint32_t gsi) {
  return ChangeIrqFd(eventfd, gsi, -1, KVM_IRQFD_FLAG_DEASSIGN);
}

Result<void> Vm::ChangeIoEvent(int eventfd, const IoEventMatch& match, std::uint32_t flags) {
  kvm_ioeventfd event = {};
  event.addr = Mutated("ioeventfd-on-wrong-address") ? match.address + 4 : match.address;
  event.len = match.width_bytes;
  event.fd = eventfd;
  event.datamatch = match.value;
  event.flags =
      flags | (match.is_port ? KVM_IOEVENTFD_FLAG_PIO : 0U) | (match.match_value ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0U);
  if (Mutated("ioeventfd-takes-any-value")) event.flags &= ~std::uint32_t{KVM_IOEVENTFD_FLAG_DATAMATCH};
  auto done = NESTBENCH_KVM_CALL(fd_.get(), KVM_IOEVENTFD, &event, [&] {
    return fmt::format("{} {:#x}, {} bytes, flags {:#x}", match.is_port ? "port" : "address", event.addr, event.len,
                       event.flags);
  });
  if (!done) return Fail(std::move(done.error()));
  return {};
}

Result<void> Vm::AttachIoEvent(int eventfd, const IoEventMatch& match) { return ChangeIoEvent(eventfd, match, 0); }

Result<void> Vm::DetachIoEvent(int eventfd, const IoEventMatch& match) {
  return ChangeIoEvent(eventfd, match, KVM_IOEVENTFD_FLAG_DEASSIGN);
}

Result<void> Vm::SetIrqLine(std::uint32_t gsi, bool level) {
  kvm_irq_level line = {};
  line.irq = gsi;
  line.level = level ? 1 : 0;
  auto done = NESTBENCH_KVM_CALL(fd_.get(), KVM_IRQ_LINE, &line, [&] { return fmt::format("gsi {}", gsi); });
  if (!done) return Fail(std::move(done.error()));
  return {};
}

Result<void> Vm::SetGsiRouting(std::span<const kvm_irq_routing_entry> entries) {
  std::vector<std::byte> buffer(sizeof(kvm_irq_routing) + entries.size_bytes());
  const auto count = static_cast<std::uint32_t>(entries.size());
  std::memcpy(buffer.data() + offsetof(kvm_irq_routing, nr), &count, sizeof(count));
  if (!entries.empty()) std::memcpy(buffer.data() + sizeof(kvm_irq_routing), entries.data(), entries.size_bytes());
  if (::ioctl(fd_.get(), KVM_SET_GSI_ROUTING, buffer.data()) != 0) {
    return Fail(Error::System("KVM_SET_GSI_ROUTING", errno, fmt::format("{} entries", entries.size())));
  }
  return {};
}

Result<int> Vm::SignalMsi(std::uint64_t address, std::uint32_t data) {
  kvm_msi msi = {};
  msi.address_lo = static_cast<std::uint32_t>(address);
  msi.address_hi = static_cast<std::uint32_t>(address >> 32);
  msi.data = Mutated("msi-vector-off-by-one") ? data + 1 : data;
  return NESTBENCH_KVM_CALL(fd_.get(), KVM_SIGNAL_MSI, &msi,
                            [&] { return fmt::format("address {:#x}, data {:#x}", address, data); });
}

int Vm::CheckCapability(int capability) const {
  const int value = ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, static_cast<unsigned long>(capability));
  return value < 0 ? 0 : value;
}

Result<void> Vm::EnableCapability(std::uint32_t capability, std::span<const std::uint64_t> arguments,
                                  std::uint32_t flags) {
  kvm_enable_cap request = {};
  if (arguments.size() > std::size(request.args)) {
    return Fail(Error::InvalidArgument("KVM_ENABLE_CAP", fmt::format("{} arguments", arguments.size())));
  }
  request.cap = capability;
  request.flags = flags;
  std::copy(arguments.begin(), arguments.end(), std::begin(request.args));
  auto done =
      NESTBENCH_KVM_CALL(fd_.get(), KVM_ENABLE_CAP, &request, [&] { return fmt::format("capability {}", capability); });
  if (!done) return Fail(std::move(done.error()));
  return {};
}

Result<BinaryStats> Vm::Stats() const {
  auto fd = Call(fd_.get(), NESTBENCH_KVM_REQUEST(KVM_GET_STATS_FD), 0, "VM");
  if (!fd) return Fail(std::move(fd.error()));
  return BinaryStats::Open(UniqueFd(*fd));
}

}  // namespace nestbench::vmm
