#include "nestbench/vmm/machine/user_machine.h"

#include <fmt/format.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>
#include <vector>

#include "devices/virtio/core/worker.h"
#include "identity_map.h"
#include "nestbench/abi/x86.h"
#include "nestbench/vmm/base/mutant.h"
#include "nestbench/vmm/bus/irq_line.h"
#include "nested.h"
#include "supervisor.h"

namespace nestbench::vmm {
namespace {

using abi::GuestPhysAddr;
using abi::GuestPhysRange;

constexpr GuestPhysRange kImageRange{GuestPhysAddr(abi::kImageBase), abi::kImageMaxBytes};

std::uint64_t RoundUp(std::uint64_t value, std::uint64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

class DiscardSink final : public ByteSink {
 public:
  void Put(std::span<const std::byte> /*bytes*/) override {}
};

class NoIrq final : public IrqLine {
 public:
  void Set(bool /*level*/) override {}
};

// The interrupt lines of all devices, as what wakes a payload that sleeps.
class WakeLine final : public IrqLine {
 public:
  explicit WakeLine(int event) : event_(event) {}
  void Set(bool level) override {
    if (level) virtio::RingEventFd(event_);
  }

 private:
  int event_;
};

// abi::kWaitPage. The store itself only asks: RunUntilStop() sleeps, where it can be interrupted.
class WaitPage final : public Device {
 public:
  static constexpr std::uint64_t kSizeBytes = 4;

  [[nodiscard]] AccessStatus Read(std::uint64_t /*offset*/, std::span<std::byte> data) override {
    return FailRead(data, AccessStatus::kWriteOnly);
  }
  [[nodiscard]] AccessStatus Write(std::uint64_t offset, std::span<const std::byte> data) override {
    if (offset != 0) return AccessStatus::kBadOffset;
    if (data.size() != kSizeBytes) return AccessStatus::kBadWidth;
    asked_ = true;
    std::memcpy(&limit_ms_, data.data(), sizeof(limit_ms_));
    return AccessStatus::kOk;
  }
  [[nodiscard]] bool TakeAsked() { return std::exchange(asked_, false); }
  [[nodiscard]] std::uint32_t limit_ms() const { return limit_ms_; }

 private:
  bool asked_ = false;
  std::uint32_t limit_ms_ = 0;
};

// Sleeps until `event` rings or `limit_ms` (0: none) have passed; false when the vCPU was told to come back instead, by
// its deadline or a kick. Those set immediate_exit and send a signal, which may come just before the sleep begins:
// hence the look every now and then.
bool SleepUntilRung(int event, const kvm_run& run, std::uint32_t limit_ms) {
  constexpr std::int64_t kLookEveryMs = 20;
  using Clock = std::chrono::steady_clock;
  const auto end = Clock::now() + std::chrono::milliseconds(limit_ms);
  for (;;) {
    if (__atomic_load_n(&run.immediate_exit, __ATOMIC_SEQ_CST) != 0) return false;
    std::int64_t wait_ms = kLookEveryMs;
    if (limit_ms != 0) {
      wait_ms =
          std::min<std::int64_t>(wait_ms, std::chrono::ceil<std::chrono::milliseconds>(end - Clock::now()).count());
      if (wait_ms <= 0) return true;
    }
    pollfd polled = {event, POLLIN, 0};
    if (::poll(&polled, 1, static_cast<int>(wait_ms)) > 0) {
      virtio::DrainEventFd(event);
      return true;
    }
  }
}

Result<const MemoryRegion*> AddRegion(Vm& vm, GuestPhysRange range, Backing backing) {
  auto region = MemoryRegion::Create(range, {.backing = backing});
  if (!region) return Fail(std::move(region.error()));
  if (auto slot = vm.AddMemory(std::move(*region)); !slot) return Fail(std::move(slot.error()));
  for (const MemoryRegion& added : vm.memory().regions()) {
    if (added.range() == range) return &added;
  }
  return Fail(Error::InvalidArgument("add guest memory", "the region vanished"));
}

Result<void> LoadSegments(const GuestMemory& memory, const ElfImage& image) {
  for (const ElfSegment& segment : image.segments()) {
    if (auto written = memory.WriteBytes(segment.memory.start, segment.file_bytes); !written) return written;
  }
  return {};
}

// Identity mappings for all that the payload may see, and for the supervisor's own pages. Without MMIO pages an access
// there is a page fault, for a hypervisor with shadow tables.
Result<GuestPhysAddr> WritePageTables(const GuestMemory& memory, const ElfImage& image, std::uint64_t arena_bytes,
                                      std::uint64_t guest_page_bytes, bool with_mmio, bool with_devices) {
  constexpr PageAccess kSupervisorData{.writable = true};
  constexpr PageAccess kUserData{.user = true, .writable = true};
  constexpr PageAccess kUserMmio{.user = true, .writable = true, .cacheable = false};
  std::vector<internal::Mapping> mappings = {
      {internal::kGdtBase, 2 * abi::kPageBytes, kSupervisorData},  // GDT and IDT
      {internal::kStubsBase, abi::kPageBytes, {.executable = true}},
      {internal::kTssBase, internal::kTssPagesBytes, kSupervisorData},
      {internal::kStackBase, internal::kStackBytes, kSupervisorData},
      {internal::kFaultStackBase, internal::kFaultStackBytes, kSupervisorData},
      {abi::kMailboxBase, abi::kMailboxBytes, kUserData},
      {abi::kStackBase, abi::kStackBytes, kUserData},
  };
  if (with_mmio) mappings.push_back({abi::kDoorbellPage, abi::kMmioPagesEnd - abi::kDoorbellPage, kUserMmio});
  if (with_devices) {
    mappings.push_back({abi::kVirtioBase, abi::kDevicePagesEnd - abi::kVirtioBase, kUserMmio});
  }
  for (const ElfSegment& segment : image.segments()) {
    mappings.push_back({segment.memory.start.value(),
                        RoundUp(segment.memory.size_bytes, abi::kPageBytes),
                        {.user = true, .writable = segment.writable, .executable = segment.executable}});
  }
  if (arena_bytes != 0) mappings.push_back({abi::kArenaBase, arena_bytes, kUserData, guest_page_bytes});
  return internal::WriteIdentityTables(
      memory, {GuestPhysAddr(internal::kPageTablesBase), internal::PageTablesBytes(arena_bytes)}, mappings);
}

// CPUID as the host supports it, and XCR0 so that AVX and AVX-512 work. Returns whether there is XSAVE.
Result<bool> SetUpFeatures(const KvmDevice& device, const CpuidPolicy* known, Vcpu& vcpu) {
  auto policy = known != nullptr ? Result<CpuidPolicy>(*known) : device.SupportedCpuid();
  if (!policy) return Fail(std::move(policy.error()));
  policy->SetTopology(vcpu.id(), 1);
  if (auto set = vcpu.SetCpuid(*policy); !set) return Fail(std::move(set.error()));
  using namespace abi::x86;
  const std::uint64_t xcr0 = policy->SupportedXcr0() & (kXcr0X87 | kXcr0Sse | kXcr0Avx | kXcr0Avx512);
  if (xcr0 == kXcr0X87) return false;
  if (auto set = vcpu.SetXcr0(xcr0); !set) return Fail(std::move(set.error()));
  return true;
}

}  // namespace

struct UserMachine::Board {
  DiscardSink discard;
  NoIrq no_irq;
  Doorbell doorbell;
  PanicPort panic;
  Serial16550 serial;
  PortBus ports;
  MmioBus mmio;

