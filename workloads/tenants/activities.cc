#include "activities.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"

namespace nestbench::tenants {
namespace {

constexpr std::uint64_t kVmBytes = 1 << 20;
constexpr std::size_t kMostProcesses = 256;  // at once, where no limit stops it: the host is not ours to bring down

}  // namespace

vmm::Result<> ChurnVm(const vmm::KvmDevice& device) {
  auto vm = vmm::Vm::Create(device);
  if (!vm) return vmm::Fail(std::move(vm.error()));
  auto region = vmm::MemoryRegion::Create({abi::GuestPhysAddr(0), kVmBytes}, {});
  if (!region) return vmm::Fail(std::move(region.error()));
  if (auto slot = vm->AddMemory(std::move(*region)); !slot) return vmm::Fail(std::move(slot.error()));
  auto vcpu = vmm::Vcpu::Create(*vm, abi::VcpuId{0});
  if (!vcpu) return vmm::Fail(std::move(vcpu.error()));
  return {};
}

vmm::Result<> ChurnProcesses(const vmm::KvmDevice* device) {
  std::vector<pid_t> started;
  const pid_t self = ::getpid();
  while (started.size() < kMostProcesses) {
    const pid_t pid = ::fork();
    if (pid < 0) break;
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (::getppid() == self && device != nullptr) (void)ChurnVm(*device);  // it may run into a limit as well
      ::_exit(0);
    }
    started.push_back(pid);
  }
  for (const pid_t pid : started) {
    while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  return {};
}

}  // namespace nestbench::tenants
