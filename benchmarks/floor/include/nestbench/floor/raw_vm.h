// A VM of one vCPU in raw ioctls: the twin of vmm-core's KvmDevice, Vm and Vcpu for measurements, and nothing more.
//
// Source: kernel document "The Definitive KVM API Documentation". Guests are trusted. Construction and set-up throw
// RawError; RunTo... do not throw. Everything is used from one thread.
#pragma once

#include <sys/ioctl.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "nestbench/floor/linux_kvm.h"

namespace nestbench::floor {

// A call that failed: "KVM_CREATE_VM: Permission denied".
class RawError : public std::runtime_error {
 public:
  RawError(const std::string& operation, int error_number);
  [[nodiscard]] int error_number() const { return error_number_; }

 private:
  int error_number_;
};

// ioctl that throws RawError.
int RawIoctl(int fd, unsigned long request, unsigned long argument, const char* name);
template <typename T>
int RawIoctl(int fd, unsigned long request, T* argument, const char* name) {
  return RawIoctl(fd, request, reinterpret_cast<unsigned long>(argument), name);
}

// A descriptor that closes itself.
class RawFd {
 public:
  explicit RawFd(int fd = -1) : fd_(fd) {}
  ~RawFd() { Close(); }
  RawFd(const RawFd&) = delete;
  RawFd& operator=(const RawFd&) = delete;
  void Set(int fd) {
    Close();
    fd_ = fd;
  }
  void Close();
  [[nodiscard]] int get() const { return fd_; }

 private:
  int fd_;
};

// /dev/kvm.
class RawKvm {
 public:
  RawKvm();
  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] std::size_t run_bytes() const { return run_bytes_; }

 private:
  RawFd fd_;
  std::size_t run_bytes_ = 0;
};

class RawVm {
 public:
  explicit RawVm(const RawKvm& kvm);
  ~RawVm();  // the vCPU, the VM, then its memory
  RawVm(const RawVm&) = delete;
  RawVm& operator=(const RawVm&) = delete;

  // Maps `size_bytes` of zeroes in 4 KiB pages behind guest-physical `start`. Returns the host address.
  std::byte* AddMemory(std::uint32_t slot, std::uint64_t start, std::uint64_t size_bytes, std::uint32_t flags = 0);
  void RemoveMemory(std::uint32_t slot);
  void SetSlotFlags(std::uint32_t slot, std::uint32_t flags);

  void CreateVcpu();
  // Real mode, flat segments from 0, at `address`.
  void EnterRealMode(std::uint64_t address);

  // One entry. Whether the guest left it by a write of 4 bytes to this port or address.
  [[nodiscard]] bool RunToPortWrite(std::uint16_t port) {
    return ::ioctl(vcpu_fd_.get(), KVM_RUN, 0) == 0 && run_->exit_reason == KVM_EXIT_IO &&
           run_->io.direction == KVM_EXIT_IO_OUT && run_->io.port == port && run_->io.size == 4;
  }
  [[nodiscard]] bool RunToMmioWrite(std::uint64_t address) {
    return ::ioctl(vcpu_fd_.get(), KVM_RUN, 0) == 0 && run_->exit_reason == KVM_EXIT_MMIO && run_->mmio.is_write != 0 &&
           run_->mmio.phys_addr == address && run_->mmio.len == 4;
  }

  // After one of them was false: why the last entry ended, in words.
  [[nodiscard]] std::string DescribeLastExit() const;

  [[nodiscard]] int fd() const { return fd_.get(); }
  [[nodiscard]] int vcpu_fd() const { return vcpu_fd_.get(); }
  [[nodiscard]] kvm_run* run() const { return run_; }

 private:
  struct Memory {
    std::uint32_t slot;
    std::uint64_t start;
    std::byte* host;
    std::size_t size_bytes;
  };

  std::size_t run_bytes_;
  std::vector<Memory> memory_;
  RawFd fd_;
  RawFd vcpu_fd_;
  kvm_run* run_ = nullptr;
};

}  // namespace nestbench::floor