  // Only of a machine with devices. A transport ends before the function that it drives, and both before the event.
  struct Attached {
    std::unique_ptr<virtio::Function> function;
    std::unique_ptr<virtio::MmioTransport> transport;
  };
  UniqueFd wake;
  std::optional<WakeLine> wake_line;
  WaitPage wait_page;
  std::uint64_t waits = 0;
  std::vector<Attached> devices;

  explicit Board(ByteSink* serial_output) : serial(no_irq, serial_output != nullptr ? *serial_output : discard) {}

  Result<void> Connect() {
    auto done = ports.Add(PortAddr(abi::kDoorbellPort), Doorbell::kSizeBytes, doorbell, "doorbell");
    if (done) done = ports.Add(PortAddr(abi::kPanicPort), PanicPort::kSizeBytes, panic, "panic port");
    if (done) done = ports.Add(PortAddr(abi::kSerialPort), Serial16550::kPortCount, serial, "serial port");
    if (done) done = mmio.Add(GuestPhysAddr(abi::kDoorbellPage), Doorbell::kSizeBytes, doorbell, "doorbell page");
    return done;
  }
};

UserMachine::UserMachine(Vm vm, Vcpu vcpu, std::unique_ptr<Board> board)
    : vm_(std::move(vm)), vcpu_(std::move(vcpu)), board_(std::move(board)) {}
UserMachine::UserMachine(UserMachine&&) noexcept = default;
// Devices work on guest memory: they end before it does.
UserMachine::~UserMachine() {
  if (board_ != nullptr) board_->devices.clear();
}

Result<ElfImage> UserMachine::Parse(std::span<const std::byte> elf_file) { return ParseElf(elf_file, kImageRange); }

Result<UserMachine> UserMachine::Create(const KvmDevice& device, std::span<const std::byte> elf_file,
                                        const UserMachineOptions& options) {
  const std::uint64_t arena_bytes = RoundUp(options.arena_bytes, options.guest_page_bytes);
  if (arena_bytes > abi::kArenaMaxBytes) {
    return Fail(Error::InvalidArgument(
        "create machine", fmt::format("an arena of {} bytes; at most {}", options.arena_bytes, abi::kArenaMaxBytes)));
  }
  std::optional<ElfImage> parsed;
  if (options.image == nullptr) {
    auto checked = Parse(elf_file);
    if (!checked) return Fail(std::move(checked.error()));
    parsed.emplace(std::move(*checked));
  }
  const ElfImage& image = parsed ? *parsed : *options.image;
  Virtualization virtualization = {};
  if (options.nested) {
    auto found = internal::CheckNested(device, *options.nested);
    if (!found) return Fail(std::move(found.error()));
    virtualization = *found;
  }
  auto vm = Vm::Create(device);
  if (!vm) return Fail(std::move(vm.error()));

  const auto add = [&vm](std::uint64_t start, std::uint64_t size_bytes, Backing backing) {
    return AddRegion(*vm, {GuestPhysAddr(start), size_bytes}, backing);
  };
  const std::uint64_t nested_bytes = options.nested ? internal::NestedTablesBytes(arena_bytes) : 0;
  if (auto region =
          add(abi::kSupervisorBase, internal::NestedTablesBase(arena_bytes) + nested_bytes, Backing::kSmallPages);
      !region) {
    return Fail(std::move(region.error()));
  }
  auto low = add(abi::kMailboxBase, abi::kStackTop - abi::kMailboxBase, Backing::kSmallPages);
  if (!low) return Fail(std::move(low.error()));
  const std::uint64_t image_end = image.range().start.value() + image.range().size_bytes;
  const GuestPhysRange image_pages{GuestPhysAddr(abi::kImageBase),
                                   RoundUp(image_end - abi::kImageBase, abi::kPageBytes)};
  if (auto region = add(abi::kImageBase, image_pages.size_bytes, Backing::kSmallPages); !region) {
    return Fail(std::move(region.error()));
  }
  const MemoryRegion* arena = nullptr;
  if (arena_bytes != 0) {
    auto region = add(abi::kArenaBase, arena_bytes, options.arena_backing);
    if (!region) return Fail(std::move(region.error()));
    arena = *region;
  }
  const GuestMemory& memory = vm->memory();
  if (auto loaded = LoadSegments(memory, image); !loaded) return Fail(std::move(loaded.error()));
  if (auto written = internal::WriteSupervisor(memory); !written) return Fail(std::move(written.error()));
  const bool has_shadow_tables = options.nested && !options.nested->nested_paging;
  const bool has_devices = options.make_devices != nullptr;
  if (has_devices && options.nested) {
    return Fail(Error::InvalidArgument("create machine", "a guest of a guest has no devices"));
  }
  auto root = WritePageTables(memory, image, arena_bytes, options.guest_page_bytes, !has_shadow_tables, has_devices);
  if (!root) return Fail(std::move(root.error()));

  if (options.interrupt_chip) {
    if (auto made = vm->CreateIrqChip(); !made) return Fail(std::move(made.error()));
  }
  auto vcpu = Vcpu::Create(*vm, abi::VcpuId{0});
  if (!vcpu) return Fail(std::move(vcpu.error()));
  auto has_xsave = SetUpFeatures(device, options.cpuid, *vcpu);
  if (!has_xsave) return Fail(std::move(has_xsave.error()));
  auto entered = options.nested ? internal::EnterNested(device, virtualization, *options.nested, memory, *vcpu,
                                                        {*root, image.entry(), *has_xsave, image_pages, arena_bytes,
                                                         options.guest_page_bytes})
                                : internal::EnterUserMode(*vcpu, *root, image.entry(), *has_xsave);
  if (!entered) return Fail(std::move(entered.error()));
  auto board = std::make_unique<Board>(options.serial_output);
  if (auto connected = board->Connect(); !connected) return Fail(std::move(connected.error()));

  UserMachine machine(std::move(*vm), std::move(*vcpu), std::move(board));
  machine.mailbox_ = (*low)->bytes().first(abi::kMailboxBytes);
  machine.arena_ = arena;
  if (has_devices) {
    auto devices = options.make_devices(machine.vm_.memory());
    if (!devices) return Fail(std::move(devices.error()));
    if (auto attached = machine.AttachDevices(std::move(*devices)); !attached) return Fail(std::move(attached.error()));
  }
  return machine;
}

Result<void> UserMachine::AttachDevices(std::vector<UserDevice> devices) {
  if (devices.size() > abi::kVirtioMaxDevices) {
    return Fail(Error::InvalidArgument("attach devices",
                                       fmt::format("{} devices; at most {}", devices.size(), abi::kVirtioMaxDevices)));
  }
  auto wake = virtio::CreateEventFd();
  if (!wake) return Fail(std::move(wake.error()));
  board_->wake = std::move(*wake);
  board_->wake_line.emplace(board_->wake.get());
  auto done = board_->mmio.Add(GuestPhysAddr(abi::kWaitPage), WaitPage::kSizeBytes, board_->wait_page, "wait page");
  for (std::size_t i = 0; done && i < devices.size(); ++i) {
    Board::Attached attached{std::move(devices[i].function), nullptr};
    auto transport = virtio::MmioTransport::Create(*attached.function, vm_.memory(), *board_->wake_line);
    if (!transport) return Fail(std::move(transport.error()));
    attached.transport = std::move(*transport);
    const std::uint64_t base = abi::kVirtioBase + i * abi::kVirtioStride;
    const std::size_t doorbells = devices[i].doorbells_in_kernel ? attached.transport->queue_count() : 0;
    for (std::size_t queue = 0; done && queue < doorbells; ++queue) {
      done = vm_.AttachIoEvent(
          attached.transport->doorbell(queue),
          {.address = base + virtio::MmioTransport::kNotifyOffset, .match_value = true, .value = queue});
    }
    if (done) {
      done = board_->mmio.Add(GuestPhysAddr(base), virtio::MmioTransport::kSizeBytes, *attached.transport,
                              fmt::format("virtio device {}", i));
    }
    board_->devices.push_back(std::move(attached));
  }
  return done;
}

std::size_t UserMachine::device_count() const { return board_->devices.size(); }
const virtio::MmioTransport& UserMachine::transport(std::size_t index) const {
  return *board_->devices[index].transport;
}
std::uint64_t UserMachine::waits() const { return board_->waits; }

// Hot, as everything else on this path: the linker puts such functions together, and after an exit, when the TLB may be
// empty, each page of code that is touched costs a walk.
[[gnu::hot]] Result<Stop> UserMachine::RunUntilStop() {
  const std::uint64_t rings_before = board_->doorbell.rings();
  for (;;) {
    auto entered = vcpu_.Enter();
    if (!entered) return Fail(std::move(entered.error()));
    if (!*entered) return StopForGood(InterruptedExit{});
    AccessStatus status = AccessStatus::kOk;
    if (vcpu_.run()->exit_reason == KVM_EXIT_IO) {
      const IoExit io = vcpu_.LastIoExit();
      // String instructions move `count` items of one width through one port, one after the other.
      for (std::size_t offset = 0; offset < io.data.size(); offset += io.width_bytes) {
        const auto item = io.data.subspan(offset, io.width_bytes);
        const auto one =
            io.is_write ? board_->ports.Write(PortAddr(io.port), item) : board_->ports.Read(PortAddr(io.port), item);
        if (one != AccessStatus::kOk) status = one;
      }
      if (board_->panic.count() != 0) return DescribeException();
    } else if (vcpu_.run()->exit_reason == KVM_EXIT_MMIO) {
      const MmioExit mmio = vcpu_.LastMmioExit();
      if (Mutated("mmio-write-dropped") && mmio.is_write) continue;
      status = mmio.is_write ? board_->mmio.Write(mmio.address, mmio.data) : board_->mmio.Read(mmio.address, mmio.data);
    } else {
      return StopForGood(vcpu_.LastExit());
    }
    if (board_->wait_page.TakeAsked()) {
      ++board_->waits;
      if (!SleepUntilRung(board_->wake.get(), *vcpu_.run(), board_->wait_page.limit_ms()))
        continue;  // Enter() then says what for
    }
    if (board_->doorbell.rings() != rings_before) return Stop{StopReason::kDoorbell, {}};
    if (status != AccessStatus::kOk) ++refused_accesses_;
  }
}

Stop UserMachine::StopForGood(const Exit& exit) const {
  if (std::holds_alternative<InterruptedExit>(exit)) return {StopReason::kInterrupted, "interrupted"};
  const bool crashed = std::holds_alternative<ShutdownExit>(exit) || std::holds_alternative<FailEntryExit>(exit) ||
                       std::holds_alternative<InternalErrorExit>(exit);
  return {.reason = crashed ? StopReason::kCrashed : StopReason::kUnexpected,
          .text = ToString(exit),
          .exit_reason = vcpu_.run()->exit_reason};
}

Stop UserMachine::DescribeException() const {
  const VcpuSnapshot snapshot = vcpu_.Snapshot();
  const std::uint32_t vector = board_->panic.vector().value_or(0);
  if ((vector & abi::kHypervisorPanic) != 0) {
    return {.reason = StopReason::kCrashed,
            .text = fmt::format("the hypervisor in the guest has no answer to the exit {:#x}",
                                vector & ~abi::kHypervisorPanic)};
  }
  std::string text = fmt::format("guest exception, vector {}", vector);
  std::optional<GuestException> exception;
  if (snapshot.regs) {
    // The stub's stack pointer is the guest's word: an address outside memory just means no frame.
    if (auto frame = vm_.memory().Read<internal::ExceptionFrame>(GuestPhysAddr(snapshot.regs->rsp))) {
      if (Mutated("exception-error-code-lost")) frame->error_code = 0;
      exception = GuestException{vector, frame->error_code, frame->rip, snapshot.sregs ? snapshot.sregs->cr2 : 0};
      text += fmt::format(", error code {:#x}, rip {:#x}, cs {:#x}, rsp {:#x}, cr2 {:#x}", frame->error_code,
                          frame->rip, frame->cs, frame->rsp, exception->cr2);
    }
  }
  return {.reason = StopReason::kException, .text = std::move(text), .exception = exception};
}

Result<void> UserMachine::AttachEvent(int eventfd) {
  auto done = vm_.AttachIoEvent(eventfd, {.is_port = true, .address = abi::kEventPort});
  if (!done) return done;
  return vm_.AttachIoEvent(eventfd, {.address = abi::kEventPage});
}

}  // namespace nestbench::vmm
