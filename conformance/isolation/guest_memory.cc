// Whose memory a guest sees, and when. Source: kernel document "The Definitive KVM API Documentation",
// KVM_SET_USER_MEMORY_REGION; Intel SDM, volume 3, and AMD APM, volume 2, for what CPL3 may reach.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <utility>
#include <variant>
#include <vector>

#include "../harness/box_test.h"

// Reads where RBX points, tells it, and again.
NESTBENCH_GUEST_CODE(TellAtRbx, "1: mov (%rbx), %eax\n out %eax, $0x10\n jmp 1b")
NESTBENCH_GUEST_CODE(StoreAtRbx, "1: mov %rax, (%rbx)\n out %al, $0x10\n inc %rax\n jmp 1b")
NESTBENCH_GUEST_CODE(StoresOfEachKind,
                     "movb $0x77, (%rbx)\n movw $0x7777, 2(%rbx)\n movl $0x77777777, 4(%rbx)\n mov %rax, 8(%rbx)\n"
                     "incl 16(%rbx)\n orb $0x77, 20(%rbx)\n mov %rbx, %rdi\n mov $8, %ecx\n cld\n rep stosb\n"
                     "out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(ScanForNonZero,
                     "xor %eax, %eax\n mov %rbx, %rdi\n cld\n repe scasq\n setne %al\n out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(JumpToRbxAtCpl3, "jmp *%rbx")
NESTBENCH_GUEST_CODE(PortOpen, "out %al, $0x10\n hlt")
NESTBENCH_GUEST_CODE(PortClosed, "out %al, $0x20\n hlt")
NESTBENCH_GUEST_CODE(PortHalfOpen, "out %ax, $0x1F\n hlt")
NESTBENCH_GUEST_CODE(PortReadClosed, "in $0x21, %al\n hlt")
NESTBENCH_GUEST_CODE(Hlt, "hlt")
NESTBENCH_GUEST_CODE(Cli, "cli")
NESTBENCH_GUEST_CODE(WriteCr3, "mov %rax, %cr3")
NESTBENCH_GUEST_CODE(ReadCr0, "mov %cr0, %rax")
NESTBENCH_GUEST_CODE(Lgdt, "lgdt 0xC000")
NESTBENCH_GUEST_CODE(Wrmsr, "wrmsr")
NESTBENCH_GUEST_CODE(Invlpg, "invlpg 0xC000")
NESTBENCH_GUEST_CODE(WriteDr7, "mov %rax, %dr7")

namespace nestbench::conformance {
namespace {

using namespace std::chrono_literals;
using namespace abi::x86;

constexpr std::uint64_t kSecond = 0x10'0000;  // of a second slot
constexpr std::uint64_t kPage = 4096;

class GuestMemoryOf : public PointedBoxTest {
 protected:
  static std::span<std::byte> Pages(std::size_t pages) {
    void* place = ::mmap(nullptr, pages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    EXPECT_NE(place, MAP_FAILED);
    return {static_cast<std::byte*>(place), pages * kPage};
  }
};

bool IsMmio(const vmm::Result<vmm::Exit>& exit, std::uint64_t address) {
  if (!exit) return false;
  const auto* mmio = std::get_if<vmm::MmioExit>(&*exit);
  return mmio != nullptr && mmio->address.value() == address;
}
std::string TextOf(const vmm::Result<vmm::Exit>& exit) {
  return exit ? vmm::ToString(*exit).substr(0, 200) : exit.error().ToString();
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, AReadOnlySlotIsNeverWritten,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: KVM_MEM_READONLY, writes are posted as KVM_EXIT_MMIO") {
  if (Lacks(KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM")) return;
  auto box = With(StoresOfEachKind(), kSecond);
  if (!box) return;
  const auto host = Pages(1);
  std::memset(host.data(), 0x11, host.size());
  ASSERT_EQ(box->SetSlot(1, kSecond, host, KVM_MEM_READONLY), 0);
  const Box::Said said = box->RunToPort();
  EXPECT_EQ(said.port, 0x10) << said.text;
  for (const std::byte byte : host) ASSERT_EQ(byte, std::byte{0x11});
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, AccessedBitsAreNotWrittenIntoAReadOnlySlot,
                    "KVM API, KVM_MEM_READONLY; arch/x86/kvm/mmu/paging_tmpl.h, update_accessed_dirty_bits") {
  if (Lacks(KVM_CAP_READONLY_MEM, "KVM_CAP_READONLY_MEM")) return;
  auto box = With(TellAtRbx(), 0x20'0000);
  if (!box) return;
  const auto host = Pages(1);
  const std::uint64_t entry = Box::kFree | kPtePresent | kPteWritable;
  for (std::size_t at = 0; at < host.size(); at += 8) std::memcpy(host.data() + at, &entry, 8);
  const std::vector<std::byte> before(host.begin(), host.end());
  ASSERT_EQ(box->SetSlot(1, kSecond, host, KVM_MEM_READONLY), 0);
  box->Put(Box::kTables + 0x2008, kSecond | kPtePresent | kPteWritable);  // the guest's second 2 MiB
  Evidence("ended_with", box->RunToPort(500ms, 20).text.substr(0, 80));
  EXPECT_EQ(std::memcmp(host.data(), before.data(), before.size()), 0);
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, FreshMemoryIsZero, "mmap(2), MAP_ANONYMOUS: initialized to zero") {
  constexpr std::size_t kPages = 64;
  {  // What another guest leaves behind in the host's free pages.
    auto earlier = With(StoreAtRbx(), Box::kFree);
    if (!earlier) return;
    auto region = vmm::MemoryRegion::Create({abi::GuestPhysAddr(kSecond), kPages * kPage}, {});
    ASSERT_TRUE(region);
    std::memset(region->bytes().data(), 0xAB, region->bytes().size());
  }
  auto box = With(ScanForNonZero(), kSecond);
  if (!box) return;
  auto region = vmm::MemoryRegion::Create({abi::GuestPhysAddr(kSecond), kPages * kPage}, {});
  ASSERT_TRUE(region);
  ASSERT_EQ(box->SetSlot(1, kSecond, region->bytes()), 0);
  auto regs = box->vcpu().GetRegs();
  ASSERT_TRUE(regs);
  regs->rcx = kPages * kPage / 8;
  ASSERT_TRUE(box->vcpu().SetRegs(*regs));
  const Box::Said said = box->RunToPort(5s);
  ASSERT_EQ(said.port, 0x10) << said.text;
  EXPECT_EQ(said.value, 0U) << "the guest found something in fresh memory";
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, ADeletedSlotIsNotReachable,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: memory_size 0 deletes a slot") {
  auto box = With(TellAtRbx(), kSecond);
  if (!box) return;
  const auto host = Pages(1);
  std::memset(host.data(), 0x42, host.size());
  ASSERT_EQ(box->SetSlot(1, kSecond, host), 0);
  const Box::Said said = box->RunToPort();
  ASSERT_EQ(said.value, 0x4242'4242U) << said.text;
  ASSERT_EQ(box->SetSlot(1, kSecond, host.first(0)), 0);
  const auto exit = box->Run();
  EXPECT_TRUE(IsMmio(exit, kSecond)) << TextOf(exit);
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, AMovedSlotIsNotReachableWhereItWas,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: a slot may be moved in guest physical memory") {
  auto box = With(TellAtRbx(), kSecond);
  if (!box) return;
  const auto host = Pages(1);
  std::memset(host.data(), 0x42, host.size());
  ASSERT_EQ(box->SetSlot(1, kSecond, host), 0);
  ASSERT_EQ(box->RunToPort().value, 0x4242'4242U);
  ASSERT_EQ(box->SetSlot(1, kSecond + 0x10000, host), 0);
  const auto exit = box->Run();
  EXPECT_TRUE(IsMmio(exit, kSecond)) << TextOf(exit);
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, ASlotThatTookAnothersPlaceShowsItsOwnMemory,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: userspace_addr is the memory of the slot") {
  auto box = With(TellAtRbx(), kSecond);
  if (!box) return;
  const auto first = Pages(1);
  const auto second = Pages(1);
  std::memset(first.data(), 0x42, first.size());
  std::memset(second.data(), 0x24, second.size());
  ASSERT_EQ(box->SetSlot(1, kSecond, first), 0);
  for (int round = 0; round < 50; ++round) {
    ASSERT_EQ(box->RunToPort().value, 0x4242'4242U) << "round " << round;
    ASSERT_EQ(box->SetSlot(1, kSecond, first.first(0)), 0);
    ASSERT_EQ(box->SetSlot(1, kSecond, second), 0);
    ASSERT_EQ(box->RunToPort().value, 0x2424'2424U) << "round " << round;
    ASSERT_EQ(box->SetSlot(1, kSecond, second.first(0)), 0);
    ASSERT_EQ(box->SetSlot(1, kSecond, first), 0);
  }
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, APageThatTheHostUnmappedIsNotReachable,
                    "KVM API, KVM_SET_USER_MEMORY_REGION; KVM_RUN: EFAULT; virt/kvm/kvm_main.c, the MMU notifier") {
  auto box = With(TellAtRbx(), kSecond);
  if (!box) return;
  const auto host = Pages(1);
  std::memset(host.data(), 0x42, host.size());
  ASSERT_EQ(box->SetSlot(1, kSecond, host), 0);
  ASSERT_EQ(box->RunToPort().value, 0x4242'4242U);
  ASSERT_EQ(::munmap(host.data(), host.size()), 0);
  const Box::Said said = box->RunToPort(500ms, 5);
  EXPECT_FALSE(said.port == 0x10 && said.value == 0x4242'4242U) << "the page is still the guest's";
  Evidence("ended_with", said.text.substr(0, 80));
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, APageThatTheHostGaveBackIsZero,
                    "madvise(2), MADV_DONTNEED: zero-fill on demand; virt/kvm/kvm_main.c, the MMU notifier") {
  auto box = With(TellAtRbx(), kSecond);
  if (!box) return;
  const auto host = Pages(1);
  ASSERT_EQ(box->SetSlot(1, kSecond, host), 0);
  for (int round = 0; round < 50; ++round) {
    std::memset(host.data(), 0x42, host.size());
    ASSERT_EQ(box->RunToPort().value, 0x4242'4242U);
    ASSERT_EQ(::madvise(host.data(), host.size(), MADV_DONTNEED), 0);
    ASSERT_EQ(box->RunToPort().value, 0U) << "round " << round;
  }
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, WhatTheHostMayNotWriteTheGuestMayNot,
                    "mprotect(2); virt/kvm/kvm_main.c, hva_to_pfn: the access rights of the host's mapping") {
  auto box = With(StoreAtRbx(), kSecond);
  if (!box) return;
  const auto host = Pages(1);
  ASSERT_EQ(box->SetSlot(1, kSecond, host), 0);
  ASSERT_EQ(box->RunToPort().port, 0x10);
  const auto before = *reinterpret_cast<volatile std::uint64_t*>(host.data());
  ASSERT_EQ(::mprotect(host.data(), host.size(), PROT_READ), 0);
  Evidence("ended_with", box->RunToPort(500ms, 5).text.substr(0, 80));
  EXPECT_EQ(*reinterpret_cast<volatile std::uint64_t*>(host.data()), before);
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, TwoVmsNeverMeetAtTheSameAddress,
                    "KVM API, KVM_CREATE_VM; KVM_SET_USER_MEMORY_REGION: slots belong to a VM") {
  auto writer = With(StoreAtRbx(), Box::kFree);
  auto reader = With(TellAtRbx(), Box::kFree);
  if (!writer || !reader) return;
  for (int round = 0; round < 100; ++round) {
    ASSERT_EQ(writer->RunToPort().port, 0x10);
    const Box::Said said = reader->RunToPort();
    ASSERT_EQ(said.port, 0x10) << said.text;
    ASSERT_EQ(said.value, 0U) << "round " << round;
  }
  EXPECT_TRUE(writer->CanariesIntact() && reader->CanariesIntact());
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, TwoVmsWithTheSameTablesAtCpl3NeverMeet,
                    "KVM API, KVM_CREATE_VM; Intel SDM volume 3, Cached Translation Information: VPID") {
  auto writer = With(StoreAtRbx(), Box::kFree, BoxMode::kUser64);
  auto reader = With(TellAtRbx(), Box::kFree, BoxMode::kUser64);
  if (!writer || !reader) return;
  for (int round = 0; round < 100; ++round) {
    const Box::Said stored = writer->RunToPort();
    ASSERT_EQ(stored.port, 0x10) << stored.text;
    const Box::Said said = reader->RunToPort();
    ASSERT_EQ(said.port, 0x10) << said.text;
    ASSERT_EQ(said.value, 0U) << "round " << round;
  }
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, SharedMemoryIsSharedWhereItWasGivenAndNowhereElse,
                    "KVM API, KVM_SET_USER_MEMORY_REGION: any object may back the memory, including a shared one") {
  auto writer = With(StoreAtRbx(), kSecond);
  auto reader = With(TellAtRbx(), kSecond + 0x10000);
  if (!writer || !reader) return;
  const auto host = Pages(3);  // the middle one is shared
  const auto shared = host.subspan(kPage, kPage);
  ASSERT_EQ(writer->SetSlot(1, kSecond, shared), 0);
  ASSERT_EQ(reader->SetSlot(1, kSecond + 0x10000, shared), 0);
  ASSERT_EQ(writer->RunToPort().port, 0x10);
  EXPECT_EQ(reader->RunToPort().value, 0x7777'7777U);
  for (const auto part : {host.first(kPage), host.last(kPage)}) {
    for (const std::byte byte : part) ASSERT_EQ(byte, std::byte{0});
  }
  auto regs = reader->vcpu().GetRegs();
  ASSERT_TRUE(regs);
  regs->rip = Box::kCode;
  regs->rbx = kSecond;
  ASSERT_TRUE(reader->vcpu().SetRegs(*regs));
  const auto exit = reader->Run();
  EXPECT_TRUE(IsMmio(exit, kSecond)) << "the other VM's address: " << TextOf(exit);
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, AForkedProcessDoesNotSeeWhatTheGuestWritesAfterwards,
                    "fork(2): the memory of parent and child is separate; virt/kvm/kvm_main.c, the MMU notifier") {
  auto box = With(StoreAtRbx(), Box::kFree);
  if (!box) return;
  ASSERT_EQ(box->RunToPort().port, 0x10);
  int go[2];
  ASSERT_EQ(::pipe(go), 0);
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  const auto* word = reinterpret_cast<volatile std::uint64_t*>(box->memory().data() + Box::kFree);
  if (child == 0) {
    char byte = 0;
    ::close(go[1]);
    if (::read(go[0], &byte, 1) != 1) ::_exit(2);
    ::_exit(*word == 0x7777'7777'7777'7777 ? 0 : 1);
  }
  for (int i = 0; i < 10; ++i) ASSERT_EQ(box->RunToPort().port, 0x10);
  EXPECT_EQ(*word, 0x7777'7777'7777'7777U + 10);
  ASSERT_EQ(::write(go[1], "g", 1), 1);
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_EQ(WEXITSTATUS(status), 0) << "the guest wrote into the child's copy";
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, TheDirtyLogOfOneVmDoesNotShowTheOthers,
                    "KVM API, KVM_GET_DIRTY_LOG: of one VM's slot") {
  auto writer = MakeBox(BoxMode::kSupervisor64, {.log_dirty_pages = true});
  auto idle = MakeBox(BoxMode::kSupervisor64, {.log_dirty_pages = true});
  if (!writer || !idle) return;
  writer->Load(StoreAtRbx());
  auto regs = writer->vcpu().GetRegs();
  ASSERT_TRUE(regs);
  regs->rbx = Box::kFree;
  ASSERT_TRUE(writer->vcpu().SetRegs(*regs));
  ASSERT_EQ(writer->RunToPort().port, 0x10);
  const auto pages_of = [](Box& box) {
    std::uint64_t bits = 0;
    kvm_dirty_log log = {};
    log.slot = Box::kSlot;
    log.dirty_bitmap = &bits;
    EXPECT_EQ(ErrorOf(box.vm().fd(), KVM_GET_DIRTY_LOG, &log), 0);
    return bits;
  };
  EXPECT_NE(pages_of(*writer) & (1ULL << (Box::kFree / kPage)), 0U);
  EXPECT_EQ(pages_of(*idle), 0U);
}

// At CPL3.

NESTBENCH_CONDITION(isolation, GuestMemoryOf, ASupervisorPageIsNotReadAtCpl3,
                    "Intel SDM volume 3, Access Rights: user-mode accesses to supervisor-mode addresses") {
  for (const std::uint64_t target : {Box::kGdt, Box::kIdt, Box::kTables}) {
    auto box = With(TellAtRbx(), target, BoxMode::kUser64);
    if (!box) return;
    const Box::Said said = box->RunToPort();
    ASSERT_TRUE(said.port == Box::kPanicPort && said.value == kVectorPageFault) << said.text;
    EXPECT_EQ(box->Exception(said.value).error_code, 5U) << "present and user";
    EXPECT_EQ(box->vcpu().GetSregs()->cr2, target);
  }
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, ASupervisorPageIsNotWrittenAtCpl3,
                    "Intel SDM volume 3, Access Rights: user-mode accesses to supervisor-mode addresses") {
  for (const std::uint64_t target : {Box::kGdt, Box::kIdt, Box::kTables + 0x3000}) {
    auto box = With(StoreAtRbx(), target, BoxMode::kUser64);
    if (!box) return;
    const Box::Said said = box->RunToPort();
    ASSERT_TRUE(said.port == Box::kPanicPort && said.value == kVectorPageFault) << said.text;
    EXPECT_EQ(box->Exception(said.value).error_code, 7U) << "present, write and user";
    EXPECT_NE(box->Get<std::uint64_t>(target), 0x7777'7777'7777'7777U);
  }
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, ASupervisorPageIsNotExecutedAtCpl3,
                    "Intel SDM volume 3, Access Rights: user-mode accesses to supervisor-mode addresses") {
  auto box = With(JumpToRbxAtCpl3(), Box::kStubs, BoxMode::kUser64);
  if (!box) return;
  const Box::Said said = box->RunToPort();
  ASSERT_TRUE(said.port == Box::kPanicPort && said.value == kVectorPageFault) << said.text;
  const BoxException exception = box->Exception(said.value);
  EXPECT_EQ(exception.rip, Box::kStubs);
  EXPECT_EQ(exception.error_code & 5, 5U) << "present and user";
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, APageMarkedNoExecuteIsNotExecuted,
                    "Intel SDM volume 3, Access Rights: instruction fetches and the XD flag") {
  auto box = With(JumpToRbxAtCpl3(), Box::kData, BoxMode::kUser64);
  if (!box) return;
  box->Load(PortOpen(), Box::kData);
  box->MapPage(Box::kData, Box::kData, kPtePresent | kPteWritable | kPteUser | kPteNoExecute);
  const Box::Said said = box->RunToPort();
  EXPECT_TRUE(said.port == Box::kPanicPort && said.value == kVectorPageFault) << said.text;
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, AReadOnlyPageIsNotWrittenAtCpl3,
                    "Intel SDM volume 3, Access Rights: the R/W flag") {
  auto box = With(StoreAtRbx(), Box::kData, BoxMode::kUser64);
  if (!box) return;
  box->MapPage(Box::kData, Box::kData, kPtePresent | kPteUser);
  const Box::Said said = box->RunToPort();
  EXPECT_TRUE(said.port == Box::kPanicPort && said.value == kVectorPageFault) << said.text;
  EXPECT_EQ(box->Get<std::uint64_t>(Box::kData), 0U);
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, APortThatTheBitmapOpensIsReachedAtCpl3,
                    "Intel SDM volume 1, I/O Permission Bit Map") {
  auto box = With(PortOpen(), 0, BoxMode::kUser64);
  if (!box) return;
  const Box::Said said = box->RunToPort();
  EXPECT_EQ(said.port, 0x10) << said.text;
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, APortThatTheBitmapClosesIsNotReachedAtCpl3,
                    "Intel SDM volume 1, I/O Permission Bit Map: all bits of the access must be clear") {
  for (const auto code : {PortClosed(), PortHalfOpen(), PortReadClosed()}) {
    auto box = With(code, 0, BoxMode::kUser64);
    if (!box) return;
    const Box::Said said = box->RunToPort();
    EXPECT_TRUE(said.port == Box::kPanicPort && said.value == kVectorGeneralProtection) << said.text;
  }
}

NESTBENCH_CONDITION(isolation, GuestMemoryOf, PrivilegedInstructionsFaultAtCpl3,
                    "Intel SDM volume 3, Privileged Instructions") {
  const std::pair<const char*, std::span<const std::byte>> all[] = {
      {"hlt", Hlt()},   {"cli", Cli()},     {"mov cr3", WriteCr3()}, {"mov from cr0", ReadCr0()},
      {"lgdt", Lgdt()}, {"wrmsr", Wrmsr()}, {"invlpg", Invlpg()},    {"mov dr7", WriteDr7()}};
  for (const auto& [name, code] : all) {
    auto box = With(code, 0, BoxMode::kUser64);
    if (!box) return;
    const Box::Said said = box->RunToPort();
    EXPECT_TRUE(said.port == Box::kPanicPort && said.value == kVectorGeneralProtection)
        << name << " ends with " << said.text;
  }
}

}  // namespace
}  // namespace nestbench::conformance
