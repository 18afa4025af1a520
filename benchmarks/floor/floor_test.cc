// The floor runs a guest as vmm-core does: same privilege, same ways out. What it costs is for nestbench_micro.
#include <elf.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <initializer_list>
#include <memory>
#include <vector>

#include "nestbench/floor/raw_alarm.h"
#include "nestbench/floor/raw_user_vm.h"

namespace nestbench::floor {
namespace {

using namespace std::chrono_literals;

std::vector<std::byte> ImageOf(std::initializer_list<int> code) {
  Elf64_Ehdr header = {};
  std::memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_entry = abi::kImageBase;
  header.e_phoff = sizeof(header);
  header.e_phnum = 1;
  Elf64_Phdr segment = {};
  segment.p_type = PT_LOAD;
  segment.p_flags = PF_R | PF_X;
  segment.p_offset = sizeof(header) + sizeof(segment);
  segment.p_vaddr = abi::kImageBase;
  segment.p_filesz = segment.p_memsz = code.size();
  std::vector<std::byte> file(segment.p_offset + code.size());
  std::memcpy(file.data(), &header, sizeof(header));
  std::memcpy(file.data() + sizeof(header), &segment, sizeof(segment));
  std::size_t at = segment.p_offset;
  for (const int value : code) file[at++] = static_cast<std::byte>(value);
  return file;
}

class RawUserVmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      kvm_ = std::make_unique<RawKvm>();
    } catch (const RawError& error) {
      GTEST_SKIP() << error.what();
    }
  }
  std::unique_ptr<RawKvm> kvm_;
};

TEST_F(RawUserVmTest, RunsAtCpl3AndRingsByPortAndByPage) {
  // mov edx, 0xB20; mov ecx, 0xD0000000; out dx, eax; mov [rcx], eax; jmp to the out
  RawUserVm guest(*kvm_, ImageOf({0xBA, 0x20, 0x0B, 0, 0, 0xB9, 0, 0, 0, 0xD0, 0xEF, 0x89, 0x01, 0xEB, 0xFB}));
  const RawAlarm alarm(guest.vm().run(), 5s);
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(guest.RunToDoorbellPort()) << guest.vm().DescribeLastExit();
    ASSERT_TRUE(guest.RunToDoorbellPage()) << guest.vm().DescribeLastExit();
  }
  kvm_sregs sregs = {};
  RawIoctl(guest.vm().vcpu_fd(), KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
  EXPECT_EQ(sregs.cs.selector & 3, 3);
}

TEST_F(RawUserVmTest, TheFaultPageIsHandledInsideTheGuest) {
  // lea rcx, [rip+7]; mov eax, 0xC0000000; mov eax, [rax]; (rcx:) mov edx, 0xB20; out dx, eax
  RawUserVm guest(*kvm_, ImageOf({0x48, 0x8D, 0x0D, 0x07, 0, 0,    0,    0xB8, 0, 0, 0, 0xC0, 0x8B, 0x00,  //
                                  0xBA, 0x20, 0x0B, 0,    0, 0xEF, 0xEB, 0xFE}));
  const RawAlarm alarm(guest.vm().run(), 5s);
  EXPECT_TRUE(guest.RunToDoorbellPort()) << guest.vm().DescribeLastExit();
}

TEST_F(RawUserVmTest, EventsAreSignalledInTheKernel) {
  RawUserVm guest(*kvm_, ImageOf({0xBA, 0x24, 0x0B, 0, 0, 0xEF, 0xB8, 0x00, 0x10, 0x00, 0xD0, 0x89, 0x00,  //
                                  0xBA, 0x20, 0x0B, 0, 0, 0xEF, 0xEB, 0xFE}));
  const RawFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  guest.AttachEvent(event.get());
  const RawAlarm alarm(guest.vm().run(), 5s);
  ASSERT_TRUE(guest.RunToDoorbellPort()) << guest.vm().DescribeLastExit();
  std::uint64_t count = 0;
  ASSERT_EQ(::read(event.get(), &count, sizeof(count)), static_cast<ssize_t>(sizeof(count)));
  EXPECT_EQ(count, 2U);
}

TEST_F(RawUserVmTest, AnExceptionEndsTheRunWithAWord) {
  RawUserVm guest(*kvm_, ImageOf({0x0F, 0x0B}));  // ud2
  const RawAlarm alarm(guest.vm().run(), 5s);
  EXPECT_FALSE(guest.RunToDoorbellPort());
  EXPECT_EQ(guest.vm().DescribeLastExit(), "it accessed port " + std::to_string(abi::kPanicPort));
}

TEST_F(RawUserVmTest, TheAlarmStopsAGuestThatSpins) {
  RawUserVm guest(*kvm_, ImageOf({0xEB, 0xFE}));
  const RawAlarm alarm(guest.vm().run(), 30ms);
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(guest.RunToDoorbellPort());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 5s);
  EXPECT_EQ(guest.vm().DescribeLastExit(), "it did not leave the guest in time");
}

TEST_F(RawUserVmTest, RefusesWhatIsNoImage) {
  const std::vector<std::byte> garbage(4096, std::byte{0x41});
  EXPECT_THROW(RawUserVm(*kvm_, garbage), RawError);
}

}  // namespace
}  // namespace nestbench::floor
