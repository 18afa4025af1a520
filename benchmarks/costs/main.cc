// nestbench-costs: started by `nestbench run costs`, once for each operation and round.
//   nestbench-costs --list        one JSON object a line: {"name", "summary"}
//   nestbench-costs --run NAME    {"status": "ok", "unit", "iterations", "samples"} or {"status": "unsupported",
//   "reason"}
// Exit code: 0 for either, 1 when something broke, 2 for wrong arguments.
//
// With NESTBENCH_COST_CLOCK=instructions the time stamp counter is taken for an instruction count, as it is on a host
// that is emulated by count; else costs are in ns of CLOCK_MONOTONIC_RAW.
#include <fmt/format.h>
#include <sys/eventfd.h>
#include <x86intrin.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <string_view>
#include <vector>

#include "code_image.h"
#include "guest_code.h"
#include "level2.h"
#include "nestbench/abi/address.h"
#include "nestbench/hypervisors/images.h"
#include "nestbench/vmm/base/clock.h"
#include "nestbench/vmm/base/unique_fd.h"
#include "nestbench/vmm/kvm/deadline.h"
#include "nestbench/vmm/machine/flat_machine.h"
#include "nestbench/vmm/machine/user_machine.h"
#include "operations.h"
#include "prepare.h"
#include "second_vcpu.h"

namespace nestbench::costs {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;
using vmm::Error;
using vmm::Fail;
using vmm::Result;

constexpr auto kLimit = 1s;  // for one loop; an instruction that hangs is found out so
constexpr std::uint64_t kSamples = 40;
constexpr std::uint64_t kMostPasses = 1 << 20;
constexpr std::uint64_t kEnoughNs = 1'000'000;  // a loop that takes this long is long against its timer

bool CountsInstructions() {
  const char* clock = std::getenv("NESTBENCH_COST_CLOCK");
  return clock != nullptr && std::string_view(clock) == "instructions";
}

std::uint64_t Now(bool counts) {
  if (counts) return __rdtsc();
  return vmm::MonotonicRawNs();
}

// What one loop takes, from outside. kUnsupported with the cause when the guest does not come back by its doorbell.
template <typename Machine>
Result<std::uint64_t> TimeLoop(Machine& machine, const Order& order, bool counts) {
  std::memcpy(machine.mailbox().data(), &order, sizeof(order));
  auto deadline = vmm::RunDeadline::Start(machine.vcpu(), kLimit);
  if (!deadline) return Fail(std::move(deadline.error()));
  const std::uint64_t begin = Now(counts);
  auto stop = machine.RunUntilStop();
  const std::uint64_t end = Now(counts);
  if (!stop) return Fail(std::move(stop.error()));
  if (stop->reason == vmm::StopReason::kDoorbell) return end - begin;
  const std::string first_line = stop->text.substr(0, stop->text.find('\n'));
  return Fail(Error::Unsupported("run the operation", stop->reason == vmm::StopReason::kInterrupted
                                                          ? "the guest did not come back from it within 1 s"
                                                          : first_line));
}

// With the loops at CPL0 of a guest.
class Guest {
 public:
  static Result<Guest> Create(const vmm::KvmDevice& device, const Operation& operation) {
    auto options = MachineOptions(device, operation);
    if (!options) return Fail(std::move(options.error()));
    auto machine = vmm::FlatMachine::Create(device, GuestCode(operation), vmm::FlatMode::kSupervisor64, *options);
    if (!machine) return Fail(std::move(machine.error()));
    Guest guest(std::move(*machine), operation);
    if (auto prepared = Prepare(guest.machine_, operation); !prepared) {
      return Fail(std::move(prepared.error()));
    }
    if (operation.has_second_vcpu) {
      auto second = SecondVcpu::Start(guest.machine_);
      if (!second) return Fail(std::move(second.error()));
      guest.second_ = std::move(*second);
    }
    if (operation.level2 != Level2::kNone) {
      if (auto prepared = PrepareLevel2(device, guest.machine_, operation.level2); !prepared) {
        return Fail(std::move(prepared.error()));
      }
    }
    if (operation.event_port != 0) {
      guest.event_ = vmm::UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
      if (!guest.event_.valid()) return Fail(Error::System("eventfd", errno));
      auto attached =
          guest.machine_.vm().AttachIoEvent(guest.event_.get(), {.is_port = true, .address = operation.event_port});
      if (!attached) return Fail(std::move(attached.error()));
    }
    return guest;
  }

