// A machine of one vCPU that runs one payload image at CPL3, in 64-bit mode, at the addresses of
// nestbench/abi/layout.h.
//
// No boot code runs: page tables, descriptor tables, the I/O permission bitmap and the vCPU's state are written from
// outside. CPL0 holds nothing but exception stubs. The payload reaches the ports that the bitmap opens (doorbell,
// event, serial) and two MMIO pages; whatever else it tries raises an exception that the stubs report, and the machine
// stops with its cause.
//
// Move-only. Used from one thread, the one that created it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "devices/doorbell/doorbell.h"
#include "devices/panic/panic.h"
#include "devices/serial/serial.h"
#include "devices/virtio/core/function.h"
#include "devices/virtio/core/mmio.h"
#include "nestbench/abi/layout.h"
#include "nestbench/abi/mailbox.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/bus/bus.h"
#include "nestbench/vmm/bus/byte_sink.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/kvm/vcpu.h"
#include "nestbench/vmm/kvm/vm.h"
#include "nestbench/vmm/loader/elf.h"
#include "nestbench/vmm/machine/stop.h"

namespace nestbench::vmm {

// A hypervisor (L1) inside the guest, which runs the payload as its own guest (L2).
struct NestedOptions {
  // Flat binaries for abi::kHypervisorBase (workloads/hypervisors/): taken is the one that this KVM's guests can run.
  std::span<const std::byte> svm;
  std::span<const std::byte> vmx;
  bool nested_paging = true;  // false: L1 does as with shadow tables
};

// A virtio device at abi::kVirtioBase + index * abi::kVirtioStride. The payload drives it from CPL3, by polling or with
// the help of abi::kWaitPage: its interrupts wake the vCPU there and nowhere else.
struct UserDevice {
  std::unique_ptr<virtio::Function> function;
  bool doorbells_in_kernel = true;  // ioeventfds; otherwise each doorbell is an exit to user space
};

struct UserMachineOptions {
  std::uint64_t arena_bytes = 0;                     // up to abi::kArenaMaxBytes; rounded up to whole pages
  Backing arena_backing = Backing::kSmallPages;      // what the host puts behind the arena
  std::uint64_t guest_page_bytes = abi::kPageBytes;  // how the guest maps it: 4096 or 2 MiB
  ByteSink* serial_output = nullptr;                 // of COM1; borrowed; nullptr drops it
  const CpuidPolicy* cpuid = nullptr;                // what device.SupportedCpuid() says; borrowed; nullptr: asked
  const ElfImage* image = nullptr;                   // what Parse() says of the file; borrowed; nullptr: parsed
  bool interrupt_chip = false;               // local APIC, I/O APIC and PIC in the kernel; nothing uses them here
  std::optional<NestedOptions> nested = {};  // kUnsupported from Create where this KVM's guests can have none
  // Makes the devices once the guest's memory is there, which they may want to know (to register it for I/O). At most
  // abi::kVirtioMaxDevices. Not together with `nested`.
  std::function<Result<std::vector<UserDevice>>(const GuestMemory& memory)> make_devices = {};
};

class UserMachine {
 public:
  // Checks an image as hostile: once, where it is to be loaded many times. Refers to the bytes, which outlive it.
  static Result<ElfImage> Parse(std::span<const std::byte> elf_file);

  // Loads `elf_file` (checked as hostile) and prepares the vCPU to enter it. Errors name what failed: a malformed
  // image, memory, or an ioctl.
  static Result<UserMachine> Create(const KvmDevice& device, std::span<const std::byte> elf_file,
                                    const UserMachineOptions& options);

  // Enters the guest until it rings or can go no further. No system call but KVM_RUN for each exit and no allocation,
  // unless it stops for another reason than the doorbell. Never returns while a payload neither rings nor fails: hold
  // a RunDeadline.
  Result<Stop> RunUntilStop();

  // The host's view of the mailbox. What the payload writes there is hostile.
  [[nodiscard]] std::span<std::byte> mailbox() const { return mailbox_; }

  // The arena's memory; nullptr without one.
  [[nodiscard]] const MemoryRegion* arena() const { return arena_; }

  // Lets writes to abi::kEventPort and abi::kEventPage (4 bytes) signal `eventfd` inside the kernel.
  Result<void> AttachEvent(int eventfd);

  // The devices, in their order.
  [[nodiscard]] std::size_t device_count() const;
  [[nodiscard]] const virtio::MmioTransport& transport(std::size_t index) const;
  // Times that the payload went to sleep at abi::kWaitPage.
  [[nodiscard]] std::uint64_t waits() const;

  [[nodiscard]] Vcpu& vcpu() { return vcpu_; }
  [[nodiscard]] Vm& vm() { return vm_; }

  // Accesses to ports and addresses that no device claims, or in a way it does not take: ignored as on a real bus, but
  // counted.
  [[nodiscard]] std::uint64_t refused_accesses() const { return refused_accesses_; }

 private:
  // Devices and buses point to each other: on the heap, so that the machine can move.
  struct Board;

  UserMachine(Vm vm, Vcpu vcpu, std::unique_ptr<Board> board);
  [[nodiscard]] Stop StopForGood(const Exit& exit) const;
  Result<void> AttachDevices(std::vector<UserDevice> devices);
  [[nodiscard]] Stop DescribeException() const;

  Vm vm_;
  Vcpu vcpu_;
  std::unique_ptr<Board> board_;
  std::span<std::byte> mailbox_;
  const MemoryRegion* arena_ = nullptr;
  std::uint64_t refused_accesses_ = 0;

 public:
  UserMachine(UserMachine&&) noexcept;
  UserMachine& operator=(UserMachine&&) = delete;
  UserMachine(const UserMachine&) = delete;
  UserMachine& operator=(const UserMachine&) = delete;
  ~UserMachine();
};

}  // namespace nestbench::vmm
