#include "nestbench/vmm/machine/linux_machine.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <latch>
#include <mutex>
#include <thread>
#include <utility>

#include "acpi.h"
#include "devices/keyboard/keyboard.h"
#include "devices/power/power.h"
#include "devices/rtc/rtc.h"
#include "devices/serial/serial.h"
#include "devices/virtio/core/worker.h"
#include "linux_boot.h"
#include "nestbench/abi/layout.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/bus/bus.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"

namespace nestbench::vmm {
namespace {

using abi::GuestPhysAddr;

constexpr std::uint16_t kRtcPort = 0x70;
constexpr std::uint16_t kKeyboardPort = 0x60;
constexpr std::uint16_t kPowerPort = 0x600;
constexpr std::uint16_t kSerialPort = 0x3F8;
constexpr std::uint32_t kSerialGsi = 4;
constexpr std::uint64_t kVirtioBase = 0xD000'0000;
constexpr std::uint64_t kVirtioStride = 0x1000;
constexpr std::uint32_t kVirtioFirstGsi = 16;  // the lines of the I/O APIC that no device of a PC has

using Clock = std::chrono::steady_clock;

// An interrupt line as a level of the in-kernel interrupt controllers.
class LevelLine final : public IrqLine {
 public:
  LevelLine(Vm& vm, std::uint32_t gsi) : vm_(vm), gsi_(gsi) {}
  void Set(bool level) override { (void)vm_.SetIrqLine(gsi_, level); }

 private:
  Vm& vm_;
  std::uint32_t gsi_;
};

// An interrupt line as an irqfd: each rise is an edge, and nobody needs to say that it fell.
class EdgeLine final : public IrqLine {
 public:
  explicit EdgeLine(UniqueFd event) : event_(std::move(event)) {}
  void Set(bool level) override {
    if (level) virtio::RingEventFd(event_.get());
  }
  [[nodiscard]] int fd() const { return event_.get(); }

 private:
  UniqueFd event_;
};

// Passes output on and remembers that there was some.
class WatchedSink final : public ByteSink {
 public:
  explicit WatchedSink(ByteSink* output) : output_(output) {}
  void Put(std::span<const std::byte> bytes) override {
    seen_.store(true, std::memory_order_relaxed);
    if (output_ != nullptr) output_->Put(bytes);
  }
  [[nodiscard]] bool seen() const { return seen_.load(std::memory_order_relaxed); }

 private:
  ByteSink* output_;
  std::atomic<bool> seen_{false};
};

Result<void> AddMemory(Vm& vm, std::uint64_t start, std::uint64_t size_bytes) {
  auto region = MemoryRegion::Create({GuestPhysAddr(start), size_bytes}, {.backing = Backing::kTransparentHuge});
  if (!region) return Fail(std::move(region.error()));
  if (auto slot = vm.AddMemory(std::move(*region)); !slot) return Fail(std::move(slot.error()));
  return {};
}

Result<void> CheckOptions(const LinuxMachineOptions& options) {
  constexpr const char* kWhat = "boot Linux";
  if (options.vcpus == 0 || options.vcpus > kLinuxMaxVcpus) {
    return Fail(Error::InvalidArgument(kWhat, fmt::format("{} vCPUs; 1 to {}", options.vcpus, kLinuxMaxVcpus)));
  }
  if (options.memory_bytes < kLinuxMinMemoryBytes || options.memory_bytes % abi::kLargePageBytes != 0) {
    return Fail(Error::InvalidArgument(kWhat, fmt::format("{} bytes of memory; at least {} and a multiple of 2 MiB",
                                                          options.memory_bytes, kLinuxMinMemoryBytes)));
  }
  if (options.devices.size() > kLinuxMaxVirtioDevices) {
    return Fail(Error::InvalidArgument(
        kWhat, fmt::format("{} virtio devices; at most {}", options.devices.size(), kLinuxMaxVirtioDevices)));
  }
  return {};
}

Result<void> GiveCpuid(const KvmDevice& device, Vcpu& vcpu, std::uint32_t vcpus) {
  auto policy = device.SupportedCpuid();
  if (!policy) return Fail(std::move(policy.error()));
  policy->SetTopology(vcpu.id(), vcpus);
  if (kvm_cpuid_entry2* features = policy->Find(1); features != nullptr) {
    features->ecx |= abi::x86::kCpuid1EcxHypervisor;
    if (device.CheckCapability(KVM_CAP_TSC_DEADLINE_TIMER) > 0) features->ecx |= abi::x86::kCpuid1EcxTscDeadline;
  }
  return vcpu.SetCpuid(*policy);
}

}  // namespace

std::string_view ToString(LinuxEnd end) {
  switch (end) {
    case LinuxEnd::kPoweredOff:
      return "powered off";
    case LinuxEnd::kReset:
      return "reset";
    case LinuxEnd::kStopped:
      return "stopped";
    case LinuxEnd::kTimedOut:
      return "timed out";
    case LinuxEnd::kUnsupported:
      return "unsupported";
    case LinuxEnd::kFailed:
      return "failed";
  }
  return "unknown";
}

struct LinuxMachine::State {
  struct Attached {
    std::unique_ptr<IrqLine> irq;
    std::unique_ptr<virtio::MmioTransport> transport;
  };

