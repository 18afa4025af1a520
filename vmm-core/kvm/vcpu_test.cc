// One vCPU: its exits, deadlines and kicks, its state, and its statistics.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

#include "nestbench/abi/x86.h"
#include "nestbench/vmm/kvm/capabilities.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"
#include "real_mode_guest.h"

namespace nestbench::vmm {
namespace {

using namespace std::chrono_literals;
using testing::Guest;
using ::testing::HasSubstr;
using testing::kFirst;
using testing::kHalt;
using testing::kSpin;

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

TEST(VcpuStateTest, Xcr0IsReadBack) {
  NESTBENCH_REQUIRE_KVM(device);
  auto guest = Guest::Create(*device, kHalt);
  ASSERT_OK(guest);
  auto policy = device->SupportedCpuid();
  ASSERT_OK(policy);
  ASSERT_OK(guest->vcpu.SetCpuid(*policy));
  // Not SupportedXcr0(): where KVM does not offer XSAVE to a guest that is the value a vCPU starts with, which proves
  // nothing. KVM_SET_XCRS goes by leaf 0xD alone.
  constexpr std::uint64_t kWithSse = abi::x86::kXcr0X87 | abi::x86::kXcr0Sse;
  const kvm_cpuid_entry2* xsave = policy->Find(0xD, 0);
  if (xsave == nullptr || (xsave->eax & kWithSse) != kWithSse) GTEST_SKIP() << "CPUID leaf 0xD offers no SSE state";
  for (const std::uint64_t value : {kWithSse, std::uint64_t{abi::x86::kXcr0X87}}) {
    ASSERT_OK(guest->vcpu.SetXcr0(value));
    auto xcrs = guest->vcpu.GetXcrs();
    ASSERT_OK(xcrs);
    EXPECT_EQ(xcrs->xcrs[0].value, value);
  }
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
