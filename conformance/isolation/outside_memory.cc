// Guest-physical addresses without memory, and the host memory beside a slot. Source: kernel document "The Definitive
// KVM API Documentation", KVM_SET_USER_MEMORY_REGION and KVM_EXIT_MMIO; virt/kvm/kvm_main.c, gfn_to_hva.
//
// The host memory around the guest's holds canaries. Where a test says so they are what an attacker would like to
// find: code, descriptors or gates that would take effect if the guest could reach them.
#include <array>
#include <cstdint>
#include <cstring>
#include <variant>
#include <vector>

#include "../harness/box_test.h"

// ds:0 lies outside.
NESTBENCH_GUEST_CODE(StringOut,
                     ".code16\n xor %si, %si\n mov $64, %cx\n mov $0x11, %dx\n cld\n rep outsb\n"
                     "mov $1, %al\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(StringIn,
                     ".code16\n xor %di, %di\n mov $64, %cx\n mov $0x11, %dx\n cld\n rep insb\n"
                     "mov $1, %al\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(ReadAtRbx, "mov (%rbx), %rax\n mov %rax, 0xC000\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(WriteAtRbx, "mov %rax, (%rbx)\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(SweepFromRbx,
                     "1: movb $0x77, (%rbx)\n add $0x200, %rbx\n dec %rcx\n jnz 1b\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(JumpToRbx, "jmp *%rbx")
NESTBENCH_GUEST_CODE(Push, "push %rax\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(LoadSegment, "mov $8, %eax\n mov %eax, %ds\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(Undefined, "ud2")
NESTBENCH_GUEST_CODE(Says0x10, "out %al, $0x10\n hlt")

namespace nestbench::conformance {
namespace {

using namespace std::chrono_literals;
using namespace abi::x86;

constexpr std::uint64_t kOutside = 64ULL << 20;  // mapped by the guest's tables, in no slot
constexpr std::uint64_t kEnd = Box::kBytes;
constexpr std::uint64_t kCanary8 = 0xC5C5'C5C5'C5C5'C5C5;

class OutsideMemory : public PointedBoxTest {};

void PointDataOutside(Box& box, std::uint64_t base) {
  auto sregs = box.vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->ds.base = base;
  sregs->es.base = base;
  ASSERT_TRUE(box.vcpu().SetSregs(*sregs));
}

NESTBENCH_CONDITION(isolation, OutsideMemory, AStringWriteToAPortCarriesNothingOut,
                    "KVM API, KVM_SET_USER_MEMORY_REGION and KVM_EXIT_IO") {
  auto box = With(StringOut(), 0, BoxMode::kReal16);
  if (!box) return;
  PointDataOutside(*box, kEnd);
  for (int exits = 0; exits < 1000; ++exits) {
    auto exit = box->Run();
    ASSERT_TRUE(exit) << exit.error().ToString();
    if (const auto* mmio = std::get_if<vmm::MmioExit>(&*exit)) {
      EXPECT_FALSE(mmio->is_write);
      std::ranges::fill(mmio->data, std::byte{0x3E});
    } else if (const auto* io = std::get_if<vmm::IoExit>(&*exit)) {
      if (io->port == 0x10) return;
      for (const std::byte byte : io->data) ASSERT_NE(byte, std::byte{0xC5}) << "host memory behind the slot";
    } else {
      Evidence("ended_with", vmm::ToString(*exit).substr(0, 100));
      return;
    }
  }
  FAIL() << "exits without end";
}

NESTBENCH_CONDITION(isolation, OutsideMemory, AStringReadFromAPortWritesNothingOut,
                    "KVM API, KVM_SET_USER_MEMORY_REGION and KVM_EXIT_IO") {
  auto box = With(StringIn(), 0, BoxMode::kReal16);
  if (!box) return;
  PointDataOutside(*box, kEnd);
  const Box::Said said = box->RunToPort();
  Evidence("ended_with", said.port ? "port" : said.text.substr(0, 100));
  EXPECT_TRUE(box->CanariesIntact());
}

NESTBENCH_CONDITION(isolation, OutsideMemory, TheFirstByteBehindASlotIsAnExit,
                    "KVM API, KVM_EXIT_MMIO: a reference to memory without a slot") {
  auto box = With(ReadAtRbx(), kEnd);
  if (!box) return;
  auto exit = box->Run();
  ASSERT_TRUE(exit);
  const auto* mmio = std::get_if<vmm::MmioExit>(&*exit);
  ASSERT_NE(mmio, nullptr) << vmm::ToString(*exit);
  EXPECT_EQ(mmio->address.value(), kEnd);
}

NESTBENCH_CONDITION(isolation, OutsideMemory, AReadAcrossTheEndSeesTheSlotsPartOnly,
                    "KVM API, KVM_EXIT_MMIO; arch/x86/kvm/x86.c, emulator_read_write: one fragment for each page") {
  auto box = With(ReadAtRbx(), kEnd - 4);
  if (!box) return;
  box->Put(kEnd - 4, std::uint32_t{0x4433'2211});
  const Box::Said said = box->RunToPort();
  ASSERT_TRUE(said.port) << said.text;
  EXPECT_EQ(box->Get<std::uint64_t>(Box::kData), 0xFFFF'FFFF'4433'2211);
}

NESTBENCH_CONDITION(isolation, OutsideMemory, AWriteAcrossTheEndWritesTheSlotsPartOnly,
                    "KVM API, KVM_EXIT_MMIO; arch/x86/kvm/x86.c, emulator_read_write: one fragment for each page") {
  auto box = With(WriteAtRbx(), kEnd - 4);
  if (!box) return;
  const Box::Said said = box->RunToPort();
  ASSERT_TRUE(said.port) << said.text;
  EXPECT_EQ(box->Get<std::uint32_t>(kEnd - 4), 0x7777'7777U);
  EXPECT_TRUE(box->CanariesIntact());
}

NESTBENCH_CONDITION(isolation, OutsideMemory, ASweepOfWritesLeavesTheHostMemoryAroundASlotAlone,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: a slot is memory_size bytes of userspace_addr") {
  auto box = With(SweepFromRbx(), kEnd);
  if (!box) return;
  auto regs = box->vcpu().GetRegs();
  ASSERT_TRUE(regs);
  regs->rcx = 200;
  ASSERT_TRUE(box->vcpu().SetRegs(*regs));
  const Box::Said said = box->RunToPort();
  ASSERT_TRUE(said.port) << said.text;
  EXPECT_TRUE(box->CanariesIntact());
}

NESTBENCH_CONDITION(isolation, OutsideMemory, NothingOutsideIsExecuted,
                    "KVM API, KVM_EXIT_INTERNAL_ERROR; arch/x86/kvm/x86.c, kvm_fetch_guest_virt") {
  for (const std::uint64_t target : {kEnd, kOutside, kOutside + 0xFFF}) {
    auto box = With(JumpToRbx(), target, BoxMode::kSupervisor64, {.canary = 0xEE});  // out dx, al
    if (!box) return;
    auto exit = box->Run(300ms);
    if (!exit) continue;
    if (const auto* io = std::get_if<vmm::IoExit>(&*exit)) {
      EXPECT_EQ(io->port, Box::kPanicPort) << "code from outside every slot ran, at " << target;
    }
    Evidence("ended_with", vmm::ToString(*exit).substr(0, 80));
  }
}

NESTBENCH_CONDITION(isolation, OutsideMemory, APageTableEntryThatPointsOutIsAnExit,
                    "KVM API, KVM_EXIT_MMIO: phys_addr is guest-physical") {
  auto box = With(ReadAtRbx(), 0x10'0000);
  if (!box) return;
  box->MapPage(0x10'0000, kOutside + 0x5000, kPtePresent | kPteWritable);
  auto exit = box->Run();
  ASSERT_TRUE(exit);
  const auto* mmio = std::get_if<vmm::MmioExit>(&*exit);
  ASSERT_NE(mmio, nullptr) << vmm::ToString(*exit);
  EXPECT_EQ(mmio->address.value(), kOutside + 0x5000);
}

NESTBENCH_CONDITION(isolation, OutsideMemory, APageTableOutsideTranslatesNothing,
                    "arch/x86/kvm/mmu/paging_tmpl.h, walk_addr_generic: a table without a slot is not present") {
  for (const std::uint64_t level : {0x0000, 0x1000, 0x2000}) {
    // The canaries are entries, all ones but the reserved bits: present, writable, user.
    auto box = With(ReadAtRbx(), 0x4000'0000'0000, BoxMode::kSupervisor64, {.canary = 0x07});
    if (!box) return;
    // A second branch of the tree, whose tables at that level lie behind the slot; our own addresses stay mapped.
    constexpr std::uint64_t kBranch = Box::kFree;
    const std::uint64_t all = kPtePresent | kPteWritable | kPteUser;
    box->Put(Box::kTables + 128 * 8, (level == 0 ? kEnd : kBranch) | all);
    box->Put(kBranch, (level == 0x1000 ? kEnd : kBranch + 0x1000) | all);
    box->Put(kBranch + 0x1000, (level == 0x2000 ? kEnd : kBranch + 0x2000) | all);
    auto exit = box->Run(300ms);
    if (!exit) continue;
    if (const auto* io = std::get_if<vmm::IoExit>(&*exit); io != nullptr && io->port == 0x10) {
      EXPECT_NE(box->Get<std::uint64_t>(Box::kData), 0x0707'0707'0707'0707U);
    }
    EXPECT_TRUE(box->CanariesIntact()) << "accessed bits of a table that is not the guest's";
    Evidence("ended_with", vmm::ToString(*exit).substr(0, 80));
  }
}

NESTBENCH_CONDITION(isolation, OutsideMemory, ARootOutsideRunsNothing,
                    "arch/x86/kvm/mmu/mmu.c, mmu_check_root: no memory for the root is a triple fault") {
  auto box = With(Says0x10(), 0);
  if (!box) return;
  auto sregs = box->vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->cr3 = kOutside;
  if (ErrorOf(box->vcpu().fd(), KVM_SET_SREGS, &*sregs) != 0) return;  // refusing it at once is as good
  auto exit = box->Run(300ms);
  if (!exit) return;
  Evidence("ended_with", vmm::ToString(*exit).substr(0, 80));
  EXPECT_FALSE(std::holds_alternative<vmm::IoExit>(*exit)) << "code ran without a page table";
}

NESTBENCH_CONDITION(isolation, OutsideMemory, AStackOutsideKeepsNothing, "KVM API, KVM_EXIT_MMIO") {
  auto box = With(Push(), 0);
  if (!box) return;
  auto regs = box->vcpu().GetRegs();
  ASSERT_TRUE(regs);
  regs->rsp = kEnd + 0x100;
  ASSERT_TRUE(box->vcpu().SetRegs(*regs));
  const Box::Said said = box->RunToPort(500ms);
  Evidence("ended_with", said.port ? "port" : said.text.substr(0, 80));
  EXPECT_TRUE(box->CanariesIntact());
}

NESTBENCH_CONDITION(isolation, OutsideMemory, ADescriptorTableOutsideGivesNoDescriptor,
                    "arch/x86/kvm/emulate.c, read_segment_descriptor; KVM API, KVM_SET_USER_MEMORY_REGION") {
  auto box = With(LoadSegment(), 0);
  if (!box) return;
  for (std::uint64_t at = 0; at < Box::kCanaryBytes; at += 8) {
    const std::uint64_t data = 0x12CF'9334'5600'FFFF;  // writable data, base 0x12345600
    std::memcpy(box->canary_above().data() + at, &data, sizeof(data));
  }
  auto sregs = box->vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->gdt.base = kEnd;
  ASSERT_TRUE(box->vcpu().SetSregs(*sregs));
  const Box::Said said = box->RunToPort(500ms);
  Evidence("ended_with", said.port ? said.text : said.text.substr(0, 80));
  const auto after = box->vcpu().GetSregs();
  ASSERT_TRUE(after);
  EXPECT_NE(after->ds.base, 0x1234'5600U) << "a descriptor from host memory behind the slot";
}

NESTBENCH_CONDITION(isolation, OutsideMemory, AnInterruptTableOutsideLeadsNowhere,
                    "KVM API, KVM_EXIT_SHUTDOWN; arch/x86/kvm/emulate.c, __emulate_int_real") {
  auto box = With(Undefined(), 0);
  if (!box) return;
  box->Load(Says0x10(), 0x9000);
  for (std::uint64_t at = 0; at < Box::kCanaryBytes; at += 16) {
    const std::uint64_t gate[2] = {InterruptGate(0x08, 0x9000), 0};
    std::memcpy(box->canary_above().data() + at, gate, sizeof(gate));
  }
  auto sregs = box->vcpu().GetSregs();
  ASSERT_TRUE(sregs);
  sregs->idt.base = kEnd;
  ASSERT_TRUE(box->vcpu().SetSregs(*sregs));
  const Box::Said said = box->RunToPort(500ms);
  Evidence("ended_with", said.text.substr(0, 80));
  EXPECT_NE(said.port, 0x10) << "a gate from host memory behind the slot";
}

NESTBENCH_CONDITION(isolation, OutsideMemory, ARingWhoseAddressesPointOutsideIsRefused,
                    "virtio 1.2, Security considerations of drivers' addresses: the device checks each buffer") {
  constexpr std::uint64_t kStart = 0x10'0000;
  constexpr std::uint64_t kSize = 0x1'0000;
  vmm::GuestMemory memory;
  auto region = vmm::MemoryRegion::Create({abi::GuestPhysAddr(kStart), kSize}, {});
  ASSERT_TRUE(region);
  ASSERT_TRUE(memory.Add(std::move(*region)));
  struct Descriptor {
    std::uint64_t address;
    std::uint32_t bytes;
  };
  constexpr std::array<Descriptor, 9> kHostile = {{{0, 1},
                                                   {kStart - 1, 1},
                                                   {kStart - 1, 2},
                                                   {kStart + kSize, 1},
                                                   {kStart + kSize - 1, 2},
                                                   {kStart, kSize + 1},
                                                   {~0ULL, 2},
                                                   {~0ULL - 0xFFF, 0x2000},
                                                   {kStart, 0xFFFF'FFFF}}};
  ASSERT_TRUE(memory.Write(abi::GuestPhysAddr(kStart), kHostile));
  std::vector<std::byte> buffer(0x4000);
  for (std::size_t i = 0; i < kHostile.size(); ++i) {
    const auto one = memory.Read<Descriptor>(abi::GuestPhysAddr(kStart + i * sizeof(Descriptor)));
    ASSERT_TRUE(one);
    EXPECT_FALSE(memory.Slice(abi::GuestPhysAddr(one->address), one->bytes)) << "descriptor " << i;
    if (one->bytes > buffer.size()) continue;
    const auto part = std::span(buffer).first(one->bytes);
    EXPECT_FALSE(memory.ReadBytes(abi::GuestPhysAddr(one->address), part)) << "descriptor " << i;
    EXPECT_FALSE(memory.WriteBytes(abi::GuestPhysAddr(one->address), part)) << "descriptor " << i;
  }
  EXPECT_TRUE(memory.Slice(abi::GuestPhysAddr(kStart), kSize)) << "all of it is there";
}

NESTBENCH_CONDITION(isolation, OutsideMemory, CanariesAreFoundByThisTestsOwnEyes,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: what lies in a slot is the guest's") {
  // The other tests trust that a guest which could reach the canaries would be caught: give it a slot there.
  auto box = With(ReadAtRbx(), kEnd);
  if (!box) return;
  ASSERT_EQ(box->SetSlot(1, kEnd, box->canary_above()), 0);
  const Box::Said said = box->RunToPort();
  ASSERT_TRUE(said.port) << said.text;
  EXPECT_EQ(box->Get<std::uint64_t>(Box::kData), kCanary8);
}

}  // namespace
}  // namespace nestbench::conformance
