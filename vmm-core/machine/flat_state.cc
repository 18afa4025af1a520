#include "flat_state.h"

#include <array>
#include <utility>

#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/segments.h"
#include "nestbench/vmm/machine/page_tables.h"

namespace nestbench::vmm::internal {
namespace {

using namespace abi::x86;
using abi::GuestPhysAddr;
using abi::GuestVirtAddr;

constexpr std::uint16_t kCodeSelector = 0x08;
constexpr std::uint16_t kDataSelector = 0x10;
constexpr std::uint16_t kTssSelector = 0x18;
constexpr std::uint64_t kPageTablesBytes = 0x1'0000;
constexpr std::uint8_t kDoubleFaultStack = 1;  // index into the interrupt stack table

std::uint64_t StubOf(unsigned vector) { return kFlatCodeBase + std::uint64_t{vector} * kFlatStubBytes; }

// AMD APM, section "Real-Mode Interrupt Control Transfers": offset and segment, 16 bits each.
Result<void> WriteRealModeTable(const GuestMemory& memory) {
  for (unsigned vector = 0; vector < kFlatVectors; ++vector) {
    const auto entry = static_cast<std::uint32_t>(StubOf(vector));
    if (auto done = memory.Write(GuestPhysAddr(vector * sizeof(entry)), entry); !done) return done;
  }
  return {};
}

Result<void> WriteIdt(const GuestMemory& memory, bool is_long) {
  for (unsigned vector = 0; vector < kFlatVectors; ++vector) {
    const std::uint64_t stack = is_long && vector == kVectorDoubleFault ? kDoubleFaultStack : 0;
    const std::uint64_t gate = InterruptGate(kCodeSelector, StubOf(vector), stack);
    const std::uint64_t stride_bytes = is_long ? 16 : 8;
    if (auto done = memory.Write(GuestPhysAddr(kFlatIdtBase + vector * stride_bytes), gate); !done) return done;
  }
  return {};
}

Result<void> WriteGdt(const GuestMemory& memory, bool is_long) {
  constexpr std::uint64_t kTss = TaskStateDescriptor(kSegmentTypeTssBusy, kFlatTssBase, kTssBytes - 1);
  const std::array<std::uint64_t, 5> gdt = {0, is_long ? kDescriptorCode64 : kDescriptorCode32, kDescriptorData, kTss,
                                            0};
  return memory.Write(GuestPhysAddr(kFlatGdtBase), gdt);
}

// Identity for 4 GiB, whether there is memory or not, and the high pages.
Result<void> WritePageTables(const GuestMemory& memory) {
  auto builder = PageTableBuilder::Create(memory, {GuestPhysAddr(kFlatPageTablesBase), kPageTablesBytes});
  if (!builder) return Fail(std::move(builder.error()));
  constexpr PageAccess kAll{.writable = true, .executable = true};
  auto done = builder->Map(GuestVirtAddr(0), GuestPhysAddr(0), kFlatHighBase, abi::kLargePageBytes, kAll);
  for (unsigned page = 0; done && page < kFlatHighPages; ++page) {
    done = builder->Map(GuestVirtAddr(kFlatHighBase + page * abi::kLargePageBytes),
                        GuestPhysAddr(kFlatHighBase << page), abi::kLargePageBytes, abi::kLargePageBytes, kAll);
  }
  return done;
}

void SetRealMode(kvm_sregs& sregs) {
  for (kvm_segment* segment : {&sregs.cs, &sregs.ds, &sregs.es, &sregs.fs, &sregs.gs, &sregs.ss}) {
    segment->base = 0;
    segment->selector = 0;
    segment->limit = 0xFFFF;
  }
  sregs.idt.base = 0;
  sregs.idt.limit = kFlatVectors * 4 - 1;
  sregs.cr0 = kCr0ExtensionType;
}

void SetProtectedMode(kvm_sregs& sregs, bool is_long) {
  sregs.cs = FlatSegment(kCodeSelector, kSegmentTypeCodeReadAccessed, is_long);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss =
      FlatSegment(kDataSelector, kSegmentTypeDataWriteAccessed, false);
  sregs.tr = TaskStateSegment(kTssSelector, kFlatTssBase, kTssBytes - 1, kSegmentTypeTssBusy);
  sregs.gdt.base = kFlatGdtBase;
  sregs.gdt.limit = 5 * sizeof(std::uint64_t) - 1;
  sregs.idt.base = kFlatIdtBase;
  sregs.idt.limit = kFlatVectors * (is_long ? 16 : 8) - 1;
  sregs.cr0 = kCr0ProtectedMode | kCr0ExtensionType | kCr0NumericError;
  if (!is_long) return;
  sregs.cr0 |= kCr0Paging;
  sregs.cr3 = kFlatPageTablesBase;
  sregs.cr4 = kCr4Pae;
  sregs.efer = kEferLongModeEnable | kEferLongModeActive;
}

}  // namespace

Result<void> WriteFlatTables(const GuestMemory& memory, FlatMode mode) {
  if (mode == FlatMode::kReal16) return WriteRealModeTable(memory);
  const bool is_long = mode == FlatMode::kSupervisor64;
  auto done = WriteGdt(memory, is_long);
  if (done) done = WriteIdt(memory, is_long);
  if (!done || !is_long) return done;
  done = memory.Write(GuestPhysAddr(kFlatTssBase + kTssIst1Offset), kFlatFaultStackTop);
  if (done) done = WritePageTables(memory);
  return done;
}

Result<void> EnterFlatMode(Vcpu& vcpu, FlatMode mode) {
  auto sregs = vcpu.GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));
  if (mode == FlatMode::kReal16) {
    SetRealMode(*sregs);
  } else {
    SetProtectedMode(*sregs, mode == FlatMode::kSupervisor64);
  }
  if (auto set = vcpu.SetSregs(*sregs); !set) return set;
  kvm_regs regs = {};
  regs.rip = kFlatEntry;
  regs.rsp = kFlatStackTop;
  regs.rflags = kRflagsReserved1;
  return vcpu.SetRegs(regs);
}

}  // namespace nestbench::vmm::internal
