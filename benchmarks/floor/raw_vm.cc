#include "nestbench/floor/raw_vm.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

namespace nestbench::floor {

RawError::RawError(const std::string& operation, int error_number)
    : std::runtime_error(operation + ": " + std::strerror(error_number)), error_number_(error_number) {}

int RawIoctl(int fd, unsigned long request, unsigned long argument, const char* name) {
  const int result = ::ioctl(fd, request, argument);
  if (result < 0) throw RawError(name, errno);
  return result;
}

void RawFd::Close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

RawKvm::RawKvm() : fd_(::open("/dev/kvm", O_RDWR | O_CLOEXEC)) {
  if (fd_.get() < 0) throw RawError("open (/dev/kvm)", errno);
  run_bytes_ = static_cast<std::size_t>(RawIoctl(fd_.get(), KVM_GET_VCPU_MMAP_SIZE, 0UL, "KVM_GET_VCPU_MMAP_SIZE"));
}

RawVm::RawVm(const RawKvm& kvm) : run_bytes_(kvm.run_bytes()) {
  int fd = -1;
  do {  // creating a VM takes locks that a signal may interrupt
    fd = ::ioctl(kvm.fd(), KVM_CREATE_VM, 0);
  } while (fd < 0 && errno == EINTR);
  if (fd < 0) throw RawError("KVM_CREATE_VM", errno);
  fd_.Set(fd);
}

RawVm::~RawVm() {
  if (run_ != nullptr) ::munmap(run_, run_bytes_);
  vcpu_fd_.Close();
  fd_.Close();
  for (const Memory& memory : memory_) ::munmap(memory.host, memory.size_bytes);
}

std::byte* RawVm::AddMemory(std::uint32_t slot, std::uint64_t start, std::uint64_t size_bytes, std::uint32_t flags) {
  void* host = ::mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (host == MAP_FAILED) throw RawError("mmap", errno);
  ::madvise(host, size_bytes, MADV_NOHUGEPAGE);
  memory_.push_back({slot, start, static_cast<std::byte*>(host), size_bytes});
  SetSlotFlags(slot, flags);
  return memory_.back().host;
}

void RawVm::SetSlotFlags(std::uint32_t slot, std::uint32_t flags) {
  const auto found = std::find_if(memory_.begin(), memory_.end(), [slot](const Memory& m) { return m.slot == slot; });
  if (found == memory_.end()) throw RawError("change memory slot", EINVAL);
  kvm_userspace_memory_region region = {};
  region.slot = slot;
  region.flags = flags;
  region.guest_phys_addr = found->start;
  region.memory_size = found->size_bytes;
  region.userspace_addr = reinterpret_cast<std::uint64_t>(found->host);
  RawIoctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
}

void RawVm::RemoveMemory(std::uint32_t slot) {
  const auto found = std::find_if(memory_.begin(), memory_.end(), [slot](const Memory& m) { return m.slot == slot; });
  if (found == memory_.end()) throw RawError("remove memory slot", EINVAL);
  kvm_userspace_memory_region region = {};
  region.slot = slot;
  RawIoctl(fd_.get(), KVM_SET_USER_MEMORY_REGION, &region, "KVM_SET_USER_MEMORY_REGION");
  ::munmap(found->host, found->size_bytes);
  memory_.erase(found);
}

void RawVm::CreateVcpu() {
  vcpu_fd_.Set(RawIoctl(fd_.get(), KVM_CREATE_VCPU, 0UL, "KVM_CREATE_VCPU"));
  void* run = ::mmap(nullptr, run_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd_.get(), 0);
  if (run == MAP_FAILED) throw RawError("mmap (kvm_run)", errno);
  run_ = static_cast<kvm_run*>(run);
}

void RawVm::EnterRealMode(std::uint64_t address) {
  kvm_sregs sregs = {};
  RawIoctl(vcpu_fd_.get(), KVM_GET_SREGS, &sregs, "KVM_GET_SREGS");
  for (kvm_segment* segment : {&sregs.cs, &sregs.ds, &sregs.es, &sregs.ss}) {
    segment->base = 0;
    segment->selector = 0;
  }
  RawIoctl(vcpu_fd_.get(), KVM_SET_SREGS, &sregs, "KVM_SET_SREGS");
  kvm_regs regs = {};
  regs.rip = address;
  regs.rsp = address;
  regs.rflags = 2;
  RawIoctl(vcpu_fd_.get(), KVM_SET_REGS, &regs, "KVM_SET_REGS");
}

std::string RawVm::DescribeLastExit() const {
  if (run_->immediate_exit != 0) return "it did not leave the guest in time";
  switch (run_->exit_reason) {
    case KVM_EXIT_IO:
      return "it accessed port " + std::to_string(run_->io.port);
    case KVM_EXIT_MMIO:
      return "it accessed address " + std::to_string(run_->mmio.phys_addr);
    case KVM_EXIT_INTERNAL_ERROR:
      return "KVM_EXIT_INTERNAL_ERROR, suberror " + std::to_string(run_->internal.suberror);
    default:
      return "exit reason " + std::to_string(run_->exit_reason) + " of KVM_RUN";
  }
}

}  // namespace nestbench::floor
