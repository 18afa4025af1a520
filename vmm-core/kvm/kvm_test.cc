#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "nestbench/abi/layout.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/capabilities.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"
#include "real_mode_guest.h"

namespace nestbench::vmm {
namespace {

using namespace std::chrono_literals;
using ::testing::AnyOf;
using testing::CreateVmWithCode;
using testing::EnterRealMode;
using ::testing::Eq;
using ::testing::HasSubstr;

constexpr abi::VcpuId kFirst{0};
constexpr std::initializer_list<int> kSpin = {0xEB, 0xFE};  // jmp $
constexpr std::initializer_list<int> kHalt = {0xF4};

// A guest of one vCPU, ready to run `code`; the deadline keeps a wrong test from hanging.
class Guest {
 public:
  static Result<Guest> Create(const KvmDevice& device, std::initializer_list<int> code, bool log_dirty = false) {
    auto vm = CreateVmWithCode(device, code, log_dirty);
    if (!vm) return Fail(std::move(vm.error()));
    auto vcpu = Vcpu::Create(*vm, kFirst);
    if (!vcpu) return Fail(std::move(vcpu.error()));
    if (auto entered = EnterRealMode(*vcpu); !entered) return Fail(std::move(entered.error()));
    return Guest(std::move(*vm), std::move(*vcpu));
  }
  Result<Exit> Run() {
    auto deadline = RunDeadline::Start(vcpu, 5s);
    if (!deadline) return Fail(std::move(deadline.error()));
    return vcpu.Run();
  }

  Vm vm;
  Vcpu vcpu;

 private:
  Guest(Vm v, Vcpu c) : vm(std::move(v)), vcpu(std::move(c)) {}
};

TEST(KvmDeviceTest, NamesThePathThatCannotBeOpened) {
  auto device = KvmDevice::Open("/nonexistent/kvm");
  ASSERT_FALSE(device);
  EXPECT_EQ(device.error().error_number, ENOENT);
  EXPECT_THAT(device.error().ToString(), HasSubstr("/nonexistent/kvm"));
}

TEST(KvmDeviceTest, NamesTheIoctlThatAnotherDeviceRefuses) {
  auto device = KvmDevice::Open("/dev/null");
  ASSERT_FALSE(device);
  EXPECT_THAT(device.error().ToString(), HasSubstr("KVM_GET_API_VERSION"));
}

TEST(CapabilitiesTest, NamesAndNumbersAreUniqueAndAscending) {
  std::set<std::string_view> names;
  int last = -1;
  for (const CapabilityName& capability : AllCapabilities()) {
    EXPECT_TRUE(names.insert(capability.name).second) << capability.name;
    EXPECT_GT(capability.number, last) << capability.name;
    last = capability.number;
  }
  EXPECT_TRUE(names.contains("KVM_CAP_NESTED_STATE"));
}

TEST(VcpuTest, AnOutInstructionArrivesWithPortWidthAndData) {
  NESTBENCH_REQUIRE_KVM(device);
  // mov dx, 0xB20; mov ax, 0x1234; out dx, ax
  auto guest = Guest::Create(*device, {0xBA, 0x20, 0x0B, 0xB8, 0x34, 0x12, 0xEF});
  ASSERT_OK(guest);
  auto exit = guest->Run();
  ASSERT_OK(exit);
  const auto* io = std::get_if<IoExit>(&*exit);
  ASSERT_NE(io, nullptr) << ToString(*exit);
  EXPECT_TRUE(io->is_write);
  EXPECT_EQ(io->port, 0xB20);
  EXPECT_EQ(io->width_bytes, 2);
  ASSERT_EQ(io->data.size(), 2U);
  EXPECT_EQ(io->data[0], std::byte{0x34});
  EXPECT_EQ(io->data[1], std::byte{0x12});
}

TEST(VcpuTest, AnInInstructionReceivesWhatTheHostWroteIntoTheExit) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, {0xE4, 0x10, 0xF4});  // in al, 0x10; hlt
  ASSERT_OK(guest);
  auto exit = guest->Run();
  ASSERT_OK(exit);
  const auto* io = std::get_if<IoExit>(&*exit);
  ASSERT_NE(io, nullptr) << ToString(*exit);
  EXPECT_FALSE(io->is_write);
  io->data[0] = std::byte{0xA5};
  exit = guest->Run();
  ASSERT_OK(exit);
  EXPECT_TRUE(std::holds_alternative<HaltExit>(*exit)) << ToString(*exit);
  auto regs = guest->vcpu.GetRegs();
  ASSERT_OK(regs);
  EXPECT_EQ(regs->rax & 0xFF, 0xA5U);
}

