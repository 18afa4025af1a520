#include "boot_command.h"

#include <fmt/format.h>
#include <poll.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <termios.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>
#include <string_view>
#include <thread>

#include "devices/virtio/balloon/balloon.h"
#include "devices/virtio/block/block.h"
#include "devices/virtio/block/file_disk.h"
#include "devices/virtio/block/ram_disk.h"
#include "devices/virtio/net/net.h"
#include "devices/virtio/net/switch.h"
#include "devices/virtio/net/tap.h"
#include "devices/virtio/rng/rng.h"
#include "exit_codes.h"
#include "nestbench/vmm/kvm/kvm_device.h"
#include "nestbench/vmm/loader/linux.h"
#include "nestbench/vmm/loader/loaded_file.h"
#include "nestbench/vmm/machine/linux_machine.h"

namespace nestbench::program {
namespace {

using vmm::Error;
using vmm::Fail;
using vmm::Result;

constexpr std::uint64_t kMaxFileBytes = 1ULL << 30;
constexpr char kEscape = 0x01;  // Ctrl-A, then x: ends the guest
// Whatever else the user wants; without a display and PCI a kernel need not look for them.
constexpr const char* kCommandLine = "console=ttyS0 reboot=k panic=-1 pci=off";

// Signals only set this; the machine's own thread looks at it.
std::atomic<int> stop_signal{0};
void OnSignal(int number) { stop_signal.store(number, std::memory_order_relaxed); }

// When the console said what: one JSON object on a line for each of its lines, and one for the entry.
// {"ns": since the start of the command, "event": "entered"} or {"ns", "line": text}.
class Timeline {
 public:
  static Result<std::unique_ptr<Timeline>> Create(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "we");
    if (file == nullptr) return Fail(Error::System("open", errno, path));
    return std::make_unique<Timeline>(file);
  }
  explicit Timeline(std::FILE* file) : file_(file) {}
  ~Timeline() { std::fclose(file_); }
  Timeline(const Timeline&) = delete;
  Timeline& operator=(const Timeline&) = delete;

  void Event(std::string_view name) { Write({{"ns", Now()}, {"event", name}}); }

  // Output of the guest, in pieces as they come. A line counts from when its end was written.
  void Text(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) {
      const char character = std::to_integer<char>(byte);
      if (character == '\n' || line_.size() >= kMaxLineBytes) {
        Write({{"ns", Now()}, {"line", line_}});
        line_.clear();
      }
      if (character != '\n' && character != '\r') line_ += character;
    }
  }

 private:
  static constexpr std::size_t kMaxLineBytes = 4096;

  [[nodiscard]] std::int64_t Now() const {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now() - start_).count();
  }
  // Line by line, so that a guest that is killed leaves what was.
  void Write(const nlohmann::json& entry) {
    const std::string text = entry.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    if (std::fputs(text.c_str(), file_) >= 0) std::fflush(file_);
  }

  std::FILE* file_;
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  std::string line_;
};

