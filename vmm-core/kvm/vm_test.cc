// The device, a VM and its slots, what reaches it from outside, and many vCPUs at once.
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
#include "nestbench/vmm/kvm/capabilities.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"
#include "real_mode_guest.h"

namespace nestbench::vmm {
namespace {

using namespace std::chrono_literals;
using testing::CreateVmWithCode;
using testing::EnterRealMode;
using testing::Guest;
using ::testing::HasSubstr;
using testing::kFirst;
using testing::kHalt;

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

TEST(VmTest, ASlotMayBeginWhereAnotherEnds) {
  NESTBENCH_REQUIRE_KVM(device);
  // mov ax, 0xFFFF; mov ds, ax; mov al, [0x10] -> guest-physical 0x100000; out 0x10, al
  auto guest = Guest::Create(*device, {0xB8, 0xFF, 0xFF, 0x8E, 0xD8, 0xA0, 0x10, 0x00, 0xE6, 0x10});
  ASSERT_OK(guest);
  auto region = MemoryRegion::Create({abi::GuestPhysAddr(testing::kMemoryBytes), 0x1000}, {});
  ASSERT_OK(region);
  region->bytes()[0] = std::byte{0x5A};
  ASSERT_OK(guest->vm.AddMemory(std::move(*region)));
  auto exit = guest->Run();
  ASSERT_OK(exit);
  const auto* io = std::get_if<IoExit>(&*exit);
  ASSERT_NE(io, nullptr) << ToString(*exit);
  EXPECT_EQ(io->data[0], std::byte{0x5A});
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

}  // namespace
}  // namespace nestbench::vmm
