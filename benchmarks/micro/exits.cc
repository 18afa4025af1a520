// What: the cost of leaving a guest and coming back, from CPL3, one benchmark for each way out; RDTSC is the control,
// which must not leave. Unit: ns per exit, lower is better. `vm`: UserMachine::RunUntilStop. `nested`, `nested_shadow`:
// the same, of a guest of a hypervisor in the guest, with nested paging and without. `floor`: the same guest in raw
// ioctls. `bare`: the instruction in this process, from the same image.
// Timer: CLOCK_MONOTONIC_RAW's relative, the real time of Google Benchmark, around whole batches.
// Left out: creating the machine, its first entries, and the payload's own set-up. Included, on both sides alike: two
// to five system calls for each batch (the deadline) and, where the operation does not come back to the host, the one
// doorbell that ends the batch: together below 0.1 % of a batch of 20 ms.
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "guest.h"
#include "nestbench/payload/exit_operations.h"
#include "nestbench/substrates/substrate.h"
#include "nestbench/vmm/base/unique_fd.h"
#include "timing.h"

namespace nestbench::micro {
namespace {

using abi::Command;
using abi::Doorbell;
using benchmark::State;
using payload::ExitOperation;

constexpr std::uint64_t kEndless = 1ULL << 62;
constexpr int kWarmUpRings = 32;
// Operations between two settings of the deadline: 0.1 s where an exit costs 25 us, a few seconds on emulated hosts.
constexpr std::uint64_t kExitsInBatch = 1U << 12;
constexpr std::uint64_t kNativeInBatch = 1U << 22;

constexpr std::uint64_t Number(ExitOperation operation) { return static_cast<std::uint64_t>(operation); }

// Notes what the operations of `run` have cost in exits; outside of what is timed.
template <typename Guest, typename Run>
void CountExits(State& state, Guest& guest, Run run) {
  const ExitCounts before = guest.Counts();
  run();
  const ExitCounts after = guest.Counts();
  // None of a kind is no counter: over repetitions without any, Google Benchmark prints the variation as NaN.
  const auto note = [&state](const char* name, std::uint64_t count) {
    if (count != 0) state.counters[name] = static_cast<double>(count);
  };
  note("exits", after.exits - before.exits);
  note("nested_runs", after.nested_runs - before.nested_runs);
}

// Each operation comes back to the host: the guest goes on for ever, an entry is an operation.
template <typename Guest, Doorbell kDoorbell>
void Rings(State& state, Environment& environment, ExitOperation operation) {
  Guest guest(environment, environment.exits_image());
  {
    const auto deadline = guest.StartDeadline();
    Perform<kDoorbell>(guest, Command::kSetUp, Number(operation), kEndless);
    guest.WriteRequest(MakeRequest(Command::kRun, kDoorbell, Number(operation), kEndless));
    for (int i = 0; i < kWarmUpRings; ++i) RingOrThrow<kDoorbell>(guest);
  }
  CountExits(state, guest, [&state, &guest] {
    InBatches(state, kExitsInBatch, [&guest](std::uint64_t count) {
      const auto deadline = guest.StartDeadline();
      for (std::uint64_t i = 0; i < count; ++i) RingOrThrow<kDoorbell>(guest);
    });
  });
}

// The operations stay in the guest or the kernel: a batch is one command.
template <typename Guest, Doorbell kDoorbell>
void Commands(State& state, Environment& environment, ExitOperation operation, std::uint64_t most) {
  Guest guest(environment, environment.exits_image());
  const vmm::UniqueFd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) throw Broken(vmm::Error::System("eventfd", errno).ToString());
  guest.AttachEvent(event.get());
  {
    const auto deadline = guest.StartDeadline();
    Perform<kDoorbell>(guest, Command::kSetUp, Number(operation), kWarmUpRings);
    Perform<kDoorbell>(guest, Command::kRun, Number(operation), kWarmUpRings);
  }
  CountExits(state, guest, [&state, &guest, operation, most] {
    InBatches(state, most, [&guest, operation](std::uint64_t count) {
      const auto deadline = guest.StartDeadline();
      Perform<kDoorbell>(guest, Command::kRun, Number(operation), count);
    });
  });
}

void RequirePorts(Environment& environment) {
  if (environment.doorbell() != Doorbell::kPort) throw Unsupported("user code of a guest cannot reach a port here");
}

// By the doorbell that works for user code here.
template <typename Guest>
void CommandsByAnyDoorbell(State& state, Environment& environment, ExitOperation operation, std::uint64_t most) {
  if (operation == ExitOperation::kEventPio) RequirePorts(environment);
  if (environment.doorbell() == Doorbell::kPort) {
    Commands<Guest, Doorbell::kPort>(state, environment, operation, most);
  } else {
    Commands<Guest, Doorbell::kMmio>(state, environment, operation, most);
  }
}

void Bare(State& state, Environment& environment, ExitOperation operation, std::uint64_t most) {
  const auto process = Take(substrates::CreateBare({.image = environment.exits_image()}));
  const auto perform = [&process, operation](Command command, std::uint64_t count) {
    Take(process->Call(MakeRequest(command, Doorbell::kReturn, Number(operation), count), kGuestLimit));
    abi::MailboxReply reply;
    std::memcpy(&reply, process->mailbox().data() + offsetof(abi::Mailbox, reply), sizeof(reply));
    if (reply.status != abi::PayloadStatus::kOk) throw Broken("the payload answers: " + std::string(reply.message));
  };
  perform(Command::kSetUp, kWarmUpRings);
  perform(Command::kRun, kWarmUpRings);
  InBatches(state, most, [&perform](std::uint64_t count) { perform(Command::kRun, count); });
}

// KVM_RUN that returns before the guest is entered: what the way into KVM and back costs by itself.
void ImmediateExitOfLibrary(State& state, Environment& environment) {
  LibraryGuest guest(environment, environment.exits_image());
  vmm::Vcpu& vcpu = guest.machine().vcpu();
  for (auto _ : state) {
    vcpu.run()->immediate_exit = 1;
    auto exit = vcpu.Run();
    if (!exit || !std::holds_alternative<vmm::InterruptedExit>(*exit)) throw Broken("KVM_RUN entered the guest");
  }
}

void ImmediateExitOfFloor(State& state, Environment& environment) {
  FloorGuest guest(environment, environment.exits_image());
  floor::RawVm& vm = guest.raw().vm();
  vm.run()->immediate_exit = 1;
  for (auto _ : state) {
    if (::ioctl(vm.vcpu_fd(), KVM_RUN, 0) == 0 || errno != EINTR) throw Broken("KVM_RUN entered the guest");
  }
}

template <typename Guest>
void RegisterFor(Environment& environment) {
  const auto add = [&environment](const char* workload, auto run) {
    Register(std::string("exits/") + workload + "/" + Guest::kSubstrate, Timer::kReal,
             [&environment, run](State& state) { run(state, environment); });
  };
  add("doorbell_pio", [](State& state, Environment& shared) {
    RequirePorts(shared);
    Rings<Guest, Doorbell::kPort>(state, shared, ExitOperation::kDoorbellPio);
  });
  add("doorbell_mmio", [](State& state, Environment& shared) {
    Rings<Guest, Doorbell::kMmio>(state, shared, ExitOperation::kDoorbellMmio);
  });
  const auto add_command = [&add](const char* workload, ExitOperation operation, std::uint64_t most) {
    add(workload, [operation, most](State& state, Environment& shared) {
      CommandsByAnyDoorbell<Guest>(state, shared, operation, most);
    });
  };
  add_command("ioeventfd_pio", ExitOperation::kEventPio, kExitsInBatch);
  add_command("ioeventfd_mmio", ExitOperation::kEventMmio, kExitsInBatch);
  add_command("cpuid", ExitOperation::kCpuid, kExitsInBatch);
  add_command("page_fault", ExitOperation::kPageFault, kExitsInBatch);
  add_command("rdtsc", ExitOperation::kRdtsc, kNativeInBatch);
}

}  // namespace

void RegisterExits(Environment& environment) {
  RegisterFor<LibraryGuest>(environment);
  RegisterFor<FloorGuest>(environment);
  RegisterFor<GuestOfGuest<true>>(environment);
  RegisterFor<GuestOfGuest<false>>(environment);
  Register("exits/cpuid/bare", Timer::kReal,
           [&environment](State& state) { Bare(state, environment, ExitOperation::kCpuid, kExitsInBatch); });
  Register("exits/rdtsc/bare", Timer::kReal,
           [&environment](State& state) { Bare(state, environment, ExitOperation::kRdtsc, kNativeInBatch); });
  Register("exits/immediate_exit/vm", Timer::kReal,
           [&environment](State& state) { ImmediateExitOfLibrary(state, environment); });
  Register("exits/immediate_exit/floor", Timer::kReal,
           [&environment](State& state) { ImmediateExitOfFloor(state, environment); });
}

}  // namespace nestbench::micro
