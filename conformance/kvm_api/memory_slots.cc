// Memory slots. Source: kernel document "The Definitive KVM API Documentation", KVM_SET_USER_MEMORY_REGION.
#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <string>

#include "../harness/guest.h"

namespace nestbench::conformance {
namespace {

constexpr std::uint64_t kPage = 4096;

// Whether user space reaches to 2^56: /proc/cpuinfo names la57 only where the kernel uses it.
bool HasFiveLevels() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.starts_with("flags")) return line.find(" la57") != std::string::npos;
  }
  return false;
}

class MemorySlots : public VmTest {
 protected:
  void SetUp() override {
    VmTest::SetUp();
    if (!IsSkipped()) host_ = HostMemory(16 * kPage).data();
  }
  // Of a slot of its own at `guest_physical`.
  int Add(std::uint64_t guest_physical, std::uint64_t bytes, std::uint32_t slot = 0, std::uint32_t flags = 0) {
    return SetSlot(slot, guest_physical, bytes, host_, flags);
  }
  std::byte* host_ = nullptr;
};

NESTBENCH_CONDITION(kvm_api, MemorySlots, CanBeAddedAndRemoved,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: memory_size 0 deletes a slot") {
  EXPECT_EQ(Add(0, 4 * kPage), 0);
  EXPECT_EQ(Add(0, 0), 0);
  EXPECT_EQ(Add(0, 2 * kPage), 0) << "the number and the range are free again";
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, CanBeMoved,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: a slot may be moved in guest physical memory") {
  ASSERT_EQ(Add(0, 4 * kPage), 0);
  EXPECT_EQ(Add(64 * kPage, 4 * kPage), 0);
  EXPECT_EQ(SetSlot(1, 0, 4 * kPage, host_), 0) << "where it was is free";
  EXPECT_TRUE(FailsWith(SetSlot(2, 64 * kPage, kPage, host_), {EEXIST}));
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, CannotBeResized, "KVM API, KVM_SET_USER_MEMORY_REGION: may not be resized") {
  ASSERT_EQ(Add(0, 4 * kPage), 0);
  EXPECT_TRUE(FailsWith(Add(0, 8 * kPage), {EINVAL}));
  EXPECT_TRUE(FailsWith(Add(0, 2 * kPage), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, CannotGetOtherHostMemory,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: only flags and the guest address may change") {
  ASSERT_EQ(Add(0, 4 * kPage), 0);
  EXPECT_TRUE(FailsWith(SetSlot(0, 0, 4 * kPage, host_ + kPage), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, RefuseOverlap,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: slots may not overlap in guest physical address space") {
  ASSERT_EQ(Add(4 * kPage, 4 * kPage), 0);
  for (const std::uint64_t start : {1, 4, 5, 7}) {
    EXPECT_TRUE(FailsWith(SetSlot(1, start * kPage, 4 * kPage, host_), {EEXIST})) << "from page " << start;
  }
  EXPECT_TRUE(FailsWith(SetSlot(1, 0, 16 * kPage, host_), {EEXIST})) << "around it";
  EXPECT_EQ(SetSlot(1, 0, 4 * kPage, host_), 0) << "directly below";
  EXPECT_EQ(SetSlot(2, 8 * kPage, 4 * kPage, host_), 0) << "directly above";
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, RefuseAMoveOntoAnother,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: slots may not overlap in guest physical address space") {
  ASSERT_EQ(Add(0, 4 * kPage), 0);
  ASSERT_EQ(SetSlot(1, 8 * kPage, 4 * kPage, host_), 0);
  EXPECT_TRUE(FailsWith(SetSlot(1, 2 * kPage, 4 * kPage, host_), {EEXIST}));
  EXPECT_TRUE(FailsWith(SetSlot(2, 8 * kPage, kPage, host_), {EEXIST})) << "and it is still where it was";
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, MayShareHostMemory,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: any object may back the memory, including a shared one") {
  EXPECT_EQ(SetSlot(0, 0, 4 * kPage, host_), 0);
  EXPECT_EQ(SetSlot(1, 64 * kPage, 4 * kPage, host_), 0);
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, RefuseAGuestAddressInsideAPage,
                    "KVM API, KVM_SET_USER_MEMORY_REGION; virt/kvm/kvm_main.c, general sanity checks") {
  EXPECT_TRUE(FailsWith(Add(0x10, kPage), {EINVAL}));
  EXPECT_TRUE(FailsWith(Add(kPage + 1, kPage), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, RefuseASizeInsideAPage,
                    "KVM API, KVM_SET_USER_MEMORY_REGION; virt/kvm/kvm_main.c, general sanity checks") {
  EXPECT_TRUE(FailsWith(Add(0, 1), {EINVAL}));
  EXPECT_TRUE(FailsWith(Add(0, kPage + 8), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, RefuseAHostAddressInsideAPage,
                    "KVM API, KVM_SET_USER_MEMORY_REGION; virt/kvm/kvm_main.c, general sanity checks") {
  EXPECT_TRUE(FailsWith(SetSlot(0, 0, kPage, host_ + 8), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, RefuseAHostAddressThatIsNotOurs,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: userspace_addr must be a valid user space address") {
  const auto* const kernel = reinterpret_cast<const void*>(0xFFFF'8000'0000'0000ULL);
  EXPECT_TRUE(FailsWith(SetSlot(0, 0, kPage, kernel), {EINVAL}));
  // The last page but one of user space, with four or with five levels of page tables.
  const std::uint64_t user_end = HasFiveLevels() ? 1ULL << 56 : 1ULL << 47;
  const auto* const end = reinterpret_cast<const void*>(user_end - 2 * kPage);
  EXPECT_TRUE(FailsWith(SetSlot(0, 0, 16 * kPage, end), {EINVAL})) << "one that begins with us and ends elsewhere";
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, RefuseARangeThatWraps,
                    "KVM API, KVM_SET_USER_MEMORY_REGION; virt/kvm/kvm_main.c, general sanity checks") {
  EXPECT_TRUE(FailsWith(Add(~0ULL - kPage + 1, 2 * kPage), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, RefuseANumberThatDoesNotExist,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: slot below KVM_CAP_NR_MEMSLOTS") {
  const int slots = vm().CheckCapability(KVM_CAP_NR_MEMSLOTS);
  Evidence("KVM_CAP_NR_MEMSLOTS", slots);
  ASSERT_GT(slots, 1);
  EXPECT_EQ(Add(0, kPage, static_cast<std::uint32_t>(slots - 1)), 0) << "the last one that does";
  EXPECT_TRUE(FailsWith(Add(64 * kPage, kPage, 0xFFFF), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, AllThatArePromisedCanBeHad,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: KVM_CAP_NR_MEMSLOTS slots") {
  const int slots = vm().CheckCapability(KVM_CAP_NR_MEMSLOTS);
  Evidence("KVM_CAP_NR_MEMSLOTS", slots);
  for (int slot = 0; slot < slots; ++slot) {
    // Not side by side in host memory as well: nothing could join them.
    const int error = SetSlot(static_cast<std::uint32_t>(slot), static_cast<std::uint64_t>(slot) * 2 * kPage, kPage,
                              host_ + (slot % 16) * kPage);
    ASSERT_EQ(error, 0) << "slot " << slot << ": " << ErrorName(error);
  }
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, RefuseUnknownFlags,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: flags KVM_MEM_LOG_DIRTY_PAGES and KVM_MEM_READONLY") {
  EXPECT_TRUE(FailsWith(Add(0, kPage, 0, 1U << 31), {EINVAL}));
  EXPECT_TRUE(FailsWith(Add(0, kPage, 0, 1U << 10), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, DirtyLoggingCanBeTurnedOnAndOff,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: KVM_MEM_LOG_DIRTY_PAGES may change") {
  ASSERT_EQ(Add(0, 4 * kPage), 0);
  EXPECT_EQ(Add(0, 4 * kPage, 0, KVM_MEM_LOG_DIRTY_PAGES), 0);
  EXPECT_EQ(Add(0, 4 * kPage), 0);
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, ReadOnlyCannotBeChanged,
                    "KVM API, KVM_SET_USER_MEMORY_REGION; virt/kvm/kvm_main.c, KVM_MEM_READONLY of an existing slot") {
  if (Lacks(KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM")) return;
  ASSERT_EQ(Add(0, kPage), 0);
  EXPECT_TRUE(FailsWith(Add(0, kPage, 0, KVM_MEM_READONLY), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, WhatIsNotThereCannotBeRemoved,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: memory_size 0; virt/kvm/kvm_main.c") {
  EXPECT_TRUE(FailsWith(Add(0, 0, 5), {EINVAL}));
}

NESTBENCH_CONDITION(kvm_api, MemorySlots, ASecondAddressSpaceNeedsItsCapability,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: bits 16-31 of slot, KVM_CAP_MULTI_ADDRESS_SPACE") {
  const int spaces = vm().CheckCapability(KVM_CAP_MULTI_ADDRESS_SPACE);
  Evidence("KVM_CAP_MULTI_ADDRESS_SPACE", spaces);
  const int error = Add(0, kPage, 1U << 16);
  if (spaces > 1) {
    EXPECT_EQ(error, 0) << ErrorName(error);
  } else {
    EXPECT_TRUE(FailsWith(error, {EINVAL}));
  }
}

class SlotAccess : public GuestTest {};

NESTBENCH_CONDITION(kvm_api, SlotAccess, ReadsWhatTheHostWrote,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: changes of the backing memory are visible at once") {
  Load({0xA0, 0x00, 0x30,    // mov al, [0x3000]
        0xE6, 0x10,          // out 0x10, al
        0xA0, 0x00, 0x30,    // mov al, [0x3000]
        0xE6, 0x10, 0xF4});  // out 0x10, al; hlt
  memory()[0x3000] = std::byte{0x5A};
  auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->data[0], std::byte{0x5A});
  memory()[0x3000] = std::byte{0xC3};
  exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->data[0], std::byte{0xC3});
}

NESTBENCH_CONDITION(kvm_api, SlotAccess, TheHostSeesWhatTheGuestWrote,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: userspace_addr is the memory of the slot") {
  Load({0xC6, 0x06, 0x00, 0x30, 0x77,  // mov byte [0x3000], 0x77
        0xE6, 0x10, 0xF4});            // out 0x10, al; hlt
  if (!RunTo<vmm::IoExit>()) return;
  EXPECT_EQ(memory()[0x3000], std::byte{0x77});
}

NESTBENCH_CONDITION(kvm_api, SlotAccess, AWriteToReadOnlyMemoryIsAnMmioExit,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: KVM_MEM_READONLY, writes are posted as KVM_EXIT_MMIO") {
  if (Lacks(KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM")) return;
  const auto page = HostMemory(kPage);
  page[4] = std::byte{0x11};
  ASSERT_EQ(SetSlot(1, 0x20000, kPage, page.data(), KVM_MEM_READONLY), 0);
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->ds.base = 0x20000;
  sregs->ds.selector = 0x2000;
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  Load({0xA0, 0x04, 0x00,              // mov al, [4]
        0xC6, 0x06, 0x04, 0x00, 0x99,  // mov byte [4], 0x99
        0xE6, 0x10, 0xF4});            // out 0x10, al; hlt
  const auto write = RunTo<vmm::MmioExit>();
  if (!write) return;
  EXPECT_TRUE(write->is_write);
  EXPECT_EQ(write->address.value(), 0x20004U);
  ASSERT_EQ(write->data.size(), 1U);
  EXPECT_EQ(write->data[0], std::byte{0x99});
  const auto out = RunTo<vmm::IoExit>();
  if (!out) return;
  EXPECT_EQ(out->data[0], std::byte{0x11}) << "it can be read without an exit";
  EXPECT_EQ(page[4], std::byte{0x11}) << "and was not written";
}

NESTBENCH_CONDITION(kvm_api, SlotAccess, AfterRemovalAnAccessIsAnMmioExit,
                    "KVM API, KVM_EXIT_MMIO: an access to memory that is not backed by a slot") {
  const auto page = HostMemory(kPage);
  page[0] = std::byte{0x42};
  ASSERT_EQ(SetSlot(1, 0x20000, kPage, page.data()), 0);
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->ds.base = 0x20000;
  sregs->ds.selector = 0x2000;
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  Load({0xA0, 0x00, 0x00, 0xE6, 0x10,  // mov al, [0]; out 0x10, al
        0xA0, 0x00, 0x00, 0xE6, 0x10,  // the same again
        0xF4});
  const auto first = RunTo<vmm::IoExit>();
  if (!first) return;
  EXPECT_EQ(first->data[0], std::byte{0x42});
  ASSERT_EQ(SetSlot(1, 0x20000, 0, page.data()), 0);
  const auto read = RunTo<vmm::MmioExit>();
  if (!read) return;
  EXPECT_FALSE(read->is_write);
  EXPECT_EQ(read->address.value(), 0x20000U);
  read->data[0] = std::byte{0x24};
  const auto second = RunTo<vmm::IoExit>();
  if (!second) return;
  EXPECT_EQ(second->data[0], std::byte{0x24}) << "the value that user space gave";
}

NESTBENCH_CONDITION(kvm_api, SlotAccess, AMovedSlotTakesItsContentsAlong,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: a slot may be moved in guest physical memory") {
  const auto page = HostMemory(kPage);
  page[0] = std::byte{0x42};
  ASSERT_EQ(SetSlot(1, 0x20000, kPage, page.data()), 0);
  auto sregs = vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->ds.base = 0x20000;
  sregs->es.base = 0x30000;
  ASSERT_TRUE(vcpu().SetSregs(*sregs));
  Load({0xA0, 0x00, 0x00, 0xE6, 0x10,        // mov al, [0]; out 0x10, al
        0x26, 0xA0, 0x00, 0x00, 0xE6, 0x10,  // mov al, es:[0]; out 0x10, al
        0xF4});
  if (!RunTo<vmm::IoExit>()) return;
  ASSERT_EQ(SetSlot(1, 0x30000, kPage, page.data()), 0);
  const auto exit = RunTo<vmm::IoExit>();
  if (!exit) return;
  EXPECT_EQ(exit->data[0], std::byte{0x42});
}

}  // namespace
}  // namespace nestbench::conformance
