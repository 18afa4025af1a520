#include "linux_boot.h"

#include <asm/bootparam.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/segments.h"
#include "nestbench/vmm/machine/page_tables.h"

namespace nestbench::vmm::internal {
namespace {

using namespace abi::x86;
using abi::GuestPhysAddr;
using abi::GuestVirtAddr;

// The first megabyte. Nothing here matters to the kernel once it has read it, but for the ACPI tables.
constexpr std::uint64_t kGdtBase = 0x500;
constexpr std::uint64_t kTssBase = 0x600;
constexpr std::uint64_t kStartInfoBase = 0x6000;
constexpr std::uint64_t kMemoryMapBase = 0x6800;
constexpr std::uint64_t kBootParamsBase = 0x7000;
constexpr std::uint64_t kPageTablesBase = 0x9000;
constexpr std::uint64_t kPageTablesBytes = 0x7000;
constexpr std::uint64_t kCommandLineBase = 0x2'0000;
constexpr std::uint64_t kLowEnd = 0x9'FC00;  // where a PC's extended BIOS data area begins
constexpr std::uint64_t kAcpiBase = 0xE'0000;
constexpr std::uint64_t kAcpiBytes = 0x2'0000;
constexpr std::uint64_t kMegabyte = 0x10'0000;

// Kernel document "The Linux/x86 Boot Protocol", section "64-bit Boot Protocol": these selectors.
constexpr std::uint16_t kBootCodeSelector = 0x10;
constexpr std::uint16_t kBootDataSelector = 0x18;
constexpr std::uint16_t kTssSelector = 0x20;
constexpr std::uint8_t kLoaderUnknown = 0xFF;

constexpr std::uint32_t kUsable = 1;  // ACPI specification, section "System Address Map Interfaces"
constexpr std::uint32_t kReserved = 2;

struct MapEntry {
  std::uint64_t address;
  std::uint64_t size_bytes;
  std::uint32_t type;
};

std::vector<MapEntry> MemoryMap(const LinuxBoot& boot) {
  std::vector<MapEntry> map = {{0, kLowEnd, kUsable},
                               {kLowEnd, kMegabyte - kLowEnd, kReserved},
                               {kMegabyte, boot.low_bytes - kMegabyte, kUsable}};
  if (boot.high_bytes != 0) map.push_back({kHighMemoryBase, boot.high_bytes, kUsable});
  return map;
}

// Xen's public/arch-x86/hvm/start_info.h.
struct StartInfo {
  std::uint32_t magic = 0x336E'C578;
  std::uint32_t version = 1;
  std::uint32_t flags = 0;
  std::uint32_t modules = 0;
  std::uint64_t module_list = 0;
  std::uint64_t command_line = 0;
  std::uint64_t root_pointer = 0;
  std::uint64_t memory_map = 0;
  std::uint32_t memory_map_entries = 0;
  std::uint32_t reserved = 0;
};
struct StartInfoModule {
  std::uint64_t address = 0;
  std::uint64_t size_bytes = 0;
  std::uint64_t command_line = 0;
  std::uint64_t reserved = 0;
};
struct StartInfoMemory {
  std::uint64_t address = 0;
  std::uint64_t size_bytes = 0;
  std::uint32_t type = 0;
  std::uint32_t reserved = 0;
};
constexpr std::uint64_t kModuleListBase = kStartInfoBase + 0x100;

Result<void> WriteStartInfo(const GuestMemory& memory, const LinuxBoot& boot, GuestPhysAddr root_pointer,
                            GuestPhysAddr initramfs) {
  StartInfo info;
  if (!boot.initramfs.empty()) {
    info.modules = 1;
    info.module_list = kModuleListBase;
    const StartInfoModule module{.address = initramfs.value(), .size_bytes = boot.initramfs.size()};
    if (auto done = memory.Write(GuestPhysAddr(kModuleListBase), module); !done) return done;
  }
  info.command_line = kCommandLineBase;
  info.root_pointer = root_pointer.value();
  info.memory_map = kMemoryMapBase;
  for (const MapEntry& entry : MemoryMap(boot)) {
    const StartInfoMemory part{entry.address, entry.size_bytes, entry.type, 0};
    const std::uint64_t at = kMemoryMapBase + info.memory_map_entries * sizeof(part);
    if (auto done = memory.Write(GuestPhysAddr(at), part); !done) return done;
    ++info.memory_map_entries;
  }
  return memory.Write(GuestPhysAddr(kStartInfoBase), info);
}

Result<void> WriteBootParams(const GuestMemory& memory, const LinuxBoot& boot, GuestPhysAddr root_pointer,
                             GuestPhysAddr initramfs) {
  boot_params params{};
  params.hdr = boot.image->header;
  params.hdr.type_of_loader = kLoaderUnknown;
  params.hdr.cmd_line_ptr = static_cast<std::uint32_t>(kCommandLineBase);
  params.hdr.ramdisk_image = static_cast<std::uint32_t>(initramfs.value());
  params.hdr.ramdisk_size = static_cast<std::uint32_t>(boot.initramfs.size());
  params.acpi_rsdp_addr = root_pointer.value();
  for (const MapEntry& entry : MemoryMap(boot)) {
    params.e820_table[params.e820_entries++] = {entry.address, entry.size_bytes, entry.type};
  }
  return memory.Write(GuestPhysAddr(kBootParamsBase), params);
}

Result<GuestPhysAddr> WriteInitramfs(const GuestMemory& memory, const LinuxBoot& boot) {
  if (boot.initramfs.empty()) return GuestPhysAddr(0);
  const std::uint64_t end = std::min(boot.low_bytes, boot.image->initrd_max + 1);
  const std::uint64_t kernel_end = boot.image->range.start.value() + boot.image->range.size_bytes;
  if (end < kernel_end + abi::kPageBytes || boot.initramfs.size() > end - kernel_end - abi::kPageBytes) {
    return Fail(Error::InvalidArgument(
        "load initramfs",
        fmt::format("its {} bytes do not fit behind the kernel, which needs memory up to {:#x}, below "
                    "{:#x}: give the guest more memory",
                    boot.initramfs.size(), kernel_end, end)));
  }
  const GuestPhysAddr address((end - boot.initramfs.size()) / abi::kPageBytes * abi::kPageBytes);
  if (auto done = memory.WriteBytes(address, boot.initramfs); !done) return Fail(std::move(done.error()));
  return address;
}

}  // namespace

Result<void> WriteLinux(const GuestMemory& memory, const LinuxBoot& boot) {
  const LinuxImage& image = *boot.image;
  if (boot.command_line.size() > image.command_line_max_bytes) {
    return Fail(
        Error::InvalidArgument("boot Linux", fmt::format("a command line of {} bytes; this kernel takes {}",
                                                         boot.command_line.size(), image.command_line_max_bytes)));
  }
  if (image.range.start.value() + image.range.size_bytes > boot.low_bytes) {
    return Fail(Error::InvalidArgument(
        "boot Linux", fmt::format("the kernel needs memory up to {:#x}, the guest has it up to {:#x}",
                                  image.range.start.value() + image.range.size_bytes, boot.low_bytes)));
  }
  for (const LinuxImage::Piece& piece : image.pieces) {
    if (auto done = memory.WriteBytes(piece.address, piece.bytes); !done) return done;
  }
  auto initramfs = WriteInitramfs(memory, boot);
  if (!initramfs) return Fail(std::move(initramfs.error()));
  std::vector<char> command_line(boot.command_line.begin(), boot.command_line.end());
  command_line.push_back('\0');
  auto done = memory.WriteBytes(GuestPhysAddr(kCommandLineBase), std::as_bytes(std::span(command_line)));
  if (!done) return done;
  auto root = WriteAcpiTables(memory, GuestPhysAddr(kAcpiBase), kAcpiBytes, boot.acpi);
  if (!root) return Fail(std::move(root.error()));

  const std::uint64_t code = image.entry_kind == LinuxEntry::kBoot64 ? kDescriptorCode64 : kDescriptorCode32;
  const std::array<std::uint64_t, 6> gdt = {
      0, 0, code, kDescriptorData, TaskStateDescriptor(kSegmentTypeTssBusy, kTssBase, kTssBytes - 1), 0};
  if (done = memory.Write(GuestPhysAddr(kGdtBase), gdt); !done) return done;
  if (image.entry_kind == LinuxEntry::kPvh) return WriteStartInfo(memory, boot, *root, *initramfs);

  auto builder = PageTableBuilder::Create(memory, {GuestPhysAddr(kPageTablesBase), kPageTablesBytes});
  if (!builder) return Fail(std::move(builder.error()));
  done = builder->Map(GuestVirtAddr(0), GuestPhysAddr(0), kHighMemoryBase, abi::kLargePageBytes,
                      {.writable = true, .executable = true});
  if (!done) return done;
  return WriteBootParams(memory, boot, *root, *initramfs);
}

Result<void> EnterLinux(Vcpu& vcpu, const LinuxImage& image) {
  auto sregs = vcpu.GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));
  const bool is_long = image.entry_kind == LinuxEntry::kBoot64;
  sregs->cs = FlatSegment(kBootCodeSelector, kSegmentTypeCodeReadAccessed, is_long);
  sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss =
      FlatSegment(kBootDataSelector, kSegmentTypeDataWriteAccessed, false);
  sregs->tr = TaskStateSegment(kTssSelector, kTssBase, kTssBytes - 1, kSegmentTypeTssBusy);
  sregs->gdt.base = kGdtBase;
  sregs->gdt.limit = 6 * sizeof(std::uint64_t) - 1;
  sregs->idt.base = 0;
  sregs->idt.limit = 0;
  sregs->cr0 = kCr0ProtectedMode | kCr0ExtensionType;
  if (is_long) {
    sregs->cr0 |= kCr0Paging;
    sregs->cr3 = kPageTablesBase;
    sregs->cr4 = kCr4Pae;
    sregs->efer = kEferLongModeEnable | kEferLongModeActive;
  }
  if (auto set = vcpu.SetSregs(*sregs); !set) return set;
  kvm_regs regs = {};
  regs.rip = image.entry.value();
  regs.rflags = kRflagsReserved1;
  if (is_long) {
    regs.rsi = kBootParamsBase;
  } else {
    regs.rbx = kStartInfoBase;
  }
  return vcpu.SetRegs(regs);
}

}  // namespace nestbench::vmm::internal