TEST(VcpuTest, AStoreOutsideEverySlotIsAnMmioExit) {
  NESTBENCH_REQUIRE_KVM(device);
  // mov ax, 0xFFFF; mov ds, ax; mov byte [0x10], 0x5A -> guest-physical 0x100000, the first byte after the slot
  auto guest = Guest::Create(*device, {0xB8, 0xFF, 0xFF, 0x8E, 0xD8, 0xC6, 0x06, 0x10, 0x00, 0x5A});
  ASSERT_OK(guest);
  auto exit = guest->Run();
  ASSERT_OK(exit);
  const auto* mmio = std::get_if<MmioExit>(&*exit);
  ASSERT_NE(mmio, nullptr) << ToString(*exit);
  EXPECT_TRUE(mmio->is_write);
  EXPECT_EQ(mmio->address.value(), 0x10'0000U);
  ASSERT_EQ(mmio->data.size(), 1U);
  EXPECT_EQ(mmio->data[0], std::byte{0x5A});
}

TEST(VcpuTest, ATripleFaultCarriesRegistersAndCodeBytes) {
  NESTBENCH_REQUIRE_KVM(device);
  // ud2 in 32-bit protected mode without an IDT: #UD, then #DF, then shutdown.
  auto guest = Guest::Create(*device, {0x0F, 0x0B});
  ASSERT_OK(guest);
  auto sregs = guest->vcpu.GetSregs();
  ASSERT_OK(sregs);
  sregs->cr0 |= abi::x86::kCr0ProtectedMode;
  sregs->cs.db = 1;
  sregs->idt.limit = 0;
  ASSERT_OK(guest->vcpu.SetSregs(*sregs));
  auto exit = guest->Run();
  ASSERT_OK(exit);
  const auto* shutdown = std::get_if<ShutdownExit>(&*exit);
  ASSERT_NE(shutdown, nullptr) << ToString(*exit);
  ASSERT_NE(shutdown->snapshot, nullptr);
  ASSERT_TRUE(shutdown->snapshot->regs);
  const std::string text = ToString(*exit);
  EXPECT_THAT(text, HasSubstr("triple-faulted"));
  EXPECT_THAT(text, HasSubstr("rip 0x"));
  EXPECT_THAT(text, HasSubstr("cr0 0x"));
}

TEST(VcpuTest, AnInternalErrorNamesTheInstructionThatCouldNotBeEmulated) {
  NESTBENCH_REQUIRE_KVM(device);
  // The instruction lies in MMIO space: every KVM has to emulate the fetch and gives up.
  auto guest = Guest::Create(*device, kHalt);
  ASSERT_OK(guest);
  auto sregs = guest->vcpu.GetSregs();
  ASSERT_OK(sregs);
  sregs->cs.base = 0x4000'0000;
  ASSERT_OK(guest->vcpu.SetSregs(*sregs));
  auto exit = guest->Run();
  ASSERT_OK(exit);
  const auto* error = std::get_if<InternalErrorExit>(&*exit);
  ASSERT_NE(error, nullptr) << ToString(*exit);
  ASSERT_NE(error->snapshot, nullptr);
  EXPECT_THAT(ToString(*exit), HasSubstr("KVM_EXIT_INTERNAL_ERROR: suberror"));
}

TEST(DeadlineTest, AGuestThatSpinsForEverIsStoppedInTime) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, kSpin);
  ASSERT_OK(guest);
  const auto begin = std::chrono::steady_clock::now();
  auto deadline = RunDeadline::Start(guest->vcpu, 50ms);
  ASSERT_OK(deadline);
  auto exit = guest->vcpu.Run();
  const auto took = std::chrono::steady_clock::now() - begin;
  ASSERT_OK(exit);
  EXPECT_TRUE(std::holds_alternative<InterruptedExit>(*exit)) << ToString(*exit);
  EXPECT_TRUE(deadline->Expired());
  EXPECT_GE(took, 50ms);
  EXPECT_LT(took, 2s);
}

