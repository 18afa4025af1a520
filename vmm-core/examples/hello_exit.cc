// The smallest use of the library: a guest of one vCPU and one page of code that says hello through a serial port and
// halts, with two seconds to do so. Prints what the guest sent and how it left.
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "devices/serial/serial.h"
#include "nestbench/vmm/bus/bus.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"

using namespace nestbench;  // NOLINT(google-build-using-namespace): an example, short rather than general

namespace {

constexpr std::uint64_t kCodeAddress = 0x1000;
constexpr std::uint64_t kMemoryBytes = 64 * 1024;
constexpr std::uint16_t kSerialPort = 0x3F8;

// 16-bit code: sends the bytes behind it to the serial port until a zero, then halts.
constexpr unsigned char kCode[] = {
    0xBA, 0xF8, 0x03,  // mov dx, 0x3F8
    0xBE, 0x0F, 0x10,  // mov si, 0x100F: the text
    0xAC,              // next: lodsb
    0x84, 0xC0,        // test al, al
    0x74, 0x03,        // jz done
    0xEE,              // out dx, al
    0xEB, 0xF8,        // jmp next
    0xF4,              // done: hlt
};
constexpr std::string_view kText("hello from a guest\n\0", 20);

// Where the serial port's bytes go, and its interrupts, which nobody here listens to.
class StandardOutput final : public vmm::ByteSink {
 public:
  void Put(std::span<const std::byte> bytes) override { std::fwrite(bytes.data(), 1, bytes.size(), stdout); }
};
class NoInterrupt final : public vmm::IrqLine {
 public:
  void Set(bool /*level*/) override {}
};

vmm::Result<vmm::Vm> CreateGuest(const vmm::KvmDevice& kvm) {
  auto vm = vmm::Vm::Create(kvm);
  if (!vm) return vm;
  auto memory = vmm::MemoryRegion::Create({abi::GuestPhysAddr(0), kMemoryBytes}, {});
  if (!memory) return vmm::Fail(std::move(memory.error()));
  if (auto slot = vm->AddMemory(std::move(*memory)); !slot) return vmm::Fail(std::move(slot.error()));
  const abi::GuestPhysAddr code(kCodeAddress);
  const abi::GuestPhysAddr text(kCodeAddress + sizeof(kCode));
  if (auto done = vm->memory().WriteBytes(code, std::as_bytes(std::span(kCode))); !done) {
    return vmm::Fail(std::move(done.error()));
  }
  if (auto done = vm->memory().WriteBytes(text, std::as_bytes(std::span(kText))); !done) {
    return vmm::Fail(std::move(done.error()));
  }
  return vm;
}

// Real mode, segments from 0, at the code. A fresh vCPU is in real mode already, at the reset vector.
vmm::Result<void> EnterCode(vmm::Vcpu& vcpu) {
  auto sregs = vcpu.GetSregs();
  if (!sregs) return vmm::Fail(std::move(sregs.error()));
  for (kvm_segment* segment : {&sregs->cs, &sregs->ds}) segment->base = segment->selector = 0;
  if (auto done = vcpu.SetSregs(*sregs); !done) return done;
  kvm_regs regs = {};
  regs.rip = kCodeAddress;
  regs.rflags = 2;
  return vcpu.SetRegs(regs);
}

vmm::Result<void> SayHello() {
  auto kvm = vmm::KvmDevice::Open();
  if (!kvm) return vmm::Fail(std::move(kvm.error()));
  auto vm = CreateGuest(*kvm);
  if (!vm) return vmm::Fail(std::move(vm.error()));
  auto vcpu = vmm::Vcpu::Create(*vm, abi::VcpuId{0});
  if (!vcpu) return vmm::Fail(std::move(vcpu.error()));
  if (auto entered = EnterCode(*vcpu); !entered) return entered;

  StandardOutput output;
  NoInterrupt interrupt;
  vmm::Serial16550 serial(interrupt, output);
  vmm::PortBus ports;
  auto added = ports.Add(vmm::PortAddr(kSerialPort), vmm::Serial16550::kPortCount, serial, "serial port");
  if (!added) return added;

  auto deadline = vmm::RunDeadline::Start(*vcpu, std::chrono::seconds(2));
  if (!deadline) return vmm::Fail(std::move(deadline.error()));
  for (;;) {
    auto exit = vcpu->Run();
    if (!exit) return vmm::Fail(std::move(exit.error()));
    const auto* io = std::get_if<vmm::IoExit>(&*exit);
    const bool is_serial_write =
        io != nullptr && io->is_write && ports.Write(vmm::PortAddr(io->port), io->data) == vmm::AccessStatus::kOk;
    if (is_serial_write) continue;
    std::printf("the guest left by: %s\n", vmm::ToString(*exit).c_str());
    return {};
  }
}

}  // namespace

int main() {
  const auto done = SayHello();
  if (!done) std::fprintf(stderr, "%s\n", done.error().ToString().c_str());
  return done ? 0 : 1;
}
