// A VM belongs to the process that created it, and what it held goes with it. Source: kernel document "The Definitive
// KVM API Documentation", API description (VM ioctls from another process fail with EIO), KVM_IOEVENTFD, KVM_IRQFD.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "../harness/box_test.h"

namespace nestbench::conformance {
namespace {

class OwningProcess : public BoxTest {
 protected:
  static long ResidentPages() {
    long size = 0;
    long resident = -1;
    std::FILE* file = std::fopen("/proc/self/statm", "re");
    if (file == nullptr) return -1;
    const int fields = std::fscanf(file, "%ld %ld", &size, &resident);
    std::fclose(file);
    return fields == 2 ? resident : -1;
  }

  // What `act` returns in a forked child, below 256.
  template <typename Act>
  static int InAChild(Act act) {
    const pid_t child = ::fork();
    if (child == 0) ::_exit(act());
    int status = 0;
    EXPECT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status));
    return WEXITSTATUS(status);
  }

  std::optional<Box> Writer() {
    auto box = MakeBox(BoxMode::kReal16);
    if (!box) return box;
    constexpr std::uint8_t kCode[] = {0xE6, 0x10, 0xEB, 0xFC};  // out 0x10, al; jmp back
    box->Load(std::as_bytes(std::span(kCode)));
    return box;
  }
};

NESTBENCH_CONDITION(isolation, OwningProcess, AVmIsNotUsedFromAnotherProcess,
                    "KVM API, API description: VM ioctls from the process that created the VM; EIO") {
  auto box = Writer();
  if (!box) return;
  const int error = InAChild([&box] { return ErrorOf(box->vm().fd(), KVM_CREATE_VCPU, 1UL); });
  EXPECT_TRUE(FailsWith(error, {EIO}));
  EXPECT_EQ(box->RunToPort().port, 0x10) << "and it still runs here";
}

NESTBENCH_CONDITION(isolation, OwningProcess, AVcpuIsNotUsedFromAnotherProcess,
                    "KVM API, API description; virt/kvm/kvm_main.c, kvm_vcpu_ioctl: EIO") {
  auto box = Writer();
  if (!box) return;
  kvm_regs regs = {};
  EXPECT_TRUE(FailsWith(InAChild([&] { return ErrorOf(box->vcpu().fd(), KVM_GET_REGS, &regs); }), {EIO}));
  EXPECT_TRUE(FailsWith(InAChild([&] { return ErrorOf(box->vcpu().fd(), KVM_RUN); }), {EIO}));
}

NESTBENCH_CONDITION(isolation, OwningProcess, DescriptorsAreClosedOnExec,
                    "virt/kvm/kvm_main.c, kvm_dev_ioctl_create_vm and create_vcpu_fd: O_CLOEXEC") {
  auto box = Writer();
  if (!box) return;
  EXPECT_NE(::fcntl(box->vm().fd(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::fcntl(box->vcpu().fd(), F_GETFD) & FD_CLOEXEC, 0);
}

NESTBENCH_CONDITION(isolation, OwningProcess, MemoryOfADestroyedVmIsReturned,
                    "KVM API, KVM_CREATE_VM: a VM's resources go with its last descriptor; munmap(2)") {
  constexpr std::size_t kBytes = 32U << 20;
  constexpr long kPages = kBytes / 4096;
  const long before = ResidentPages();
  {
    auto box = Writer();
    if (!box) return;
    auto region = vmm::MemoryRegion::Create({abi::GuestPhysAddr(0x100'0000), kBytes}, {});
    ASSERT_TRUE(region);
    std::memset(region->bytes().data(), 1, kBytes);
    ASSERT_EQ(box->SetSlot(1, 0x100'0000, region->bytes()), 0);
    ASSERT_EQ(box->RunToPort().port, 0x10);
    EXPECT_GE(ResidentPages() - before, kPages);
  }
  const long left = ResidentPages() - before;
  Evidence("pages_left", left);
  EXPECT_LT(left, kPages / 16);
}

NESTBENCH_CONDITION(isolation, OwningProcess, TheEventOfOneVmIsNotSignalledByAnother,
                    "KVM API, KVM_IOEVENTFD: a write of that guest to the registered address") {
  auto owner = Writer();
  auto other = Writer();
  if (!owner || !other) return;
  const int event = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  ASSERT_TRUE(owner->vm().AttachIoEvent(event, {.is_port = true, .address = 0x10, .width_bytes = 1}));
  EXPECT_EQ(other->RunToPort().port, 0x10) << "to user space, as without an event";
  std::uint64_t count = 0;
  EXPECT_TRUE(::read(event, &count, sizeof(count)) < 0 && errno == EAGAIN);
  ::close(event);
}

NESTBENCH_CONDITION(isolation, OwningProcess, TheEventOfADestroyedVmIsDead,
                    "KVM API, KVM_IOEVENTFD and KVM_IRQFD; virt/kvm/eventfd.c, kvm_irqfd_release") {
  const int event = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  {
    auto owner = Writer();
    if (!owner) return;
    ASSERT_TRUE(owner->vm().AttachIoEvent(event, {.is_port = true, .address = 0x10, .width_bytes = 1}));
  }
  auto later = Writer();
  if (!later) return;
  EXPECT_EQ(later->RunToPort().port, 0x10);
  std::uint64_t count = 0;
  EXPECT_TRUE(::read(event, &count, sizeof(count)) < 0 && errno == EAGAIN);
  ::close(event);
}

}  // namespace
}  // namespace nestbench::conformance