TEST(DeadlineTest, AnExpiredDeadlineDoesNotEndTheNextRun) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, kHalt);
  ASSERT_OK(guest);
  {
    auto deadline = RunDeadline::Start(guest->vcpu, 1ms);
    ASSERT_OK(deadline);
    while (guest->vcpu.run()->immediate_exit == 0) std::this_thread::yield();
  }
  auto exit = guest->Run();
  ASSERT_OK(exit);
  EXPECT_TRUE(std::holds_alternative<HaltExit>(*exit)) << ToString(*exit);
}

TEST(DeadlineTest, OneThreadHasOneDeadlineAtATime) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, kHalt);
  ASSERT_OK(guest);
  auto first = RunDeadline::Start(guest->vcpu, 1s);
  ASSERT_OK(first);
  EXPECT_FALSE(RunDeadline::Start(guest->vcpu, 1s));
}

TEST(KickerTest, AnotherThreadStopsASpinningVcpu) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, kSpin);
  ASSERT_OK(guest);
  const VcpuKicker kicker = guest->vcpu.Kicker();
  std::thread other([&] {
    std::this_thread::sleep_for(20ms);
    kicker.Kick();
  });
  auto exit = guest->Run();
  other.join();
  ASSERT_OK(exit);
  EXPECT_TRUE(std::holds_alternative<InterruptedExit>(*exit)) << ToString(*exit);
}

TEST(KickerTest, AKickBeforeRunIsNotLostAndCountsOnce) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, kHalt);
  ASSERT_OK(guest);
  guest->vcpu.Kicker().Kick();
  auto exit = guest->vcpu.Run();
  ASSERT_OK(exit);
  EXPECT_TRUE(std::holds_alternative<InterruptedExit>(*exit)) << ToString(*exit);
  exit = guest->vcpu.Run();
  ASSERT_OK(exit);
  EXPECT_TRUE(std::holds_alternative<HaltExit>(*exit)) << ToString(*exit);
}

TEST(VcpuStateTest, WhatIsSetIsReadBack) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, kHalt);
  ASSERT_OK(guest);
  Vcpu& vcpu = guest->vcpu;

  auto regs = vcpu.GetRegs();
  ASSERT_OK(regs);
  regs->rbx = 0x0123'4567'89AB'CDEF;
  ASSERT_OK(vcpu.SetRegs(*regs));
  EXPECT_EQ(vcpu.GetRegs()->rbx, regs->rbx);

  auto fpu = vcpu.GetFpu();
  ASSERT_OK(fpu);
  fpu->xmm[3][5] = 0x77;
  ASSERT_OK(vcpu.SetFpu(*fpu));
  EXPECT_EQ(vcpu.GetFpu()->xmm[3][5], 0x77);

  auto debug = vcpu.GetDebugRegs();
  ASSERT_OK(debug);
  debug->db[1] = 0x1234;
  ASSERT_OK(vcpu.SetDebugRegs(*debug));
  EXPECT_EQ(vcpu.GetDebugRegs()->db[1], 0x1234U);

  auto area = vcpu.GetXsave();
  ASSERT_OK(area);
  EXPECT_GE(area->size(), 4096U);
  ASSERT_OK(vcpu.SetXsave(*area));

  auto events = vcpu.GetEvents();
  ASSERT_OK(events);
  ASSERT_OK(vcpu.SetEvents(*events));
}

