#include "nestbench/floor/raw_user_vm.h"

#include <elf.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "guest_tables.h"
#include "nestbench/abi/task_state.h"
#include "nestbench/abi/x86.h"

namespace nestbench::floor {
namespace {

using namespace abi::x86;

constexpr std::uint64_t RoundUpToPage(std::uint64_t value) {
  return (value + abi::kPageBytes - 1) / abi::kPageBytes * abi::kPageBytes;
}

// Page tables, in the order of GuestTables: no more than an arena of this size needs.
std::uint64_t SupervisorBytes(std::uint64_t arena_bytes) {
  constexpr std::uint64_t kTables = 32;
  return kPageTablesBase + (kTables + arena_bytes / abi::kLargePageBytes) * abi::kPageBytes;
}

kvm_segment FlatSegment(std::uint16_t selector, std::uint8_t type, bool code) {
  kvm_segment segment = {};
  segment.limit = 0xFFFF'FFFF;
  segment.selector = selector;
  segment.type = type;
  segment.present = 1;
  segment.dpl = 3;
  segment.db = code ? 0 : 1;
  segment.s = 1;
  segment.l = code ? 1 : 0;
  segment.g = 1;
  return segment;
}

}  // namespace

RawCpuid::RawCpuid(const RawKvm& kvm) {
  constexpr std::uint32_t kMaxLeaves = 128;
  words_.resize((sizeof(kvm_cpuid2) + kMaxLeaves * sizeof(kvm_cpuid_entry2)) / sizeof(std::uint64_t));
  get()->nent = kMaxLeaves;
  RawIoctl(kvm.fd(), KVM_GET_SUPPORTED_CPUID, get(), "KVM_GET_SUPPORTED_CPUID");
}

RawUserVm::RawUserVm(const RawKvm& kvm, const RawCpuid& cpuid, std::span<const std::byte> image,
                     std::uint64_t arena_bytes)
    : vm_(kvm) {
  Elf64_Ehdr header = {};
  if (image.size() < sizeof(header) || std::memcmp(image.data(), ELFMAG, SELFMAG) != 0) {
    throw RawError("load image: not an ELF file", EINVAL);
  }
  std::memcpy(&header, image.data(), sizeof(header));
  std::vector<Elf64_Phdr> segments(header.e_phnum);
  std::memcpy(segments.data(), image.data() + header.e_phoff, segments.size() * sizeof(Elf64_Phdr));
  std::erase_if(segments, [](const Elf64_Phdr& segment) { return segment.p_type != PT_LOAD || segment.p_memsz == 0; });
  std::uint64_t end = abi::kImageBase;
  for (const Elf64_Phdr& segment : segments) end = std::max(end, segment.p_vaddr + segment.p_memsz);

  GuestTables tables(vm_.AddMemory(0, abi::kSupervisorBase, SupervisorBytes(arena_bytes)));
  mailbox_ = vm_.AddMemory(1, abi::kMailboxBase, abi::kStackTop - abi::kMailboxBase);
  std::byte* loaded = vm_.AddMemory(2, abi::kImageBase, RoundUpToPage(end - abi::kImageBase));
  tables.Write();
  for (const Elf64_Phdr& segment : segments) {
    std::memcpy(loaded + (segment.p_vaddr - abi::kImageBase), image.data() + segment.p_offset, segment.p_filesz);
    tables.MapUser(segment.p_vaddr, RoundUpToPage(segment.p_memsz), (segment.p_flags & PF_W) != 0,
                   (segment.p_flags & PF_X) != 0);
  }
  if (arena_bytes != 0) {
    vm_.AddMemory(3, abi::kArenaBase, arena_bytes);
    tables.MapUser(abi::kArenaBase, arena_bytes, true, false);
  }
  vm_.CreateVcpu();
  EnterUserMode(header.e_entry, SetUpFeatures(cpuid));
}

bool RawUserVm::SetUpFeatures(const RawCpuid& supported) {
  kvm_cpuid2* cpuid = supported.get();
  RawIoctl(vm_.vcpu_fd(), KVM_SET_CPUID2, cpuid, "KVM_SET_CPUID2");
  kvm_xcrs xcrs = {};
  xcrs.nr_xcrs = 1;
  for (std::uint32_t i = 0; i < cpuid->nent; ++i) {
    const kvm_cpuid_entry2& leaf = cpuid->entries[i];
    if (leaf.function == 0xD && leaf.index == 0) {
      xcrs.xcrs[0].value = leaf.eax & (kXcr0X87 | kXcr0Sse | kXcr0Avx | kXcr0Avx512);
    }
  }
  if (xcrs.xcrs[0].value <= kXcr0X87) return false;
  RawIoctl(vm_.vcpu_fd(), KVM_SET_XCRS, &xcrs, "KVM_SET_XCRS");
  return true;
}

void RawUserVm::EnterUserMode(std::uint64_t entry, bool has_xsave) {
  kvm_sregs sregs = {};
  RawIoctl(vm_.vcpu_fd(), KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
  sregs.cs = FlatSegment(kUserCodeSelector, kSegmentTypeCodeReadAccessed, true);
  sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs =
      FlatSegment(kUserDataSelector, kSegmentTypeDataWriteAccessed, false);
  sregs.tr = {};
  sregs.tr.base = kTssBase;
  sregs.tr.limit = kTssLimit;
  sregs.tr.selector = kTssSelector;
  sregs.tr.type = TaskStateType();
  sregs.tr.present = 1;
  sregs.gdt.base = kGdtBase;
  sregs.gdt.limit = kGdtBytes - 1;
  sregs.idt.base = kIdtBase;
  sregs.idt.limit = kIdtBytes - 1;
  sregs.cr0 =
      kCr0ProtectedMode | kCr0MonitorCoprocessor | kCr0ExtensionType | kCr0NumericError | kCr0WriteProtect | kCr0Paging;
  sregs.cr3 = kPageTablesBase;
  sregs.cr4 = kCr4Pae | kCr4Osfxsr | kCr4Osxmmexcpt | (has_xsave ? kCr4Osxsave : 0);
  sregs.efer = kEferSyscall | kEferLongModeEnable | kEferLongModeActive | kEferNoExecute;
  RawIoctl(vm_.vcpu_fd(), KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");

  kvm_regs regs = {};
  regs.rip = entry;
  regs.rdi = abi::kMailboxBase;
  regs.rsp = abi::kStackTop - 8;
  regs.rflags = kRflagsReserved1;
  RawIoctl(vm_.vcpu_fd(), KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

void RawUserVm::WriteRequest(const abi::MailboxRequest& request) { std::memcpy(mailbox_, &request, sizeof(request)); }

void RawUserVm::AttachEvent(int eventfd) {
  for (const bool is_port : {true, false}) {
    kvm_ioeventfd event = {};
    event.addr = is_port ? abi::kEventPort : abi::kEventPage;
    event.len = 4;
    event.fd = eventfd;
    event.flags = is_port ? KVM_IOEVENTFD_FLAG_PIO : 0;
    RawIoctl(vm_.fd(), KVM_IOEVENTFD, &event, "KVM_IOEVENTFD");
  }
}

}  // namespace nestbench::floor
