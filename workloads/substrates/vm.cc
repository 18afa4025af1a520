// The substrates `vm`, the image in a guest of our VMM, and `nested`, the image in a guest of a hypervisor in there.
#include <sys/eventfd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "nestbench/hypervisors/images.h"
#include "nestbench/substrates/substrate.h"
#include "nestbench/vmm/base/clock.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/machine/user_machine.h"
#include "watch_guest.h"

namespace nestbench::substrates {
namespace {

using vmm::Backing;
using vmm::StopReason;
using vmm::UserMachine;

CallEnd EndOf(StopReason reason) {
  switch (reason) {
    case StopReason::kDoorbell:
      return CallEnd::kRang;
    case StopReason::kInterrupted:
      return CallEnd::kTimedOut;
    case StopReason::kException:
    case StopReason::kCrashed:
    case StopReason::kUnexpected:
      break;
  }
  return CallEnd::kCrashed;
}

class VmSubstrate final : public Substrate {
 public:
  VmSubstrate(UserMachine machine, abi::Doorbell doorbell, std::optional<vmm::BinaryStats> stats, vmm::UniqueFd event)
      : event_(std::move(event)),
        machine_(std::move(machine)),
        doorbell_(doorbell),
        stats_(std::move(stats)),
        kicker_(machine_.vcpu().Kicker()) {}

  Result<CallOutcome> Call(const abi::MailboxRequest& request, std::chrono::nanoseconds limit) override {
    std::memcpy(machine_.mailbox().data(), &request, sizeof(request));
    auto started = vmm::RunDeadline::Start(machine_.vcpu(), limit);
    if (!started) return Fail(std::move(started.error()));
    std::optional<vmm::RunDeadline> deadline(std::move(*started));
    for (;;) {
      const std::uint64_t begin_ns = vmm::MonotonicRawNs();
      auto stop = machine_.RunUntilStop();
      const std::uint64_t end_ns = vmm::MonotonicRawNs();
      if (!stop) return Fail(std::move(stop.error()));
      // Some other signal: the payload goes on, and this batch is what it is; the clocks will void it.
      const bool is_told_to_end = interrupted_.load();
      if (stop->reason == StopReason::kInterrupted && !deadline->Expired() && !is_told_to_end) continue;
      deadline.reset();
      CallOutcome outcome = {EndOf(stop->reason), std::move(stop->text), end_ns - begin_ns};
      if (outcome.end != CallEnd::kRang && !is_told_to_end) {
        if (auto told = AddEvidence(*stop, outcome); !told) return Fail(std::move(told.error()));
      }
      return outcome;
    }
  }

  // The flag first: whatever the kick ends then finds it.
  void Interrupt() override {
    interrupted_.store(true);
    kicker_.Kick();
  }

  [[nodiscard]] std::span<const std::byte> mailbox() const override { return machine_.mailbox(); }
  [[nodiscard]] const vmm::MemoryRegion* arena() const override { return machine_.arena(); }
  [[nodiscard]] abi::Doorbell doorbell() const override { return doorbell_; }
  [[nodiscard]] std::optional<std::uint64_t> exits() const override { return Count("exits"); }
  [[nodiscard]] std::optional<std::uint64_t> nested_runs() const override { return Count("nested_run"); }
  [[nodiscard]] int statistics_fd() const override { return stats_ ? stats_->fd() : -1; }

 private:
  [[nodiscard]] std::optional<std::uint64_t> Count(std::string_view name) const {
    if (!stats_) return std::nullopt;
    auto count = stats_->Get(name);
    if (!count) return std::nullopt;
    return *count;
  }

  // Of a guest that crashed, or is watched because it did not answer. Accesses that a device took are not counted here.
  Result<void> AddEvidence(const vmm::Stop& stop, CallOutcome& outcome) {
    CallEvidence evidence;
    const vmm::GuestMemory& memory = machine_.vm().memory();
    if (outcome.end == CallEnd::kCrashed) {
      evidence.crash = DescribeCrash(stop, machine_.vcpu(), memory);
    } else {
      const WatchedGuest guest = {machine_.vcpu(), memory, [this] { return machine_.RunUntilStop(); },
                                  [this] {
                                    return WatchedGuest::Counts{machine_.refused_accesses(), 0, false};
                                  }};
      auto text = WatchGuest(guest, evidence);
      if (!text) return Fail(std::move(text.error()));
      outcome.text = std::move(*text);
    }
    outcome.evidence = evidence;
    return {};
  }

  vmm::UniqueFd event_;  // outlives the machine that it is attached to
  UserMachine machine_;
  abi::Doorbell doorbell_;
  std::optional<vmm::BinaryStats> stats_;
  vmm::VcpuKicker kicker_;
  std::atomic<bool> interrupted_{false};
};

}  // namespace

Result<std::unique_ptr<Substrate>> CreateVm(const SubstrateOptions& options) {
  std::optional<vmm::KvmDevice> opened;
  if (options.device == nullptr) {
    auto device = vmm::KvmDevice::Open();
    if (!device) return Fail(Error::Unsupported("run a guest", device.error().ToString()));
    opened.emplace(std::move(*device));
  }
  const vmm::KvmDevice& device = options.device != nullptr ? *options.device : *opened;
  vmm::UserMachineOptions machine_options;
  machine_options.arena_bytes = options.arena_bytes;
  machine_options.arena_backing =
      options.host_page_bytes == abi::kLargePageBytes ? Backing::kTransparentHuge : Backing::kSmallPages;
  machine_options.guest_page_bytes = options.guest_page_bytes;
  machine_options.cpuid = options.cpuid;
  machine_options.image = options.parsed;
  if (options.nested_paging) {
    machine_options.nested = {
        .svm = hypervisors::Svm(), .vmx = hypervisors::Vmx(), .nested_paging = *options.nested_paging};
  }
  if (options.make_devices) {
    machine_options.make_devices = options.make_devices;
  } else if (options.disk.kind != DiskKind::kNone) {
    machine_options.make_devices = [&options](const vmm::GuestMemory& memory) -> Result<std::vector<vmm::UserDevice>> {
      auto disk = MakeDiskDevice(options.disk, memory);
      if (!disk) return Fail(std::move(disk.error()));
      std::vector<vmm::UserDevice> devices;
      devices.push_back({std::move(*disk), !options.disk.doorbell_exits});
      return devices;
    };
  }
  auto machine = UserMachine::Create(device, options.image, machine_options);
  if (!machine) return Fail(std::move(machine.error()));
  std::optional<vmm::BinaryStats> stats;  // a kernel without them costs only the count
  if (options.statistics) {
    if (auto opened = machine->vcpu().Stats()) stats.emplace(std::move(*opened));
  }
  vmm::UniqueFd event;
  if (options.attach_event) {
    event = vmm::UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!event.valid()) return Fail(Error::System("eventfd", errno));
    if (auto attached = machine->AttachEvent(event.get()); !attached) return Fail(std::move(attached.error()));
  }
  return std::make_unique<VmSubstrate>(std::move(*machine), options.doorbell, std::move(stats), std::move(event));
}

}  // namespace nestbench::substrates