TEST(VcpuStateTest, AnMsrIsReadBackAndAnUnknownOneIsNamed) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, kHalt);
  ASSERT_OK(guest);
  constexpr std::uint32_t kMsrKernelGsBase = 0xC000'0102;
  ASSERT_OK(guest->vcpu.WriteMsr(kMsrKernelGsBase, 0x1122'3344));
  auto value = guest->vcpu.ReadMsr(kMsrKernelGsBase);
  ASSERT_OK(value);
  EXPECT_EQ(*value, 0x1122'3344U);
  auto unknown = guest->vcpu.ReadMsr(0xDEAD'BEEF);
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().kind, ErrorKind::kUnsupported);
  EXPECT_THAT(unknown.error().ToString(), HasSubstr("0xdeadbeef"));
}

TEST(VcpuStateTest, CpuidAndXcr0OfTheHostAreAccepted) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, kHalt);
  ASSERT_OK(guest);
  auto policy = device->SupportedCpuid();
  ASSERT_OK(policy);
  policy->SetTopology(kFirst, 1);
  ASSERT_OK(guest->vcpu.SetCpuid(*policy));
  const std::uint64_t wanted = policy->SupportedXcr0() & (abi::x86::kXcr0X87 | abi::x86::kXcr0Sse | abi::x86::kXcr0Avx);
  ASSERT_OK(guest->vcpu.SetXcr0(wanted));
  auto xcrs = guest->vcpu.GetXcrs();
  ASSERT_OK(xcrs);
  ASSERT_GE(xcrs->nr_xcrs, 1U);
  EXPECT_EQ(xcrs->xcrs[0].value, wanted);
}

TEST(CpuidTest, TheHypervisorCanBeHidden) {
  NESTBENCH_REQUIRE_KVM(device);
  auto policy = device->SupportedCpuid();
  ASSERT_OK(policy);
  policy->HideHypervisor();
  EXPECT_EQ(policy->Find(0x4000'0000), nullptr);
  const kvm_cpuid_entry2* features = policy->Find(1);
  ASSERT_NE(features, nullptr);
  EXPECT_EQ(features->ecx >> 31, 0U);
}

TEST(KvmDeviceTest, ListsItsMsrs) {
  NESTBENCH_REQUIRE_KVM(device);
  auto msrs = device->MsrIndices();
  ASSERT_OK(msrs);
  EXPECT_FALSE(msrs->empty());
  ASSERT_OK(device->FeatureMsrIndices());
}

TEST(VmTest, ErrorsNameTheIoctlAndItsArgument) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, kHalt);
  ASSERT_OK(guest);
  auto again = Vcpu::Create(guest->vm, kFirst);
  ASSERT_FALSE(again);
  EXPECT_EQ(again.error().error_number, EEXIST);
  EXPECT_THAT(again.error().ToString(), HasSubstr("KVM_CREATE_VCPU (vCPU 0)"));
  auto slot = guest->vm.RemoveMemory(7);
  ASSERT_FALSE(slot);
  EXPECT_THAT(slot.error().ToString(), HasSubstr("slot 7"));
}

