// What is left of a VM after its end, by close or by execve, and of a guest's breakpoints outside it.
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <string>

#include "../harness/box_test.h"

NESTBENCH_GUEST_CODE(WriteOverAndOver, "1: mov %rax, 0xC000\n out %al, $0x10\n jmp 1b")

namespace nestbench::conformance {
namespace {

using namespace abi::x86;

class EndedVms : public CodeTest {
 protected:
  static constexpr std::uint32_t kLine = 5;

  // How many descriptors of a process are VMs, vCPUs or the device.
  static int KvmDescriptors(pid_t process) {
    const std::string folder = "/proc/" + std::to_string(process) + "/fd";
    DIR* open = ::opendir(folder.c_str());
    if (open == nullptr) return -1;
    int count = 0;
    while (const dirent* entry = ::readdir(open)) {
      std::array<char, 256> target = {};
      const ssize_t length = ::readlink((folder + "/" + entry->d_name).c_str(), target.data(), target.size());
      if (length > 0 && std::string(target.data(), static_cast<std::size_t>(length)).find("kvm") != std::string::npos) {
        ++count;
      }
    }
    ::closedir(open);
    return count;
  }

  static bool IsPending(int event) {
    std::uint64_t count = 0;
    return ::read(event, &count, sizeof(count)) == static_cast<ssize_t>(sizeof(count));
  }
  static void Signal(int event) {
    const std::uint64_t one = 1;
    ASSERT_EQ(::write(event, &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  }

  std::optional<vmm::Vm> VmWithChip() {
    auto vm = vmm::Vm::Create(device());
    EXPECT_TRUE(vm) << vm.error().ToString();
    if (!vm) return std::nullopt;
    if (auto made = vm->CreateIrqChip(); !made) {
      [&made] { GTEST_SKIP() << made.error().ToString(); }();
      return std::nullopt;
    }
    return std::move(*vm);
  }
  // The interrupt request register of the first 8259A: kLine's bit is set once somebody raised it.
  static bool IsRaised(const vmm::Vm& vm) {
    kvm_irqchip chip = {};
    chip.chip_id = KVM_IRQCHIP_PIC_MASTER;
    EXPECT_EQ(ErrorOf(vm.fd(), KVM_GET_IRQCHIP, &chip), 0);
    return (chip.chip.pic.irr >> kLine & 1U) != 0;
  }
};

NESTBENCH_CONDITION(isolation, EndedVms, AnIrqFdRaisesTheLineOfItsVm, "KVM API, KVM_IRQFD") {
  auto vm = VmWithChip();
  if (!vm) return;
  const int event = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  ASSERT_TRUE(vm->AttachIrqFd(event, kLine));
  EXPECT_FALSE(IsRaised(*vm));
  Signal(event);
  for (int i = 0; i < 100 && !IsRaised(*vm); ++i) ::usleep(1000);
  EXPECT_TRUE(IsRaised(*vm)) << "what the next conditions do not want to see";
  EXPECT_FALSE(IsPending(event)) << "KVM took the event";
  ::close(event);
}
NESTBENCH_CONDITION(isolation, EndedVms, AnIrqFdOfAClosedVmDoesNothing,
                    "KVM API, KVM_IRQFD; virt/kvm/eventfd.c, kvm_irqfd_release") {
  const int event = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  {
    auto vm = VmWithChip();
    if (!vm) return;
    ASSERT_TRUE(vm->AttachIrqFd(event, kLine));
  }
  auto later = VmWithChip();
  if (!later) return;
  Signal(event);
  ::usleep(20'000);
  EXPECT_FALSE(IsRaised(*later)) << "in the VM that came after it";
  EXPECT_TRUE(IsPending(event)) << "nobody took the event";
  ::close(event);
}
NESTBENCH_CONDITION(isolation, EndedVms, AnIrqFdOfOneVmDoesNotInterruptAnother, "KVM API, KVM_IRQFD: of the VM") {
  auto vm = VmWithChip();
  auto other = VmWithChip();
  if (!vm || !other) return;
  const int event = ::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
  ASSERT_TRUE(vm->AttachIrqFd(event, kLine));
  Signal(event);
  for (int i = 0; i < 100 && !IsRaised(*vm); ++i) ::usleep(1000);
  EXPECT_TRUE(IsRaised(*vm));
  EXPECT_FALSE(IsRaised(*other));
  ::close(event);
}

NESTBENCH_CONDITION(isolation, EndedVms, AProgramThatIsExecutedHasNothingOfTheVm,
                    "execve(2): descriptors with O_CLOEXEC are closed; virt/kvm/kvm_main.c, create_vcpu_fd") {
  int said[2] = {-1, -1};
  ASSERT_EQ(::pipe(said), 0);
  ASSERT_GT(::fcntl(said[1], F_SETPIPE_SZ, 4096), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    // A VM of its own, with a guest that has run; then this program's list, which is longer than the pipe.
    auto device = vmm::KvmDevice::Open();
    auto box = device ? Box::Create(*device, BoxMode::kUser64) : vmm::Fail(std::move(device.error()));
    if (!box) ::_exit(1);
    box->Load(WriteOverAndOver());
    if (box->RunToPort().port != Box::kOpenPorts) ::_exit(2);
    ::dup2(said[1], STDOUT_FILENO);
    const char ready = static_cast<char>(KvmDescriptors(::getpid()));
    if (::write(STDOUT_FILENO, &ready, 1) != 1) ::_exit(3);
    ::execl("/proc/self/exe", "nestbench-conformance", "--list", nullptr);
    ::_exit(4);
  }
  ::close(said[1]);
  char before = 0;
  char first = 0;
  ASSERT_EQ(::read(said[0], &before, 1), 1) << "the child has ended";
  ASSERT_EQ(::read(said[0], &first, 1), 1) << "the program was not executed";
  Evidence("descriptors_before", before);
  EXPECT_GE(before, 2) << "a VM and a vCPU, before";
  EXPECT_EQ(first, '{') << "what the new program says";
  EXPECT_EQ(KvmDescriptors(child), 0) << "of the executed program";
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(said[0]);
}

NESTBENCH_CONDITION(isolation, EndedVms, AWatchpointOfOneGuestDoesNotStopAnother,
                    "KVM API, KVM_SET_DEBUGREGS: of a vCPU; Intel SDM volume 3, Debug Registers") {
  auto watching = Start(BoxMode::kSupervisor64, WriteOverAndOver());
  auto other = Start(BoxMode::kSupervisor64, WriteOverAndOver());
  if (!watching || !other) return;
  kvm_debugregs debug = {};
  debug.db[0] = Box::kData;
  debug.dr6 = 0xFFFF'0FF0;
  debug.dr7 = 0x400 | 2U | 1U << 16 | 3U << 18;  // enabled, on writes, 4 bytes
  ASSERT_TRUE(watching->vcpu().SetDebugRegs(debug));
  const Box::Said said = watching->RunToPort();
  Evidence("stops_its_own_guest", said.port == Box::kPanicPort && said.value == kVectorDebug);
  for (int round = 0; round < 20; ++round) {
    if (!Says(*other)) return;
    watching->RunToPort();
  }
  EXPECT_EQ(other->vcpu().GetDebugRegs()->dr6 & 0xF, 0U);
  EXPECT_EQ(other->vcpu().GetDebugRegs()->dr7, 0x400U);
}

}  // namespace
}  // namespace nestbench::conformance