class Terminal final : public vmm::ByteSink {
 public:
  explicit Terminal(Timeline* timeline) : timeline_(timeline) {}
  void Put(std::span<const std::byte> bytes) override {
    if (timeline_ != nullptr) timeline_->Text(bytes);
    while (!bytes.empty()) {
      const ssize_t written = ::write(STDOUT_FILENO, bytes.data(), bytes.size());
      if (written < 0 && errno == EINTR) continue;
      if (written <= 0) return;  // nobody listens any more
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

 private:
  Timeline* timeline_;  // may be nullptr
};

// Keys go to the guest one by one and unechoed while this lives.
class RawTerminal {
 public:
  RawTerminal() {
    if (::isatty(STDIN_FILENO) == 0 || ::tcgetattr(STDIN_FILENO, &before_) != 0) return;
    termios raw = before_;
    ::cfmakeraw(&raw);
    raw.c_oflag = before_.c_oflag;  // our own lines still end as they should
    is_raw_ = ::tcsetattr(STDIN_FILENO, TCSANOW, &raw) == 0;
  }
  ~RawTerminal() {
    if (is_raw_) ::tcsetattr(STDIN_FILENO, TCSANOW, &before_);
  }
  RawTerminal(const RawTerminal&) = delete;
  RawTerminal& operator=(const RawTerminal&) = delete;
  [[nodiscard]] bool is_raw() const { return is_raw_; }

 private:
  termios before_{};
  bool is_raw_ = false;
};

// Carries standard input to the serial port until it ends, and a signal to the machine.
class Keyboard {
 public:
  Keyboard(vmm::LinuxMachine& machine, bool escapes)
      : machine_(machine), escapes_(escapes), thread_([this] { Loop(); }) {}
  ~Keyboard() {
    ending_.store(true, std::memory_order_release);
    thread_.join();
  }
  Keyboard(const Keyboard&) = delete;
  Keyboard& operator=(const Keyboard&) = delete;

 private:
  void Loop() {
    bool open = true;
    std::array<std::byte, 256> bytes{};
    while (!ending_.load(std::memory_order_acquire)) {
      if (stop_signal.load(std::memory_order_relaxed) != 0) machine_.Stop();
      pollfd input{.fd = open ? STDIN_FILENO : -1, .events = POLLIN, .revents = 0};
      if (::poll(&input, 1, 50) <= 0) continue;
      const ssize_t got = ::read(STDIN_FILENO, bytes.data(), bytes.size());
      if (got <= 0) {
        open = got < 0 && errno == EINTR;
        continue;
      }
      Give(std::span(bytes).first(static_cast<std::size_t>(got)));
    }
  }
  void Give(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes) {
      if (escapes_ && escaped_ && byte == std::byte{'x'}) machine_.Stop();
      escaped_ = byte == std::byte{kEscape} && !escaped_;
      if (escapes_ && escaped_) continue;
      // The port has room for a few bytes; a guest that does not read them makes the rest wait.
      while (machine_.PushSerial(std::span(&byte, 1)) == 0 && !ending_.load(std::memory_order_acquire)) {
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    }
  }

  vmm::LinuxMachine& machine_;
  bool escapes_;
  bool escaped_ = false;
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

vmm::virtio::PollPolicy Polling(const BootRequest& request) {
  return {std::chrono::nanoseconds(static_cast<std::int64_t>(request.poll_us * 1000))};
}

// FILE[,direct][,ro]
Result<std::unique_ptr<vmm::virtio::Disk>> OpenDisk(std::string_view text) {
  vmm::virtio::FileDiskOptions options;
  const std::size_t comma = text.find(',');
  const std::string path(text.substr(0, comma));
  std::string_view rest = comma == std::string_view::npos ? std::string_view() : text.substr(comma + 1);
  while (!rest.empty()) {
    const std::size_t next = rest.find(',');
    const std::string_view word = rest.substr(0, next);
    rest = next == std::string_view::npos ? std::string_view() : rest.substr(next + 1);
    if (word == "direct") {
      options.direct = true;
    } else if (word == "ro") {
      options.read_only = true;
    } else {
      return Fail(Error::InvalidArgument("--disk", fmt::format("`{}`: FILE[,direct][,ro]", text)));
    }
  }
  auto disk = vmm::virtio::FileDisk::Open(path, options);
  if (!disk) return Fail(std::move(disk.error()));
  return std::unique_ptr<vmm::virtio::Disk>(std::move(*disk));
}

// tap:NAME, or a port of the switch that all of this guest's `switch` cards share.
Result<std::unique_ptr<vmm::virtio::NetPort>> OpenNet(const std::string& text, vmm::virtio::Switch& shared) {
  constexpr std::string_view kTap = "tap:";
  if (text == "switch") return shared.AddPort();
  if (!text.starts_with(kTap)) {
    return Fail(Error::InvalidArgument("--net", fmt::format("`{}`: tap:NAME or switch", text)));
  }
  auto tap = vmm::virtio::Tap::Open(text.substr(kTap.size()));
  if (!tap) return Fail(std::move(tap.error()));
  return std::unique_ptr<vmm::virtio::NetPort>(std::move(*tap));
}

// The devices in the order in which the guest finds them.
struct Devices {
  vmm::virtio::Switch shared_switch;
  std::vector<std::unique_ptr<vmm::virtio::Function>> functions;
  std::vector<std::string> names;
  std::vector<vmm::virtio::Block*> blocks;
  std::vector<vmm::virtio::Net*> nets;

  void Add(std::unique_ptr<vmm::virtio::Function> function, std::string name) {
    functions.push_back(std::move(function));
    names.push_back(std::move(name));
  }
};

Result<std::unique_ptr<Devices>> MakeDevices(const BootRequest& request) {
  auto devices = std::make_unique<Devices>();
  const auto add_disk = [&](std::unique_ptr<vmm::virtio::Disk> disk, const std::string& name) {
    auto block = std::make_unique<vmm::virtio::Block>(
        std::move(disk), vmm::virtio::BlockOptions{.polling = Polling(request), .serial = "nestbench"});
    devices->blocks.push_back(block.get());
    devices->Add(std::move(block), name);
  };
  for (const std::string& text : request.disks) {
    auto disk = OpenDisk(text);
    if (!disk) return Fail(std::move(disk.error()));
    add_disk(std::move(*disk), "disk " + text);
  }
  for (const std::uint64_t bytes : request.ram_disks) {
    auto disk = vmm::virtio::RamDisk::Create(bytes);
    if (!disk) return Fail(std::move(disk.error()));
    add_disk(std::move(*disk), fmt::format("RAM disk of {} B", bytes));
  }
  std::uint8_t number = 0;
  for (const std::string& text : request.nets) {
    auto port = OpenNet(text, devices->shared_switch);
    if (!port) return Fail(std::move(port.error()));
    vmm::virtio::NetOptions options{.polling = Polling(request)};
    options.mac.back() = static_cast<std::uint8_t>(options.mac.back() + number++);
    auto net = vmm::virtio::Net::Create(std::move(*port), options);
    if (!net) return Fail(std::move(net.error()));
    devices->nets.push_back(net->get());
    devices->Add(std::move(*net), "network " + text);
  }
  devices->Add(std::make_unique<vmm::virtio::Rng>(), "entropy");
  if (request.balloon) {
    auto balloon = vmm::virtio::Balloon::Create();
    if (!balloon) return Fail(std::move(balloon.error()));
    devices->Add(std::move(*balloon), "balloon");
  }
  return devices;
}

int CodeOf(const Error& error) {
  switch (error.kind) {
    case vmm::ErrorKind::kUnsupported:
      return kExitUnsupported;
    case vmm::ErrorKind::kInvalidArgument:
    case vmm::ErrorKind::kMalformed:
      return kExitUsage;
    default:
      // A file that is not there, or may not be opened, is the user's; what the kernel refuses later is not.
      return error.operation == "open" ? kExitUsage : kExitBroke;
  }
}

int CodeOf(vmm::LinuxEnd end) {
  switch (end) {
    case vmm::LinuxEnd::kPoweredOff:
    case vmm::LinuxEnd::kReset:
      return kExitPass;
    case vmm::LinuxEnd::kStopped: {
      const int number = stop_signal.load(std::memory_order_relaxed);
      return number != 0 ? kExitSignalBase + number : kExitPass;
    }
    case vmm::LinuxEnd::kTimedOut:
      return kExitFailed;
    case vmm::LinuxEnd::kUnsupported:
      return kExitUnsupported;
    case vmm::LinuxEnd::kFailed:
      return kExitBroke;
  }
  return kExitBroke;
}

void InstallHandlers() {
  struct sigaction action {};
  action.sa_handler = OnSignal;
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(number, &action, nullptr);
}

void PrintSummary(const vmm::LinuxMachine& machine, const Devices& devices, double seconds) {
  fmt::print(stderr, "nestbench: after {:.1f} s, {} exits to the VMM\n", seconds, machine.exits());
  for (std::size_t i = 0; i < devices.functions.size(); ++i) {
    const auto counters = machine.transport(i).counters();
    std::uint64_t faults = 0;
    for (const std::uint64_t count : counters.faults) faults += count;
    fmt::print(stderr, "nestbench:   {}: {} doorbells as exits, {} interrupts, {} faults\n", devices.names[i],
               counters.doorbell_exits, counters.interrupts, faults);
  }
  for (const vmm::virtio::Block* block : devices.blocks) {
    const auto counters = block->counters();
    fmt::print(stderr, "nestbench:   block: {} requests in {} batches, {} flushes, {} errors\n", counters.requests,
               counters.batches, counters.flushes, counters.errors);
  }
  for (const vmm::virtio::Net* net : devices.nets) {
    const auto counters = net->counters();
    fmt::print(stderr, "nestbench:   network: {} frames ({} B) sent, {} ({} B) received, {} dropped\n",
               counters.sent_frames, counters.sent_bytes, counters.received_frames, counters.received_bytes,
               counters.dropped_frames);
  }
}

Result<int> BootChecked(const BootRequest& request) {
  std::unique_ptr<Timeline> timeline;
  if (!request.timeline.empty()) {
    auto created = Timeline::Create(request.timeline);
    if (!created) return Fail(std::move(created.error()));
    timeline = std::move(*created);
  }
  auto kernel = vmm::LoadedFile::Read(request.kernel, kMaxFileBytes);
  if (!kernel) return Fail(std::move(kernel.error()));
  std::optional<vmm::LoadedFile> initramfs;
  if (!request.initramfs.empty()) {
    auto read = vmm::LoadedFile::Read(request.initramfs, kMaxFileBytes);
    if (!read) return Fail(std::move(read.error()));
    initramfs.emplace(std::move(*read));
  }
  // What is wrong with files and flags is said before what is wrong with the host.
  if (auto image = vmm::ParseLinux(kernel->bytes()); !image) return Fail(std::move(image.error()));
  auto made = MakeDevices(request);
  if (!made) return Fail(std::move(made.error()));
  const std::unique_ptr<Devices> devices = std::move(*made);
  auto device = vmm::KvmDevice::Open();
  if (!device) {
    spdlog::error("unsupported: {}", device.error().ToString());
    return kExitUnsupported;
  }

  Terminal terminal(timeline.get());
  vmm::LinuxMachineOptions options{.kernel = kernel->bytes(),
                                   .initramfs = initramfs ? initramfs->bytes() : std::span<const std::byte>(),
                                   .command_line = kCommandLine,
                                   .vcpus = request.vcpus,
                                   .memory_bytes = request.memory_bytes,
                                   .serial_output = &terminal,
                                   .devices = {},
                                   .doorbells_in_kernel = !request.exit_doorbells,
                                   .interrupts_in_kernel = !request.ioctl_interrupts};
  if (!request.append.empty()) options.command_line += " " + request.append;
  for (const auto& function : devices->functions) options.devices.push_back(function.get());
  auto machine = vmm::LinuxMachine::Create(*device, options);
  if (!machine) return Fail(std::move(machine.error()));
  if (auto refused = vmm::FindRefusedInstruction(*device)) {
    spdlog::error("unsupported: {}", *refused);
    return kExitUnsupported;
  }

  if (timeline) timeline->Event("entered");
  InstallHandlers();
  vmm::LinuxMachine::Limits limits;
  if (request.timeout_s > 0) {
    limits.total = std::chrono::nanoseconds(static_cast<std::int64_t>(request.timeout_s * 1e9));
  }
  const auto start = std::chrono::steady_clock::now();
  vmm::LinuxOutcome outcome;
  {
    const RawTerminal raw;
    const Keyboard keyboard(**machine, raw.is_raw());
    outcome = (*machine)->Run(limits);
  }
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start;
  fmt::print(stderr, "nestbench: {}{}{}{}\n",
             outcome.end == vmm::LinuxEnd::kUnsupported ? "" : "the guest ended: ", ToString(outcome.end),
             outcome.text.empty() ? "" : ": ", outcome.text);
  if (!request.quiet) PrintSummary(**machine, *devices, passed.count());
  return CodeOf(outcome.end);
}

}  // namespace

int Boot(const BootRequest& request) {
  auto code = BootChecked(request);
  if (code) return *code;
  const int exit_code = CodeOf(code.error());
  spdlog::error("{}{}", exit_code == kExitUnsupported ? "unsupported: " : "", code.error().ToString());
  return exit_code;
}

}  // namespace nestbench::program