TEST(VmTest, SlotsAreUsedAgainAfterRemoval) {
  NESTBENCH_REQUIRE_KVM(device);
  auto vm = CreateVmWithCode(*device, kHalt);
  ASSERT_OK(vm);
  for (int round = 0; round < 3; ++round) {
    auto region = MemoryRegion::Create({abi::GuestPhysAddr(0x4000'0000), 0x4000}, {});
    ASSERT_OK(region);
    auto slot = vm->AddMemory(std::move(*region));
    ASSERT_OK(slot);
    EXPECT_EQ(*slot, 1U);
    ASSERT_OK(vm->RemoveMemory(*slot));
  }
}

TEST(VmTest, AWriteToAReadOnlySlotLeavesTheGuest) {
  NESTBENCH_REQUIRE_KVM(device);
  if (device->CheckCapability(KVM_CAP_READONLY_MEM) == 0) GTEST_SKIP() << "KVM_CAP_READONLY_MEM = 0";
  auto guest = Guest::Create(*device, {0xB8, 0xFF, 0xFF, 0x8E, 0xD8, 0xC6, 0x06, 0x10, 0x00, 0x5A});
  ASSERT_OK(guest);
  auto region = MemoryRegion::Create({abi::GuestPhysAddr(0x10'0000), 0x1000}, {.read_only_for_guest = true});
  ASSERT_OK(region);
  ASSERT_OK(guest->vm.AddMemory(std::move(*region)));
  auto exit = guest->Run();
  ASSERT_OK(exit);
  EXPECT_TRUE(std::holds_alternative<MmioExit>(*exit)) << ToString(*exit);
  EXPECT_EQ(*guest->vm.memory().Read<std::uint8_t>(abi::GuestPhysAddr(0x10'0000)), 0);
}

// mov byte [0x5000], 1; hlt
constexpr std::initializer_list<int> kDirtyOnePage = {0xC6, 0x06, 0x00, 0x50, 0x01, 0xF4};

TEST(DirtyLogTest, TheBitmapHoldsExactlyTheWrittenPageAndIsClearedByReading) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, kDirtyOnePage, true);
  ASSERT_OK(guest);
  auto exit = guest->Run();
  ASSERT_OK(exit);
  ASSERT_TRUE(std::holds_alternative<HaltExit>(*exit)) << ToString(*exit);
  auto log = guest->vm.GetDirtyLog(0);
  ASSERT_OK(log);
  EXPECT_EQ(log->pages(), testing::kMemoryBytes / abi::kPageBytes);
  EXPECT_TRUE(log->IsDirty(5));
  EXPECT_FALSE(log->IsDirty(6));
  EXPECT_EQ(log->CountDirty(), 1U);
  auto again = guest->vm.GetDirtyLog(0);
  ASSERT_OK(again);
  EXPECT_EQ(again->CountDirty(), 0U);
}

TEST(DirtyLogTest, WithManualProtectionReadingDoesNotClear) {
  NESTBENCH_REQUIRE_KVM(device);
  if (device->CheckCapability(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) == 0) {
    GTEST_SKIP() << "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 = 0";
  }
  auto guest = Guest::Create(*device, kDirtyOnePage);
  ASSERT_OK(guest);
  ASSERT_OK(guest->vm.EnableManualDirtyProtect());
  ASSERT_OK(guest->vm.SetDirtyLogging(0, true));
  ASSERT_OK(guest->Run());
  auto log = guest->vm.GetDirtyLog(0);
  ASSERT_OK(log);
  EXPECT_TRUE(log->IsDirty(5));
  EXPECT_TRUE(guest->vm.GetDirtyLog(0)->IsDirty(5));
  ASSERT_OK(guest->vm.ClearDirtyLog(0, *log));
  EXPECT_EQ(guest->vm.GetDirtyLog(0)->CountDirty(), 0U);
}

TEST(DirtyLogTest, TheRingNamesSlotAndPage) {
  NESTBENCH_REQUIRE_KVM(device);
  auto vm = CreateVmWithCode(*device, kDirtyOnePage, true);
  ASSERT_OK(vm);
  auto enabled = vm->EnableDirtyRing(4096);
  if (!enabled && enabled.error().kind == ErrorKind::kUnsupported) GTEST_SKIP() << enabled.error().ToString();
  ASSERT_OK(enabled);
  auto vcpu = Vcpu::Create(*vm, kFirst);
  ASSERT_OK(vcpu);
  ASSERT_OK(EnterRealMode(*vcpu));
  ASSERT_OK(vcpu->Run());
  std::vector<DirtyPage> pages(16);
  auto count = vcpu->HarvestDirtyRing(pages);
  ASSERT_OK(count);
  ASSERT_EQ(*count, 1U);
  EXPECT_EQ(pages[0].slot, 0U);
  EXPECT_EQ(pages[0].page, 5U);
  auto reset = vm->ResetDirtyRings();
  ASSERT_OK(reset);
  EXPECT_EQ(*reset, 1U);
  EXPECT_EQ(*vcpu->HarvestDirtyRing(pages), 0U);
}

TEST(IoEventTest, AMatchingOutSignalsTheEventAndDoesNotLeaveTheGuest) {
  NESTBENCH_REQUIRE_KVM(device);
  // mov dx, 0xB24; mov al, 7; out dx, al; mov al, 8; out dx, al; hlt
  auto guest = Guest::Create(*device, {0xBA, 0x24, 0x0B, 0xB0, 0x07, 0xEE, 0xB0, 0x08, 0xEE, 0xF4});
  ASSERT_OK(guest);
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  const IoEventMatch match{.is_port = true, .address = 0xB24, .width_bytes = 1, .match_value = true, .value = 7};
  ASSERT_OK(guest->vm.AttachIoEvent(event.get(), match));
  auto exit = guest->Run();
  ASSERT_OK(exit);
  const auto* io = std::get_if<IoExit>(&*exit);  // only the value that does not match comes here
  ASSERT_NE(io, nullptr) << ToString(*exit);
  EXPECT_EQ(io->data[0], std::byte{8});
  std::uint64_t count = 0;
  ASSERT_EQ(::read(event.get(), &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
  EXPECT_EQ(count, 1U);
  ASSERT_OK(guest->vm.DetachIoEvent(event.get(), match));
  EXPECT_FALSE(guest->vm.DetachIoEvent(event.get(), match));
}

TEST(InterruptTest, AnIrqFdWakesAHaltedGuestThroughTheInKernelController) {
  NESTBENCH_REQUIRE_KVM(device);
  // Real mode, interrupts off: the PIC is programmed (vector base 8, unmask IRQ 4), then sti; hlt. The handler at
  // 0x1100 (IVT entry 12) writes to port 0xB20.
  auto guest = [&]() -> Result<Vm> {
    auto vm = CreateVmWithCode(*device, {0xB0, 0x11, 0xE6, 0x20,    // mov al, 0x11; out 0x20 (ICW1)
                                         0xB0, 0x08, 0xE6, 0x21,    // ICW2: vector base 8
                                         0xB0, 0x04, 0xE6, 0x21,    // ICW3
                                         0xB0, 0x01, 0xE6, 0x21,    // ICW4: 8086 mode
                                         0xB0, 0xEF, 0xE6, 0x21,    // OCW1: only IRQ 4
                                         0xFB, 0xF4, 0xEB, 0xFD});  // sti; hlt; jmp to hlt
    if (!vm) return vm;
    if (auto done = testing::LoadCode(*vm, {0xBA, 0x20, 0x0B, 0xEE, 0xCF}, 0x1100); !done) return Fail(done.error());
    if (auto done = vm->memory().Write<std::uint32_t>(abi::GuestPhysAddr(12 * 4), 0x1100); !done)
      return Fail(done.error());
    return vm;
  }();
  ASSERT_OK(guest);
  ASSERT_OK(guest->CreateIrqChip());
  auto vcpu = Vcpu::Create(*guest, kFirst);
  ASSERT_OK(vcpu);
  ASSERT_OK(EnterRealMode(*vcpu));
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  ASSERT_OK(guest->AttachIrqFd(event.get(), 4));
  std::thread device_thread([&] {
    std::this_thread::sleep_for(20ms);
    const std::uint64_t one = 1;
    EXPECT_EQ(::write(event.get(), &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  });
  auto deadline = RunDeadline::Start(*vcpu, 5s);
  auto exit = vcpu->Run();
  device_thread.join();
  ASSERT_OK(deadline);
  ASSERT_OK(exit);
  const auto* io = std::get_if<IoExit>(&*exit);
  ASSERT_NE(io, nullptr) << ToString(*exit);
  EXPECT_EQ(io->port, 0xB20);
  ASSERT_OK(guest->DetachIrqFd(event.get(), 4));
}

TEST(InterruptTest, AnMsiIsTakenByAnEnabledLocalApic) {
  NESTBENCH_REQUIRE_KVM(device);
  auto vm = CreateVmWithCode(*device, kHalt);
  ASSERT_OK(vm);
  ASSERT_OK(vm->CreateIrqChip());
  auto vcpu = Vcpu::Create(*vm, kFirst);
  ASSERT_OK(vcpu);
  // Spurious-interrupt vector register, bit 8: APIC software enable. AMD APM, section "Spurious Interrupts".
  auto lapic = vcpu->GetLapic();
  ASSERT_OK(lapic);
  lapic->regs[0xF0] = static_cast<char>(0xFF);
  lapic->regs[0xF1] = 1;
  ASSERT_OK(vcpu->SetLapic(*lapic));
  auto delivered = vm->SignalMsi(0xFEE0'0000, 0x41);
  ASSERT_OK(delivered);
  EXPECT_EQ(*delivered, 1);
  lapic = vcpu->GetLapic();
  ASSERT_OK(lapic);
  // Vector 0x41 is bit 1 of the third 32-bit interrupt request register.
  EXPECT_EQ(lapic->regs[0x220] & 2, 2);
}

TEST(VmTest, SixtyFourVcpusRunEachOnItsOwnThread) {
  NESTBENCH_REQUIRE_KVM(device);
  constexpr std::uint32_t kVcpus = 64;
  if (device->CheckCapability(KVM_CAP_MAX_VCPUS) < static_cast<int>(kVcpus)) GTEST_SKIP() << "KVM_CAP_MAX_VCPUS < 64";
  auto vm = CreateVmWithCode(*device, {0xBA, 0x20, 0x0B, 0xEF});  // mov dx, 0xB20; out dx, ax
  ASSERT_OK(vm);
  std::atomic<std::uint64_t> seen{0};
  std::vector<std::string> errors(kVcpus);
  std::vector<std::thread> threads;
  for (std::uint32_t number = 0; number < kVcpus; ++number) {
    threads.emplace_back([&, number] {
      const auto run = [&]() -> Result<void> {
        auto vcpu = Vcpu::Create(*vm, abi::VcpuId{number});
        if (!vcpu) return Fail(vcpu.error());
        // Only the first vCPU is runnable after reset where there is an irqchip; here there is none.
        if (auto entered = EnterRealMode(*vcpu); !entered) return entered;
        auto regs = vcpu->GetRegs();
        if (!regs) return Fail(regs.error());
        regs->rax = number;
        if (auto set = vcpu->SetRegs(*regs); !set) return set;
        auto deadline = RunDeadline::Start(*vcpu, 20s);
        if (!deadline) return Fail(deadline.error());
        auto exit = vcpu->Run();
        if (!exit) return Fail(exit.error());
        const auto* io = std::get_if<IoExit>(&*exit);
        if (io == nullptr) return Fail(Error::Malformed("run", ToString(*exit)));
        seen.fetch_or(1ULL << std::to_integer<unsigned>(io->data[0]));
        return {};
      }();
      if (!run) errors[number] = run.error().ToString();
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const std::string& error : errors) EXPECT_EQ(error, "");
  EXPECT_EQ(seen.load(), ~0ULL);
}

TEST(StatsTest, ExitsAreCountedByName) {
  NESTBENCH_REQUIRE_KVM(device);
  if (device->CheckCapability(KVM_CAP_BINARY_STATS_FD) == 0) GTEST_SKIP() << "KVM_CAP_BINARY_STATS_FD = 0";
  auto guest = Guest::Create(*device, {0xE6, 0x10, 0xEB, 0xFC});  // out 0x10, al; jmp back
  ASSERT_OK(guest);
  auto stats = guest->vcpu.Stats();
  ASSERT_OK(stats);
  auto before = stats->Get("exits");
  ASSERT_OK(before);
  for (int i = 0; i < 10; ++i) ASSERT_OK(guest->Run());
  auto after = stats->Get("exits");
  ASSERT_OK(after);
  EXPECT_GE(*after - *before, 10U);
  auto unknown = stats->Get("no_such_statistic");
  ASSERT_FALSE(unknown);
  EXPECT_EQ(unknown.error().kind, ErrorKind::kUnsupported);
  auto all = stats->All();
  ASSERT_OK(all);
  EXPECT_TRUE(all->contains("exits"));
  ASSERT_OK(guest->vm.Stats());
}

TEST(ExitTest, EveryReasonOfTheHeadersHasItsName) {
  EXPECT_EQ(ExitReasonName(KVM_EXIT_IO), "KVM_EXIT_IO");
  EXPECT_EQ(ExitReasonName(KVM_EXIT_NOTIFY), "KVM_EXIT_NOTIFY");
  EXPECT_EQ(ExitReasonName(39), "KVM_EXIT_MEMORY_FAULT");
  EXPECT_EQ(ExitReasonName(4711), "KVM_EXIT_4711");
  EXPECT_THAT(ToString(Exit(ForeignExit{KVM_EXIT_S390_SIEIC})), HasSubstr("KVM_EXIT_S390_SIEIC"));
}

}  // namespace
}  // namespace nestbench::vmm