  Result<void> CheckL2() { return CheckLevel2(machine_, operation_->level2); }

  Result<std::uint64_t> Loop(std::uint64_t passes, bool with_operation, bool counts) {
    const Progress before = CurrentProgress();
    auto took = TimeLoop(machine_, {.passes = passes, .with_operation = with_operation ? 1U : 0U}, counts);
    if (!took) {
      if (second_ && !second_->End().empty()) {
        took.error().detail += fmt::format("; its second vCPU ended: {}", second_->End());
      }
      return took;
    }
    if (auto checked = CheckProgress(before, with_operation ? passes : 0); !checked) {
      return Fail(std::move(checked.error()));
    }
    return took;
  }

  // Of the last loop, for an operation that measures itself: TSC ticks, first pass last.
  Result<std::vector<std::int64_t>> Values(std::uint64_t passes) {
    std::vector<std::int64_t> values(passes);
    const auto bytes = std::as_writable_bytes(std::span(values));
    auto read = machine_.vm().memory().ReadBytes(abi::GuestPhysAddr(kValues), bytes);
    if (!read) return Fail(std::move(read.error()));
    return values;
  }
  Result<std::uint64_t> TscKhz() { return machine_.vcpu().TscKhz(); }

 private:
  // What shows that an operation does what it should.
  struct Progress {
    std::uint64_t counted = 0;   // R13
    std::uint64_t accesses = 0;  // what the VMM has answered
  };

  Guest(vmm::FlatMachine machine, const Operation& operation) : machine_(std::move(machine)), operation_(&operation) {}

  Progress CurrentProgress() {
    Progress progress = {.counted = 0, .accesses = machine_.traffic().accesses};
    if (!operation_->is_counted) return progress;
    if (auto regs = machine_.vcpu().GetRegs()) progress.counted = regs->r13;
    return progress;
  }

  Result<void> CheckProgress(const Progress& before, std::uint64_t expected) {
    const Progress now = CurrentProgress();
    const std::uint64_t counted = now.counted - before.counted;
    if (operation_->is_counted && counted != expected) {
      return Fail(
          Error::System("run the operation", EIO, fmt::format("it happened {} times in {}", counted, expected)));
    }
    const std::uint64_t left = now.accesses - before.accesses - 1;  // but for the doorbell
    if (operation_->has_user_msrs && left != expected) {
      return Fail(Error::System("run the operation", EIO, fmt::format("it left {} times in {}", left, expected)));
    }
    return {};
  }

  vmm::FlatMachine machine_;
  const Operation* operation_;
  std::unique_ptr<SecondVcpu> second_;  // behind the machine, which outlives it
  vmm::UniqueFd event_;
};

// With the loops in a guest of the guest, at CPL3.
class Level2Guest {
 public:
  static Result<Level2Guest> Create(const vmm::KvmDevice& device, const Operation& operation) {
    vmm::UserMachineOptions options;
    options.nested = {
        .svm = hypervisors::Svm(), .vmx = hypervisors::Vmx(), .nested_paging = operation.level2 == Level2::kHypervisor};
    const std::vector<std::byte> code = UserCode(operation);
    const auto* const bytes = reinterpret_cast<const std::uint8_t*>(code.data());
    const std::vector<std::byte> image = micro::MakeCodeImage({bytes, bytes + code.size()});
    auto machine = vmm::UserMachine::Create(device, image, options);
    if (!machine) return Fail(std::move(machine.error()));
    return Level2Guest(std::move(*machine));
  }
  Result<std::uint64_t> Loop(std::uint64_t passes, bool with_operation, bool counts) {
    return TimeLoop(machine_, {.passes = passes, .with_operation = with_operation ? 1U : 0U}, counts);
  }

