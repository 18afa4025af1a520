#include "level2.h"

#include <fmt/format.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <span>

#include "nestbench/abi/address.h"
#include "nestbench/abi/layout.h"
#include "nestbench/abi/svm.h"
#include "nestbench/vmm/kvm/svm.h"
#include "nestbench/vmm/machine/page_tables.h"

namespace nestbench::costs {
namespace {

using namespace abi::svm;
using abi::GuestPhysAddr;
using vmm::Error;
using vmm::Fail;
using vmm::Result;

constexpr std::uint64_t kL2Code = kVmcb + 0x8000;
constexpr std::uint64_t kL2StackTop = kVmcb + 0xA000;
constexpr std::uint64_t kNestedTables = kVmcb + 0x1'0000;
constexpr std::uint64_t kNestedTablesBytes = 3 * abi::kPageBytes;
constexpr std::uint64_t kNestedBytes = 1ULL << 30;
static_assert(kVmcb + vmm::kSvmPagesBytes <= kL2Code);

// One to one. Nested walks are user accesses.
Result<void> WriteNestedTables(const vmm::GuestMemory& memory) {
  auto builder = vmm::PageTableBuilder::Create(memory, {GuestPhysAddr(kNestedTables), kNestedTablesBytes});
  if (!builder) return Fail(std::move(builder.error()));
  return builder->Map(abi::GuestVirtAddr(0), GuestPhysAddr(0), kNestedBytes, abi::kLargePageBytes,
                      {.user = true, .writable = true, .executable = true});
}

}  // namespace

Result<void> PrepareLevel2(const vmm::KvmDevice& device, vmm::FlatMachine& machine, Level2 level2) {
  if (auto can = vmm::CheckSvm(device); !can) return can;
  vmm::Vcpu& vcpu = machine.vcpu();
  auto sregs = vcpu.GetSregs();
  if (!sregs) return Fail(std::move(sregs.error()));

  auto vmcb = std::make_unique<Vmcb>();
  vmm::FillVmcb(*sregs, kVmcb, *vmcb);
  vmcb->intercepts_2 |= 1U << kIntercept2Vmmcall;
  vmcb->rip = kL2Code;
  vmcb->rsp = kL2StackTop;
  const vmm::GuestMemory& memory = machine.vm().memory();
  if (level2 != Level2::kShadowPaging) {
    if (auto can = vmm::CheckSvmNestedPaging(device); !can) return can;
    vmm::UseNestedPaging(kNestedTables, *vmcb);
    if (auto written = WriteNestedTables(memory); !written) return written;
  }
  // What is intercepted is where L2 stands when it is entered again, so it needs no loop.
  constexpr std::array<std::uint8_t, 3> kVmmcall = {0x0F, 0x01, 0xD9};
  constexpr std::array<std::uint8_t, 8> kLoad = {0x48, 0x8B, 0x1C, 0x25, 0, 0, 0, 0x40};  // mov rbx, [kNestedBytes]
  static_assert(kNestedBytes == 0x4000'0000);
  const std::span<const std::uint8_t> code =
      level2 == Level2::kNestedFault ? std::span<const std::uint8_t>(kLoad) : std::span<const std::uint8_t>(kVmmcall);
  auto written = memory.WriteBytes(GuestPhysAddr(kL2Code), std::as_bytes(code));
  if (written) written = memory.WriteBytes(GuestPhysAddr(kVmcb), std::as_bytes(std::span(vmcb.get(), 1)));
  if (!written) return written;
  return vmm::AllowSvm(vcpu, kVmcb);
}

Result<void> CheckLevel2(vmm::FlatMachine& machine, Level2 level2) {
  auto code = machine.vm().memory().Read<std::uint64_t>(GuestPhysAddr(kVmcb + offsetof(Vmcb, exit_code)));
  if (!code) return Fail(std::move(code.error()));
  if (*code == (level2 == Level2::kNestedFault ? kExitNestedPageFault : kExitVmmcall)) return {};
  return Fail(Error::System("run a guest in a guest", EIO, fmt::format("its exit code is {:#x}", *code)));
}

}  // namespace nestbench::costs
