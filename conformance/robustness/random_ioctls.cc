// Random sequences of ioctls on a VM and its vCPUs, in any order and with arguments that are half sensible: the process
// and the host survive, each ends in success or in a documented error, memory around the guest's is untouched, and a
// fresh guest still runs. Source: kernel document "The Definitive KVM API Documentation", API description.
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "../harness/random_test.h"

namespace nestbench::conformance {
namespace {

using namespace std::chrono_literals;

// What the argument is. A structure's content is random; what would make KVM allocate or wait without bound, or is an
// address of this process, is chosen from what is allowed and what is plainly wrong.
enum class Argument : std::uint8_t { kNone, kNumber, kStruct, kList, kRegion, kDirtyLog, kEventFd, kDescriptor };

struct Request {
  const char* name;
  unsigned long number;
  Argument argument;
};
#define NESTBENCH_REQUEST(name, argument) \
  { #name, static_cast<unsigned long>(name), Argument::argument }

constexpr Request kVmRequests[] = {
    NESTBENCH_REQUEST(KVM_CREATE_VCPU, kNumber),
    NESTBENCH_REQUEST(KVM_SET_USER_MEMORY_REGION, kRegion),
    NESTBENCH_REQUEST(KVM_GET_DIRTY_LOG, kDirtyLog),
    NESTBENCH_REQUEST(KVM_SET_TSS_ADDR, kNumber),
    NESTBENCH_REQUEST(KVM_CREATE_IRQCHIP, kNone),
    NESTBENCH_REQUEST(KVM_IRQ_LINE, kStruct),
    NESTBENCH_REQUEST(KVM_GET_IRQCHIP, kStruct),
    NESTBENCH_REQUEST(KVM_SET_IRQCHIP, kStruct),
    NESTBENCH_REQUEST(KVM_CREATE_PIT2, kStruct),
    NESTBENCH_REQUEST(KVM_GET_PIT2, kStruct),
    NESTBENCH_REQUEST(KVM_SET_PIT2, kStruct),
    NESTBENCH_REQUEST(KVM_IOEVENTFD, kEventFd),
    NESTBENCH_REQUEST(KVM_IRQFD, kEventFd),
    NESTBENCH_REQUEST(KVM_SIGNAL_MSI, kStruct),
    NESTBENCH_REQUEST(KVM_SET_GSI_ROUTING, kList),
    NESTBENCH_REQUEST(KVM_GET_CLOCK, kStruct),
    NESTBENCH_REQUEST(KVM_SET_CLOCK, kStruct),
    NESTBENCH_REQUEST(KVM_ENABLE_CAP, kList),
    NESTBENCH_REQUEST(KVM_SET_BOOT_CPU_ID, kNumber),
    NESTBENCH_REQUEST(KVM_SET_IDENTITY_MAP_ADDR, kStruct),
    NESTBENCH_REQUEST(KVM_SET_NR_MMU_PAGES, kNumber),
    NESTBENCH_REQUEST(KVM_CHECK_EXTENSION, kNumber),
    NESTBENCH_REQUEST(KVM_REINJECT_CONTROL, kStruct),
    NESTBENCH_REQUEST(KVM_RESET_DIRTY_RINGS, kNone),
    NESTBENCH_REQUEST(KVM_CREATE_DEVICE, kDescriptor),
    NESTBENCH_REQUEST(KVM_REGISTER_COALESCED_MMIO, kStruct),
    NESTBENCH_REQUEST(KVM_SET_PMU_EVENT_FILTER, kList),
    NESTBENCH_REQUEST(KVM_UNREGISTER_COALESCED_MMIO, kStruct),
};
constexpr Request kVcpuRequests[] = {
    NESTBENCH_REQUEST(KVM_RUN, kNone),
    NESTBENCH_REQUEST(KVM_GET_REGS, kStruct),
    NESTBENCH_REQUEST(KVM_SET_REGS, kStruct),
    NESTBENCH_REQUEST(KVM_GET_SREGS, kStruct),
    NESTBENCH_REQUEST(KVM_SET_SREGS, kStruct),
    NESTBENCH_REQUEST(KVM_GET_FPU, kStruct),
    NESTBENCH_REQUEST(KVM_SET_FPU, kStruct),
    NESTBENCH_REQUEST(KVM_GET_XSAVE, kStruct),
    NESTBENCH_REQUEST(KVM_SET_XSAVE, kStruct),
    NESTBENCH_REQUEST(KVM_GET_XCRS, kStruct),
    NESTBENCH_REQUEST(KVM_SET_XCRS, kList),
    NESTBENCH_REQUEST(KVM_GET_MSRS, kList),
    NESTBENCH_REQUEST(KVM_SET_MSRS, kList),
    NESTBENCH_REQUEST(KVM_GET_CPUID2, kList),
    NESTBENCH_REQUEST(KVM_SET_CPUID2, kList),
    NESTBENCH_REQUEST(KVM_GET_LAPIC, kStruct),
    NESTBENCH_REQUEST(KVM_SET_LAPIC, kStruct),
    NESTBENCH_REQUEST(KVM_GET_MP_STATE, kStruct),
    NESTBENCH_REQUEST(KVM_SET_MP_STATE, kList),
    NESTBENCH_REQUEST(KVM_GET_VCPU_EVENTS, kStruct),
    NESTBENCH_REQUEST(KVM_SET_VCPU_EVENTS, kStruct),
    NESTBENCH_REQUEST(KVM_GET_DEBUGREGS, kStruct),
    NESTBENCH_REQUEST(KVM_SET_DEBUGREGS, kStruct),
    NESTBENCH_REQUEST(KVM_SET_GUEST_DEBUG, kStruct),
    NESTBENCH_REQUEST(KVM_TRANSLATE, kStruct),
    NESTBENCH_REQUEST(KVM_INTERRUPT, kList),
    NESTBENCH_REQUEST(KVM_NMI, kNone),
    NESTBENCH_REQUEST(KVM_SMI, kNone),
    NESTBENCH_REQUEST(KVM_SET_TSC_KHZ, kNumber),
    NESTBENCH_REQUEST(KVM_GET_TSC_KHZ, kNone),
    NESTBENCH_REQUEST(KVM_KVMCLOCK_CTRL, kNone),
    NESTBENCH_REQUEST(KVM_TPR_ACCESS_REPORTING, kStruct),
    NESTBENCH_REQUEST(KVM_SET_VAPIC_ADDR, kStruct),
    NESTBENCH_REQUEST(KVM_X86_SETUP_MCE, kStruct),
    NESTBENCH_REQUEST(KVM_X86_SET_MCE, kStruct),
    NESTBENCH_REQUEST(KVM_GET_NESTED_STATE, kList),
    NESTBENCH_REQUEST(KVM_SET_NESTED_STATE, kStruct),
    NESTBENCH_REQUEST(KVM_GET_SREGS2, kStruct),
    NESTBENCH_REQUEST(KVM_SET_SREGS2, kStruct),
    NESTBENCH_REQUEST(KVM_ENABLE_CAP, kList),
};

class RandomIoctls : public RandomTest {
 protected:
  static constexpr std::size_t kScratchBytes = 0x1'0000;  // more than any structure or list of 64 entries

  void SetUp() override {
    RandomTest::SetUp();
    event_ = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    scratch_.resize(kScratchBytes);
  }
  void TearDown() override {
    RandomTest::TearDown();
    if (event_ >= 0) ::close(event_);
  }

  // One ioctl; what it ended with is counted, and must be a success or an error that a document or errno(3) explains.
  void Try(int fd, const Request& request, Box& box) {
    last_ = last_.size() > 400 ? last_.substr(last_.size() - 400) : last_;
    last_ += std::string(" ") + request.name;
    int error = 0;
    if (request.argument == Argument::kNone || request.argument == Argument::kNumber) {
      const std::uint64_t number = request.argument == Argument::kNone ? 0 : Below(3) == 0 ? Next() : Below(64);
      error = ErrorOf(fd, request.number, static_cast<unsigned long>(number));
    } else {
      WriteArgument(request, box);
      error = Below(16) == 0 ? ErrorOf(fd, request.number, nullptr) : ErrorOf(fd, request.number, scratch_.data());
    }
    ++seen_[error == 0 ? "success" : ::strerrorname_np(error) == nullptr ? "unnamed" : ::strerrorname_np(error)];
    EXPECT_TRUE(FailsWith(
        error, {0,   EINVAL, EEXIST, EFAULT,     ENOENT, ENXIO, EPERM, ENOTTY, E2BIG,  EBUSY,   ENOMEM, EINTR, EAGAIN,
                EIO, ENODEV, ENOSPC, EOPNOTSUPP, ENOSYS, EBADF, EINTR, ESRCH,  ERANGE, ENOEXEC, EACCES, EFBIG}))
        << "round " << rounds_ << ", the last ones:" << last_;
    if (request.argument == Argument::kDescriptor && error == 0) {
      kvm_create_device device = {};
      std::memcpy(&device, scratch_.data(), sizeof(device));
      if (static_cast<int>(device.fd) > 2 && (device.flags & KVM_CREATE_DEVICE_TEST) == 0) {
        ::close(static_cast<int>(device.fd));
      }
    }
  }

  void Sequences(bool has_chip, int vcpus) {
    while (Again(200)) {
      auto box = MakeBox(Below(2) == 0 ? BoxMode::kReal16 : BoxMode::kSupervisor64);
      ASSERT_TRUE(box);
      Fill(box->memory().data() + Box::kCode, 0x100);
      last_ = "";
      // The chip comes before the vCPUs, so in another VM than the box's.
      auto other = vmm::Vm::Create(device());
      ASSERT_TRUE(other) << other.error().ToString();
      if (has_chip) ErrorOf(other->fd(), KVM_CREATE_IRQCHIP);
      std::vector<vmm::Vcpu> more;
      for (int id = 0; id < vcpus; ++id) {
        auto vcpu = vmm::Vcpu::Create(*other, abi::VcpuId(static_cast<std::uint32_t>(id)));
        if (vcpu) more.push_back(std::move(*vcpu));
      }
      for (std::uint64_t step = 0, steps = 1 + Below(60); step < steps; ++step) {
        vmm::Vcpu& vcpu = more.empty() || Below(2) == 0 ? box->vcpu() : more[Below(more.size())];
        if (Below(3) == 0) {
          Try(&vcpu == &box->vcpu() ? box->vm().fd() : other->fd(), kVmRequests[Below(std::size(kVmRequests))], *box);
          continue;
        }
        auto deadline = vmm::RunDeadline::Start(vcpu, 5ms);
        ASSERT_TRUE(deadline) << deadline.error().ToString();
        Try(vcpu.fd(), kVcpuRequests[Below(4) == 0 ? 0 : Below(std::size(kVcpuRequests))], *box);
      }
      ASSERT_TRUE(box->CanariesIntact()) << "round " << rounds_ << ", the last ones:" << last_;
      if (HasFailure()) return;
    }
  }

 private:
  template <typename T>
  void Set(const T& value) {
    std::memcpy(scratch_.data(), &value, sizeof(value));
  }

  void WriteArgument(const Request& request, Box& box) {
    const std::size_t bytes = _IOC_SIZE(request.number);
    Fill(scratch_.data(), std::max<std::size_t>(bytes, 256));
    switch (request.argument) {
      case Argument::kList:  // the number of entries, or a small number, is the first word
        Set(static_cast<std::uint32_t>(Below(64)));
        if (Below(2) == 0) std::memset(scratch_.data() + 4, 0, 4);
        break;
      case Argument::kRegion: {
        // Always inside the box's memory or nowhere: what else is mapped here is no guest's.
        const std::uint64_t page = Below(Box::kBytes / 4096);
        const std::uint64_t host = reinterpret_cast<std::uint64_t>(box.memory().data()) + page * 4096;
        Set(kvm_userspace_memory_region{
            .slot = static_cast<std::uint32_t>(Below(4) == 0 ? Next() : Below(8)),
            .flags = static_cast<std::uint32_t>(Below(8) == 0 ? Next() : Below(4)),
            .guest_phys_addr = Below(4) == 0 ? Next() : Below(64) * 4096,
            .memory_size = Below(8) == 0 ? ~Below(0x10000) : Below(Box::kBytes / 4096 - page + 1) * 4096,
            .userspace_addr = Below(4) == 0 ? ~Below(1ULL << 40) : host});
        break;
      }
      case Argument::kDirtyLog: {
        kvm_dirty_log log = {};
        log.slot = static_cast<std::uint32_t>(Below(4) == 0 ? Next() : Below(8));
        log.dirty_bitmap = Below(4) == 0 ? nullptr : scratch_.data() + kScratchBytes / 2;
        Set(log);
        break;
      }
      case Argument::kEventFd:
        if (request.number == KVM_IRQFD) {
          Set(kvm_irqfd{.fd = static_cast<std::uint32_t>(Below(4) == 0 ? -1 : event_),
                        .gsi = static_cast<std::uint32_t>(Below(4) == 0 ? Next() : Below(32)),
                        .flags = static_cast<std::uint32_t>(Below(4) == 0 ? Next() : Below(2)),
                        .resamplefd = static_cast<std::uint32_t>(event_),
                        .pad = {}});
        } else {
          kvm_ioeventfd event = {};
          event.addr = Below(0x100);
          event.len = static_cast<std::uint32_t>(Below(10));
          event.fd = Below(4) == 0 ? -1 : event_;
          event.flags = static_cast<std::uint32_t>(Below(16));
          Set(event);
        }
        break;
      case Argument::kDescriptor:
        Set(kvm_create_device{
            .type = static_cast<std::uint32_t>(Below(16)), .fd = 0, .flags = static_cast<std::uint32_t>(Below(4))});
        break;
      default:
        break;
    }
  }

  int event_ = -1;
  std::vector<std::byte> scratch_;
  std::string last_;
};

NESTBENCH_CONDITION(robustness, RandomIoctls, OnAVmAndItsVcpu, "KVM API, API description") { Sequences(false, 0); }
NESTBENCH_CONDITION(robustness, RandomIoctls, OnVmsWithAndWithoutVcpus, "KVM API, API description") {
  Sequences(false, 3);
}
NESTBENCH_CONDITION(robustness, RandomIoctls, OnVmsWithAnInKernelChip, "KVM API, API description; KVM_CREATE_IRQCHIP") {
  Sequences(true, 2);
}

}  // namespace
}  // namespace nestbench::conformance