  State(const KvmDevice& kvm, Vm machine, ByteSink* output, UniqueFd event, std::uint32_t vcpus)
      : device(kvm),
        vm(std::move(machine)),
        sink(output),
        serial_irq(vm, kSerialGsi),
        serial(serial_irq, sink),
        keyboard([this] {
          End({LinuxEnd::kReset, {}});
        }),
        power([this] {
          End({LinuxEnd::kPoweredOff, {}});
        }),
        wake(std::move(event)),
        vcpu_count(vcpus) {}

  Result<void> Connect(const LinuxMachineOptions& options);
  Result<void> Attach(virtio::Function& function, std::size_t index, const LinuxMachineOptions& options);
  void RunVcpu(std::uint32_t index);
  void Loop(Vcpu& vcpu);
  void HandleIo(Vcpu& vcpu);

  // The first to say how it ends is heard.
  void End(LinuxOutcome how) {
    const std::scoped_lock lock(mutex);
    if (!outcome) outcome = std::move(how);
    ending.store(true, std::memory_order_release);
    virtio::RingEventFd(wake.get());
  }
  void EndBroken(const Error& error) {
    End({error.kind == ErrorKind::kUnsupported ? LinuxEnd::kUnsupported : LinuxEnd::kFailed, error.ToString()});
  }

  const KvmDevice& device;
  LinuxImage image;
  Vm vm;
  WatchedSink sink;
  LevelLine serial_irq;
  Serial16550 serial;
  RealTimeClock clock;
  KeyboardController keyboard;
  PowerManagement power;
  PortBus ports;
  MmioBus mmio;
  std::vector<Attached> devices;
  UniqueFd wake;
  std::uint32_t vcpu_count;

