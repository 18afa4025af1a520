// Where a payload runs. One interface: whoever measures cannot tell one substrate from another but by its numbers.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "nestbench/abi/mailbox.h"
#include "nestbench/substrates/call_evidence.h"
#include "nestbench/substrates/disk.h"
#include "nestbench/substrates/network.h"
#include "nestbench/vmm/base/error.h"
#include "nestbench/vmm/memory/memory_region.h"

namespace nestbench::vmm {
class CpuidPolicy;
class ElfImage;
class GuestMemory;
class KvmDevice;
struct UserDevice;
}  // namespace nestbench::vmm

namespace nestbench::substrates {

using vmm::Error;
using vmm::Result;

// How one command ended.
enum class CallEnd : std::uint8_t {
  kRang,      // the payload rang the doorbell: its reply can be read
  kCrashed,   // the payload or its machine cannot go on
  kTimedOut,  // the limit passed
};

struct CallOutcome {
  CallEnd end = CallEnd::kCrashed;
  std::string text;                           // of kCrashed and kTimedOut, for people: registers, exit data
  std::uint64_t outside_ns = 0;               // CLOCK_MONOTONIC_RAW around the call
  std::optional<CallEvidence> evidence = {};  // where the substrate is a guest: of a call that did not ring at least
};

struct SubstrateOptions {
  std::span<const std::byte> image;  // ELF file
  std::uint64_t arena_bytes = 0;
  std::uint64_t host_page_bytes = abi::kPageBytes;   // 4096 or 2 MiB: what backs the arena
  std::uint64_t guest_page_bytes = abi::kPageBytes;  // how a guest maps it; a process has one mapping only
  abi::Doorbell doorbell = abi::Doorbell::kPort;     // of a guest
  const vmm::KvmDevice* device = nullptr;            // borrowed; nullptr: /dev/kvm is opened
  const vmm::CpuidPolicy* cpuid = nullptr;           // borrowed: what the device supports; nullptr: it is asked
  const vmm::ElfImage* parsed = nullptr;             // borrowed: vmm::UserMachine::Parse(image); nullptr: parsed
  bool statistics = true;                            // of a guest: exits() and statistics_fd()
  std::optional<bool> nested_paging = {};            // of a guest in a guest; empty: just a guest
  bool attach_event = false;                         // abi::kEventPort and kEventPage of a guest signal an eventfd
  DiskSetup disk = {};                               // virtio device 0 of a guest
  NetSetup network = {};                             // of CreateNetVm and CreateNetTwin
  // Devices of a guest, instead of `disk`: as vmm::UserMachineOptions has them.
  std::function<Result<std::vector<vmm::UserDevice>>(const vmm::GuestMemory& memory)> make_devices = {};
};

class Substrate {
 public:
  virtual ~Substrate() = default;

  // Performs one command; the time is taken directly around the payload. From the thread that created this.
  virtual Result<CallOutcome> Call(const abi::MailboxRequest& request, std::chrono::nanoseconds limit) = 0;

  // Makes the call that is under way, or else the next, end as kTimedOut; for a substrate that is to be destroyed. From
  // any thread, as long as the one that created this lives. Only a guest can be interrupted.
  virtual void Interrupt() {}

  // The mailbox page, for reading replies: hostile.
  [[nodiscard]] virtual std::span<const std::byte> mailbox() const = 0;

  // The arena, or nullptr without one.
  [[nodiscard]] virtual const vmm::MemoryRegion* arena() const = 0;

  // How the payload gives control back here.
  [[nodiscard]] virtual abi::Doorbell doorbell() const = 0;

  // Exits so far, where there is a VM whose kernel counts them.
  [[nodiscard]] virtual std::optional<std::uint64_t> exits() const = 0;

  // Entries of L2 so far, where a hypervisor runs in the guest and the kernel counts them.
  [[nodiscard]] virtual std::optional<std::uint64_t> nested_runs() const { return std::nullopt; }

  // The descriptor that exits() reads, for handing to another process; -1 where there is none.
  [[nodiscard]] virtual int statistics_fd() const { return -1; }
};

// A process: the image mapped at its address in this very process. One at a time: the addresses are fixed.
Result<std::unique_ptr<Substrate>> CreateBare(const SubstrateOptions& options);

// A process that does the work of a guest with a disk without the guest: `disk` and `arena_bytes` of the options; the
// image stays aside.
Result<std::unique_ptr<Substrate>> CreateDiskTwin(const SubstrateOptions& options);

// A guest with a network and its peer, and the process that does the same work over sockets: `network` of the options.
// kUnsupported where this process may make no network namespaces. For processes of one thread.
Result<std::unique_ptr<Substrate>> CreateNetVm(const SubstrateOptions& options);
Result<std::unique_ptr<Substrate>> CreateNetTwin(const SubstrateOptions& options);

// A guest of our VMM. kUnsupported, with the cause, when /dev/kvm is missing or may not be opened; else what failed.
Result<std::unique_ptr<Substrate>> CreateVm(const SubstrateOptions& options);

// The doorbell that works for CPL3 on this host, found by ringing it: the port where it does, else the MMIO page. Not
// every KVM lets user code reach a port. `image` is any payload image. kUnsupported, with both causes, when neither
// rings within `limit`; kSystem when there is no usable /dev/kvm.
Result<abi::Doorbell> ChooseDoorbell(std::span<const std::byte> image, std::chrono::nanoseconds limit);

}  // namespace nestbench::substrates
