// A machine that boots a Linux kernel: processors, interrupt controllers, timer, clock, serial port and virtio devices.
// Sources: kernel document "The Linux/x86 Boot Protocol"; Xen's "x86/HVM direct boot ABI"; "Advanced Configuration and
// Power Interface Specification".
//
// There is no firmware: the kernel is entered directly, in 64-bit mode (bzImage) or by the PVH entry (vmlinux), and
// finds processors and devices through ACPI tables.
//
// Not emulated: PCI, a display, USB, suspend, hotplug.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "devices/virtio/core/function.h"
#include "devices/virtio/core/mmio.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/bus/byte_sink.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/loader/linux.h"

namespace nestbench::vmm {

inline constexpr std::uint32_t kLinuxMaxVcpus = 64;
inline constexpr std::size_t kLinuxMaxVirtioDevices = 8;
inline constexpr std::uint64_t kLinuxMinMemoryBytes = 64ULL << 20;

// Everything is borrowed and outlives the machine.
struct LinuxMachineOptions {
  std::span<const std::byte> kernel;     // a bzImage, or a vmlinux with a PVH note
  std::span<const std::byte> initramfs;  // may be empty
  std::string command_line;
  std::uint32_t vcpus = 1;
  std::uint64_t memory_bytes = 512ULL << 20;
  ByteSink* serial_output = nullptr;  // where the first serial port goes; called on vCPU threads
  std::vector<virtio::Function*> devices;
  bool doorbells_in_kernel = true;   // ioeventfds; otherwise each doorbell is an exit
  bool interrupts_in_kernel = true;  // irqfds; otherwise each interrupt is a KVM_IRQ_LINE
};

enum class LinuxEnd : std::uint8_t {
  kPoweredOff,   // by ACPI
  kReset,        // by the keyboard controller or a triple fault
  kStopped,      // Stop() was called
  kTimedOut,     // the time was up
  kUnsupported,  // this KVM cannot run it: an instruction that it does not emulate, or no sign of life
  kFailed,       // KVM or the machine itself failed
};

[[nodiscard]] std::string_view ToString(LinuxEnd end);

struct LinuxOutcome {
  LinuxEnd end = LinuxEnd::kFailed;
  std::string text;  // of kUnsupported and kFailed: why, with registers and instruction; else empty
};

// Whether this KVM refuses an instruction that every kernel executes at its start, as one does that emulates what
// guests do at CPL0: which one, with registers. Tried in a machine of its own, which takes milliseconds; a kernel would
// come to it only after minutes of being emulated. Empty when nothing is refused.
[[nodiscard]] std::optional<std::string> FindRefusedInstruction(const KvmDevice& device);

class LinuxMachine {
 public:
  // Makes the machine and loads the kernel. kInvalidArgument, kMalformed or kUnsupported say what is wrong with the
  // options, the files or the host.
  static Result<std::unique_ptr<LinuxMachine>> Create(const KvmDevice& device, const LinuxMachineOptions& options);
  ~LinuxMachine();

  struct Limits {
    std::chrono::nanoseconds total = std::chrono::hours(24);
    // Without any output on the serial port for so long after the start, the guest is taken to hang. A kernel must be
    // told to use it (console=ttyS0).
    std::chrono::nanoseconds first_output = std::chrono::seconds(30);
  };

  // Runs until the guest ends, on threads of its own, one for each vCPU. Once.
  [[nodiscard]] LinuxOutcome Run(const Limits& limits);

  // Ends Run(), as if the power were cut. From any thread, and from a signal handler.
  void Stop();

  // Bytes for the first serial port; returns how many were taken. From any thread.
  [[nodiscard]] std::size_t PushSerial(std::span<const std::byte> bytes);

  // By the order of options.devices.
  [[nodiscard]] const virtio::MmioTransport& transport(std::size_t index) const;
  // Exits to this process so far, of all vCPUs.
  [[nodiscard]] std::uint64_t exits() const;

 private:
  struct State;
  explicit LinuxMachine(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace nestbench::vmm