  std::mutex mutex;
  std::optional<LinuxOutcome> outcome;
  std::vector<std::optional<VcpuKicker>> kickers;  // by vCPU, while it runs
  std::atomic<bool> ending{false};
  std::atomic<bool> stop_wanted{false};
  std::atomic<bool> hang_suspected{false};
  std::atomic<std::uint64_t> exit_count{0};
  std::atomic<std::uint32_t> running{0};
  std::unique_ptr<std::latch> all_created;
};

Result<void> LinuxMachine::State::Connect(const LinuxMachineOptions& options) {
  auto done = ports.Add(PortAddr(kSerialPort), Serial16550::kPortCount, serial, "serial port");
  if (done) done = ports.Add(PortAddr(kRtcPort), RealTimeClock::kPortCount, clock, "real-time clock");
  if (done) done = ports.Add(PortAddr(kKeyboardPort), KeyboardController::kPortCount, keyboard, "keyboard controller");
  if (done) done = ports.Add(PortAddr(kPowerPort), PowerManagement::kPortCount, power, "power management");
  for (std::size_t i = 0; done && i < options.devices.size(); ++i) done = Attach(*options.devices[i], i, options);
  return done;
}

Result<void> LinuxMachine::State::Attach(virtio::Function& function, std::size_t index,
                                         const LinuxMachineOptions& options) {
  const auto gsi = static_cast<std::uint32_t>(kVirtioFirstGsi + index);
  Attached attached;
  if (options.interrupts_in_kernel) {
    auto event = virtio::CreateEventFd();
    if (!event) return Fail(std::move(event.error()));
    auto line = std::make_unique<EdgeLine>(std::move(*event));
    if (auto done = vm.AttachIrqFd(line->fd(), gsi); !done) return done;
    attached.irq = std::move(line);
  } else {
    attached.irq = std::make_unique<LevelLine>(vm, gsi);
  }
  auto transport = virtio::MmioTransport::Create(function, vm.memory(), *attached.irq);
  if (!transport) return Fail(std::move(transport.error()));
  attached.transport = std::move(*transport);
  const std::uint64_t base = kVirtioBase + index * kVirtioStride;
  if (options.doorbells_in_kernel) {
    for (std::size_t queue = 0; queue < attached.transport->queue_count(); ++queue) {
      auto done =
          vm.AttachIoEvent(attached.transport->doorbell(queue), {.address = base + virtio::MmioTransport::kNotifyOffset,
                                                                 .width_bytes = 4,
                                                                 .match_value = true,
                                                                 .value = queue});
      if (!done) return done;
    }
  }
  auto added = mmio.Add(GuestPhysAddr(base), virtio::MmioTransport::kSizeBytes, *attached.transport,
                        fmt::format("virtio device {}", index));
  devices.push_back(std::move(attached));
  return added;
}

LinuxMachine::LinuxMachine(std::unique_ptr<State> state) : state_(std::move(state)) {}
LinuxMachine::~LinuxMachine() = default;

Result<std::unique_ptr<LinuxMachine>> LinuxMachine::Create(const KvmDevice& device,
                                                           const LinuxMachineOptions& options) {
  if (auto good = CheckOptions(options); !good) return Fail(std::move(good.error()));
  auto image = ParseLinux(options.kernel);
  if (!image) return Fail(std::move(image.error()));
  auto vm = Vm::Create(device);
  if (!vm) return Fail(std::move(vm.error()));
  auto wake = virtio::CreateEventFd();
  if (!wake) return Fail(std::move(wake.error()));

  const std::uint64_t low_bytes = std::min(options.memory_bytes, internal::kLowMemoryEnd);
  const std::uint64_t high_bytes = options.memory_bytes - low_bytes;
  auto done = AddMemory(*vm, 0, low_bytes);
  if (done && high_bytes != 0) done = AddMemory(*vm, internal::kHighMemoryBase, high_bytes);
  std::vector<internal::AcpiVirtioDevice> virtio_devices;
  for (std::size_t i = 0; i < options.devices.size(); ++i) {
    virtio_devices.push_back({{GuestPhysAddr(kVirtioBase + i * kVirtioStride), virtio::MmioTransport::kSizeBytes},
                              static_cast<std::uint32_t>(kVirtioFirstGsi + i)});
  }
  internal::LinuxBoot boot{.image = &*image,
                           .initramfs = options.initramfs,
                           .command_line = options.command_line,
                           .low_bytes = low_bytes,
                           .high_bytes = high_bytes,
                           .acpi = {.vcpus = options.vcpus, .power_port = kPowerPort, .virtio = virtio_devices}};
  if (done) done = internal::WriteLinux(vm->memory(), boot);
  if (done) done = vm->CreateIrqChip();
  if (done) done = vm->CreatePit();
  if (!done) return Fail(std::move(done.error()));
  auto state = std::make_unique<State>(device, std::move(*vm), options.serial_output, std::move(*wake), options.vcpus);
  state->image = std::move(*image);
  if (done = state->Connect(options); !done) return Fail(std::move(done.error()));
  return std::unique_ptr<LinuxMachine>(new LinuxMachine(std::move(state)));
}

LinuxOutcome LinuxMachine::Run(const Limits& limits) {
  State& state = *state_;
  const auto start = Clock::now();
  state.all_created = std::make_unique<std::latch>(state.vcpu_count);
  state.kickers.resize(state.vcpu_count);
  state.running.store(state.vcpu_count);
  std::vector<std::thread> threads;
  for (std::uint32_t i = 0; i < state.vcpu_count; ++i) threads.emplace_back([&state, i] { state.RunVcpu(i); });

  constexpr auto kLook = std::chrono::milliseconds(100);
  while (!state.ending.load(std::memory_order_acquire)) {
    pollfd wake{.fd = state.wake.get(), .events = POLLIN, .revents = 0};
    (void)::poll(&wake, 1, static_cast<int>(kLook.count()));
    const auto passed = Clock::now() - start;
    if (state.stop_wanted.load(std::memory_order_acquire)) {
      state.End({LinuxEnd::kStopped, {}});
    } else if (passed >= limits.total) {
      state.End({LinuxEnd::kTimedOut, {}});
    } else if (passed >= limits.first_output && !state.sink.seen()) {
      // The first vCPU says where it is when it sees this.
      state.hang_suspected.store(true, std::memory_order_release);
      state.ending.store(true, std::memory_order_release);
    }
  }
  // A kick that comes between two looks of a vCPU at the flag is followed by another.
  while (state.running.load(std::memory_order_acquire) != 0) {
    {
      const std::scoped_lock lock(state.mutex);
      for (const auto& kicker : state.kickers) {
        if (kicker) kicker->Kick();
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  for (std::thread& thread : threads) thread.join();
  const std::scoped_lock lock(state.mutex);
  return state.outcome.value_or(LinuxOutcome{LinuxEnd::kFailed, "it ended without a reason"});
}

void LinuxMachine::State::RunVcpu(std::uint32_t index) {
  auto vcpu = Vcpu::Create(vm, abi::VcpuId{index});
  Result<void> ready;
  if (vcpu) {
    ready = GiveCpuid(device, *vcpu, vcpu_count);
    if (ready && index == 0) ready = internal::EnterLinux(*vcpu, image);
    const std::scoped_lock lock(mutex);
    if (ready) kickers[index] = vcpu->Kicker();
  } else {
    ready = Fail(std::move(vcpu.error()));
  }
  if (!ready) EndBroken(ready.error());
  // The first may start the others only when all are there.
  all_created->arrive_and_wait();
  if (ready) Loop(*vcpu);
  const std::scoped_lock lock(mutex);
  kickers[index].reset();
  running.fetch_sub(1, std::memory_order_release);
}

void LinuxMachine::State::Loop(Vcpu& vcpu) {
  for (;;) {
    auto entered = vcpu.Enter();
    // EAGAIN: the first vCPU sent this one INIT while it waited for that; it is to be entered again.
    const bool started = !entered && entered.error().error_number == EAGAIN;
    if (!entered && !started) return EndBroken(entered.error());
    if (ending.load(std::memory_order_acquire)) {
      if (hang_suspected.load(std::memory_order_acquire) && vcpu.id() == abi::VcpuId{0}) {
        End({LinuxEnd::kUnsupported, fmt::format("no sign of life on the serial port; the first vCPU is here:\n{}",
                                                 ToString(vcpu.Snapshot()))});
      }
      return;
    }
    if (started || !*entered) continue;
    exit_count.fetch_add(1, std::memory_order_relaxed);
    switch (vcpu.run()->exit_reason) {
      case KVM_EXIT_IO:
        HandleIo(vcpu);
        break;
      case KVM_EXIT_MMIO: {
        const MmioExit access = vcpu.LastMmioExit();
        (void)(access.is_write ? mmio.Write(access.address, access.data) : mmio.Read(access.address, access.data));
        break;
      }
      case KVM_EXIT_HLT:
        break;  // only without an in-kernel APIC
      default: {
        const Exit exit = vcpu.LastExit();
        if (std::holds_alternative<ShutdownExit>(exit)) {
          // Before the first word a triple fault is no reset that a kernel asked for.
          if (!sink.seen()) return End({LinuxEnd::kUnsupported, ToString(exit)});
          return End({LinuxEnd::kReset, ToString(exit)});
        }
        const bool refused = std::holds_alternative<InternalErrorExit>(exit);
        return End({refused ? LinuxEnd::kUnsupported : LinuxEnd::kFailed, ToString(exit)});
      }
    }
  }
}

void LinuxMachine::State::HandleIo(Vcpu& vcpu) {
  const IoExit io = vcpu.LastIoExit();
  // String instructions move `count` items of one width through one port, one after the other.
  for (std::size_t offset = 0; offset < io.data.size(); offset += io.width_bytes) {
    const auto item = io.data.subspan(offset, io.width_bytes);
    (void)(io.is_write ? ports.Write(PortAddr(io.port), item) : ports.Read(PortAddr(io.port), item));
  }
}

void LinuxMachine::Stop() {
  state_->stop_wanted.store(true, std::memory_order_release);
  virtio::RingEventFd(state_->wake.get());
}

std::size_t LinuxMachine::PushSerial(std::span<const std::byte> bytes) { return state_->serial.Push(bytes); }

const virtio::MmioTransport& LinuxMachine::transport(std::size_t index) const {
  return *state_->devices[index].transport;
}

std::uint64_t LinuxMachine::exits() const { return state_->exit_count.load(std::memory_order_relaxed); }

}  // namespace nestbench::vmm