 private:
  explicit Level2Guest(vmm::UserMachine machine) : machine_(std::move(machine)) {}
  vmm::UserMachine machine_;
};

std::string_view UnitOf(bool counts) { return counts ? "instructions/op" : "ns/op"; }

// The first loops, which also bring code and page tables into place and are not samples. How many passes are enough.
template <typename G>
Result<std::uint64_t> WarmUp(G& guest, const Operation& operation, bool counts) {
  std::uint64_t passes = operation.least_passes;
  for (;;) {
    auto took = guest.Loop(passes, true, counts);
    if (!took) return Fail(std::move(took.error()));
    if (counts || *took >= kEnoughNs || passes >= (operation.measures_itself ? kMostValues : kMostPasses)) {
      return passes;
    }
    passes *= 2;
  }
}

// What a pass with the operation takes beyond one without.
template <typename G>
Result<json> MeasureDifferences(G& guest, std::uint64_t passes, bool counts) {
  std::vector<double> samples;
  for (std::uint64_t i = 0; i < kSamples; ++i) {
    auto empty = guest.Loop(passes, false, counts);
    if (!empty) return Fail(std::move(empty.error()));
    auto full = guest.Loop(passes, true, counts);
    if (!full) return Fail(std::move(full.error()));
    samples.push_back((static_cast<double>(*full) - static_cast<double>(*empty)) / static_cast<double>(passes));
  }
  return json{{"status", "ok"}, {"unit", UnitOf(counts)}, {"iterations", passes}, {"samples", samples}};
}

Result<json> MeasureInLevel2(const vmm::KvmDevice& device, const Operation& operation, bool counts) {
  auto guest = Level2Guest::Create(device, operation);
  if (!guest) return Fail(std::move(guest.error()));
  auto passes = WarmUp(*guest, operation, counts);
  if (!passes) return Fail(std::move(passes.error()));
  return MeasureDifferences(*guest, *passes, counts);
}

Result<json> Measure(const Operation& operation) {
  const bool counts = CountsInstructions();
  auto device = vmm::KvmDevice::Open();
  if (!device) return Fail(std::move(device.error()));
  if (RunsInLevel2(operation)) return MeasureInLevel2(*device, operation, counts);
  auto guest = Guest::Create(*device, operation);
  if (!guest) return Fail(std::move(guest.error()));
  auto passes = WarmUp(*guest, operation, counts);
  if (!passes) return Fail(std::move(passes.error()));
  if (operation.level2 != Level2::kNone) {
    if (auto checked = guest->CheckL2(); !checked) return Fail(std::move(checked.error()));
  }
  if (operation.measures_itself) {
    std::vector<double> samples;
    auto tsc_khz = guest->TscKhz();
    if (!tsc_khz) return Fail(std::move(tsc_khz.error()));
    const double value_of_tick = counts ? 1.0 : 1e6 / static_cast<double>(*tsc_khz);
    for (std::uint64_t i = 0; i < kSamples; ++i) {
      auto took = guest->Loop(*passes, true, counts);
      if (!took) return Fail(std::move(took.error()));
      auto values = guest->Values(*passes);
      if (!values) return Fail(std::move(values.error()));
      for (const std::int64_t value : *values) samples.push_back(static_cast<double>(value) * value_of_tick);
    }
    return json{{"status", "ok"}, {"unit", UnitOf(counts)}, {"iterations", 1}, {"samples", samples}};
  }
  return MeasureDifferences(*guest, *passes, counts);
}

int Run(std::string_view name) {
  const auto operations = Operations();
  const auto found = std::ranges::find(operations, name, &Operation::name);
  if (found == operations.end()) {
    fmt::print(stderr, "nestbench-costs: there is no operation `{}`\n", name);
    return 2;
  }
  auto result = Measure(*found);
  if (!result && result.error().kind != vmm::ErrorKind::kUnsupported) {
    fmt::print(stderr, "nestbench-costs: {}\n", result.error().ToString());
    return 1;
  }
  const json said = result ? *result : json{{"status", "unsupported"}, {"reason", result.error().ToString()}};
  fmt::print("{}\n", said.dump(-1, ' ', true, json::error_handler_t::replace));
  return 0;
}

int Main(int argc, char** argv) {
  const std::string_view command = argc > 1 ? argv[1] : "";
  if (command == "--list" && argc == 2) {
    for (const Operation& operation : Operations()) {
      fmt::print("{}\n", json{{"name", operation.name}, {"summary", operation.summary}}.dump());
    }
    return 0;
  }
  if (command == "--run" && argc == 3) return Run(argv[2]);
  fmt::print(stderr, "nestbench-costs: --list, or --run NAME\n");
  return 2;
}

}  // namespace
}  // namespace nestbench::costs

int main(int argc, char** argv) { return nestbench::costs::Main(argc, argv); }
